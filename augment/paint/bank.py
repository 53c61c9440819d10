"""The bank of `swap`: what instances a split has to offer, measured once and kept with their pixels.

One npz file: a table of the chosen instances (class, size, shape, light, how freely they stand) and a JPEG
of each with its mask, so that a worker reads a few tens of kilobytes for a sample instead of decoding a
frame. Written as a whole; built again when the source files or the limits have changed.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import name2label
from scipy import ndimage

from augment.compose import IN_FRONT, POLE_LIKE
from augment.paint.blend import ring_of, ring_statistics
from data.frame import Frame, list_frames
from data.images import read_instance_map
from data.labels import FIRST_SINGLE_ID
from support.errors import InputError, name_some, warn
from support.files import replacing, stamp

VERSION = 1
GRID = 32  # shapes are compared at this size
MIN_SIDE, MIN_AREA = 8, 100  # pixels; smaller instances are not worth showing again
# Parts of an instance that may stand for one that is occluded or cut off in part: x0, y0, x1, y1 in its box.
PARTS = (
    (0.0, 0.0, 1.0, 1.0),
    *((0.0, 0.0, fraction, 1.0) for fraction in (0.8, 0.6, 0.4)),
    *((1 - fraction, 0.0, 1.0, 1.0) for fraction in (0.8, 0.6, 0.4)),
    *((0.0, 0.0, 1.0, fraction) for fraction in (0.8, 0.6)),
)
_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)  # by byte
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111]
_DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


@dataclass(frozen=True)
class Limits:
    """What a bank keeps."""

    per_class: int = 800  # instances, the most
    longest: int = 640  # longer side of a stored image, pixels; larger ones are reduced


@dataclass(frozen=True)
class Table:
    """The chosen instances, one a row, in the order of their frames."""

    frame: np.ndarray  # (n,) names of frames
    instance_id: np.ndarray  # (n,) int32
    size: np.ndarray  # (n,2) int32, width and height of the stored image, pixels
    aspect: np.ndarray  # (n,) float32, width / height of the box in its frame
    solidity: np.ndarray  # (n,) float32, area / area of the convex hull, 0..1
    covered: np.ndarray  # (n,) float32, fraction of the outline that something in front takes, 0..1
    cut: np.ndarray  # (n,4) bool, whether the frame cuts it off left, top, right, below
    ring: np.ndarray  # (n,2,3) float32, mean and deviation of Lab around it
    shape: np.ndarray  # (n,GRID*GRID/8) uint8, the mask stretched to GRID x GRID, packed

    def rows_of(self, class_name: str) -> np.ndarray:
        """The rows of a class."""
        return np.flatnonzero(self.instance_id // 1000 == name2label[class_name].id)


@dataclass(frozen=True)
class Shelf:
    """The m instances of a class, ready to be compared."""

    rows: np.ndarray  # (m,) of the table
    keys: np.ndarray  # (m,) "frame name/instance id"
    shapes: np.ndarray  # (len(PARTS),m,GRID*GRID/8) uint8, packed: each part stretched to the grid
    areas: np.ndarray  # (len(PARTS),m) float32, ones in `shapes`

    def overlaps(self, mask: np.ndarray) -> np.ndarray:
        """Intersection over union of each part of each instance with a mask (GRID,GRID) bool.

        (len(PARTS),m) float32. Counted in packed bits: a product of matrices wakes threads that then wait.
        """
        ones = cv2.LUT((self.shapes & np.packbits(mask)).reshape(-1, self.shapes.shape[2]), _ONES)
        common = cv2.reduce(ones, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32F).reshape(self.areas.shape)
        return common / np.maximum(self.areas + np.float32(mask.sum()) - common, 1)


class Bank:
    """An open bank. Not to be shared with a forked process: each opens its own."""

    def __init__(self, path: Path):
        """Raises whatever a missing or damaged file raises."""
        self._file = np.load(path, allow_pickle=False)
        self.table = Table(*(self._file[name] for name in Table.__dataclass_fields__))
        self.shelf = cache(self._shelf)  # by the name of a class
        self.image = lru_cache(16)(self._image)  # by row

    def _shelf(self, class_name: str) -> "Shelf":
        rows = self.table.rows_of(class_name)
        shapes = np.unpackbits(self.table.shape[rows], axis=1).reshape(-1, GRID, GRID)
        parts = np.empty((len(PARTS), len(rows), GRID * GRID), bool)
        for part, (x0, y0, x1, y1) in zip(parts, np.rint(np.array(PARTS) * GRID).astype(int), strict=True):
            for row, shape in zip(part, shapes, strict=True):
                row[:] = grid_of(shape[y0:y1, x0:x1]).ravel()
        names = zip(self.table.frame[rows], self.table.instance_id[rows], strict=True)
        keys = np.array([f"{frame}/{instance_id}" for frame, instance_id in names])
        return Shelf(rows, keys, np.packbits(parts, axis=2), parts.sum(2, dtype=np.float32))

    def _image(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """An instance cut to its box: RGB (h,w,3) uint8 and mask (h,w) bool."""
        bgr = cv2.imdecode(self._file[f"jpeg{row}"], cv2.IMREAD_COLOR)
        mask = cv2.imdecode(self._file[f"mask{row}"], cv2.IMREAD_GRAYSCALE)
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), mask > 0


def open_bank(path: Path) -> Bank:
    """A bank that was made before, without a look at its data set. InputError if it can't be read."""
    try:
        return Bank(path)
    except _DAMAGE as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: no bank of instances ({reason}); make one with build_bank") from None


