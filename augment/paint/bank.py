"""The bank: what instances a split has to offer, measured once and kept with their pixels.

One npz file: a table of the chosen instances (class, size, shape, light, how freely they stand, from where
they were seen) and a JPEG of each and a little around it, with its mask, so that a worker reads a few tens of
kilobytes for a sample instead of decoding a frame. Written as a whole; built again when the source files or
the limits have changed.
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

from augment.paint.collection import Kind, Table, grid_of, shelf_of
from augment.paint.cutout import Cutout, cut_out
from augment.paint.measuring import Found, instances_on, light_where, window_around
from data.frame import Frame, list_frames
from data.images import read_instance_map
from data.labels import TARGET_CLASSES
from support.errors import InputError, name_some, warn
from support.files import DAMAGE, replacing, stamp

VERSION = 4
OWN, RIDDEN = 255, 128  # in the stored mask
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111]


@dataclass(frozen=True)
class Limits:
    """What a bank keeps."""

    per_class: int = 800  # instances, the most
    longest: int = 640  # longer side of a stored image, pixels; larger ones are reduced


class Bank:
    """An open bank. Not to be shared with a forked process: each opens its own."""

    def __init__(self, path: Path):
        """Raises whatever a missing or damaged file raises."""
        self._file = np.load(path, allow_pickle=False)
        self.table = Table(*(self._file[name] for name in Table.__dataclass_fields__))
        self.kinds = tuple(Kind(name, name, name) for name in TARGET_CLASSES)
        self.shelf = cache(partial(shelf_of, self.table))  # by the name of a class
        self.image = lru_cache(16)(self._image)  # by row
        self.cutout = lru_cache(16)(self._cutout)  # by row

    def _image(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """An instance cut to its box: RGB (h,w,3) uint8 and mask (h,w) bool."""
        rgb, mask, _ = self._surroundings(row)
        x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
        return rgb[y : y + h, x : x + w], mask[y : y + h, x : x + w]

    def _cutout(self, row: int) -> Cutout:
        """An instance as it is, with what it rides, to be put somewhere else."""
        rgb, mask, ridden = self._surroundings(row)
        ridden = ridden if self.table.ridden[row] else None
        return cut_out(rgb, mask, self.table.known_light(row), ridden)

    def _surroundings(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """An instance and a little around it: RGB (h,w,3) uint8, its mask and that of what it rides, bool."""
        bgr = cv2.imdecode(self._file[f"jpeg{row}"], cv2.IMREAD_COLOR)
        mask = cv2.imdecode(self._file[f"mask{row}"], cv2.IMREAD_GRAYSCALE)
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), mask == OWN, mask == RIDDEN


def open_bank(path: Path) -> Bank:
    """A bank that was made before, without a look at its data set. InputError if it can't be read."""
    try:
        return Bank(path)
    except DAMAGE as error:
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
    except DAMAGE:
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


def _state(frames: list[Frame], split: str, limits: Limits) -> str:
    """A hash of what the bank depends on: names, sizes and times of the source files, and the limits."""
    parts = [VERSION, split, limits.per_class, limits.longest]
    for frame in frames:
        for path in (frame.instance_path, frame.image_path, frame.camera_path):
            parts += [path.name, *(stamp(path) or ())] if path else []
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def _choose(frames: list[Frame], map_function: Callable, limits: Limits) -> list[Found]:
    """The instances to keep: of each class and size (factor 2 in area) the freest, in turn."""
    shelves: dict[tuple[int, int], list[Found]] = {}
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


def _measure(item: tuple[int, Frame]) -> list[Found] | str:
    """The instances of a frame, by rising id; what is wrong with its map instead."""
    number, frame = item
    try:
        return instances_on(read_instance_map(frame.instance_path), number)
    except InputError as error:
        return str(error)


