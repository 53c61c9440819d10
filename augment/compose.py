"""Putting a new object on the full-size maps of an image: its mask, what hides it, what it covers.

Pure functions. H x W is the size of the data set's own maps. Occlusion goes by ground contact: a thing, or
a pole with what hangs on it, whose foot (the row below its lowest pixel) is further down in the image stands
in front and stays in front; everything else under the mask is covered. The ego vehicle and the borders of
the image (labels 1 to 3) are in front of everything.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage

from data.geometry import MaskPatch, is_thing
from data.instances import bounding_box, rides
from data.labels import FIRST_SINGLE_ID, GROUND, UNLABELED, ids_of

IN_FRONT = ids_of("ego vehicle", "rectification border", "out of roi")
FURTHER_DOWN = np.iinfo(np.int32).max  # "foot" of what is in front of everything
POLES = ids_of("pole", "polegroup")
POLE_LIKE = (*POLES, *ids_of("traffic light", "traffic sign"))  # which hang on poles
_IS_POLE_LIKE = np.isin(np.arange(256), POLE_LIKE).astype(np.uint8)  # by label id


# ---- the mask -----------------------------------------------------------------------------------


def place_mask(compact: np.ndarray, box: np.ndarray, width: int, height: int) -> MaskPatch:
    """A compact mask (cy,cx) in [0,1] stretched into a box (x0, y0, x1, y1; pixels) and cut at one half.

    Bilinear, which leaves a smooth edge where the mask is enlarged; where it is reduced, averaged over as
    many cells as fall into a pixel. Of the result, the largest connected piece without its holes: an
    annotated instance is one outline. Pixels outside the image are left out; the patch may be empty.
    """
    x0, columns = _stretching(box[0], box[2], width, compact.shape[1])
    y0, rows = _stretching(box[1], box[3], height, compact.shape[0])
    return MaskPatch(one_piece(rows @ compact.astype(np.float64) @ columns.T >= 0.5), x0, y0)


def _stretching(low: float, high: float, size: int, cells: int) -> tuple[int, np.ndarray]:
    """Weights (n,cells) of `cells` stretched over low..high in the n pixels with their centres there.

    And the first of these pixels; only pixels 0..size-1 are looked at.
    """
    first = int(np.clip(np.ceil(low - 0.5), 0, size))
    last = int(np.clip(np.ceil(high - 0.5), first, size))
    cells_per_pixel = cells / max(high - low, 1e-6)
    position = (np.arange(first, last) + 0.5 - low) * cells_per_pixel
    distance = np.abs(position[:, None] - (np.arange(cells) + 0.5))
    weights = (1 - distance / max(cells_per_pixel, 1)).clip(min=0)
    return first, weights / weights.sum(1, keepdims=True)


def one_piece(mask: np.ndarray) -> np.ndarray:
    """The largest 4-connected piece of a mask (h,w) bool, its holes filled."""
    if not mask.any():
        return mask
    count, pieces = cv2.connectedComponents(np.pad(mask, 1).astype(np.uint8), connectivity=4)
    sizes = np.bincount(pieces.ravel(), minlength=count)
    piece = (pieces == 1 + np.argmax(sizes[1:])).astype(np.uint8)
    cv2.floodFill(piece, None, (0, 0), 2, flags=8)  # the outside; what remains 0 is a hole
    return piece[1:-1, 1:-1] != 2


# ---- who is in front ----------------------------------------------------------------------------


def contact_rows(label_ids: np.ndarray, instance_ids: np.ndarray) -> np.ndarray:
    """For each pixel of what stands the foot it stands on, 0 on the ground and other stuff: (H,W) int32.

    Of things, a rider and the two-wheeler below being one; of poles with their signs and lights. Each
    connected piece of a group counts as a thing of its own, because all groups of a class share their id.
    Labels of IN_FRONT have their foot below everything.
    """
    feet = np.zeros(label_ids.shape, np.int32)
    rows, columns = np.nonzero(is_thing(label_ids))
    ids = instance_ids[rows, columns]
    foot_of_id = np.zeros(2**16, np.int32)
    foot_of_id[ids] = rows + 1  # from top to bottom, so that the lowest row stays
    feet[rows, columns] = foot_of_id[ids]
    for rider, two_wheeler in rides(instance_ids):
        unit = (instance_ids == rider) | (instance_ids == two_wheeler)
        feet[unit] = feet[unit].max()
    _add_pole_feet(feet, label_ids)
    in_groups = is_thing(label_ids) & (instance_ids < FIRST_SINGLE_ID)
    for label_id in np.flatnonzero(np.bincount(label_ids[in_groups], minlength=1)):
        region = in_groups & (label_ids == label_id)
        window, top, _ = _window_of(region.view(np.uint8))
        region = region[window]
        _, pieces, boxes, _ = cv2.connectedComponentsWithStats(region.astype(np.uint8), connectivity=8)
        foot_of_piece = top + boxes[:, cv2.CC_STAT_TOP] + boxes[:, cv2.CC_STAT_HEIGHT]
        feet[window][region] = foot_of_piece[pieces[region]]
    feet[(label_ids >= min(IN_FRONT)) & (label_ids <= max(IN_FRONT))] = FURTHER_DOWN
    return feet


def _window_of(mask: np.ndarray) -> tuple[tuple[slice, slice], int, int]:
    """The smallest window that holds what is not 0 in a mask (H,W) uint8, its top and its left."""
    x, y, width, height = cv2.boundingRect(mask)
    return np.s_[y : y + height, x : x + width], y, x


def _add_pole_feet(feet: np.ndarray, label_ids: np.ndarray) -> None:
    """Give poles, signs and lights their feet (H,W) int32, in place.

    Connected ones hang together. A pixel's foot is where the pole nearest in its columns meets the ground;
    where none is seen to meet it, the lowest row: what it stands on can't be further up than that.
    """
    pole_like = _IS_POLE_LIKE.take(label_ids)
    if not pole_like.any():
        return
    around, top, left = _window_of(pole_like)
    _, pieces, boxes, _ = cv2.connectedComponentsWithStats(
        np.ascontiguousarray(pole_like[around]), connectivity=8
    )
    for number, (x, y, width, height) in enumerate(boxes[1:, :4].tolist(), 1):
        piece = pieces[y : y + height, x : x + width] == number
        x, y = x + left, y + top
        window = np.s_[y : y + height, x : x + width]
        below = label_ids[y + 1 : y + height + 1, x : x + width]
        meets = piece & np.isin(label_ids[window], POLES)
        meets[: len(below)] &= np.isin(below, GROUND)
        meets[len(below) :] = False  # it leaves the image
        rows, columns = np.nonzero(meets)
        foot_of_column = np.full(width, y + height)
        if len(columns):
            lowest = np.zeros(width, int)
            np.maximum.at(lowest, columns, rows + 1)
            seen = np.flatnonzero(lowest)
            poles = np.split(seen, np.flatnonzero(np.diff(seen) > 1) + 1)  # those in columns side by side
            lowest[seen] = np.concatenate([np.full(len(pole), lowest[pole].max()) for pole in poles])
            nearest = np.abs(np.arange(width)[:, None] - seen).argmin(1)
            foot_of_column = y + lowest[seen[nearest]]
        feet[window][piece] = np.broadcast_to(foot_of_column, piece.shape)[piece]


def shadow_ground(label_ids: np.ndarray) -> np.ndarray:
    """What the contact shadow of a new object may fall on: no thing, nothing in front, no pole; bool."""
    return ~is_thing(label_ids) & ~np.isin(label_ids, (*IN_FRONT, *POLE_LIKE))


def occluded_part(patch: MaskPatch, feet: np.ndarray) -> np.ndarray:
    """Which pixels of a patch, in its window (h,w) bool, lie behind something; feet: `contact_rows`."""
    return patch.mask & (feet[patch.window] > patch.foot)


# ---- composing ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Composed:
    """The maps of an image with one more object."""

    label_ids: np.ndarray  # (H,W) uint8
    instance_ids: np.ndarray  # (H,W) uint16
    dropped: tuple[int, ...]  # instances that lost all pixels, or all but fewer than min_visible
    given_back: np.ndarray  # (H,W) bool: what was left of them, now ground


def compose(
    label_ids: np.ndarray,
    instance_ids: np.ndarray,
    patch: MaskPatch,
    occluded: np.ndarray,
    label_id: int,
    new_id: int,
    min_visible: int,
) -> Composed:
    """Put the visible part of a patch (its mask less `occluded`, (h,w) bool) on copies of both maps (H,W).

    Instances that the object covers down to fewer than `min_visible` pixels go altogether: what is left of
    them becomes the nearest thing-free surface; `data.fill` might complete the new object there.
    """
    label_ids, instance_ids = label_ids.copy(), instance_ids.copy()
    visible = patch.mask & ~occluded
    covered = np.unique(instance_ids[patch.window][visible])
    label_ids[patch.window][visible] = label_id
    instance_ids[patch.window][visible] = new_id
    given_back = np.zeros(label_ids.shape, bool)
    dropped = []
    for instance_id in covered[covered >= FIRST_SINGLE_ID].tolist():
        remains = instance_ids == instance_id
        if np.count_nonzero(remains) < min_visible:
            dropped.append(instance_id)
            given_back |= remains
    if given_back.any():
        new = MaskPatch(visible, patch.x0, patch.y0).on(label_ids.shape)
        give_back(label_ids, instance_ids, given_back, new)
    return Composed(label_ids, instance_ids, tuple(dropped), given_back)


def give_back(label_ids: np.ndarray, instance_ids: np.ndarray, mask: np.ndarray, new: np.ndarray) -> None:
    """Turn the pixels of a mask (H,W) bool into the nearest surface that is no thing, in both maps, in place.

    new: (H,W) bool, a new object, which is no surface whatever its label. Where the map holds nothing but
    things they become unlabeled.
    """
    x0, y0, x1, y1 = bounding_box(mask)
    margin = 16  # pixels; usually the ground is near
    while True:
        window = np.s_[max(y0 - margin, 0) : y1 + 1 + margin, max(x0 - margin, 0) : x1 + 1 + margin]
        source = is_thing(label_ids[window]) | mask[window] | new[window]
        if not source.all():
            break
        if source.shape == label_ids.shape:
            label_ids[mask], instance_ids[mask] = UNLABELED, UNLABELED
            return
        margin *= 4
    rows, columns = ndimage.distance_transform_edt(source, return_distances=False, return_indices=True)
    target = mask[window]
    nearest = rows[target], columns[target]
    for array in (label_ids[window], instance_ids[window]):
        array[target] = array[nearest]
