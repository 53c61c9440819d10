"""COCO instance annotation of a Cityscapes tree, written from its instance maps.

Eight categories, the scored things in label order, with ids from 1; masks as run-length codes, which are
exact for parts and holes; all groups of a class in a frame are one annotation with iscrowd 1. Caravans,
trailers and licence plates are left out. No key "ignore" is written (detectron2 asks for 0, pycocotools
overwrites it).
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as rle

from data.cityscapes import FIRST_SINGLE_ID, Frame
from data.errors import InputError
from data.labels import TARGET_CLASSES
from data.writer import write_atomic

_CATEGORY_OF_LABEL = {target.label_id: number for number, target in enumerate(TARGET_CLASSES.values(), 1)}


def categories() -> list[dict]:
    """The eight categories: id 1 to 8, name, supercategory, cityscapes_id."""
    return [
        {
            "id": number,
            "name": target.name,
            "supercategory": "human" if target.name in ("person", "rider") else "vehicle",
            "cityscapes_id": target.label_id,
        }
        for number, target in enumerate(TARGET_CLASSES.values(), 1)
    ]


def annotations_of(instance_ids: np.ndarray, new_ids: Iterable[int] = ()) -> list[dict]:
    """Annotations of an instance map (H,W) uint16, by rising value, still without id and image_id.

    new_ids: values of inserted objects, whose "source" is "inserted" instead of "original". Areas and boxes
    (x, y, width, height) are in pixels of the map.
    """
    new_ids = frozenset(new_ids)
    by_column = np.asfortranarray(instance_ids)  # the order of COCO's run lengths
    found = []
    for value in np.flatnonzero(np.bincount(instance_ids.ravel())).tolist():
        category = _CATEGORY_OF_LABEL.get(value if value < FIRST_SINGLE_ID else value // 1000)
        if category is None:
            continue
        code = rle.encode((by_column == value).view(np.uint8))
        found.append(
            {
                "category_id": category,
                "iscrowd": int(value < FIRST_SINGLE_ID),
                "area": int(rle.area(code)),
                "bbox": [int(number) for number in rle.toBbox(code)],
                "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
                "instance_id": value,
                "source": "inserted" if value in new_ids else "original",
            }
        )
    return found


def annotate(item: tuple[Frame, tuple[int, ...]]) -> tuple[tuple[int, int], list[dict]]:
    """Size (H, W) and annotations of a frame, given its new ids. Raises InputError for a bad file."""
    frame, new_ids = item
    instance_ids = cv2.imread(str(frame.instance_path), cv2.IMREAD_UNCHANGED)
    if instance_ids is None or instance_ids.dtype != np.uint16:
        raise InputError(f"{frame.instance_path}: not a 16-bit instance map; make the tree again")
    return instance_ids.shape, annotations_of(instance_ids, new_ids)


def coco_path(root: Path, split: str) -> Path:
    """Where official tools look for the annotation of a split."""
    return Path(root) / "annotations" / f"instancesonly_filtered_gtFine_{split}.json"


def write_coco(
    root: Path,
    split: str,
    frames: list[Frame],
    new_ids: dict[str, tuple[int, ...]],
    map_function: Callable = map,
) -> Path:
    """Write the annotation of a split's frames and return its path; `file_name` is below leftImg8bit/SPLIT.

    new_ids: values of inserted objects by frame name. Image and annotation ids count from 1 in the order of
    `frames`. map_function may spread the frames over processes. InputError for a bad instance map.
    """
    items = [(frame, new_ids.get(frame.name, ())) for frame in frames]
    images, annotations = [], []
    for image_id, (frame, (size, found)) in enumerate(
        zip(frames, map_function(annotate, items), strict=True), 1
    ):
        file_name = f"{frame.label_path.parent.name}/{frame.name}_leftImg8bit.png"
        images.append({"id": image_id, "width": size[1], "height": size[0], "file_name": file_name})
        for one in found:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **one})
    content = {
        "info": {"description": f"Cityscapes instances, {split}, with inserted objects"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": categories(),
    }
    path = coco_path(root, split)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(content).encode())
    return path
