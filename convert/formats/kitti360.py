"""KITTI-360, the 2d semantics and instances of the left perspective camera.

data_2d_semantics/train/DRIVE/image_00/semantic/FRAME.png has 8 bits, label ids of KITTI-360;
instance/FRAME.png 16 bits, label * 1000 + number, with 0 for what is not told apart. The images are
data_2d_raw/DRIVE/image_00/data_rect/FRAME.png. Frames that a list 2013_05_28_drive_val_frames.txt names are
the split val, all others train.
"""

import re
from pathlib import Path

from convert.mapping import numbered_names
from convert.source import (
    Category,
    DataSet,
    Segments,
    SourceImage,
    existing_folder,
    read_map,
    segments_of_maps,
)
from support.errors import InputError
from support.files import listed, read_text

_THINGS = (
    "building",
    "pole",
    "traffic light",
    "traffic sign",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "caravan",
    "trailer",
    "train",
    "motorcycle",
    "bicycle",
    "garage",
    "stop",
    "smallpole",
    "lamp",
    "trash bin",
    "vending machine",
    "box",
)
_DRIVE = re.compile(r"2013_05_28_drive_(\d{4})_sync")
_CAMERA = "image_00"


def find(root: Path) -> DataSet:
    """See `convert.formats`."""
    drives = existing_folder(root / "data_2d_semantics/train", "the 2d semantics of KITTI-360")
    listed_there = drives / "2013_05_28_drive_val_frames.txt"
    validation = set(read_text(listed_there).split() if listed_there.is_file() else ())
    items = []
    for path in listed(drives, f"*/{_CAMERA}/semantic/*.png"):
        drive = path.parents[2].name
        match = _DRIVE.fullmatch(drive)
        if match is None or not path.stem.isdigit() or int(path.stem) >= 10**6:
            raise InputError(f"{path}: not named as KITTI-360 does, 2013_05_28_drive_NNNN_sync and a number")
        split = "val" if path.relative_to(root).as_posix() in validation else "train"
        image = root / "data_2d_raw" / drive / _CAMERA / "data_rect" / path.name
        maps = (path, path.parents[1] / "instance" / path.name)
        items.append(SourceImage(split, "kitti360", (int(match[1]), int(path.stem)), image, maps))
    if not items:
        raise InputError(
            f"{drives}: holds no DRIVE/{_CAMERA}/semantic/FRAME.png; unpack the 2d semantics there"
        )
    names = enumerate(numbered_names("kitti360"))
    return DataSet(items, {k: Category(name, name in _THINGS) for k, name in names})


def read(item: SourceImage, categories: dict[int, Category]) -> Segments:
    """See `convert.formats`."""
    labels, instances = item.annotations
    return segments_of_maps(read_map(labels, 8), read_map(instances, 16), categories, first=1)
