"""One item as the files of a frame in the tree."""

from dataclasses import dataclass

import numpy as np

from convert.mapping import GROUP, VOID, is_thing
from convert.polygons import polygons_of
from convert.source import Category, Segments, SourceImage, values_in
from data.frame import IMAGE_KIND, Frame
from data.images import decode_image, fitting, is_plain_png
from data.labels import LABEL_OF_VALUE
from data.writer import LabelledPolygon, encode_png, instance_values
from engine.records import Link
from support.files import read_bytes

_UNLABELED = "unlabeled"


@dataclass(frozen=True)
class Maps:
    """label_ids (H,W) uint8, instance_ids (H,W) uint16, polygons in painter's order, and what was counted.

    counts: segments, of these single instances, and pixels of each category that occurs, by name.
    """

    label_ids: np.ndarray
    instance_ids: np.ndarray
    objects: list[LabelledPolygon]
    counts: dict[str, tuple[int, int, int]]


def maps_of(segments: Segments, categories: dict[int, Category], mapping: dict[str, str]) -> Maps:
    """The maps of an item's segments in Cityscapes labels. ValueError for too many instances of a class."""
    present = values_in(segments.keys)
    index = _index_of(segments.keys, present)
    pixels = np.bincount(index.ravel(), minlength=len(present)).tolist()
    labels, single = [_UNLABELED], [False]
    part_of: dict[str | int, int] = {_UNLABELED: 0}
    part_of_index = np.zeros(len(present), np.int32)
    counts: dict[str, tuple[int, int, int]] = {}
    for place, key in enumerate(present):
        if key not in segments.of_key:
            continue
        number, is_single = segments.of_key[key]
        category = categories[number].name
        before = counts.get(category, (0, 0, 0))
        counts[category] = (before[0] + 1, before[1] + is_single, before[2] + pixels[place])
        label = mapping[category]
        if label == VOID:
            continue
        is_instance = is_single and is_thing(label)
        if is_thing(label) and not is_single:
            label += GROUP
        # Each single instance is a part, and so is all else of a label together.
        part_of_index[place] = part_of.setdefault(key if is_instance else label, len(labels))
        if part_of_index[place] == len(labels):
            labels.append(label)
            single.append(is_instance)
    parts = part_of_index[index]
    drawn = polygons_of(parts, labels, np.array(single))
    objects = [polygon for _, polygon in drawn]
    value_of_part = np.zeros(len(labels), np.uint16)
    for (part, _), value in zip(drawn, instance_values(objects), strict=True):
        value_of_part[part] = value
    instance_ids = value_of_part[parts]
    return Maps(LABEL_OF_VALUE[instance_ids], instance_ids, objects, dict(sorted(counts.items())))


def _index_of(keys: np.ndarray, present: list[int]) -> np.ndarray:
    """The place of each key of a map (H,W) in the rising list of those that occur."""
    if present[-1] < 2**17:
        table = np.zeros(present[-1] + 1, np.int32)
        table[present] = np.arange(len(present))
        return table[keys]
    return np.searchsorted(present, keys)


def files_of(frame: Frame, item: SourceImage, maps: Maps, link: bool) -> dict[str, bytes | Link]:
    """Image and annotation of an item as a frame: contents by place.

    An image keeps its pixels as they lie in the file. One that is an 8-bit RGB PNG, without a note on
    orientation, which other programs obey, is copied, or by `link` becomes a symbolic link; others are
    written as such. Raises InputError for a bad image.
    """
    content = read_bytes(item.image)
    rgb = fitting(item.image, decode_image(item.image, content), maps.label_ids.shape)
    image = content if is_plain_png(content) else encode_png(rgb)
    if link and image is content:
        image = Link(item.image.resolve(), content)
    annotation = frame.annotation(maps.label_ids, maps.instance_ids, maps.objects)
    return {frame.place(IMAGE_KIND, ".png"): image} | annotation
