"""ACDC: the labels of Cityscapes in files of its own names, by weather.

gt/CONDITION/SPLIT/SEQUENCE/NAME_gt_labelIds.png has 8 bits, NAME_gt_instanceIds.png beside it 16 bits as in
Cityscapes; where there is no instance map, the things of an image are groups. Pictures are
rgb_anon/CONDITION/SPLIT/SEQUENCE/NAME_rgb_anon.png. NAME is SEQUENCE_frame_NNNNNN, SEQUENCE as a GoPro
camera names its films: GOPR0475, then GP010475 for the next chapter of the same film.
"""

import re
from pathlib import Path

from cityscapesscripts.helpers.labels import labels as OFFICIAL_LABELS

from convert.source import (
    Category,
    DataSet,
    Item,
    Segments,
    existing_folder,
    keys_of,
    read_map,
    segments_of_keys,
)
from support.errors import InputError

_LABELS, _INSTANCES = "_gt_labelIds.png", "_gt_instanceIds.png"
_NAME = re.compile(r"G(?:OPR|P)(\d{4,6})_frame_(\d{6})")


def find(root: Path) -> DataSet:
    """See `convert.formats`."""
    truth = existing_folder(root / "gt", "the annotation of ACDC")
    paths = sorted(truth.glob(f"*/*/*/*{_LABELS}"))
    if not paths:
        raise InputError(
            f"{truth}: holds no CONDITION/SPLIT/SEQUENCE/NAME{_LABELS}; unpack the annotation there"
        )
    items = []
    for path in paths:
        name = path.name.removesuffix(_LABELS)
        match = _NAME.fullmatch(name)
        if match is None:
            raise InputError(f"{path}: not named as ACDC does, GOPRNNNN_frame_NNNNNN{_LABELS}")
        condition, split = path.parents[2].name, path.parents[1].name
        picture = root / "rgb_anon" / path.parent.relative_to(truth) / f"{name}_rgb_anon.png"
        instances = path.with_name(name + _INSTANCES)
        maps = (path, instances) if instances.is_file() else (path,)
        items.append(Item(split, condition, (int(match[1]), int(match[2])), picture, maps))
    categories = {label.id % 256: Category(label.name, label.hasInstances) for label in OFFICIAL_LABELS}
    return DataSet(items, categories)


def read(item: Item, categories: dict[int, Category]) -> Segments:
    """See `convert.formats`."""
    labels = read_map(item.annotations[0], 8)
    instances = read_map(item.annotations[1], 16) if len(item.annotations) > 1 else labels
    return segments_of_keys(keys_of(labels, instances, first=0), categories)
