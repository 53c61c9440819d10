"""A whole tree of new frames: raw frames beside them, and annotation of both for other readers.

The source is only read. Raw files enter the tree one by one, so that cities of both kinds lie side by side,
as every reader of Cityscapes expects.
"""

import errno
import filecmp
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from data.coco import write_coco
from data.frame import (
    CAMERA_KIND,
    GT_KINDS,
    IMAGE_KIND,
    INSTANCES,
    TRAIN_IDS,
    VOID_FILE,
    Frame,
    gt_kind,
    list_frames,
    official_name,
)
from data.images import read_label_map
from data.labels import TRAIN_ID_OF_ID
from data.panoptic import write_panoptic
from data.writer import encode_png
from engine.records import read_manifest
from support.errors import InputError, warn
from support.files import listed, replacing, write_atomic
from support.progress import progress_bar

BESIDE = "ins"  # after the city of frames with new objects that lie beside those they were made from
RAW_MODES = ("symlink", "hardlink", "copy")


def add_raw(db_root: Path, out: Path, splits: list[str], mode: str) -> int:
    """Put the raw frames of some splits into the tree `out`; the number of files that are there then.

    Files that are there already stay, if they are the source's, so that a second call changes nothing; what
    entered in another mode, of RAW_MODES, is replaced. A split that the source lacks is passed over. Raises
    InputError if it has none of them, if one of the two trees lies in the other, if another file stands where
    one would go, or if the disk does not permit `mode`.
    """
    root, out = Path(db_root).resolve(), Path(out).resolve()
    if out == root or root in out.parents:
        raise InputError(f"--out {out}: inside the input {root}; choose another")
    # Built-in scenes lie below OUT/work, where nothing else is put.
    if out in root.parents and out / "work" not in root.parents:
        raise InputError(f"--out {out}: around the input {root}; choose another")
    files = [
        path
        for split in splits
        for kind in (IMAGE_KIND, gt_kind(root, split), CAMERA_KIND)
        for path in listed(root / kind / split, "*/*")
        if path.is_file()
    ]
    if not files and splits:
        raise InputError(f"{root}: has no frames of {', '.join(splits)}; choose splits that it has")
    for source in [*files, *listed(root, VOID_FILE)]:
        target = out / source.relative_to(root)
        if _is_there(source, target, mode):
            continue
        if target.exists() and not target.is_symlink() and not filecmp.cmp(source, target, shallow=False):
            raise InputError(f"{target}: is not the file of {root}; remove it, or choose another --out")
        target.parent.mkdir(parents=True, exist_ok=True)
        _place(source, target, mode)
    return len(files)


def _is_there(source: Path, target: Path, mode: str) -> bool:
    """Whether an earlier call has put a file into the tree, in the same mode."""
    if mode == "symlink":
        return target.is_symlink() and os.readlink(target) == _way(source, target)
    if target.is_symlink() or not target.exists():
        return False
    if mode == "hardlink":
        return target.samefile(source)
    return not target.samefile(source) and filecmp.cmp(source, target, shallow=False)


def _way(source: Path, target: Path) -> str:
    """What a link at `target` holds: a relative path, so that a tree can be moved along with its source."""
    return os.path.relpath(source, target.parent.resolve())


def _place(source: Path, target: Path, mode: str) -> None:
    try:
        with replacing(target) as temporary:
            if mode == "symlink":
                temporary.symlink_to(_way(source, target))
            elif mode == "hardlink":
                temporary.hardlink_to(source)
            else:
                shutil.copyfile(source, temporary)
    except OSError as error:
        if mode == "copy" or error.errno in (errno.ENOSPC, errno.EROFS):
            raise
        why = "lies on another disk" if error.errno == errno.EXDEV else f"can't be linked ({error.strerror})"
        other = "symlink or copy" if mode == "hardlink" else "copy"
        raise InputError(f"{source}: {why}; build the tree with mode {other}") from None


def add_train_ids(out: Path, map_function: Callable = map) -> int:
    """Write labelTrainIds.png (H,W) uint8, official train ids and 255, of all frames of a tree, for programs
    that read it.

    A link to the source's own file stays, and so does a file with the right pixels. map_function may spread
    the frames over processes. A frame without a readable label map gets none, with a warning; how many.
    """
    frames = [frame for split in splits_of(out) for frame in list_frames(out, split)]
    messages = [message for message in map_function(_write_train_ids, frames) if message]
    for message in messages:
        warn(f"{message}; it has no labelTrainIds")
    return len(messages)


def _write_train_ids(frame: Frame) -> str | None:
    """What is wrong with the frame's label map, if anything is."""
    try:
        train_ids = TRAIN_ID_OF_ID.take(read_label_map(frame.label_path))
    except InputError as error:
        return str(error)
    path = frame.annotation_path(TRAIN_IDS)
    with suppress(InputError):  # not there, or damaged
        if path.is_symlink() or np.array_equal(read_label_map(path), train_ids):
            return None
    write_atomic(path, encode_png(train_ids))
    return None


def splits_of(out: Path) -> list[str]:
    """The splits of a tree that have ground truth, sorted."""
    maps = (listed(Path(out) / kind, f"*/*/*_{kind}{INSTANCES}") for kind in GT_KINDS)
    return sorted({path.parents[1].name for paths in maps for path in paths})


def new_instances(out: Path) -> tuple[str, dict[str, tuple[int, ...]]]:
    """How new instances of a tree are called, "inserted" or "synthetic", and their ids by frame name."""
    source, found = "synthetic", {}
    for line in read_manifest(out):
        if line["stage"] == "insert":
            source = "inserted"
        if line["status"] == "inserted":
            found[line["image"]] = (*found.get(line["image"], ()), line["instance_id"])
        elif line["stage"] == "integrate" and line["status"] == "ok" and "sources" not in line:
            new_id = line["id_map"].get(str(line["instance_id"]))
            for image in (name for name in line["outputs"] if name.startswith(f"{IMAGE_KIND}/")):
                found[official_name(image)] = () if new_id is None else (new_id,)
    return source, found


def export_coco(
    out: Path,
    splits: list[str],
    category_ids: str = "coco",
    *,
    polygons: bool = False,
    map_function: Callable = map,
) -> tuple[list[Path], int]:
    """Write the COCO annotation of all frames of some splits of a tree; the paths, and frames left out.

    "source" is "synthetic" for repainted instances, "inserted" for inserted ones, "original" for all others;
    for the options see `data.coco.annotations_of`. A frame with a bad instance map is left out with a
    warning. Raises InputError for a split without frames.
    """
    source, new_ids = new_instances(out)
    left_out: list[str] = []
    options = {"polygons": polygons, "left_out": left_out}
    paths = []
    for split in splits:
        found = out, split, list_frames(out, split), new_ids
        paths.append(write_coco(*found, map_function, source, category_ids, **options))
    for message in left_out:
        warn(f"{message}; left out of the annotation")
    return paths, len(left_out)


def add_panoptic(out: Path, splits: list[str]) -> list[Path]:
    """Write the panoptic annotation of all frames of some splits of a tree; the paths of the JSON files.

    Raises InputError if a map can't be read.
    """
    try:
        return [write_panoptic(out, split) for split in progress_bar(splits, "panoptic", unit="split")]
    except (SyntaxError, ValueError, KeyError) as error:  # what Pillow and the official tool have to say
        raise InputError(f"{out}: no panoptic annotation, a map can't be read ({error}); mend it") from None
