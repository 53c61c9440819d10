"""Pictures alone as a Cityscapes tree, with maps by a pretrained segmenter: see docs/label.md.

pictures.py reads and names them, models.py runs the segmenter, segments.py makes segments of what it says,
annotations.py has the things that somebody annotated, labeller.py labels a picture, labelling.py a folder.
"""
