"""One small scene, written in each format as that format's documentation lays down.

The ids in here are copied from there, not taken from the program under test.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 96, 64
THINGS = ("person", "car", "bicycle")


@dataclass(frozen=True)
class Segment:
    """A class, the number of a single instance or None, and its pixels (HEIGHT, WIDTH) bool."""

    label: str
    number: int | None
    mask: np.ndarray


def _box(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return (x0 <= columns) & (columns < x1) & (y0 <= rows) & (rows < y1)


def scene() -> list[Segment]:
    """Segments that cover every pixel but a void corner, once.

    Among them a tree with a hole, a person in two pieces behind a pole, a crowd of cars, and a bicycle
    through the frame of which another person shows.
    """
    painted = [
        Segment("sky", None, _box(0, 0, WIDTH, HEIGHT)),
        Segment("building", None, _box(0, 20, WIDTH, HEIGHT)),
        Segment("road", None, _box(0, 40, WIDTH, HEIGHT)),
        Segment("vegetation", None, _box(40, 10, 60, 35) & ~_box(46, 16, 52, 26)),
        Segment("person", 0, _box(10, 30, 18, 56)),
        Segment("person", 1, _box(27, 30, 38, 52)),
        Segment("pole", None, _box(32, 12, 34, 60)),
        Segment("person", 2, _box(79, 34, 86, 56)),
        Segment("bicycle", 0, _box(72, 42, 92, 62) & ~_box(76, 46, 89, 58)),
        Segment("car", None, _box(48, 42, 70, 52)),
    ]
    free = ~_box(0, 0, 6, 6)
    segments = []
    for segment in reversed(painted):
        segments.append(Segment(segment.label, segment.number, segment.mask & free))
        free &= ~segment.mask
    return segments[::-1]


def image() -> np.ndarray:
    """(HEIGHT, WIDTH, 3) uint8."""
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def encode(segments: list[Segment], code: Callable[[Segment], int], void: int = 0) -> np.ndarray:
    """code(segment) at its pixels, int64 (HEIGHT, WIDTH)."""
    array = np.full((HEIGHT, WIDTH), void, np.int64)
    for segment in segments:
        array[segment.mask] = code(segment)
    return array


# ---- the formats --------------------------------------------------------------------------------

COCO = {
    "person": (1, "person"),
    "bicycle": (2, "bicycle"),
    "car": (3, "car"),
    "road": (149, "road"),
    "pole": (171, "wall-brick"),  # it has no poles
    "vegetation": (184, "tree-merged"),
    "sky": (187, "sky-other-merged"),
    "building": (197, "building-other-merged"),
}


def _coco_segments(ids: dict[str, int]) -> tuple[np.ndarray, list[dict]]:
    """The PNG (HEIGHT, WIDTH, 3) uint8 of the scene and the list of its segments; ids: category by label."""
    colours, infos = np.zeros((HEIGHT, WIDTH, 3), np.uint8), []
    for place, segment in enumerate(scene()):
        key = 3 + 70_000 * place  # all three bytes are in use
        colours[segment.mask] = key % 256, key // 256 % 256, key // 65536
        ys, xs = np.nonzero(segment.mask)
        box = [xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]
        infos.append(
            {
                "id": key,
                "category_id": ids[segment.label],
                "iscrowd": int(segment.label in THINGS and segment.number is None),
                "bbox": [int(number) for number in box],
                "area": int(segment.mask.sum()),
            }
        )
    return colours, infos


def coco_panoptic(root: Path) -> None:
    categories = [
        {
            "id": number,
            "name": name,
            "supercategory": "x",
            "isthing": int(role in THINGS),
            "color": [0, 0, number],
        }
        for role, (number, name) in COCO.items()
    ]
    for split, names in (("train2017", ("000000000009", "000000000025")), ("val2017", ("000000000139",))):
        images, annotations = [], []
        for name in names:
            colours, infos = _coco_segments({role: number for role, (number, _) in COCO.items()})
            save(root / "annotations" / f"panoptic_{split}" / f"{name}.png", colours)
            save(root / split / f"{name}.jpg", image())
            images.append({"id": int(name), "file_name": f"{name}.jpg", "width": WIDTH, "height": HEIGHT})
            annotations.append({"image_id": int(name), "file_name": f"{name}.png", "segments_info": infos})
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"panoptic_{split}.json").write_text(json.dumps(content))


VISTAS_12 = {
    "building": "construction--structure--building",
    "road": "construction--flat--road",
    "person": "human--person",
    "sky": "nature--sky",
    "vegetation": "nature--vegetation",
    "pole": "object--support--pole",
    "bicycle": "object--vehicle--bicycle",
    "car": "object--vehicle--car",
    "void": "void--unlabeled",
}
VISTAS_20 = VISTAS_12 | {"person": "human--person--individual", "crowd": "object--vehicle--vehicle-group"}


def _vistas(root: Path, folder: str, config: str, names: dict[str, str]) -> None:
    labels = [
        {
            "name": name,
            "readable": name,
            "color": [0, 0, 0],
            "evaluate": True,
            "instances": role in (*THINGS, "crowd"),
        }
        for role, name in names.items()
    ]
    (root / config).parent.mkdir(parents=True, exist_ok=True)
    (root / config).write_text(json.dumps({"labels": labels, "version": "x", "mapping": "public"}))
    place = {role: number for number, role in enumerate(names)}

    def code(segment: Segment) -> int:
        crowd = segment.label == "car" and "crowd" in names
        return place["crowd" if crowd else segment.label] * 256 + (segment.number or 0)

    for split, images in (("training", ("aXk_1", "bYl-2")), ("validation", ("cZm",))):
        for name in images:
            instances = encode(scene(), code, place["void"] * 256)
            save(root / split / folder / "instances" / f"{name}.png", instances.astype(np.uint16))
            save(root / split / folder / "labels" / f"{name}.png", (instances // 256).astype(np.uint8))
            save(root / split / "images" / f"{name}.jpg", image())


def mapillary_12(root: Path) -> None:
    _vistas(root, ".", "config.json", VISTAS_12)


def mapillary_20(root: Path) -> None:
    _vistas(root, "v1.2", "config_v1.2.json", VISTAS_12)
    _vistas(root, "v2.0", "config_v2.0.json", VISTAS_20)


BDD = {
    "road": 7,
    "building": 10,
    "pole": 20,
    "vegetation": 29,
    "sky": 30,
    "person": 31,
    "bicycle": 33,
    "car": 35,
}


def bdd100k(root: Path) -> None:
    for split, names in (
        ("train", ("0a0a0b1a-7c39d841", "0a0b16e4-93d8c456")),
        ("val", ("7d2f7975-e0c1c5a7",)),
    ):
        for name in names:
            mask = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
            number = 300  # of things: both bytes are in use
            for segment in scene():
                attributes = 0
                if segment.label in THINGS:
                    number += 1
                    attributes = 0b0010 if segment.number is None else 0b1100  # crowd; truncated, occluded
                key = number if segment.label in THINGS else BDD[segment.label]
                mask[segment.mask] = BDD[segment.label], attributes, key >> 8, key & 255
            save(root / "labels/pan_seg/bitmasks" / split / f"{name}.png", mask)
            save(root / "images/10k" / split / f"{name}.jpg", image())


CITYSCAPES = {
    "road": 7,
    "building": 11,
    "pole": 17,
    "vegetation": 21,
    "sky": 23,
    "person": 24,
    "car": 26,
    "bicycle": 33,
}
KITTI_VAL = "2013_05_28_drive_0002_sync"


def kitti360(root: Path) -> None:
    drives = root / "data_2d_semantics/train"
    lists = {"train": [], "val": []}
    for drive, frames in (("2013_05_28_drive_0000_sync", (250, 251)), (KITTI_VAL, (4711,))):
        for frame in frames:
            maps = drives / drive / "image_00"
            labels = encode(scene(), lambda segment: CITYSCAPES[segment.label])
            instances = encode(
                scene(),
                # everything has the thousands, and buildings have instances too
                lambda one: (
                    CITYSCAPES[one.label] * 1000
                    + (1 if one.label == "building" else 0 if one.number is None else one.number + 1)
                ),
            )
            save(maps / "semantic" / f"{frame:010d}.png", labels.astype(np.uint8))
            save(maps / "instance" / f"{frame:010d}.png", instances.astype(np.uint16))
            save(maps / "confidence" / f"{frame:010d}.png", np.full((HEIGHT, WIDTH), 65535, np.uint16))
            image_path = f"data_2d_raw/{drive}/image_00/data_rect/{frame:010d}.png"
            save(root / image_path, image())
            semantic = f"data_2d_semantics/train/{drive}/image_00/semantic/{frame:010d}.png"
            lists["val" if drive == KITTI_VAL else "train"].append(f"{image_path} {semantic}\n")
    for split, lines in lists.items():
        (drives / f"2013_05_28_drive_{split}_frames.txt").write_text("".join(lines))


IDD = {
    "road": 0,
    "person": 6,
    "bicycle": 10,
    "car": 12,
    "pole": 26,
    "building": 29,
    "vegetation": 32,
    "sky": 33,
}


def _with_number(ids: dict[str, int]) -> Callable[[Segment], int]:
    """label * 1000 + number from 0, or the bare label."""

    def code(segment: Segment) -> int:
        label = ids[segment.label]
        return label if segment.number is None else label * 1000 + segment.number

    return code


def idd(root: Path) -> None:
    for split, drive, name, ending in (
        ("train", "0", "frame0000", ".jpg"),
        ("train", "119", "098900", ".png"),
        ("val", "42", "000123", ".png"),
    ):
        labels = encode(scene(), lambda segment: IDD[segment.label], void=35)
        instances = encode(scene(), _with_number(IDD), void=35)
        ground_truth = root / "gtFine" / split / drive
        save(ground_truth / f"{name}_gtFine_labelids.png", labels.astype(np.uint8))
        save(ground_truth / f"{name}_gtFine_instanceids.png", instances.astype(np.uint16))
        save(root / "leftImg8bit" / split / drive / f"{name}_leftImg8bit{ending}", image())


def acdc(root: Path) -> None:
    """The instances of the image at night are in the panoptic annotation, others in instance maps."""
    for place, frame in (
        ("fog/train/GOPR0475", "GOPR0475_frame_000041"),
        ("night/train/GP010376", "GP010376_frame_000054"),
        ("rain/val/GOPR0402", "GOPR0402_frame_000271"),
    ):
        labels = encode(scene(), lambda segment: CITYSCAPES[segment.label])
        save(root / "gt" / place / f"{frame}_gt_labelIds.png", labels.astype(np.uint8))
        save(root / "rgb_anon" / place / f"{frame}_rgb_anon.png", image())
        if place.startswith("night"):
            name = f"{place}/{frame}_gt_panoptic.png"
            colours, infos = _coco_segments(CITYSCAPES)
            save(root / "gt_panoptic" / name, colours)
            content = {
                "images": [{"id": frame, "file_name": f"{place}/{frame}_rgb_anon.png"}],
                "annotations": [{"image_id": frame, "file_name": name, "segments_info": infos}],
                "categories": [{"id": number, "name": name} for name, number in CITYSCAPES.items()],
            }
            (root / "gt_panoptic/train_gt_panoptic.json").write_text(json.dumps(content))
        else:
            instances = encode(scene(), _with_number(CITYSCAPES))
            save(root / "gt" / place / f"{frame}_gt_instanceIds.png", instances.astype(np.uint16))


WRITERS = {
    "coco_panoptic": coco_panoptic,
    "mapillary v1.2": mapillary_12,
    "mapillary v2.0": mapillary_20,
    "bdd100k": bdd100k,
    "kitti360": kitti360,
    "idd": idd,
    "acdc": acdc,
}
