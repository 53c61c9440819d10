"""COCO instance annotation of a Cityscapes tree, written from its instance maps.

Eight categories, the scored things in label order, with ids from 1 or those of Cityscapes; masks as
run-length codes, which are exact for parts and holes, or polygons for readers that know nothing else; all
groups of a class in a frame are one annotation with iscrowd 1. Caravans, trailers and licence plates are left
out. No key "ignore" is written (detectron2 asks for 0, pycocotools overwrites it).
"""

import functools
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as rle

from data.frame import IMAGE_KIND, Frame
from data.geometry import MaskPatch
from data.images import read_instance_map
from data.labels import FIRST_SINGLE_ID, LABEL_OF_VALUE, TARGET_CLASSES
from support.errors import InputError
from support.files import write_atomic

CATEGORY_IDS = ("coco", "cityscapes")  # 1 to 8, or the label ids 24 to 33


def categories(category_ids: str = "coco") -> list[dict]:
    """The eight categories: id by `category_ids`, one of CATEGORY_IDS, name, supercategory, cityscapes_id."""
    return [
        {
            "id": target.label_id if category_ids == "cityscapes" else number,
            "name": target.name,
            "supercategory": "human" if target.name in ("person", "rider") else "vehicle",
            "cityscapes_id": target.label_id,
        }
        for number, target in enumerate(TARGET_CLASSES.values(), 1)
    ]


_CATEGORY_OF_LABEL = {kind: {c["cityscapes_id"]: c["id"] for c in categories(kind)} for kind in CATEGORY_IDS}


def annotations_of(
    instance_ids: np.ndarray,
    new_ids: Iterable[int] = (),
    new_source: str = "inserted",
    category_ids: str = "coco",
    *,
    polygons: bool = False,
) -> list[dict]:
    """Annotations of an instance map (H,W) uint16, by rising value, still without id and image_id.

    Areas and boxes (x, y, width, height) are in pixels of the map.

    Args:
      new_ids: values of objects whose "source" is `new_source`, "inserted" or "synthetic", not "original".
      category_ids: one of CATEGORY_IDS.
      polygons: outlines instead of run-length codes for what is no group and has no holes.
    """
    new_ids = frozenset(new_ids)
    by_column = cv2.transpose(instance_ids).T  # in memory too, the order of COCO's run lengths
    found = []
    for value in np.flatnonzero(np.bincount(instance_ids.ravel())).tolist():
        is_group = value < FIRST_SINGLE_ID
        category = _CATEGORY_OF_LABEL[category_ids].get(int(LABEL_OF_VALUE[value]))
        if category is None:
            continue
        mask = by_column == value
        code = rle.encode(mask.view(np.uint8))
        about = {"category_id": category, "iscrowd": int(is_group), **fields_of_code(code)}
        outlines = edge_polygons(mask, about["bbox"]) if polygons and not is_group else None
        # One with a hole stays a code: a mask is never written but exactly.
        if outlines and rle.merge(rle.frPyObjects(outlines, *instance_ids.shape)) == code:
            about["segmentation"] = outlines
        source = new_source if value in new_ids else "original"
        found.append(about | {"instance_id": value, "source": source})
    return found


def fields_of_code(code: dict) -> dict:
    """Area and box, pixels, and segmentation of an annotation whose mask `pycocotools.mask` has encoded."""
    box = [int(number) for number in rle.toBbox(code)]
    packed = {"size": code["size"], "counts": code["counts"].decode()}
    return {"area": int(rle.area(code)), "bbox": box, "segmentation": packed}


def rle_of(patch: MaskPatch, shape: tuple[int, int]) -> dict:
    """A mask in an image of shape (H,W) as compressed RLE of the whole image; pycocotools.mask decodes it."""
    code = rle.encode(np.asfortranarray(patch.on(shape), np.uint8))
    return {"size": code["size"], "counts": code["counts"].decode()}


def edge_polygons(mask: np.ndarray, box: list[int]) -> list[list[int]]:
    """Outlines [x, y, x, y, ...] of the parts of a mask (H,W) bool, along pixel edges, holes left out.

    box: x, y, width, height of the mask's extent. A pixel x reaches from x to x + 1, as pycocotools has it;
    through the centres of the pixels, as OpenCV draws them, a row and a column would be lost.
    """
    x0, y0, width, height = box
    # In a map of twice the size contour points at 2x and 2x + 1 are the left and the right edge of pixel x.
    double = np.repeat(np.repeat(mask[y0 : y0 + height, x0 : x0 + width].view(np.uint8), 2, 0), 2, 1)
    outlines = []
    for contour in cv2.findContours(double, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[-2]:
        edges = (contour[:, 0] + 1) // 2
        edges = edges[(edges != np.roll(edges, 1, 0)).any(1)]
        before, after = edges - np.roll(edges, 1, 0), np.roll(edges, -1, 0) - edges
        corners = edges[(before != after).any(1)] + (x0, y0)
        outlines.append(corners.ravel().tolist())
    return outlines


def file_name(frame: Frame) -> str:
    """What the annotation of a split calls the image of a frame: its place below leftImg8bit/SPLIT."""
    path = frame.image_path or Path(frame.place(IMAGE_KIND, ".png"))
    return f"{frame.city}/{path.name}"


def coco_path(root: Path, split: str) -> Path:
    """Where official tools look for the annotation of a split."""
    return Path(root) / "annotations" / f"instancesonly_filtered_gtFine_{split}.json"


def _annotate(item: tuple[Frame, tuple[int, ...]], **options) -> tuple | InputError:
    """Size (H, W) and annotations of a frame, given its new ids; what is wrong with its file if it is bad."""
    frame, new_ids = item
    try:
        instance_ids = read_instance_map(frame.instance_path)
    except InputError as error:
        return error
    return instance_ids.shape, annotations_of(instance_ids, new_ids, **options)


def write_coco(
    root: Path,
    split: str,
    frames: list[Frame],
    new_ids: dict[str, tuple[int, ...]],
    map_function: Callable = map,
    new_source: str = "inserted",
    category_ids: str = "coco",
    *,
    polygons: bool = False,
    left_out: list[str] | None = None,
) -> Path:
    """Write the annotation of a split's frames and return its path; `file_name` is below leftImg8bit/SPLIT.

    new_ids: values of new objects by frame name; the options after map_function are those of
    `annotations_of`. Image and annotation ids count from 1 in the order of `frames`. map_function may spread
    the frames over processes. A frame with a bad instance map is named in `left_out` and left out; InputError
    where no such list is given.
    """
    items = [(frame, new_ids.get(frame.name, ())) for frame in frames]
    options = {"new_source": new_source, "category_ids": category_ids, "polygons": polygons}
    work = functools.partial(_annotate, **options)
    images, annotations = [], []
    for frame, result in zip(frames, map_function(work, items), strict=True):
        if isinstance(result, InputError):
            if left_out is None:
                raise result
            left_out.append(str(result))
            continue
        size, found = result
        image_id = len(images) + 1
        images.append({"id": image_id, "width": size[1], "height": size[0], "file_name": file_name(frame)})
        for one in found:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **one})
    content = {
        "info": {"description": f"Cityscapes instances, {split}, with {new_source} objects"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": categories(category_ids),
    }
    path = coco_path(root, split)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(content).encode())
    return path
