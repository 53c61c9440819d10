"""Outlines of new objects among the polygons of an image: where in the painter's order, and what shape.

In a polygons.json later objects cover earlier ones, and the k-th instance of a class in the list has the
number k (official rule). A new object that nothing hides goes to the end. One that something hides goes,
whole, under what hides it, if the list has such a place and if no number changes by that; otherwise its
visible part goes to the end. So an occluded object is an uncut outline wherever the order permits it.

A dropped instance leaves the list, so that the official count of its class closes the gap; the instance map
keeps all other numbers as they were, and the new ones go on from the highest.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from data.geometry import Patch
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
        """Instances of a class in the list, hidden ones included: the number the next one would get."""
        return sum(thing.is_instance and thing.label == label for thing in self.objects)

    def insert(self, label: str, patch: Patch, hidden: np.ndarray) -> "Outlines":
        """The list with a new object; `hidden` (h,w) bool are the pixels of the patch behind others."""
        place, shape = len(self.objects), patch.mask & ~hidden
        if hidden.any():
            under = self._place_under(label, patch, hidden)
            if under is not None:
                place, shape = under, patch.mask
        new = LabelledPolygon(label, outline(shape) + np.array([patch.x0, patch.y0], np.int32))
        return Outlines((*self.objects[:place], new, *self.objects[place:]))

    def _place_under(self, label: str, patch: Patch, hidden: np.ndarray) -> int | None:
        """Where a whole outline would be hidden in exactly these pixels, keeping all numbers; or None."""
        height, width = hidden.shape
        corner = np.array([patch.x0, patch.y0], np.int32)
        shifted = [LabelledPolygon(thing.label, thing.polygon - corner) for thing in self.objects]
        top = topmost(shifted, width, height)
        place = int(top[patch.mask & ~hidden].max()) + 1
        later = self.objects[place:]
        if top[hidden].min() < place or any(thing.is_instance and thing.label == label for thing in later):
            return None
        return place


def outline(mask: np.ndarray) -> np.ndarray:
    """One closed outline (N,2) int32 (x, y), N >= 3, of a mask (h,w) bool that holds a pixel.

    Pillow and the official tools fill it to the same mask, to the pixel if the mask is one piece without
    holes. Further pieces and holes are joined to it by bridges one pixel wide.
    """
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
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
