"""Outlines of new objects among the polygons of an image: where in the painter's order, and what shape.

In a polygons.json later objects cover earlier ones, and the k-th instance of a class in the list has the
number k (official rule). A new object that nothing hides goes to the end. One that something hides goes,
whole, under what hides it, if the list has such a place and if no number changes by that; otherwise its
visible part goes to the end. So an occluded object is an uncut outline wherever the order permits it.

A polygon is one piece, a visible part may be several. They are joined by lines one pixel wide that lead
around instances if there is room, over stuff and groups: these have no numbers, so what a line covers of them
is drawn again above it.

A dropped instance leaves the list, so that the official count of its class closes the gap; the instance map
keeps all other numbers as they were, and the new ones go on from the highest.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from data.geometry import MaskPatch
from data.writer import LabelledPolygon, topmost


def match_instances(
    objects: list[LabelledPolygon], top: np.ndarray, instance_ids: np.ndarray
) -> dict[int, int]:
    """Which object each instance of a map (h,w) uint16 is: value -> index into `objects`.

    Told by the pixels, not by counting: a tree from which instances were removed has gaps in its numbers,
    and a focus crop has those of its source frame. An instance is an object of its class; the pairs that
    share most pixels come first, and each object and each instance is taken once.

    top: (h,w) int32, `topmost` of the objects in the same window.
    """
    values = np.flatnonzero(np.bincount(instance_ids.ravel(), minlength=2**16))
    index = np.zeros(2**16, np.int32)
    index[values] = np.arange(len(values))
    columns = len(objects) + 1
    pairs = index.take(instance_ids) * columns + top + 1
    overlaps = np.bincount(pairs.ravel(), minlength=len(values) * columns).reshape(-1, columns)[:, 1:].copy()
    labels = np.array([thing.label_id if thing.is_instance else -1 for thing in objects], int)
    overlaps[(values // 1000)[:, None] != labels] = 0
    rows, places = np.nonzero(overlaps)
    owners: dict[int, int] = {}
    taken: set[int] = set()
    for pair in np.argsort(-overlaps[rows, places], kind="stable"):
        value, place = int(values[rows[pair]]), int(places[pair])
        if value not in owners and place not in taken:
            owners[value] = place
            taken.add(place)
    return owners


@dataclass(frozen=True)
class Outlines:
    """The polygons of an image in painter's order."""

    objects: tuple[LabelledPolygon, ...]

    def without(self, values: tuple[int, ...], instance_ids: np.ndarray) -> "Outlines":
        """The list without the instances of these values on the image's map (H,W) uint16, as it is now."""
        if not values:
            return self
        height, width = instance_ids.shape
        owners = match_instances(self.objects, topmost(self.objects, width, height), instance_ids)
        gone = {owners[value] for value in values if value in owners}
        return Outlines(tuple(thing for place, thing in enumerate(self.objects) if place not in gone))

    def count(self, label: str) -> int:
        """Instances of a class in the list, occluded ones included: the number the next one would get."""
        return sum(thing.is_instance and thing.label == label for thing in self.objects)

    def insert(self, label: str, patch: MaskPatch, occluded: np.ndarray) -> "Outlines":
        """The list with a new object; `occluded` (h,w) bool are the pixels of the patch behind others."""
        place, shape = len(self.objects), patch.mask & ~occluded
        if occluded.any():
            under = self._place_under(label, patch, occluded)
            if under is not None:
                place, shape = under, patch.mask
            elif _pieces(shape)[0] > 1:
                return Outlines((*self.objects, *self._joined(label, patch, shape)))
        new = LabelledPolygon(label, outline(shape) + np.array([patch.x0, patch.y0], np.int32))
        return Outlines((*self.objects[:place], new, *self.objects[place:]))

    def _joined(self, label: str, patch: MaskPatch, visible: np.ndarray) -> list[LabelledPolygon]:
        """An object seen in several pieces, `visible` (h,w) of its patch, and what its lines have covered."""
        margin = max(visible.shape)  # pixels around the patch where lines may lead
        left, top = min(margin, patch.x0), min(margin, patch.y0)
        # Nothing leads further than to the end of all polygons.
        end = np.max([(0, 0), *(thing.polygon.max(0) for thing in self.objects)], 0) + 1
        room = end - (patch.x0, patch.y0) - visible.shape[::-1]
        right, below = np.clip(room, 0, margin).tolist()
        visible = np.pad(visible, ((top, below), (left, right)))
        corner = np.array([patch.x0 - left, patch.y0 - top], np.int32)
        height, width = visible.shape
        shifted = [LabelledPolygon(thing.label, thing.polygon - corner) for thing in self.objects]
        owners = topmost(shifted, width, height)
        numberless = np.array([*(not thing.is_instance for thing in shifted), False])  # the last: no object
        new = LabelledPolygon(label, outline(join_pieces(visible, numberless[owners])))
        made = [new]
        lines = (topmost([new], width, height) == 0) & ~visible & numberless[owners]
        for owner in np.unique(owners[lines]).tolist():
            covered = outlines_of_pieces(lines & (owners == owner))
            made += [LabelledPolygon(shifted[owner].label, part) for part in covered]
        return [LabelledPolygon(thing.label, thing.polygon + corner) for thing in made]

    def _place_under(self, label: str, patch: MaskPatch, occluded: np.ndarray) -> int | None:
        """Where a whole outline would be occluded in exactly these pixels, keeping all numbers; or None."""
        height, width = occluded.shape
        corner = np.array([patch.x0, patch.y0], np.int32)
        shifted = [LabelledPolygon(thing.label, thing.polygon - corner) for thing in self.objects]
        top = topmost(shifted, width, height)
        place = int(top[patch.mask & ~occluded].max()) + 1
        later = self.objects[place:]
        if top[occluded].min() < place or any(thing.is_instance and thing.label == label for thing in later):
            return None
        return place


