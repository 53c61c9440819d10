"""Polygons in painter's order of a map of parts, which official tools draw to the same map.

Stuff comes first, the largest outlines before those within them; then the single instances, one polygon each;
then once more what of the stuff the instances have covered: holes in them are filled, and pieces of one
instance joined by lines. Only where pieces of an instance can't be joined but over another one, pixels of
that are lost, and where an instance is a spray of pieces, the smallest of them.
"""

import cv2
import numpy as np
from scipy.ndimage import find_objects

from data.outlines import join_pieces, outline
from data.writer import LabelledPolygon, topmost

_MARGIN = 16  # pixels around an instance where lines between its pieces may lead
_MAX_PIECES = 40  # pieces of an instance, and holes in it, that its polygon shows; speckle has thousands


def polygons_of(
    parts: np.ndarray, labels: list[str], single: np.ndarray
) -> list[tuple[int, LabelledPolygon]]:
    """Part and polygon, later ones above earlier ones; one polygon for each part that is single.

    parts: (H,W) int32, index into `labels` and into `single` (N,) bool. Raises ValueError for unknown labels.
    """
    height, width = parts.shape
    stuff: list[tuple[float, int, np.ndarray]] = []
    things: list[tuple[float, int, np.ndarray]] = []
    for part, window in enumerate(find_objects(parts + 1, max_label=len(labels))):
        if window is None:
            continue
        if single[part]:
            shape = _instance_outline(parts, part, window, single)
            things.append((cv2.contourArea(shape), part, shape))
        else:
            found = _outlines(parts[window] == part, window)
            stuff += [(cv2.contourArea(shape), part, shape) for shape in found]
    made = [
        (part, LabelledPolygon(labels[part], shape))
        for shapes in (stuff, things)
        for _, part, shape in sorted(shapes, key=lambda entry: -entry[0])
    ]
    owners = np.array([part for part, _ in made], np.int32)
    drawn = owners[topmost([polygon for _, polygon in made], width, height)]
    covered = (drawn != parts) & ~single[parts]
    again = np.where(covered, parts + 1, 0)
    for part, window in enumerate(find_objects(again, max_label=len(labels))):
        if window is not None:
            found = _outlines(again[window] == part + 1, window)
            made += [(part, LabelledPolygon(labels[part], shape)) for shape in found]
    return made


def _outlines(mask: np.ndarray, window: tuple[slice, slice]) -> list[np.ndarray]:
    """The outer outline (N,2) of each piece of a mask, holes filled, in pixels of the whole map."""
    contours, parents = cv2.findContours(mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    outer = [shape[:, 0] for shape, (*_, parent) in zip(contours, parents[0], strict=True) if parent < 0]
    corner = np.array([window[1].start, window[0].start], np.int32)
    return [np.concatenate([shape, shape[-1:].repeat(max(0, 3 - len(shape)), 0)]) + corner for shape in outer]


def _instance_outline(
    parts: np.ndarray, part: int, window: tuple[slice, slice], single: np.ndarray
) -> np.ndarray:
    """One outline (N,2) of an instance: pieces joined, holes filled where no other instance is in them."""
    near = tuple(slice(max(0, edge.start - _MARGIN), edge.stop + _MARGIN) for edge in window)
    corner = np.array([near[1].start, near[0].start], np.int32)
    thing = single[parts[near]]
    mask = _largest(parts[near] == part, connectivity=8)
    shapes = _outlines(mask, near)
    if len(shapes) > 1:
        mask = join_pieces(mask, ~thing)
        shapes = _outlines(mask, near)
    others = thing & ~mask
    if len(shapes) == 1:
        filled = np.zeros(mask.shape, np.uint8)
        cv2.fillPoly(filled, [shapes[0] - corner], 1)
        if not (filled.view(bool) & others).any():
            return shapes[0]
    around = cv2.connectedComponents(np.pad(~mask, 1, constant_values=True).view(np.uint8), connectivity=4)[1]
    holes = around[1:-1, 1:-1]
    with_others = np.zeros(holes.max() + 1, bool)
    with_others[holes[others]] = True
    outside = holes == around[0, 0]
    open_holes = _largest(with_others[holes] & ~mask & ~outside, connectivity=4)
    return outline(~open_holes & ~outside) + corner


def _largest(mask: np.ndarray, connectivity: int) -> np.ndarray:
    """A mask (h,w) bool without all but its _MAX_PIECES largest pieces."""
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=connectivity)
    if count <= _MAX_PIECES + 1:
        return mask
    kept = np.zeros(count, bool)
    kept[1 + np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable")[:_MAX_PIECES]] = True
    return kept[pieces]
