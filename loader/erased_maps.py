"""Small maps without some of their instances: what the density of places learns from.

What a small map shows in place of an instance is worked out once, with the cache: exactly where the tree can
tell (`data/erasures.py`), else filled in from what is beside it. A filled hole can betray that something
stood there, so filled maps get decoys too: holes of the same shapes where nothing stood.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from data.erasures import erase_exactly
from data.fill import fill_hole
from data.frame import Frame
from data.instances import bounding_box, in_fractions, resize_nearest
from data.labels import CHANNEL_OF_ID, FIRST_THING_CHANNEL
from support.seeds import generator

DECOYS = 4  # for each instance, of which a draw takes some
DECOYS_DRAWN = 1.0  # on average, for each instance taken
ERASE_PROBABILITY = 0.5  # of each usable instance
MAX_OCCLUDING = 0.3  # fraction of an instance's pixels behind which things appear; beyond, it is not erased
ZOOM_PROBABILITY = 0.5  # of a map to be learnt from in a part of it
MIN_PART = 0.6  # of a map's width and height, when it is zoomed into


@dataclass(frozen=True)
class ErasedPatch:
    """What a small map of h x w pixels shows in place of an instance."""

    owner: int  # its id; 0: a decoy
    pixels: np.ndarray  # (k,) int32, row * w + column of what changes
    labels: np.ndarray  # (k,) uint8, channels shown instead
    ids: np.ndarray  # (k,) uint16, ids shown instead

    def hides(self) -> float:
        """Fraction of the pixels where a thing appears."""
        return float((self.labels >= FIRST_THING_CHANNEL).mean()) if len(self.labels) else 0.0


@dataclass(frozen=True)
class Erasable:
    """The instances of a frame that can be taken away, n of them, as arrays that the cache keeps."""

    boxes: np.ndarray  # (n,4) float32, tight boxes on the full-size map, fractions of the image
    owners: np.ndarray  # (p,) int32, of each patch
    sizes: np.ndarray  # (p,) int32, pixels of each patch
    pixels: np.ndarray  # (sum of sizes,) int32
    labels: np.ndarray  # (sum of sizes,) uint8
    ids: np.ndarray  # (sum of sizes,) uint16

    def patches(self) -> list[ErasedPatch]:
        ends = self.sizes.cumsum()[:-1]
        parts = (np.split(array, ends) for array in (self.pixels, self.labels, self.ids))
        return [
            ErasedPatch(owner, *arrays) for owner, *arrays in zip(self.owners.tolist(), *parts, strict=True)
        ]


def find_erasable(
    frame: Frame,
    label_ids: np.ndarray,
    instance_ids: np.ndarray,
    instances: list[int],
    size: tuple[int, int],
    units: list[tuple[int, ...]],
) -> Erasable:
    """What small maps of `size` (width, height) show without each instance (id) of full-size maps (H,W).

    units: instances that are filled in together, as exact erasures take a rider and the two-wheeler.
    """
    unit_of = {one: unit for unit in units for one in unit}
    height, width = label_ids.shape
    small = _small(label_ids, instance_ids, size)
    erasures = frame.read_erasures()
    boxes, patches = [], []
    for one in instances:
        boxes.append(in_fractions(bounding_box(instance_ids == one), width, height))
        if one in erasures:
            without = _small(*erase_exactly(label_ids, instance_ids, erasures[one]), size)
            patches.append(_patch(one, small, without))
        else:
            hole = np.isin(small[1], unit_of.get(one, (one,)))
            patches.append(_patch(one, small, fill_hole(*small, hole)))
            decoys = _decoys(frame.name, one, hole)
            patches += [_patch(0, small, fill_hole(*small, moved)) for moved in decoys]
    kinds = {"pixels": np.int32, "labels": np.uint8, "ids": np.uint16}
    joined = {
        name: np.concatenate([np.zeros(0, kind), *(getattr(patch, name) for patch in patches)]).astype(kind)
        for name, kind in kinds.items()
    }
    return Erasable(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([patch.owner for patch in patches], np.int32),
        np.array([len(patch.pixels) for patch in patches], np.int32),
        **joined,
    )


def erase_some(
    labels: np.ndarray,
    ids: np.ndarray,
    instances: Collection[int],
    patches: list[ErasedPatch],
    rng: np.random.Generator,
) -> tuple[np.ndarray, list[int]]:
    """A small map without some of its instances, (h,w) uint8, and their ids, at least one if it can.

    labels (h,w) uint8 and ids (h,w) uint16 are the small map; instances the candidates. Each is taken with
    ERASE_PROBABILITY, at least one, in random order; not one that occludes things on more than MAX_OCCLUDING
    of its pixels, nor one whose patch shows another that is gone or the other way round. In maps with decoys
    DECOYS_DRAWN of them for each instance taken, on average, are applied too.
    """
    candidates = [patch for patch in patches if patch.owner in instances and patch.hides() <= MAX_OCCLUDING]
    rng.shuffle(candidates)
    chosen = [patch for patch in candidates if rng.random() < ERASE_PROBABILITY] or candidates[:1]
    erased, ids = labels.flatten(), ids.ravel()
    gone, shown, taken = set(), set(), []
    for patch in chosen:
        removes, shows = set(ids[patch.pixels].tolist()), set(patch.ids.tolist())
        if removes & shown or shows & gone:
            continue
        erased[patch.pixels] = patch.labels
        gone, shown = gone | removes, shown | shows
        taken.append(patch.owner)
    spare = [patch for patch in patches if not patch.owner]
    for number in rng.permutation(len(spare))[: rng.poisson(DECOYS_DRAWN * len(taken))]:
        erased[spare[number].pixels] = spare[number].labels
    return erased.reshape(labels.shape), taken


def zoom_in(
    labels: np.ndarray, boxes: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A random part of a small map (h,w), enlarged to its size by NEAREST, and where boxes (n,4) are in it.

    A part keeps the map's proportions and has 60 to 100 % of its width. Height against distance
    from the horizon stays as it was; where the horizon is, and how large things are, does not. The third
    array says which boxes lie in the part, (n,) bool.
    """
    height, width = labels.shape
    fraction = rng.uniform(MIN_PART, 1)
    left, top = rng.uniform(0, 1 - fraction, 2)
    columns = ((left + fraction * (np.arange(width) + 0.5) / width) * width).astype(int)
    rows = ((top + fraction * (np.arange(height) + 0.5) / height) * height).astype(int)
    moved = (boxes - np.array([left, top, left, top], np.float32)) / np.float32(fraction)
    inside = (moved >= 0).all(1) & (moved <= 1).all(1)
    return labels[rows[:, None], columns], moved, inside


