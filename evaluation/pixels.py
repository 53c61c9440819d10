"""How the pixels of inserted objects compare with those of real instances: contrast, softness, repeats."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from cityscapesscripts.helpers.labels import name2label

from augment.paint.blend import contrast_at
from augment.paint.sharpness import inner, softness, softness_around
from augment.placement.filters import Filters
from data.frame import Frame
from data.geometry import MaskPatch
from data.instances import bounding_box
from data.labels import FIRST_SINGLE_ID

QUANTILES = np.linspace(0.01, 0.99, 99)
_BESIDE = 0.5  # what is beside an object, in parts of its longer side


@dataclass
class Looks:
    """Of m objects, those for which each can be told."""

    contrast: list[float] = field(default_factory=list)  # `contrast_at`
    softness: list[float] = field(default_factory=list)  # of the object less that of what is beside it

    def add(self, rgb: np.ndarray, patch: MaskPatch) -> None:
        """An object with its visible pixels on an image (H,W,3) uint8."""
        contrast = contrast_at(rgb, patch)
        if contrast is not None:
            self.contrast.append(contrast)
        x0, y0, x1, y1 = patch.box
        window, mask = patch.around(round(_BESIDE * max(x1 - x0, y1 - y0)), rgb.shape[:2])
        around = np.ascontiguousarray(rgb[window])
        own = softness(around.astype(np.float32).mean(2), inner(mask))
        beside = softness_around(around, mask)
        if own is not None and beside is not None:
            self.softness.append(own - beside)

    def add_large(self, frame: Frame, ids: np.ndarray, values: Iterable[int]) -> None:
        """Those of some instances on a frame's map (H,W) uint16 that the filter "visible" would pass."""
        areas, limit = np.bincount(ids.ravel(), minlength=2**16), Filters().area_limit(ids.size)
        large = [value for value in values if areas[value] >= limit]
        if large:
            rgb = frame.read_image(ids.shape)
            for value in large:
                self.add(rgb, patch_of(ids == value))


def real_looks(frames: list[Frame], class_name: str) -> Looks:
    """Of the instances of a class that the filter "visible" would pass."""
    looks, first = Looks(), name2label[class_name].id * FIRST_SINGLE_ID
    for frame in frames:
        looks.add_large(frame, frame.read_instance_ids(), range(first, first + FIRST_SINGLE_ID))
    return looks


def new_looks(frames: list[Frame], objects: list[dict], class_name: str) -> Looks:
    """Of the inserted objects of a class, lines of the manifest of the tree that the frames are of."""
    looks = Looks()
    for frame in frames:
        new = [one for one in objects if one["image"] == frame.name and one["class"] == class_name]
        if new:
            looks.add_large(frame, frame.read_maps()[1], [one["instance_id"] for one in new])
    return looks


def patch_of(mask: np.ndarray) -> MaskPatch:
    """A mask (H,W) bool that holds a pixel, cut to its box."""
    x0, y0, x1, y1 = bounding_box(mask)
    return MaskPatch(mask[y0 : y1 + 1, x0 : x1 + 1], x0, y0)


def distance(first: list[float], second: list[float]) -> float:
    """Earth mover's distance of two samples: the mean difference of their percentiles; NaN for none."""
    if not first or not second:
        return float("nan")
    return float(np.abs(np.quantile(first, QUANTILES) - np.quantile(second, QUANTILES)).mean())


def halves(values: list[float]) -> Iterator[list[float]]:
    """Every second value, and the others: how far two samples of one kind are apart."""
    yield values[::2]
    yield values[1::2]
