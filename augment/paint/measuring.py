"""What is measured of the instances on a map before they may be shown elsewhere."""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage

from augment.compose import contact_rows, one_piece
from augment.paint.blend import light_around
from data.geometry import hull_of
from data.instances import RIDER, TWO_WHEELERS, rides
from data.labels import FIRST_SINGLE_ID, GROUND, LABEL_OF_VALUE, ids_of

MIN_SIDE, MIN_AREA = 8, 100  # pixels; smaller instances are not worth showing again
MARGIN_FRACTION = 1 / 16  # kept around an instance, in parts of its longer side, and 4 pixels besides
_WHOLE_COVERED = 0.02  # fraction of a whole instance's outline that something in front may take
_WHOLE_PIECE = 0.98  # fraction of its pixels that one piece holds
_WHOLE_GROUND = 0.5  # fraction of the pixels right below its lowest twentieth that are ground
_PEOPLE = ids_of("person", "rider")
# Fraction of its height along which it may meet a side of its box: a tree or a corner of a house, whose
# distance no map tells, cuts in a straight line. What is larger than a car has upright sides of its own.
_WHOLE_STRAIGHT = dict.fromkeys(_PEOPLE, 0.45) | dict.fromkeys(TWO_WHEELERS, 0.5)  # by label id
_WHOLE_STRAIGHT |= dict.fromkeys(ids_of("car"), 0.7)
# In a row of parked vehicles the lowest pixel does not tell who stands in front.
_WHOLE_TOUCHING = 0.35  # fraction of a vehicle's outline that others of its class may take
_WHOLE_ASPECT = 0.7  # width / height of a car or what is larger; less is what is seen between others


@dataclass(frozen=True)
class Found:
    """An instance that may be chosen."""

    frame: int
    instance_id: int
    box: tuple[int, int, int, int]  # half-open
    unit_box: tuple[int, int, int, int]  # the same with what it rides
    ridden: int  # id of that, else 0
    area: int
    solidity: float
    covered: float
    cut: tuple[bool, bool, bool, bool]
    whole: bool
    frame_size: tuple[int, int]

    @property
    def rank(self) -> tuple[float, int, int]:
        """The freer an instance stands, the smaller."""
        worth = self.solidity * (1 - self.covered) * (0.5 if any(self.cut) else 1)
        return -worth, self.frame, self.instance_id


