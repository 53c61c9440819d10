"""New objects in whole data sets: where, whether the filters pass it, what hides it, the tree of the result.

In: checkpoints and a tree. Out: maps, outlines, COCO, images if asked for, and a manifest line an object.
The program is `scripts.insert`.
"""
