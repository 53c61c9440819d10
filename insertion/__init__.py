"""New objects for anybody's training loop: `InsertInstances`, a transform made of what scripts.insert does.

transform.py: the transform; samples.py: what it takes from a sample, and the sample with new objects.
"""

from insertion.samples import thing_masks
from insertion.transform import InsertInstances, class_counts, make_bank

__all__ = ["InsertInstances", "class_counts", "make_bank", "thing_masks"]