def _cut(
    item: tuple[Frame, list[Found]], longest: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] | str:
    """JPEG bytes, mask PNG bytes, light and camera of some instances of a frame; or what is wrong with it."""
    frame, wanted = item
    try:
        ids = read_instance_map(frame.instance_path)
        rgb, camera = frame.read_image(ids.shape), frame.read_camera()
    except InputError as error:
        return str(error)
    seen_by = [np.nan] * 4 if camera is None else [camera.fx, camera.u0, camera.fy, camera.horizon]
    cuts = []
    for one in wanted:
        x0, y0, x1, y1 = one.box
        light = light_where(one, rgb, ids)
        light = np.full(3, np.nan) if light is None else light
        window, (left, top) = window_around(one)
        image, mask = rgb[window], np.uint8(ids[window] == one.instance_id) * OWN
        ridden = np.uint8(ids[window] == (one.ridden or -1)) * 255
        scale = longest / max(x1 - x0, y1 - y0)
        if scale < 1:
            image, mask = _reduced(image, mask, (x0 - left, y0 - top, x1 - left, y1 - top), scale)
            ridden = cv2.resize(ridden, mask.shape[::-1], interpolation=cv2.INTER_AREA)
        mask[(ridden >= 128) & (mask == 0)] = RIDDEN
        jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), _JPEG)[1]
        cuts.append((jpeg, cv2.imencode(".png", mask)[1], np.float32(light), np.float32(seen_by)))
    return cuts


def _reduced(
    image: np.ndarray, mask: np.ndarray, box: tuple[int, int, int, int], scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """An image (h,w,3) uint8 and its mask (h,w) uint8 of 0 and 255, reduced.

    The box is reduced by itself, so that its size is exact.
    """
    x0, y0, x1, y1 = box
    height, width = mask.shape
    left, right, top, below = (round(side * scale) for side in (x0, width - x1, y0, height - y1))
    w, h = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))

    def reduced(array: np.ndarray) -> np.ndarray:
        around = cv2.resize(array, (left + w + right, top + h + below), interpolation=cv2.INTER_AREA)
        around[top : top + h, left : left + w] = cv2.resize(
            array[y0:y1, x0:x1], (w, h), interpolation=cv2.INTER_AREA
        )
        return around

    small = np.zeros((top + h + below, left + w + right), np.uint8)
    small[top : top + h, left : left + w] = 255
    return reduced(image), np.uint8(reduced(mask) >= 128) * small


def _write(
    path: Path, stamp: str, frames: list[Frame], chosen: list[Found], map_function: Callable, limits: Limits
) -> None:
    """Write the bank's file, image by image as they come; rows are renumbered if a frame is bad."""
    by_frame: dict[int, list[Found]] = {}
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
            for one, (jpeg, mask, light, camera) in zip(by_frame[number], cuts, strict=True):
                _add(archive, f"jpeg{len(kept)}", jpeg)
                _add(archive, f"mask{len(kept)}", mask)
                kept.append(_row(frames[number].name, one, cv2.imdecode(mask, 0), light, camera))
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


def _row(name: str, one: Found, mask: np.ndarray, light: np.ndarray, camera: np.ndarray) -> tuple:
    """A row of the table, in the order of its columns."""
    x0, y0, x1, y1 = one.box
    own = np.uint8(mask == OWN)
    x, y, w, h = cv2.boundingRect(own)
    return (
        name,
        np.int32(one.instance_id),
        np.int32([w, h]),
        np.float32((x1 - x0) / (y1 - y0)),
        np.float32(one.solidity),
        np.float32(one.covered),
        np.array(one.cut),
        np.array(one.whole),
        np.int32(one.box),
        np.int32(one.frame_size),
        camera,
        light,
        np.packbits(grid_of(own[y : y + h, x : x + w] > 0)),
        np.int32(one.ridden),
    )


def _add(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    """One array of an npz, with the fixed date that `ZipFile.writestr` would not give it."""
    content = io.BytesIO()
    np.lib.format.write_array(content, array, allow_pickle=False)
    archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue())
