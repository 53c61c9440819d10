"""The ground truth of a focus crop: label maps, instance maps and polygons of a window, enlarged.

See docs/synthesis.md#ground-truth-of-a-crop.

Mode "raster" enlarges the instance map pixel by pixel and derives everything else from it: ids stay those of
the source frame and ground truth is aligned with the image to the pixel. Mode "polygon" transforms the
polygons and draws them anew: smooth outlines, ids by official counting. Both keep groups, stuff and the depth
order of the polygons.
"""

import math
from dataclasses import dataclass

import numpy as np

from augment.repaint.focus import Window
from data.instances import resize_nearest
from data.labels import FIRST_SINGLE_ID, LABEL_OF_VALUE
from data.outlines import match_instances
from data.writer import LabelledPolygon, instance_values, rasterise, topmost
from support.errors import InputError


@dataclass(frozen=True)
class CropGroundTruth:
    """What the annotation files of one focus crop of H x W pixels hold."""

    label_ids: np.ndarray  # (H,W) uint8
    instance_ids: np.ndarray  # (H,W) uint16
    objects: list[LabelledPolygon] | None  # in painter's order; None if the source has none
    id_map: dict[int, int]  # instance of the source frame seen in the window -> its id in the crop
    dropped: list[int]  # instances of the source frame of which only a fragment was in the window, now void


def crop_ground_truth(
    instance_ids: np.ndarray,
    objects: list[LabelledPolygon] | None,
    window: Window,
    size: tuple[int, int],
    mode: str = "raster",
    fragments: str = "void",
    min_pixels: int = 4,
) -> CropGroundTruth:
    """The ground truth of a window of a frame, enlarged to `size` (width, height) in pixels.

    Args:
      instance_ids: (H,W) uint16, the whole frame; not changed.
      objects: the frame's polygons in painter's order, None if it has none.
      mode: "raster" or "polygon", a `truth` of `augment.options`.
      fragments: "keep", or "void": instances of which fewer than `min_pixels` pixels of the frame show in the
        window become unlabeled, on the maps and in the list. "resample", of which the caller has done the
        drawing anew, is the same as "void" here.

    Raises InputError for mode "polygon" without polygons.
    """
    if mode == "polygon" and objects is None:
        raise InputError("truth mode polygon needs a polygons.json beside each label map; take mode raster")
    cut = window.cut(instance_ids)
    dropped = _fragments(cut, min_pixels) if fragments != "keep" else []
    owners = _owners(cut, objects, window) if objects is not None and (dropped or mode == "polygon") else {}
    crop_objects, numbers = None, []
    if objects is not None:
        void = {owners[value] for value in dropped if value in owners}
        kept = [
            LabelledPolygon("unlabeled", thing.polygon) if number in void else thing
            for number, thing in enumerate(objects)
        ]
        crop_objects, numbers = _enlarged(kept, window, size)

    if mode == "polygon":
        new_value = dict(zip(numbers, instance_values(crop_objects).tolist(), strict=True))
        kept = {value: owner for value, owner in owners.items() if value not in dropped}
        id_map = {value: new_value[owner] for value, owner in kept.items() if owner in new_value}
        return CropGroundTruth(*rasterise(crop_objects, *size), crop_objects, id_map, dropped)
    if dropped:
        cut = np.where(np.isin(cut, dropped), np.uint16(0), cut)
    crop_ids = resize_nearest(cut, *size)
    values = np.flatnonzero(np.bincount(cut.ravel())).tolist()
    id_map = {value: value for value in values if value >= FIRST_SINGLE_ID}
    return CropGroundTruth(LABEL_OF_VALUE.take(crop_ids), crop_ids, crop_objects, id_map, dropped)


def has_fragment(instance_ids: np.ndarray, window: Window, min_pixels: int) -> bool:
    """Whether an instance of a frame's map (H,W) uint16 has 1 to `min_pixels` - 1 pixels in a window."""
    return bool(_fragments(window.cut(instance_ids), min_pixels))


