"""Metrics of placed boxes: support, metric height, spread, distance to real boxes; masks.

Pure functions on boxes and maps (docs/evaluation.md#definitions). A box is half-open, x0, y0, x1, y1 in
pixels of the data set's own resolution, float64; its foot, where it meets the ground, is its lower edge y1. W
and H are the width and height of the image.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import labels as OFFICIAL_LABELS

from data.camera import Camera
from data.instances import bounding_box
from data.labels import LICENSE_PLATE_ID, ids_of

STRIP_ROWS = 5  # rows below the foot that are looked at for support
SUPPORT_FRACTION = 0.5  # of the strip's pixels must be a surface that the class stands on
PROJECTIONS = 512  # directions of the sliced distance
FIT_INSTANCES = 2000  # at most so many training boxes enter the fit of heights: it looks at all pairs
# Of a class in training; with fewer nothing is fitted to them, drawn from or compared with them.
MIN_INSTANCES = 30
FURTHEST_EDGE = 1e6  # pixels; edges beyond count as there, wherever exactly they are

# Plausible heights in metres (docs/evaluation.md#definitions); trains have none.
METRIC_RANGES = {
    "person": (1.0, 2.1),
    "rider": (1.2, 2.2),
    "car": (1.2, 2.2),
    "truck": (1.8, 4.2),
    "bus": (2.4, 4.4),
    "motorcycle": (0.8, 1.6),
    "bicycle": (0.8, 1.4),
}

_IS_THING = np.zeros(256, bool)  # by label id; groups of things have the same label
_IS_THING[[label.id for label in OFFICIAL_LABELS if label.hasInstances]] = True
_IS_THING[LICENSE_PLATE_ID] = True  # part of its vehicle


def is_thing(label_ids: np.ndarray) -> np.ndarray:
    """Where a map of label ids (...) uint8 shows a thing (a class with instances): bool of its shape."""
    return _IS_THING.take(label_ids)


def hull_of(mask: np.ndarray) -> np.ndarray:
    """The pixels in the convex hull of a mask (h,w) bool or uint8: (h,w) uint8, 0 or 1; none of none."""
    hull = np.zeros(mask.shape, np.uint8)
    points = cv2.findNonZero(mask.view(np.uint8))
    return hull if points is None else cv2.fillConvexPoly(hull, cv2.convexHull(points), 1)


# ---- boxes --------------------------------------------------------------------------------------


def boxes_of_theta(theta: np.ndarray, width: int, height: int) -> np.ndarray:
    """Boxes (N,4) of theta (N,6) = (t11, 0, t13, 0, t22, t23) on an image of width x height pixels.

    The box is where |t11*x + t13| <= 1 and |t22*y + t23| <= 1, x and y from -1 to 1 over the image: the
    inverse of `data.instances.theta_of_box`. A flipped box (negative t) is given with its edges in order.
    """
    theta = np.asarray(theta, float)
    boxes = np.empty((len(theta), 4))
    for axis, size, scale, shift in (
        (0, width, theta[:, 0], theta[:, 2]),
        (1, height, theta[:, 4], theta[:, 5]),
    ):
        scale = np.where(scale < 0, -1, 1) * np.maximum(np.abs(scale), 1e-6)
        edges = np.stack([(-1 - shift) / scale, (1 - shift) / scale], 1)
        boxes[:, axis::2] = (np.sort(edges, 1) + 1) / 2 * size
    return boxes.clip(-FURTHEST_EDGE, FURTHEST_EDGE)


def whole_pixels(edges: np.ndarray) -> np.ndarray:
    """Box edges rounded to pixel edges, halves up: int64 of the same shape."""
    return np.floor(edges + 0.5).astype(np.int64)


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (...,4) and (...,4), which are broadcast: (...) in 0..1."""
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., 2:], second[..., 2:])
    common = (high - low).clip(min=0).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (first, second)]
    return common / np.maximum(areas[0] + areas[1] - common, 1e-12)


def box_spread(boxes: np.ndarray) -> float:
    """Mean over pairs of 1 - IoU of boxes (K,4); NaN for fewer than two."""
    first, second = np.triu_indices(len(boxes), 1)
    return float((1 - box_iou(boxes[first], boxes[second])).mean()) if len(first) else float("nan")


