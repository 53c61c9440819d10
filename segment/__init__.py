"""Instance segmentation on Cityscapes trees: torchvision's Mask R-CNN, its training, official AP.

Begin at `training.py`; scripts/segment.py is its command line.
"""
