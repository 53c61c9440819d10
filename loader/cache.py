"""The one-time pass over a split: working-size maps and usable instances of every frame, kept on disk.

Reading an entry takes a few milliseconds, decoding and measuring a full-size frame about twenty times as
long. One compressed .npz for each frame (it carries its own table and the stamp of its source files, so that
an interrupted pass goes on where it stopped) and one index.json, which makes a later start as quick as
looking at the dates of the source files. Entries serve all eight target classes. Whatever is
stale, missing or damaged is made again from the source; every file appears as a whole, so that two runs
may build the same cache at once.
"""

import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data.frame import Frame, list_frames
from data.instances import (
    PLACE_GRID,
    SMALLEST_PLACE,
    Instance,
    compact_mask,
    resize_nearest,
    rides,
    theta_of_box,
    usable_instances,
    usable_places,
)
from data.labels import CHANNEL_OF_ID, FIRST_SINGLE_ID, TARGET_CLASSES, TargetClass
from loader.erased_maps import Erasable, find_erasable
from options import Options
from support.errors import InputError, name_some, warn
from support.files import DAMAGE, stamp, write_atomic
from support.processes import Pool
from support.progress import progress_bar
from support.threads import cores

FORMAT_VERSION = 3
INDEX_NAME = "index.json"
CLASS_NAMES = tuple(TARGET_CLASSES)
FRAMES_WORTH_A_PROCESS = 30  # about as many as are read in the time that a process takes to start


@dataclass(frozen=True)
class Sizes:
    """Working sizes in pixels, (width, height)."""

    small: tuple[int, int]
    big: tuple[int, int]
    compact: tuple[int, int]


@dataclass(frozen=True)
class Record:
    """What the index knows of a frame: the stamp of its source files, and its usable instances."""

    stamp: list[int]  # size in bytes and mtime in ns of the maps, the erasures (or 0), void.txt if any
    table: list[list[int]]  # rows: position in CLASS_NAMES, instance id, area, x0, y0, x1, y1