def inside_image(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """Which boxes (N,4) lie in the image, to half a pixel: (N,) bool."""
    low, high = boxes[:, :2] >= -0.5, boxes[:, 2:] <= np.array([width, height]) + 0.5
    return low.all(1) & high.all(1)


# ---- what a box stands on -----------------------------------------------------------------------


def supporting_pixels(
    label_ids: np.ndarray, instance_ids: np.ndarray, support: tuple[str, ...]
) -> np.ndarray:
    """Which pixels (H,W) bool a thing with these support surfaces (label names) may have below its foot.

    label_ids (H,W) uint8, instance_ids (H,W) uint16. A pixel of a thing counts as what is under that
    thing's lowest row in the same column, through further things if need be; as unsupported if that is
    outside the image.
    """
    height, width = label_ids.shape
    below = np.append(label_ids, np.full((1, width), 255, np.uint8), 0)  # one row more: outside the image
    thing = np.append(is_thing(label_ids), np.zeros((1, width), bool), 0)
    rows, columns = np.nonzero(thing)
    keys = instance_ids[rows, columns].astype(np.int64) * width + columns
    # np.nonzero goes from top to bottom: the last of equal keys is the lowest row
    unique_keys, last = np.unique(keys[::-1], return_index=True)
    lowest = rows[::-1][last]
    under = np.repeat(np.arange(height + 1)[:, None], width, 1)
    under[rows, columns] = lowest[np.searchsorted(unique_keys, keys)] + 1
    standing = under[rows, columns]
    while (covered := thing[standing, columns]).any():
        standing[covered] = under[standing[covered], columns[covered]]
    below[rows, columns] = below[standing, columns]

    is_support = np.zeros(256, bool)
    is_support[list(ids_of(*support))] = True
    return is_support[below[:height]]


def supported(boxes: np.ndarray, supporting: np.ndarray) -> np.ndarray:
    """Which boxes (N,4) stand on a surface of their class, given `supporting_pixels` (H,W): (N,) bool.

    At least half of the pixels of the strip below the foot (5 rows, the box's middle half, one column at
    least) must be supporting; pixels outside the image are not.
    """
    height, width = supporting.shape
    sums = cv2.integral(supporting.astype(np.uint8))  # (H+1,W+1): of all above and left of a corner
    quarter = (boxes[:, 2] - boxes[:, 0]) / 4
    left, right = whole_pixels(boxes[:, 0] + quarter), whole_pixels(boxes[:, 2] - quarter)
    right = np.maximum(right, left + 1)
    top = whole_pixels(boxes[:, 3])
    area = (right - left) * STRIP_ROWS
    left, right = left.clip(0, width), right.clip(0, width)
    top, bottom = top.clip(0, height), (top + STRIP_ROWS).clip(0, height)
    found = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return found >= SUPPORT_FRACTION * area


# ---- how high it is -----------------------------------------------------------------------------


def metric_heights(boxes: np.ndarray, camera: Camera) -> np.ndarray:
    """Heights in metres (N,) of things that fill the boxes (N,4) and stand on the ground.

    NaN where the foot is not below the horizon.
    """
    heights = np.full(len(boxes), np.nan)
    for row in np.flatnonzero(boxes[:, 3] > camera.horizon + 1e-6):
        heights[row] = camera.metric_height(boxes[row, 1], boxes[row, 3])
    return heights


@dataclass(frozen=True)
class HeightFit:
    """Box height = intercept + slope * foot row, fractions of the image height, and how real boxes vary.

    low and high: 2nd and 98th percentile of log(height / fitted height) over the training boxes.
    """

    slope: float
    intercept: float
    low: float
    high: float

    def heights(self, foot: np.ndarray) -> np.ndarray:
        """Fitted heights (...), at least 0.001, at foot rows (...); fractions of the image height."""
        return np.maximum(self.intercept + self.slope * foot, 1e-3)


def too_few(instances: int) -> str | None:
    """Why so many training instances of a class are no foundation, or None if they are enough."""
    if instances >= MIN_INSTANCES:
        return None
    return f"{instances} training instance{'s' * (instances != 1)}, {MIN_INSTANCES} needed"


def fit_heights(boxes: np.ndarray) -> HeightFit | None:
    """Robust line (Theil-Sen: median slope over all pairs) through boxes (N,4) in fractions of the image.

    None for `too_few` boxes. Of more than 2,000, 2,000 at even distances in the list are used.
    """
    if too_few(len(boxes)):
        return None
    if len(boxes) > FIT_INSTANCES:
        boxes = boxes[np.linspace(0, len(boxes) - 1, FIT_INSTANCES).astype(int)]
    foot, height = boxes[:, 3], boxes[:, 3] - boxes[:, 1]
    first, second = np.triu_indices(len(boxes), 1)
    run = foot[second] - foot[first]
    slopes = (height[second] - height[first])[run != 0] / run[run != 0]
    slope = float(np.median(slopes)) if len(slopes) else 0.0
    line = HeightFit(slope, float(np.median(height - slope * foot)), 0.0, 0.0)
    low, high = np.percentile(height_residuals(boxes, line), (2, 98))
    return HeightFit(line.slope, line.intercept, float(low), float(high))


def height_residuals(boxes: np.ndarray, fit: HeightFit) -> np.ndarray:
    """log(height / fitted height) (N,) of boxes (N,4) in fractions of the image size."""
    return np.log(np.maximum(boxes[:, 3] - boxes[:, 1], 1e-6) / fit.heights(boxes[:, 3]))


# ---- distance to real boxes ---------------------------------------------------------------------


def place_features(boxes: np.ndarray) -> np.ndarray:
    """(centre x, foot y, log height, log width) (N,4) of boxes (N,4) in fractions of the image size."""
    sizes = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-6)
    return np.stack([boxes[:, ::2].mean(1), boxes[:, 3], np.log(sizes[:, 1]), np.log(sizes[:, 0])], 1)