def _fragments(cut: np.ndarray, min_pixels: int) -> list[int]:
    counts = np.bincount(cut.ravel())
    small = np.flatnonzero((counts > 0) & (counts < min_pixels))
    return small[small >= FIRST_SINGLE_ID].tolist()


def _owners(cut: np.ndarray, objects: list[LabelledPolygon], window: Window) -> dict[int, int]:
    """Which object each instance of a cut map (h,w) uint16 is: value -> index into `objects`."""
    corner = np.array([window.x0, window.y0])
    shifted = [LabelledPolygon(thing.label, thing.polygon - corner) for thing in objects]
    return match_instances(shifted, topmost(shifted, window.width, window.height), cut)


# ---- polygons -----------------------------------------------------------------------------------


def _enlarged(
    objects: list[LabelledPolygon], window: Window, size: tuple[int, int]
) -> tuple[list[LabelledPolygon], list[int]]:
    """The objects that reach into the window, in pixels of the crop, and their places in `objects`."""
    scale = np.array(size) / (window.width, window.height)
    margin = (math.sqrt(scale.prod()) - 1) / 2  # half an enlarged pixel, less the half that Pillow fills
    corner, end = np.array([window.x0, window.y0]), np.array([window.width, window.height])
    inside, numbers = [], []
    for number, thing in enumerate(objects):
        points = thing.polygon - corner
        if (points.max(0) < 0).any() or (points.min(0) >= end).any():
            continue
        points = np.rint(grown((points + 0.5) * scale - 0.5, margin)).astype(np.int32)
        inside.append(LabelledPolygon(thing.label, points))
        numbers.append(number)
    return inside, numbers


def grown(points: np.ndarray, margin: float) -> np.ndarray:
    """An outline (N,2) float, N >= 1, moved outwards by `margin` >= 0 pixels, mitred: (M,2) float, M >= 3.

    Corners sharper than a right angle are cut off square. Edges that are walked both ways, the bridges of
    `data.outlines` between parts and to holes, stay where they are: moved outwards they would cross.
    """
    points = points.astype(float)
    start = points[(points != np.roll(points, 1, 0)).any(1)]
    if not len(start):  # a single pixel
        return points[0] + margin * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    end = np.roll(start, -1, 0)
    length = np.hypot(*(end - start).T)[:, None]
    along = (end - start) / length
    area = (start[:, 0] * end[:, 1] - end[:, 0] * start[:, 1]).sum()
    side = 1 if area >= 0 else -1
    outward = side * along[:, ::-1] * (1, -1)
    moved = np.full_like(length, margin)
    if area:
        _, corner = np.unique(start @ (1, 1j), return_inverse=True)
        following = np.roll(corner, -1)
        walked, back = corner * len(start) + following, following * len(start) + corner
        moved[np.isin(walked, back)] = 0

    # At each corner the edge before it is prolonged by tan(half the turn), and so is the edge after it,
    # backwards; without clipping both end in the same point, the mitre.
    along_in, outward_in, length_in, moved_in = (np.roll(a, 1, 0) for a in (along, outward, length, moved))
    cosine = (along_in * along).sum(1, keepdims=True)
    sine = side * (along_in[:, :1] * along[:, 1:] - along_in[:, 1:] * along[:, :1])  # positive where convex
    tangent = np.divide(sine, 1 + cosine, out=np.ones_like(sine), where=1 + cosine > 1e-9)
    tangent = np.clip(tangent, -np.minimum(length_in, length) / max(2 * margin, 1e-9), 1)
    before = start + moved_in * (outward_in + tangent * along_in)
    after = start + moved * (outward - tangent * along)
    corners = np.stack([before, after], 1).reshape(-1, 2)
    distinct = (np.abs(corners - np.roll(corners, 1, 0)) > 1e-6).any(1)
    return corners[distinct] if distinct.sum() >= 3 else corners
