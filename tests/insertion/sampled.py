"""Samples of Cityscapes as torchvision gives them, and what they hold."""

from pathlib import Path

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.datasets import Cityscapes
from torchvision.ops import masks_to_boxes
from torchvision.transforms import v2

from augment.placement.filters import Filters
from data.camera import Camera
from insertion import thing_masks
from tests.town import CAMERA

LOOSE = Filters(rules=(), min_visible=20, may_hide=True)
KINDS = ["instance", "semantic"]


class WideCityscapes(Cityscapes):
    """With 32-bit instance maps: torchvision's wrapper can't sort the 16-bit ones that Pillow reads."""

    def __getitem__(self, index):
        image, target = super().__getitem__(index)
        wide = [one.convert("I") if one.mode == "I;16" else one for one in self._listed(target)]
        return image, tuple(wide) if len(wide) > 1 else wide[0]

    def _listed(self, target) -> list:
        return list(target) if isinstance(target, list | tuple) else [target]


def data_set(root: Path, kinds=KINDS, transforms=None, kind=Cityscapes) -> Cityscapes:
    data = kind(str(root), split="train", mode="fine", target_type=kinds, transforms=transforms)
    data.images.sort()
    data.targets.sort(key=lambda files: files[0])
    return data


def arrays(sample) -> list[np.ndarray]:
    """Image, instance map and label map of a plain sample."""
    image, target = sample
    return [np.asarray(one) for one in (image, *target)]


def same(first, second) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(arrays(first), arrays(second), strict=True))


def things(sample) -> tuple:
    """Boxes, masks, areas and labels of the things, beside the label map."""
    image, (ids, labels) = sample
    masks, classes = thing_masks(ids)
    boxes = masks_to_boxes(masks)
    boxes[:, 2:] += 1
    size = tuple(masks.shape[1:])
    return image, {
        "boxes": v2.functional.convert_bounding_box_format(
            tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size), new_format="CXCYWH"
        ),
        "masks": tv_tensors.Mask(masks),
        "labels": classes,
        "area": masks.sum((1, 2)).float(),
        "semantic": tv_tensors.Mask(torch.from_numpy(np.array(labels))),
        "camera": Camera(**vars(CAMERA)),
        "image_id": 7,
    }
