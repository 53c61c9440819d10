"""Built-in street scenes: images, ground truth and cameras from a seed, so that everything runs without
downloads.

A scene is layout (ground, houses, furniture), life (persons, vehicles) and light, seen by a camera. In: seed,
split, number. Out: an official Cityscapes tree, written by `streets.scenes.write_streets`.
"""
