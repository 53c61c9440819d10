"""The synthesis pipeline from the command line: `run` does all stages, the others one each.

In: flags, a YAML of options, a tree with images. Out: a tree of synthetic frames with its manifest, a list
of broken rules (`validate`), metrics (`score`). What they do is in `augment.repaint`.
"""