def instances_on(ids: np.ndarray, number: int = 0) -> list[Found]:
    """The instances on a map (H,W) uint16, by rising id, but for tiny ones; number: that of the frame."""
    height, width = ids.shape
    values = np.flatnonzero(np.bincount(ids.ravel(), minlength=FIRST_SINGLE_ID))
    lookup = np.zeros(values[-1] + 1, np.int32)
    lookup[values] = np.arange(1, len(values) + 1)
    slices = ndimage.find_objects(lookup[ids], len(values))
    feet = contact_rows(LABEL_OF_VALUE[ids], ids)
    ridden_by = dict(rides(ids))
    found = []
    for value, (rows, columns) in zip(values.tolist(), slices, strict=True):
        w, h = columns.stop - columns.start, rows.stop - rows.start
        if value < 24 * FIRST_SINGLE_ID or min(w, h) < MIN_SIDE:
            continue
        window = np.s_[max(rows.start - 1, 0) : rows.stop + 1, max(columns.start - 1, 0) : columns.stop + 1]
        mask = np.uint8(ids[window] == value)
        area = int(np.count_nonzero(mask))
        if area < MIN_AREA:
            continue
        covered = _covered(mask, feet[window])
        solidity = area / np.count_nonzero(hull_of(mask))
        box = unit_box = columns.start, rows.start, columns.stop, rows.stop
        ridden = ridden_by.get(value, 0)
        if ridden:
            unit_box = _around(box, slices[lookup[ridden] - 1])
        whole = value not in ridden_by.values() and (ridden > 0 or value // 1000 != RIDER)
        whole = whole and _is_whole((value, ridden) if ridden else (value,), unit_box, ids, feet)
        cut = _cut_off(box, ids)
        found.append(
            Found(number, value, box, unit_box, ridden, area, solidity, covered, cut, whole, (width, height))
        )
    return found


def _around(box: tuple[int, int, int, int], other: tuple[slice, slice]) -> tuple[int, int, int, int]:
    """The box around a box and the rows and columns of another."""
    rows, columns = other
    x0, y0, x1, y1 = box
    return min(x0, columns.start), min(y0, rows.start), max(x1, columns.stop), max(y1, rows.stop)


def _covered(mask: np.ndarray, feet: np.ndarray) -> float:
    """Fraction of the outline of a mask (h,w) uint8 that something in front takes; feet: `contact_rows`."""
    edge = cv2.dilate(mask, np.ones((3, 3), np.uint8)) > mask
    foot = feet[mask > 0].max()  # of a rider that of what is ridden
    return float((feet[edge] > foot).mean()) if edge.any() else 0.0


def _cut_off(box: tuple[int, int, int, int], ids: np.ndarray) -> tuple[bool, bool, bool, bool]:
    """Whether the frame of a map (H,W) cuts off what is in a box left, top, right, below."""
    x0, y0, x1, y1 = box
    return x0 == 0, y0 == 0, x1 == ids.shape[1], y1 == ids.shape[0]


def _is_whole(
    unit: tuple[int, ...], box: tuple[int, int, int, int], ids: np.ndarray, feet: np.ndarray
) -> bool:
    """Whether nothing cuts or covers instances that go together, in a box, and they stand on the ground."""
    x0, y0, x1, y1 = box
    window = np.s_[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1]
    mask = np.isin(ids[window], unit)
    if any(_cut_off(box, ids)) or _covered(mask.view(np.uint8), feet[window]) > _WHOLE_COVERED:
        return False
    label_id = unit[0] // 1000
    if _straight_side(mask) > _WHOLE_STRAIGHT.get(label_id, 1):
        return False
    if label_id not in _PEOPLE and _touching(mask, ids[window], label_id) > _WHOLE_TOUCHING:
        return False
    if label_id not in _PEOPLE + TWO_WHEELERS and x1 - x0 < _WHOLE_ASPECT * (y1 - y0):
        return False
    if not _stands(mask, ids[window]):
        return False
    return np.count_nonzero(one_piece(mask) & mask) >= _WHOLE_PIECE * np.count_nonzero(mask)


def _stands(mask: np.ndarray, ids: np.ndarray) -> bool:
    """Whether what is right below the feet of an instance, mask (h,w) bool, is ground on its map (h,w)."""
    below = np.zeros_like(mask)
    below[1:] = mask[:-1] & ~mask[1:]
    rows = np.flatnonzero(mask.any(1))
    below[: rows[-1] + 1 - len(rows) // 20] = False
    return bool(below.any() and np.isin(ids[below], GROUND).mean() >= _WHOLE_GROUND)


def _straight_side(mask: np.ndarray) -> float:
    """Fraction of the height of a mask (h,w) bool along which it meets the left or right side of its box."""
    x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
    side = max(1, round(0.01 * h))  # pixels
    inside = mask[y : y + h, x : x + w]
    return max(inside[:, :side].any(1).mean(), inside[:, -side:].any(1).mean())


def _touching(mask: np.ndarray, ids: np.ndarray, label_id: int) -> float:
    """Fraction of the outline of a mask (h,w) bool that others of a class take on its map (h,w)."""
    around = cv2.dilate(mask.view(np.uint8), np.ones((3, 3), np.uint8)) > mask
    return float((LABEL_OF_VALUE[ids[around]] == label_id).mean())


def light_where(one: Found, rgb: np.ndarray, ids: np.ndarray) -> np.ndarray | None:
    """`light_around` an instance on its image (H,W,3) uint8 and map (H,W)."""
    x0, y0, x1, y1 = one.box
    margin = max(x1 - x0, y1 - y0) // 4 + 4
    window = np.s_[max(y0 - margin, 0) : y1 + margin, max(x0 - margin, 0) : x1 + margin]
    return light_around(rgb[window], ids[window] == one.instance_id)


def window_around(one: Found) -> tuple[tuple[slice, slice], tuple[int, int]]:
    """Rows and columns of an instance, what it rides and what is kept around, and their corner x, y."""
    x0, y0, x1, y1 = one.unit_box
    margin = round(MARGIN_FRACTION * max(x1 - x0, y1 - y0)) + 4
    left, top = max(x0 - margin, 0), max(y0 - margin, 0)
    return np.s_[top : y1 + margin, left : x1 + margin], (left, top)
