"""BDD100K panoptic segmentation as bitmasks.

labels/pan_seg/bitmasks/SPLIT/NAME.png has four channels: category, attributes (bits truncated 8, occluded
4, crowd 2, ignore 1), and the high and low byte of the number of the segment. Things are the categories
from 31 on.
"""

from pathlib import Path

import numpy as np

from convert.mapping import numbered_names
from convert.source import Category, DataSet, Segments, SourceImage, check_known, existing_folder, values_in
from data.images import read_png
from support.errors import InputError
from support.files import listed

_FIRST_THING = 31
_CROWD, _IGNORE = 2, 1  # bits of the attributes


def find(root: Path) -> DataSet:
    """See `convert.formats`."""
    masks = existing_folder(
        root / "labels/pan_seg/bitmasks", "the panoptic bitmasks of BDD100K, SPLIT/NAME.png"
    )
    paths = listed(masks, "*/*.png")
    if not paths:
        raise InputError(f"{masks}: holds no SPLIT/NAME.png; unpack the panoptic labels there")
    items = []
    for path in paths:
        split = path.parent.name
        image = root / "images/10k" / split / f"{path.stem}.jpg"
        items.append(SourceImage(split, f"bdd100k{split}", None, image, (path,)))
    names = enumerate(numbered_names("bdd100k"))
    return DataSet(items, {k: Category(name, k >= _FIRST_THING) for k, name in names})


def read(item: SourceImage, categories: dict[int, Category]) -> Segments:
    """See `convert.formats`."""
    mask = read_png(item.annotations[0], ("8-bit RGBA",), "a panoptic bitmask has four channels")
    keys = mask.astype(np.int64) @ np.array([1 << 24, 1 << 16, 1 << 8, 1])
    of_key = {}
    for key in values_in(keys):
        category, attributes = key >> 24, key >> 16 & 255
        check_known((category,), categories)
        of_key[key] = category, categories[category].thing and not attributes & (_CROWD | _IGNORE)
    return Segments(keys, of_key)