def build_bank(
    db_root: Path, split: str, cache_file: Path, map_function: Callable = map, limits: Limits | None = None
) -> Bank:
    """The bank of a split, from `cache_file` if that is good, else made and written there.

    map_function may spread the frames over processes; the file is the same to the last byte. A frame that
    can't be read is left out with a warning. Raises InputError if the split has no images or no instances,
    or if the file can't be written.
    """
    limits, cache_file = limits or Limits(), Path(cache_file)
    frames = [frame for frame in list_frames(db_root, split, skip_incomplete=True) if frame.image_path]
    if not frames:
        raise InputError(
            f"{db_root}: has no images in leftImg8bit/{split}; unpack leftImg8bit_trainvaltest.zip there,"
            " or choose another back end than swap"
        )
    state = _state(frames, split, limits)
    try:
        if str(np.load(cache_file, allow_pickle=False)["stamp"]) == state:
            return Bank(cache_file)
    except _DAMAGE:
        pass  # missing or damaged: made again
    chosen = _choose(frames, map_function, limits)
    if not chosen:
        raise InputError(f"{db_root}: no instance in split {split} is large enough to be shown again")
    try:
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        _write(cache_file, state, frames, chosen, map_function, limits)
    except OSError as error:
        raise InputError(f"{cache_file}: can't be written ({error.strerror}); choose another bank") from None
    return Bank(cache_file)


# ---- making it ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """An instance that may be chosen."""

    frame: int
    instance_id: int
    box: tuple[int, int, int, int]  # half-open
    area: int
    solidity: float
    covered: float
    cut: tuple[bool, bool, bool, bool]

    @property
    def rank(self) -> tuple[float, int, int]:
        """The freer an instance stands, the smaller."""
        worth = self.solidity * (1 - self.covered) * (0.5 if any(self.cut) else 1)
        return -worth, self.frame, self.instance_id


def _state(frames: list[Frame], split: str, limits: Limits) -> str:
    """A hash of what the bank depends on: names, sizes and times of the source files, and the limits."""
    parts = [VERSION, split, limits.per_class, limits.longest]
    for frame in frames:
        for path in (frame.instance_path, frame.image_path):
            parts += [path.name, *(stamp(path) or ())]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def _choose(frames: list[Frame], map_function: Callable, limits: Limits) -> list[_Found]:
    """The instances to keep: of each class and size (factor 2 in area) the freest, in turn."""
    shelves: dict[tuple[int, int], list[_Found]] = {}
    left_out = []
    for found in map_function(_measure, list(enumerate(frames))):
        if isinstance(found, str):
            left_out.append(found)
            continue
        for one in found:
            shelves.setdefault((one.instance_id // 1000, one.area.bit_length()), []).append(one)
    _tell(left_out, bool(shelves))
    chosen = []
    for label_id in sorted({label_id for label_id, _ in shelves}):
        ranked = [
            (place, -size, one)
            for (label, size), ones in shelves.items()
            if label == label_id
            for place, one in enumerate(sorted(ones, key=lambda one: one.rank))
        ]
        ranked.sort(key=lambda entry: entry[:2])
        chosen += [one for _, _, one in ranked[: limits.per_class]]
    return chosen


def _measure(item: tuple[int, Frame]) -> list[_Found] | str:
    """The instances of a frame, by rising id; what is wrong with its map instead."""
    number, frame = item
    try:
        ids = read_instance_map(frame.instance_path)
    except InputError as error:
        return str(error)
    height, width = ids.shape
    values = np.flatnonzero(np.bincount(ids.ravel(), minlength=FIRST_SINGLE_ID))
    lookup = np.zeros(values[-1] + 1, np.int32)
    lookup[values] = np.arange(1, len(values) + 1)
    slices = ndimage.find_objects(lookup[ids], len(values))
    # Who stands further down stands in front; poles and the like always do. The ground never does.
    foot = np.zeros(values[-1] + 1, np.int32)
    foot[values] = [
        rows.stop if value >= 24 else height + 1 if value in (*IN_FRONT, *POLE_LIKE) else 0
        for value, (rows, _) in zip(values, slices, strict=True)
    ]
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
        edge = (cv2.dilate(mask, np.ones((3, 3), np.uint8)) > mask) & (ids[window] != value)
        covered = float((foot[ids[window][edge]] > rows.stop).mean()) if edge.any() else 0.0
        hull = cv2.convexHull(cv2.findNonZero(mask))
        solid = np.zeros_like(mask)
        cv2.fillConvexPoly(solid, hull, 1)
        solidity = area / max(np.count_nonzero(solid), 1)
        cut = columns.start == 0, rows.start == 0, columns.stop == width, rows.stop == height
        box = columns.start, rows.start, columns.stop, rows.stop
        found.append(_Found(number, value, box, area, solidity, covered, cut))
    return found


def _cut(
    item: tuple[Frame, list[_Found]], longest: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]] | str:
    """JPEG bytes, mask PNG bytes and ring of some instances of a frame; what is wrong with it instead."""
    frame, wanted = item
    try:
        ids = read_instance_map(frame.instance_path)
        rgb = frame.read_image(ids.shape)
    except InputError as error:
        return str(error)
    cuts = []
    for one in wanted:
        x0, y0, x1, y1 = one.box
        margin = max(x1 - x0, y1 - y0) // 4 + 4
        window = np.s_[max(y0 - margin, 0) : y1 + margin, max(x0 - margin, 0) : x1 + margin]
        mask = ids[window] == one.instance_id
        ring = ring_statistics(rgb[window], ring_of(mask))
        ring = np.zeros((2, 3)) if ring is None else ring
        image, mask = rgb[y0:y1, x0:x1], np.uint8(ids[y0:y1, x0:x1] == one.instance_id) * 255
        scale = longest / max(mask.shape)
        if scale < 1:
            size = tuple(max(1, round(side * scale)) for side in reversed(mask.shape))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            mask = np.uint8(cv2.resize(mask, size, interpolation=cv2.INTER_AREA) >= 128) * 255
        jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), _JPEG)[1]
        cuts.append((jpeg, cv2.imencode(".png", mask)[1], np.float32(ring)))
    return cuts


