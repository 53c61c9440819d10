"""Cityscapes on disk, and what its maps mean.

The class table, reading and writing trees, cameras, geometry of boxes and feet, outlines, COCO. In: files of
a tree. Out: NumPy arrays in the data set's own resolution, and files of a tree.
"""

import os

# Broken images are named in one line of ours; OpenCV reads this when it is first imported.
os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
