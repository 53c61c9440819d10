"""Filling the hole that something leaves in the maps, where nobody knows what was behind it.

The fill follows the scene: each pixel shows what lies beside the hole in its row. Where the two sides differ,
the border between them runs through the hole; what is above and below the hole tells its course. Things that
stand behind the hole are completed, so that nothing keeps the outline of what is gone.
"""

import cv2
import numpy as np
from scipy import ndimage

from data.geometry import hull_of
from data.labels import FIRST_SINGLE_ID, GROUND, LABEL_OF_VALUE, UNLABELED, ids_of

# What goes on behind things. Poles and signs are as narrow as a person; the rest lies on top of the scene.
_BACKGROUND = ids_of("building", "wall", "fence", "guard rail", "bridge", "tunnel", "vegetation", "sky")
# (65536,) bool: which values of an instance map are such labels, none of which has single instances
_IS_GROUND, _IS_POLE, _IS_SURFACE = (
    np.isin(np.arange(2**16), ids) for ids in (GROUND, ids_of("pole", "polegroup"), GROUND + _BACKGROUND)
)


def fill_hole(
    label_ids: np.ndarray, instance_ids: np.ndarray, hole: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Label ids (H,W) uint8 and instance ids (H,W) uint16 with the hole (H,W) bool filled; copies.

    The filling is surfaces of the scene (ground, buildings, vegetation, sky, ...); whatever else borders on
    both sides of the hole in the same row; poles that come down to it; and what is missing of single
    instances that stand further away. What the maps show in the hole has no influence. Where there is no
    surface at all, the hole becomes unlabeled.
    """
    label_ids, instance_ids = label_ids.copy(), instance_ids.copy()
    if hole.any():
        window = _surroundings(instance_ids, hole)
        ids, hole = instance_ids[window], hole[window]
        values = _scenery(ids, hole)
        for instance_id, part in _things_behind(ids, hole):
            values[part] = instance_id
        ids[hole] = values[hole]
        label_ids[window][hole] = LABEL_OF_VALUE[values[hole]]
    return label_ids, instance_ids


def _surroundings(ids: np.ndarray, hole: np.ndarray) -> tuple[slice, slice]:
    """The window that is looked at: half the hole's width more each way, all if no surface is in there."""
    rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
    margin = max(8, min((columns[-1] - columns[0]) // 2, hole.shape[1] // 16))
    window = tuple(slice(max(lines[0] - margin, 0), lines[-1] + 1 + margin) for lines in (rows, columns))
    surface = _IS_SURFACE[ids[window]] & ~hole[window]
    return window if surface.any() else np.s_[:, :]


def _things_behind(ids: np.ndarray, hole: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Single instances that border on the hole and stand further away, farthest first: id, part (H,W) bool.

    The part is what belongs to the convex hull of what can be seen, so that no bite is left in it.
    """
    border = cv2.dilate(hole.view(np.uint8), np.ones((3, 3), np.uint8)).view(bool) & ~hole
    foot = np.flatnonzero(hole.any(1))[-1]
    neighbours = np.unique(ids[border])
    found = []
    for instance_id in neighbours[neighbours >= FIRST_SINGLE_ID].tolist():
        seen = ((ids == instance_id) & ~hole).view(np.uint8)
        lowest = np.flatnonzero(seen.any(1))[-1]
        if lowest < foot:
            found.append((lowest, instance_id, hull_of(seen).view(bool) & hole))
    return [(instance_id, part) for _, instance_id, part in sorted(found, key=lambda one: one[:2])]


def _previous(wanted: np.ndarray, axis: int) -> np.ndarray:
    """For each pixel of a mask (H,W) the last True one up to it along an axis: its index there or -1."""
    places = np.arange(wanted.shape[axis], dtype=np.int16)
    places = places[:, None] if axis == 0 else places
    return np.maximum.accumulate(np.where(wanted, places, np.int16(-1)), axis)


def _next(wanted: np.ndarray, axis: int) -> np.ndarray:
    """The first True one from each pixel on: its index along the axis or the size of the mask there."""
    return np.int16(wanted.shape[axis] - 1) - np.flip(_previous(np.flip(wanted, axis), axis), axis)


def _scenery(ids: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """What an instance map (H,W) uint16 shows in the hole: surfaces, poles, what borders on both sides."""
    ids, hole = np.ascontiguousarray(ids.T), np.ascontiguousarray(hole.T)  # the order of memory: by column
    columns, rows = np.nonzero(hole)
    surface = _IS_SURFACE[ids] & ~hole
    known = np.pad(np.where(hole, UNLABELED, ids), (0, 1))  # the last row and column stand for none
    beside = np.s_[:, rows.min() : rows.max() + 1]
    above = np.s_[columns.min() : columns.max() + 1]

    left_place, right_place = (find(surface[beside], 0)[hole[beside]] for find in (_previous, _next))
    left, right = known[left_place, rows], known[right_place, rows]
    left, right = np.where(left, left, right), np.where(right, right, left)  # one side is better than none
    up_place, down_place = (find(surface[above], 1)[hole[above]] for find in (_previous, _next))
    up, down = known[columns, up_place], known[columns, down_place]
    nearer = np.where((rows - up_place < down_place - rows) & (up != UNLABELED), up, down)
    found = np.where(left, left, np.where(nearer, nearer, up))
    differ = left != right
    fraction = (columns - left_place)[differ] / (right_place - left_place)[differ]
    left_wins = _left_wins(left, right, up, down, differ, fraction, rows, columns)
    found[differ] = np.where(left_wins, left[differ], right[differ])

    left, right = (known[find(~hole[beside], 0)[hole[beside]], rows] for find in (_previous, _next))
    found = np.where((left == right) & (left != UNLABELED), left, found)
    up = known[columns, _previous(~hole[above], 1)[hole[above]]]
    found = np.where(_IS_POLE[up] & ~_IS_GROUND[found], up, found)

    values = np.zeros(ids.shape, np.uint16)
    values[hole] = found
    if not found.all() and surface.any():
        nearest = ndimage.distance_transform_edt(~surface, return_distances=False, return_indices=True)
        values = np.where(values == UNLABELED, ids[tuple(nearest)], values)
    return values.T


def _left_wins(
    left: np.ndarray,
    right: np.ndarray,
    up: np.ndarray,
    down: np.ndarray,
    differ: np.ndarray,
    fraction: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
) -> np.ndarray:
    """Where left and right differ, whether the pixel belongs to what is on its left: (D,) bool.

    left, right, up, down (N,): the nearest surface each way, for the pixels of the hole column by column;
    fraction (D,): way from the left one to the right one, 0..1.
    """
    count = len(left)
    places = np.arange(count)
    new_run = np.ones(count, bool)  # of pixels without a gap in the column
    new_run[1:] = (columns[1:] != columns[:-1]) | (rows[1:] != rows[:-1] + 1)
    run = np.cumsum(new_run)
    new_stretch = new_run.copy()  # of pixels with the same two sides
    new_stretch[1:] |= (left[1:] != left[:-1]) | (right[1:] != right[:-1])
    begin = np.flatnonzero(new_stretch)
    stretch = np.cumsum(new_stretch)[differ] - 1
    way_down = (places[differ] - begin[stretch] + 0.5) / np.diff(np.append(begin, count))[stretch]

    # Where a stretch comes from and leads to: what both sides agree on in its run, else the surface outside.
    last = np.maximum.accumulate(np.where(differ, 0, places))[differ]
    before = np.where((run[last] == run[differ]) & ~differ[last], left[last], up[differ])
    following = np.minimum.accumulate(np.where(differ, count - 1, places)[::-1])[::-1][differ]
    after = np.where((run[following] == run[differ]) & ~differ[following], left[following], down[differ])

    left, right = left[differ], right[differ]
    return np.select(
        [
            (before == left) & (after == right),
            (before == right) & (after == left),
            (before == left) | (after == left),
            (before == right) | (after == right),
        ],
        [way_down < 1 - fraction, way_down >= fraction, True, False],
        fraction < 0.5,
    )
