"""The filters that a placed object must pass before it is put on an image, each with a name that is counted.

Pure functions; boxes are x0, y0, x1, y1 in pixels of the data set's own maps (H x W), the foot is y1.
Support, metric height and overlap are those of the evaluation (docs/evaluation.md#definitions).
"""

import argparse
import re
from dataclasses import dataclass

import numpy as np
from cityscapesscripts.helpers.labels import name2label

from data.camera import Camera
from data.geometry import (
    METRIC_RANGES,
    HeightFit,
    MaskPatch,
    height_residuals,
    inside_image,
    metric_heights,
    supported,
    supporting_pixels,
    whole_pixels,
)
from data.instances import SMALLEST_PLACE
from data.labels import TargetClass
from support.settings import setting

# Filters about plausibility, which can be switched off one by one, and what each asks.
FILTERS = {
    "inside": "the box lies in the image, to half a pixel",
    "apart": "min_apart times the height of the taller one between it and any other new object",
    "support": "half of the strip below the foot is a surface the class stands on",
    "height": "height in metres plausible by the camera, else height fits the foot row",
    "overlap": "at most max_overlap of the mask is occluded by things in front",
    "visible": "at least min_area pixels of it can be seen",
    "score": "the score of the place is at least min_score",
}


def _limits(text: str) -> tuple[float, float]:
    """ "5-30", "0.5-12.5"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)", text)
    if match is None or float(match[2]) < float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no range such as 5-30")
    return float(match[1]), float(match[2])


def _labels(text: str) -> tuple[int, ...]:
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in name2label or name2label[name].id < 0:
            raise argparse.ArgumentTypeError(f"{name!r} is no Cityscapes label")
    return tuple(sorted({name2label[name].id for name in names}))


def _region(text: str) -> tuple[int, ...] | str:
    """The numbers of "X0,Y0,X1,Y1"; else what may be the name of an image."""
    if re.fullmatch(r"(-?\d+)(,-?\d+){3}", text) is None:
        return text
    x0, y0, x1, y1 = region = tuple(int(number) for number in text.split(","))
    if x0 >= x1 or y0 >= y1:
        raise argparse.ArgumentTypeError(f"{text} is empty; give X0,Y0,X1,Y1 with X0 < X1 and Y0 < Y1")
    return region


@dataclass(frozen=True)
class Filters:
    """Which filters are on, their limits, and what the user asks for besides."""

    rules: tuple[str, ...] = tuple(FILTERS)  # those of FILTERS that are on; so called in insert.json
    max_overlap: float = setting(0.3, "fraction of the mask behind things in front", min=0, max=1)
    max_overlap_any: float = setting(1.0, "fraction of the mask on things, in front or behind", min=0, max=1)
    min_apart: float = setting(
        0.5, "gap in the image between the feet of two new objects, in heights of the taller one", min=0
    )
    min_area: int | None = setting(
        None,
        "pixels of a new object that must be seen; default 1/4000 of the image, 1/20000 for a model of places"
        " alone, which learns from smaller instances",
        read=int,
        min=1,
    )
    min_visible: int | None = setting(
        None, "pixels; things left with fewer have vanished; default 1/40000 of the image", read=int, min=1
    )
    may_hide: bool = setting(
        False,
        "new objects may make things vanish, which then go from the annotation; else such a place is rejected"
        ' (reason "hides")',
    )
    min_score: float = setting(
        0.0,
        "score of the place, 0..1: the discriminator's, or how likely the foot is, beside the likeliest, if a"
        " density of places has none; comparable within a checkpoint only",
        min=0,
        max=1,
    )
    region: tuple[int, int, int, int] | None = setting(
        None,
        "where the middle of the foot may be: X0,Y0,X1,Y1 in pixels, or an image that is not zero there",
        read=_region,
    )
    region_mask: str | None = None  # that image, of the maps' size
    distance: tuple[float, float] | None = setting(
        None, "of the feet from the camera, metres, for example 5-30", read=_limits
    )
    height: tuple[float, float] | None = setting(
        None,
        "of the box, pixels of the data set, for example 40-300, or fractions of the image height, 0.05-0.3",
        read=_limits,
    )
    protected: tuple[int, ...] = setting(
        (), "labels that may not be covered, separated by commas", read=_labels, flag={"name": "protect"}
    )

    def area_limit(self, pixels: int, *, any_size: bool = False) -> int:
        """min_area for an image of so many pixels; any_size: see `Surroundings`."""
        return -(-pixels // (20000 if any_size else 4000)) if self.min_area is None else self.min_area

    def height_limits(self, image_height: int) -> tuple[float, float]:
        """Min and max height of a box, pixels of an image so many pixels high."""
        low, high = self.height or (0, np.inf)
        scale = image_height if high <= 1 else 1
        return low * scale, high * scale

    def visible_limit(self, pixels: int) -> int:
        """min_visible for an image of so many pixels."""
        return -(-pixels // 40000) if self.min_visible is None else self.min_visible


@dataclass(frozen=True)
class Surroundings:
    """What the filters look at: the maps as they are now, and what is known of the image."""

    label_ids: np.ndarray  # (H,W) uint8
    instance_ids: np.ndarray  # (H,W) uint16
    camera: Camera | None
    fit: HeightFit | None  # of the class's training instances, in fractions of the image size
    region: np.ndarray | None  # (H,W) bool
    new_boxes: tuple[tuple[int, int, int, int], ...] = ()  # of the objects inserted already, half-open
    any_size: bool = False  # whether the model learns from all instances down to SMALLEST_PLACE


def box_rejection(box: np.ndarray, target: TargetClass, around: Surroundings, filters: Filters) -> str | None:
    """The first filter that rejects a box (4,), or None; all filters but the score."""
    height, width = around.label_ids.shape
    if "inside" in filters.rules and not inside_image(box[None], width, height)[0]:
        return "inside"
    if not in_region(box, filters.region, around.region):
        return "region"
    low, high = filters.height_limits(height)
    if around.any_size and "visible" in filters.rules:
        low = max(low, SMALLEST_PLACE * height)
    if not low <= box[3] - box[1] <= high:
        return "height_range"
    if filters.distance:
        near, far = filters.distance  # never without a camera
        if around.camera is None or not near <= around.camera.ground_depth(box[3]) <= far:
            return "distance"
    if "apart" in filters.rules and not is_apart(box, around.new_boxes, filters.min_apart):
        return "apart"
    if "support" in filters.rules and not stands(box, target, around):
        return "support"
    if "height" in filters.rules and not plausible_height(box, target, around):
        return "height"
    return None


def in_region(
    box: np.ndarray, region: tuple[int, int, int, int] | None, region_map: np.ndarray | None
) -> bool:
    """Whether the middle of the foot's lowest pixel row lies in a region (x0, y0, x1, y1) and on a map."""
    x, y = (box[0] + box[2]) / 2, box[3] - 1
    if region and not (region[0] <= x < region[2] and region[1] <= y < region[3]):
        return False
    if region_map is None:
        return True
    column, row = int(np.floor(x)), int(np.floor(y))
    height, width = region_map.shape
    return 0 <= row < height and 0 <= column < width and bool(region_map[row, column])


