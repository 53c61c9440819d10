"""More data from a data set: new objects in it, or new pixels for the objects that it has.

`placement` puts objects where the model says, `repaint` gives instances other pixels, `paint` makes the
pixels for both, `validate` checks what came of it. In: a Cityscapes tree. Out: another one, with a manifest
of what was done; the input is only read.
"""
