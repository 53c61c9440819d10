"""How good are placements and shapes, beside baselines and real instances.

In: scenes, boxes and masks of a model or a baseline. Out: metrics with their spread, tables, plots. The
program is `scripts.evaluate`.
"""