def _pieces(mask: np.ndarray) -> tuple[int, np.ndarray]:
    """How many 8-connected pieces a mask (h,w) bool has, and the piece 1, 2, ... of each pixel, else 0."""
    count, pieces = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    return count - 1, pieces


def join_pieces(mask: np.ndarray, free: np.ndarray) -> np.ndarray:
    """A mask (h,w) bool, its pieces joined by the shortest lines over `free` pixels (h,w) bool.

    Lines are one pixel wide. A piece that no such line leads to stays apart.
    """
    count, pieces = _pieces(np.pad(mask, 1))
    width, pieces = pieces.shape[1], pieces.ravel()
    sides = np.array([1, -1, width, -width])
    closed = ~np.pad(free | mask, 1).ravel()  # or reached already
    joined = pieces > 0
    before = np.full(pieces.size, -1)  # the pixel from which one was reached; none within a piece
    inside = np.flatnonzero(joined)
    inside = inside[np.argsort(pieces[inside], kind="stable")]
    inside = np.split(inside, np.flatnonzero(np.diff(pieces[inside])) + 1)  # the pixels of piece 1, 2, ...
    frontier = max(inside, key=len)
    closed[frontier] = True
    apart = count - 1
    while apart and frontier.size:
        around = frontier[:, None] + sides
        free_around = ~closed[around]
        step, first = np.unique(around[free_around], return_index=True)
        closed[step], before[step] = True, frontier[np.nonzero(free_around)[0][first]]
        found = pieces[step]
        for piece in np.unique(found[found > 0]).tolist():
            pixel = before[step[np.argmax(pieces[step] == piece)]]
            while before[pixel] >= 0:
                joined[pixel] = True
                pixel = before[pixel]
            closed[inside[piece - 1]], before[inside[piece - 1]] = True, -1
            apart -= 1
            step = np.concatenate([step[pieces[step] != piece], inside[piece - 1]])
        frontier = step
    return joined.reshape(-1, width)[1:-1, 1:-1]


def outlines_of_pieces(mask: np.ndarray) -> list[np.ndarray]:
    """The outline, as `outline` gives it, of each 8-connected piece of a mask (h,w) bool."""
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    cut = np.ascontiguousarray(mask[top : top + height, left : left + width]).view(np.uint8)
    _, pieces, boxes, _ = cv2.connectedComponentsWithStats(cut, connectivity=8)
    return [
        outline(pieces[y : y + height, x : x + width] == number) + np.array([left + x, top + y], np.int32)
        for number, (x, y, width, height) in enumerate(boxes[1:, :4].tolist(), 1)
    ]


def outline(mask: np.ndarray) -> np.ndarray:
    """One closed outline (N,2) int32 (x, y), N >= 3, of a mask (h,w) bool that holds a pixel.

    Pillow and the official tools fill it to the same mask, to the pixel if the mask is one piece without
    holes. Further pieces and holes are joined to it by bridges one pixel wide.
    """
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    seen = np.uint8(mask[y : y + height, x : x + width])
    contours, _ = cv2.findContours(seen, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(x, y))
    rings = sorted((contour[:, 0] for contour in contours), key=len, reverse=True)
    joined, *rest = rings
    while rest:
        # the ring nearest to what is joined already, and its nearest point, so that bridges stay short
        distances = [np.abs(joined[:, None] - ring[None]).sum(2) for ring in rest]
        chosen = int(np.argmin([distance.min() for distance in distances]))
        distance, ring = distances[chosen], rest.pop(chosen)
        here, there = np.unravel_index(np.argmin(distance), distance.shape)
        around = np.concatenate([ring[there:], ring[: there + 1]])
        joined = np.concatenate([joined[: here + 1], around, joined[here:]])
    return np.concatenate([joined, joined[-1:].repeat(max(0, 3 - len(joined)), 0)]).astype(np.int32)