@dataclass(frozen=True)
class FrameMaps:
    """One frame at working size; h,w and H,W are the small and the big size."""

    labels_small: np.ndarray  # (h,w) uint8, channel 0..29
    ids_small: np.ndarray  # (h,w) uint16
    labels_big: np.ndarray  # (H,W) uint8, channel 0..29
    ids_big: np.ndarray  # (H,W) uint16
    compact_ids: np.ndarray  # (n,) int32, the instances that have a compact mask
    compact: np.ndarray  # (n,cy,cx) uint8, 0..255
    erasable: Erasable  # the same n instances

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name, as an entry of the cache holds them."""
        return {name: value for name, value in vars(self).items() if name != "erasable"} | vars(self.erasable)

    def box_of(self, instance_id: int) -> np.ndarray:
        """Tight box (4,) float32 of a usable instance on the full-size map, fractions of the image."""
        return self.erasable.boxes[np.flatnonzero(self.compact_ids == instance_id)[0]]

    def compact_of(self, instance_id: int) -> np.ndarray:
        """Compact mask (cy,cx) uint8 of a usable instance; KeyError if it has none."""
        rows = np.flatnonzero(self.compact_ids == instance_id)
        if not rows.size:
            raise KeyError(instance_id)
        return self.compact[rows[0]]


@dataclass(frozen=True)
class WorkingMaps:
    """The frames of a split at working size, backed by the cache; cheap to send to loader processes."""

    frames: tuple[Frame, ...]
    records: tuple[Record, ...]
    folder: Path
    sizes: Sizes
    group_instances: bool
    places_alone: bool = False  # instances are those of `usable_places`, else of `usable_instances`
    min_height: float = 0.0  # of instances, in parts of the image

    @property
    def measured(self) -> tuple[int, int]:
        """Width and height of the map in whose pixels the boxes of instances are."""
        return PLACE_GRID if self.places_alone else self.sizes.big

    def __len__(self) -> int:
        return len(self.frames)

    def rule_of(self, target: TargetClass) -> str:
        """In words, what makes an instance of a class usable."""
        box = f"fill of its box above {target.min_area_ratio}, aspect below {target.max_aspect_ratio}"
        if self.places_alone:
            return f"height at least {SMALLEST_PLACE} of the image, ground seen right below it, {box}"
        return (
            f"area above {target.min_size_percent} % of the image, {box}, width above"
            f" 1/{target.max_width_ratio} and height above 1/{target.max_height_ratio} of the image"
        )

    def load(self, index: int) -> FrameMaps:
        """Maps of frame `index`. A missing or damaged entry is made again from the source, with a warning."""
        frame = self.frames[index]
        path = entry_path(self.folder, frame)
        try:
            return _read_entry(path, self.records[index].stamp)
        except DAMAGE as error:
            reason = " ".join(str(error).split())
            warn(f"{path}: can't be used ({reason}); making it again from {frame.label_path}")
        record, maps = _make_entry(frame, self.sizes, self.places_alone)
        if record.table != self.records[index].table:
            raise InputError(f"{frame.label_path}: has changed while it was in use; start again")
        _write_entry(path, record, maps)
        return maps

    def instances(self, index: int, target_class: str) -> list[Instance]:
        """Usable instances of a class on frame `index`, by rising id; no file is read."""
        found = []
        for class_index, instance_id, area, *box in self.records[index].table:
            if CLASS_NAMES[class_index] != target_class:
                continue
            if instance_id >= FIRST_SINGLE_ID or self.group_instances:
                if box[3] + 1 - box[1] < self.min_height * self.measured[1]:
                    continue
                theta = theta_of_box(box, *self.measured)
                found.append(Instance(instance_id, area, tuple(box), theta))
        return found


def prepare(options: Options, split: str, *, progress: bool = True, begin: float = 0.0) -> WorkingMaps:
    """Working maps of a split, after making whatever the cache lacks (with a progress bar on stderr).

    begin (0..1) is where in the list of missing entries to start: machines that fill one folder at the same
    time share the work if they start apart, for each skips what it finds made.
    Raises InputError if the data set can't be listed, if the cache can't be written, or naming all frames
    whose files are bad (with options.skip_bad_files they are left out, with a warning).
    """
    frames = list_frames(options.db_root, split, skip_incomplete=options.skip_bad_files)
    sizes = Sizes(
        (options.image_sizex_small, options.image_sizey_small),
        (options.image_sizex_big, options.image_sizey_big),
        (options.compact_sizex, options.compact_sizey),
    )
    places_alone = options.what == "none"
    key = cache_key(options.db_root, sizes, places_alone=places_alone)
    folder = Path(options.cache_dir).absolute() / f"{split}-{key}"
    known = _read_index(folder)
    present = set(os.listdir(folder)) if folder.is_dir() else set()
    records, missing = {}, []
    for frame in frames:
        record = known.get(frame.name)
        if record and entry_path(folder, frame).name in present and record.stamp == _stamp(frame):
            records[frame.name] = record
        else:
            missing.append(frame)
    first = int(begin * len(missing))
    missing = missing[first:] + missing[:first]

    reasons = []
    for frame, outcome in zip(missing, _scan_all(missing, folder, sizes, options, progress), strict=True):
        if isinstance(outcome, Record):
            records[frame.name] = outcome
        else:
            reasons.append(outcome)
    if records != known:
        _write_index(folder, records)
    if reasons:
        found = f"{len(reasons)} of {len(frames)} frames of {split} can't be used: {name_some(reasons)}"
        if not options.skip_bad_files:
            raise InputError(f"{found}. Mend these files, or go on without them with --skip_bad_files")
        if not records:
            raise InputError(f"{found}. No frame is left; set --db_root to an intact data set")
        warn(f"{found}. Left out")
    good = tuple(frame for frame in frames if frame.name in records)
    return WorkingMaps(
        good,
        tuple(records[frame.name] for frame in good),
        folder,
        sizes,
        options.group_instances,
        places_alone,
    )


def cache_key(db_root: str | Path, sizes: Sizes, *, places_alone: bool = False) -> str:
    """Short hash of everything that entries depend on, besides their source files."""
    thresholds = [
        {"channel": target.channel, **asdict(target), "support": None, "published": None}
        for target in TARGET_CLASSES.values()
    ]
    depends_on = (str(Path(db_root).resolve()), asdict(sizes), thresholds, CHANNEL_OF_ID.tolist())
    if places_alone:
        depends_on += ("places",)
    return hashlib.sha256(json.dumps((FORMAT_VERSION, *depends_on)).encode()).hexdigest()[:12]


def _stamp(frame: Frame) -> list[int] | None:
    source = stamp(frame.label_path, frame.instance_path)
    beside = (stamp(frame.erasures_path) or [0, 0]) + (stamp(frame.void_path) or [])
    return source and source + beside


def entry_path(folder: Path, frame: Frame) -> Path:
    """The .npz file of a frame."""
    return folder / f"{frame.name}.npz"


# ---- the pass -----------------------------------------------------------------------------------


def _scan_all(
    frames: list[Frame], folder: Path, sizes: Sizes, options: Options, progress: bool
) -> Iterator[Record | str]:
    """For each frame its record, or the reason why its files can't be used; over all cores if worth it."""
    if not frames:
        return
    scan = partial(_scan, folder=folder, sizes=sizes, places_alone=options.what == "none")
    workers = min(cores(), len(frames) // FRAMES_WORTH_A_PROCESS) if options.num_workers else 1
    remedy = "start again with --num_workers 0 (what is done is kept)"
    with Pool(workers, remedy=remedy) as pool:
        found = pool.map(scan, frames)
        yield from progress_bar(found, folder.name, len(frames), show=progress)


def _scan(frame: Frame, folder: Path, sizes: Sizes, places_alone: bool) -> Record | str:
    """The record of a frame, from its entry if that is good, else made from the source; or why that fails."""
    path = entry_path(folder, frame)
    try:
        record = _read_record(path)
        if record.stamp == _stamp(frame):
            return record
    except DAMAGE:
        pass  # missing or damaged: made again
    try:
        record, maps = _make_entry(frame, sizes, places_alone)
    except InputError as error:
        return str(error)
    _write_entry(path, record, maps)
    return record


def _make_entry(frame: Frame, sizes: Sizes, places_alone: bool) -> tuple[Record, FrameMaps]:
    """Record and maps of a frame, from its source files; InputError if one of them is bad.

    places_alone: instances are those whose place can be learnt from, of any size.
    """
    source = _stamp(frame)  # before reading: a change while reading makes the entry stale, not wrong
    label_ids, instance_ids = frame.read_maps()
    if source is None:
        raise InputError(f"{frame.label_path}: has changed while it was read; start again")
    labels = CHANNEL_OF_ID[label_ids]
    labels_small, ids_small = (resize_nearest(a, *sizes.small) for a in (labels, instance_ids))
    labels_big, ids_big = (resize_nearest(a, *sizes.big) for a in (labels, instance_ids))

    def usable(target: TargetClass) -> list[Instance]:
        if places_alone:
            return usable_places(label_ids, instance_ids, target)
        return usable_instances(labels_small, ids_small, ids_big, target)

    table = [
        [class_index, one.instance_id, one.area, *one.box]
        for class_index, target in enumerate(TARGET_CLASSES.values())
        for one in usable(target)
    ]
    compact_ids = sorted({row[1] for row in table})
    compact = [compact_mask(instance_ids, instance_id, *sizes.compact) for instance_id in compact_ids]
    maps = FrameMaps(
        labels_small,
        ids_small,
        labels_big,
        ids_big,
        np.array(compact_ids, np.int32),
        np.array(compact, np.uint8).reshape(-1, *reversed(sizes.compact)),
        find_erasable(
            frame,
            label_ids,
            instance_ids,
            compact_ids,
            sizes.small,
            rides(instance_ids) if places_alone else [],
        ),
    )
    return Record(source, table), maps


# ---- files of the cache -------------------------------------------------------------------------


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    # The whole member at once, because only that compares its checksum in every case.
    return np.load(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False)


def _read_record(path: Path) -> Record:
    with zipfile.ZipFile(path) as archive:
        return Record(_read_array(archive, "stamp").tolist(), _read_array(archive, "table").tolist())


def _read_entry(path: Path, stamp: list[int]) -> FrameMaps:
    with zipfile.ZipFile(path) as archive:
        if _read_array(archive, "stamp").tolist() != stamp:
            raise ValueError("it belongs to other source files")
        erasable = Erasable(*(_read_array(archive, name) for name in Erasable.__dataclass_fields__))
        maps = (_read_array(archive, name) for name in FrameMaps.__dataclass_fields__ if name != "erasable")
        return FrameMaps(*maps, erasable)


def _write_entry(path: Path, record: Record, maps: FrameMaps) -> None:
    stamp, table = np.array(record.stamp, np.int64), np.array(record.table, np.int64).reshape(-1, 7)
    content = io.BytesIO()
    np.savez_compressed(content, stamp=stamp, table=table, **maps.arrays())
    _write_file(path, content.getvalue())


def _read_index(folder: Path) -> dict[str, Record]:
    """Records by frame name; empty if there is no index or if it is damaged (it is then made again)."""
    path = folder / INDEX_NAME
    try:
        index = json.loads(path.read_text())
        if index["checksum"] != _checksum(index["frames"]):
            raise ValueError("wrong checksum")
        return {name: Record(**entry) for name, entry in index["frames"].items()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        warn(f"{path}: damaged; made again")
        return {}


def _write_index(folder: Path, records: dict[str, Record]) -> None:
    frames = {name: asdict(record) for name, record in sorted(records.items())}
    _write_file(folder / INDEX_NAME, json.dumps({"checksum": _checksum(frames), "frames": frames}).encode())


def _checksum(frames: dict) -> int:
    return zlib.crc32(json.dumps(frames, sort_keys=True).encode())


def _write_file(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
    except OSError as error:
        raise InputError(f"{path}: can't be written ({error.strerror}); set another --cache_dir") from None
