"""New objects in whole data sets: where, whether the rules allow it, what hides it, the tree of the result.

In: checkpoints and a tree. Out: maps, outlines, COCO, pictures if asked for, and a manifest line an object.
The program is `scripts.insert`.
"""
