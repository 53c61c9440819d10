"""ACDC: the labels of Cityscapes in files of its own names, by weather.

gt/CONDITION/SPLIT/SEQUENCE/NAME_gt_labelIds.png has 8 bits. Single instances come from
NAME_gt_instanceIds.png beside it, 16 bits as in Cityscapes, or from the panoptic annotation in COCO format,
gt_panoptic/CONDITION/SPLIT/SEQUENCE/NAME_gt_panoptic.png listed by JSON files in gt_panoptic/; where there is
neither, the things of an image are groups. Images are rgb_anon/CONDITION/SPLIT/SEQUENCE/NAME_rgb_anon.png.
NAME is SEQUENCE_frame_NNNNNN, SEQUENCE as a GoPro camera names its films: GOPR0475, and GP010475 for the next
chapter of the same film.
"""

import re
from pathlib import Path

import numpy as np
from cityscapesscripts.helpers.labels import labels as OFFICIAL_LABELS
from cityscapesscripts.helpers.labels import name2label

from convert.source import (
    Category,
    DataSet,
    Segments,
    SourceImage,
    colour_keys,
    existing_folder,
    path_below,
    read_map,
    segments_of_maps,
)
from support.errors import InputError
from support.files import listed, read_json

_LABELS, _INSTANCES, _PANOPTIC = "_gt_labelIds.png", "_gt_instanceIds.png", "_gt_panoptic.png"
_NAME = re.compile(r"G(?:OPR|P)(\d{4,6})_frame_(\d{6})")


def find(root: Path) -> DataSet:
    """See `convert.formats`."""
    folder = existing_folder(root / "gt", "the annotation of ACDC")
    paths = listed(folder, f"*/*/*/*{_LABELS}")
    if not paths:
        raise InputError(
            f"{folder}: holds no CONDITION/SPLIT/SEQUENCE/NAME{_LABELS}; unpack the annotation there"
        )
    segments_of = _listed_segments(root / "gt_panoptic")
    items = []
    for path in paths:
        name, place = path.name.removesuffix(_LABELS), path.parent.relative_to(folder)
        match = _NAME.fullmatch(name)
        if match is None:
            raise InputError(f"{path}: not named as ACDC does, GOPRNNNN_frame_NNNNNN{_LABELS}")
        condition, split, _ = place.parts
        image = root / "rgb_anon" / place / f"{name}_rgb_anon.png"
        instances, segments = path.with_name(name + _INSTANCES), ()
        if not instances.is_file() and name in segments_of:
            instances, segments = root / "gt_panoptic" / place / f"{name}{_PANOPTIC}", segments_of[name]
        maps = (path, instances) if segments or instances.is_file() else (path,)
        items.append(SourceImage(split, condition, (int(match[1]), int(match[2])), image, maps, segments))
    categories = {label.id % 256: Category(label.name, label.hasInstances) for label in OFFICIAL_LABELS}
    return DataSet(items, categories)


def _listed_segments(folder: Path) -> dict[str, tuple[tuple[int, int, bool], ...]]:
    """Key, label id and whether a single instance of the segments of each image, by NAME."""
    found = {}
    for file in listed(folder, "*.json"):
        content = read_json(file, "panoptic annotation")
        try:
            label_of = {one["id"]: name2label[one["name"]] for one in content["categories"]}
            for entry in content.get("annotations", ()):
                found[path_below(folder, entry["file_name"]).name.removesuffix(_PANOPTIC)] = tuple(
                    (one["id"], label.id, label.hasInstances and not one.get("iscrowd"))
                    for one in entry["segments_info"]
                    for label in (label_of[one["category_id"]],)
                )
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{file}: is no panoptic annotation ({error!r} where a field was expected)"
            ) from None
    return found


def read(item: SourceImage, categories: dict[int, Category]) -> Segments:
    """See `convert.formats`."""
    labels = read_map(item.annotations[0], 8)
    if len(item.annotations) == 1:
        instances = labels
    elif item.segments:
        keys = colour_keys(item.annotations[1])
        instances = np.zeros(keys.shape, np.int32)
        singles = ((key, label) for key, label, single in item.segments if single)
        for number, (key, label) in enumerate(singles):
            instances[keys == key] = label * 1000 + number
    else:
        instances = read_map(item.annotations[1], 16)
    return segments_of_maps(labels, instances, categories)