def sliced_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Sliced 2-Wasserstein distance of two samples (N,D) of equal size, over 512 fixed directions."""
    directions = np.random.default_rng(0).standard_normal((first.shape[1], PROJECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    sorted_first, sorted_second = np.sort(first @ directions, 0), np.sort(second @ directions, 0)
    return float(np.sqrt(np.square(sorted_first - sorted_second).mean()))


# ---- masks --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MaskPatch:
    """A mask (rows,columns) bool and the column x0 and row y0 of its first pixel in the image."""

    mask: np.ndarray
    x0: int
    y0: int

    @property
    def window(self) -> tuple[slice, slice]:
        """The rows and columns of the image that the mask covers."""
        rows, columns = self.mask.shape
        return slice(self.y0, self.y0 + rows), slice(self.x0, self.x0 + columns)

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 (half-open) of its pixels in the image; the mask must hold one."""
        x0, y0, x1, y1 = bounding_box(self.mask)
        return self.x0 + x0, self.y0 + y0, self.x0 + x1 + 1, self.y0 + y1 + 1

    @property
    def foot(self) -> int:
        """The row of the image below the lowest pixel; the mask must hold one."""
        return self.box[3]

    def on(self, shape: tuple[int, int]) -> np.ndarray:
        """The mask on an image of shape (H,W): (H,W) bool."""
        whole = np.zeros(shape, bool)
        whole[self.window] = self.mask
        return whole

    def around(self, margin: int, shape: tuple[int, int]) -> tuple[tuple[slice, slice], np.ndarray]:
        """Rows and columns of an image of shape (H,W), `margin` pixels around the mask's, and the mask there.

        The mask must hold a pixel.
        """
        x0, y0, x1, y1 = self.box
        left, top = max(x0 - margin, 0), max(y0 - margin, 0)
        window = slice(top, min(y1 + margin, shape[0])), slice(left, min(x1 + margin, shape[1]))
        mask = np.zeros([one.stop - one.start for one in window], bool)
        own = self.mask[y0 - self.y0 : y1 - self.y0, x0 - self.x0 : x1 - self.x0]
        mask[y0 - top : y1 - top, x0 - left : x1 - left] = own
        return window, mask