def _write(
    path: Path,
    stamp: str,
    frames: list[Frame],
    chosen: list[_Found],
    map_function: Callable,
    limits: Limits,
) -> None:
    """Write the bank's file, image by image as they come; rows are renumbered if a frame is bad."""
    by_frame: dict[int, list[_Found]] = {}
    for one in chosen:
        by_frame.setdefault(one.frame, []).append(one)
    numbers = sorted(by_frame)
    items = [(frames[number], by_frame[number]) for number in numbers]
    kept: list[tuple] = []
    left_out: list[str] = []
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        cuts_of_frames = map_function(partial(_cut, longest=limits.longest), items)
        for number, cuts in zip(numbers, cuts_of_frames, strict=True):
            if isinstance(cuts, str):
                left_out.append(cuts)
                continue
            for one, (jpeg, mask, ring) in zip(by_frame[number], cuts, strict=True):
                _add(archive, f"jpeg{len(kept)}", jpeg)
                _add(archive, f"mask{len(kept)}", mask)
                kept.append(_row(frames[number].name, one, cv2.imdecode(mask, 0), ring))
        _tell(left_out, bool(kept))
        for name, column in zip(Table.__dataclass_fields__, zip(*kept, strict=True), strict=True):
            _add(archive, name, np.array(column))
        _add(archive, "stamp", np.array(stamp))


def _tell(left_out: list[str], found: bool) -> None:
    """Say which frames can't be used. Raises InputError if that leaves nothing."""
    if left_out and not found:
        raise InputError(f"no instances to show: {name_some(left_out)}")
    if left_out:
        warn(f"left out of the bank: {name_some(left_out)}")


def _row(name: str, one: _Found, mask: np.ndarray, ring: np.ndarray) -> tuple:
    """A row of the table, in the order of its columns."""
    x0, y0, x1, y1 = one.box
    return (
        name,
        np.int32(one.instance_id),
        np.int32(mask.shape[::-1]),
        np.float32((x1 - x0) / (y1 - y0)),
        np.float32(one.solidity),
        np.float32(one.covered),
        np.array(one.cut),
        ring,
        np.packbits(grid_of(mask > 0)),
    )


def grid_of(mask: np.ndarray) -> np.ndarray:
    """A mask (h,w) bool, cut to its box, stretched to (GRID,GRID) bool."""
    shrunk = cv2.resize(np.uint8(mask) * 255, (GRID, GRID), interpolation=cv2.INTER_AREA)
    return shrunk >= 128


def _add(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    """One array of an npz, with the fixed date that `ZipFile.writestr` would not give it."""
    content = io.BytesIO()
    np.lib.format.write_array(content, array, allow_pickle=False)
    archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue())
