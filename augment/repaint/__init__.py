"""The synthesis pipeline: select instances, generate pixels, integrate them, build the tree.

In: a Cityscapes tree with images. Out: the same annotation with other pixels, focus crops with their
ground truth, a manifest line for each item of each stage. The programs are those of `scripts/synth`.
"""
