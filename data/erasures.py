"""What a scene's maps show where an instance is taken away: the files of `erased/`, beside gtFine/.

Only a tree whose scenes can be drawn again has them. One file a frame, for all its single instances.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.labels import FIRST_SINGLE_ID, LABEL_OF_VALUE
from support.errors import InputError
from support.files import DAMAGE


@dataclass(frozen=True)
class Erasure:
    """What the maps show instead of the instances `removed`, which go together (a rider and the machine).

    Everything else keeps its id. What was wholly occluded and now appears has an id of its own, the same in
    all erasures of the frame, which the maps of the frame don't hold.
    """

    removed: tuple[int, ...]  # instance ids
    x0: int  # first column and row of the window in the map, pixels
    y0: int
    mask: np.ndarray  # (rows,columns) bool: the pixels of the removed instances, all that change
    instance_ids: np.ndarray  # (rows,columns) uint16: what they show instead; 0 outside the mask

    @property
    def label_ids(self) -> np.ndarray:
        """(rows,columns) uint8: label ids of `instance_ids`."""
        return LABEL_OF_VALUE[self.instance_ids]

    @property
    def window(self) -> tuple[slice, slice]:
        """The rows and columns of the map that the mask covers."""
        rows, columns = self.mask.shape
        return slice(self.y0, self.y0 + rows), slice(self.x0, self.x0 + columns)

    @property
    def revealed(self) -> frozenset[int]:
        """Ids of the single instances that appear where the removed ones were."""
        ids = np.unique(self.instance_ids[self.mask])
        return frozenset(ids[ids >= FIRST_SINGLE_ID].tolist())

    def fits(self, other: "Erasure") -> bool:
        """Whether erasing both is exact: neither shows what the other one takes away."""
        return self.revealed.isdisjoint(other.removed) and other.revealed.isdisjoint(self.removed)


def erase_exactly(
    label_ids: np.ndarray, instance_ids: np.ndarray, erasure: Erasure
) -> tuple[np.ndarray, np.ndarray]:
    """Label ids (H,W) uint8 and instance ids (H,W) uint16 of the scene without the removed instances; copies.

    Several erasures that fit each other may be applied one after the other, in any order. Raises ValueError
    if the window sticks out of the map.
    """
    rows, columns = erasure.window
    if rows.stop > label_ids.shape[0] or columns.stop > label_ids.shape[1]:
        raise ValueError(f"the window {erasure.window} sticks out of a map of shape {label_ids.shape}")
    label_ids, instance_ids = label_ids.copy(), instance_ids.copy()
    label_ids[erasure.window][erasure.mask] = erasure.label_ids[erasure.mask]
    instance_ids[erasure.window][erasure.mask] = erasure.instance_ids[erasure.mask]
    return label_ids, instance_ids


def erasures_file(erasures: list[Erasure]) -> bytes:
    """The content of a frame's file."""
    removed = [(one, number) for number, erasure in enumerate(erasures) for one in erasure.removed]
    windows = [(erasure.x0, erasure.y0, *erasure.mask.shape) for erasure in erasures]
    content = io.BytesIO()
    np.savez_compressed(
        content,
        removed=np.array(removed, np.uint16).reshape(-1, 2),  # instance id, number of its window
        windows=np.array(windows, np.int32).reshape(-1, 4),  # x0, y0, rows, columns
        masks=np.packbits(_joined([erasure.mask.ravel() for erasure in erasures], bool)),
        shown=_joined([erasure.instance_ids[erasure.mask] for erasure in erasures], np.uint16),
    )
    return content.getvalue()


def _joined(parts: list[np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, kind), *parts])


def decode_erasures(path: Path, content: bytes) -> dict[int, Erasure]:
    """Instance id -> erasure, from a frame's file; instances that go together share theirs.

    Raises InputError, naming `path`, if it is damaged.
    """
    try:
        with np.lib.npyio.NpzFile(io.BytesIO(content), allow_pickle=False) as file:
            return _erasures(file["removed"], file["windows"], file["masks"], file["shown"])
    except DAMAGE as error:
        text = " ".join(str(error).split())
        raise InputError(
            f"{path}: damaged ({text}); write the tree again with scripts.make_streets --erased, or remove"
            f" the folder {path.parents[2]}"
        ) from None


def _erasures(
    removed: np.ndarray, windows: np.ndarray, masks: np.ndarray, shown: np.ndarray
) -> dict[int, Erasure]:
    """Take apart what `erasures_file` put together. Raises ValueError if the arrays don't fit each other."""
    kinds = [(array.dtype, *array.shape[1:]) for array in (removed, windows, masks, shown)]
    if kinds != [(np.uint16, 2), (np.int32, 4), (np.uint8,), (np.uint16,)]:
        raise ValueError("its arrays are of another kind")
    sizes = windows[:, 2:].prod(1, dtype=np.int64)
    members = [removed[removed[:, 1] == number, 0].tolist() for number in range(len(windows))]
    if (windows < 0).any() or not all(members) or len(removed) != sum(map(len, members)):
        raise ValueError("its instances and windows don't fit each other")
    if len(masks) != (int(sizes.sum()) + 7) // 8:
        raise ValueError("its windows and masks don't fit each other")
    every_mask = np.unpackbits(masks, count=int(sizes.sum())).astype(bool)
    if np.count_nonzero(every_mask) != len(shown):
        raise ValueError("its masks and values don't fit each other")
    found, pixel, value = {}, 0, 0
    for ids, (x0, y0, rows, columns), size in zip(members, windows.tolist(), sizes.tolist(), strict=True):
        mask = every_mask[pixel : pixel + size].reshape(rows, columns)
        count = np.count_nonzero(mask)
        instance_ids = np.zeros((rows, columns), np.uint16)
        instance_ids[mask] = shown[value : value + count]
        found |= dict.fromkeys(ids, Erasure(tuple(ids), x0, y0, mask, instance_ids))
        pixel, value = pixel + size, value + count
    return found