def is_apart(box: np.ndarray, others: tuple[tuple[int, int, int, int], ...], min_gap: float) -> bool:
    """Whether the gap between the feet of a box (4,) and those of any other is `min_gap` heights or more.

    The gap goes along the image, from the one lower edge to the other; the height is that of the taller.
    """
    return all(
        np.hypot(max(x0 - box[2], box[0] - x1, 0), y1 - box[3]) >= min_gap * max(y1 - y0, box[3] - box[1])
        for x0, y0, x1, y1 in others
    )


def stands(box: np.ndarray, target: TargetClass, around: Surroundings) -> bool:
    """Support of a box (4,), looking only at the image's columns below it: columns do not mix."""
    width = around.label_ids.shape[1]
    left, right = np.clip(whole_pixels(box[[0, 2]]), 0, width).tolist()
    if left >= right:
        return False
    columns = np.s_[:, left:right]
    supporting = supporting_pixels(around.label_ids[columns], around.instance_ids[columns], target.support)
    return bool(supported((box - [left, 0, left, 0])[None], supporting)[0])


def plausible_height(box: np.ndarray, target: TargetClass, around: Surroundings) -> bool:
    """Metric height in range; without camera or range, height within the training instances' band.

    True where there is neither.
    """
    if around.camera and target.name in METRIC_RANGES:
        low, high = METRIC_RANGES[target.name]
        return bool(low <= metric_heights(box[None], around.camera)[0] <= high)
    if around.fit is None:
        return True
    height, width = around.label_ids.shape
    residual = height_residuals(box[None] / [width, height, width, height], around.fit)[0]
    return bool(around.fit.low <= residual <= around.fit.high)


def overlaps(patch: MaskPatch, occluded: np.ndarray, feet: np.ndarray) -> tuple[float, float]:
    """Fractions of a mask (one pixel at least) that lie behind what stands in front, and on what stands.

    occluded (h,w) bool: its pixels behind others; feet (H,W) int32 `contact_rows`.
    """
    return float(occluded[patch.mask].mean()), float((feet[patch.window][patch.mask] > 0).mean())


def mask_rejection(
    patch: MaskPatch, occluded: np.ndarray, label_ids: np.ndarray, feet: np.ndarray, filters: Filters
) -> str | None:
    """The first filter that rejects a full-size mask, or None.

    occluded (h,w) bool: its pixels behind others; label_ids (H,W) uint8; feet (H,W) int32 `contact_rows`.
    """
    visible = patch.mask & ~occluded
    seen = np.count_nonzero(visible)
    if not seen or ("visible" in filters.rules and seen < filters.area_limit(label_ids.size)):
        return "visible"
    if "overlap" in filters.rules:
        front, anything = overlaps(patch, occluded, feet)
        if front > filters.max_overlap or anything > filters.max_overlap_any:
            return "overlap"
    if filters.protected and np.isin(label_ids[patch.window][visible], filters.protected).any():
        return "protected"
    return None