def _small(
    label_ids: np.ndarray, instance_ids: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Label ids and instance ids at `size` (width, height)."""
    return resize_nearest(label_ids, *size), resize_nearest(instance_ids, *size)


def _patch(
    owner: int, before: tuple[np.ndarray, np.ndarray], after: tuple[np.ndarray, np.ndarray]
) -> ErasedPatch:
    """What differs between two small maps of label ids and instance ids."""
    changed = (before[0] != after[0]) | (before[1] != after[1])
    pixels = np.flatnonzero(changed).astype(np.int32)
    return ErasedPatch(owner, pixels, CHANNEL_OF_ID[after[0]].ravel()[pixels], after[1].ravel()[pixels])


def _decoys(name: str, instance: int, hole: np.ndarray) -> list[np.ndarray]:
    """The hole of an instance (h,w) bool, moved to other columns of its rows.

    The row of the foot stays, and with it the distance. Moved holes may touch things, as instances do, but
    not the instance itself.
    """
    columns = np.flatnonzero(hole.any(0))
    if not len(columns):
        return []
    rng = generator(0, f"{name}/{instance}", 0, "decoys")
    lowest, highest = -columns[0], hole.shape[1] - 1 - columns[-1]
    moved = [np.roll(hole, shift, 1) for shift in rng.integers(lowest, highest + 1, DECOYS)]
    return [one for one in moved if not (one & hole).any()]
