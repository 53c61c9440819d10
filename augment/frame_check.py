"""Are the files of one frame what readers of Cityscapes and COCO expect? See `augment.validate`."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import Label, id2label, name2label
from pycocotools import mask as rle

from data.frame import COLOR, IMAGE_KIND, INSTANCES, LABELS, POLYGONS, TRAIN_IDS, Frame
from data.images import pixels_of, png_of
from data.labels import (
    FIRST_SINGLE_ID,
    LABEL_OF_VALUE,
    LICENSE_PLATE_ID,
    TARGET_CLASSES,
    TRAIN_ID_OF_ID,
    without_void,
)
from data.outlines import match_instances
from data.writer import LabelledPolygon, colour_map, polygons_from_json, topmost
from support.errors import InputError

IMAGE = ".png"  # how the name of a frame's image ends; those of its annotation end as in `data.frame`
_PIXELS = {  # of each of its files, in the order in which they are read
    IMAGE: "8-bit RGB",
    LABELS: "8-bit grey",
    INSTANCES: "16-bit grey",
    TRAIN_IDS: "8-bit grey",
    COLOR: "8-bit RGBA",
}
MIN_AREA = 400  # pixels; smaller objects differ too much when outlines are drawn anew
MIN_IOU = 0.9
_NOBODY = 40000  # and up: values for polygons that no instance of the map belongs to


@dataclass(frozen=True)
class Finding:
    """A broken rule: its short name, the file below the root (or the root's name), and what is wrong."""

    rule: str
    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule:<10} {self.path}: {self.text}"


@dataclass
class FrameCheck:
    """A frame to check: which of its files are there, what COCO says of it, and what was found."""

    frame: Frame
    synthetic: bool  # ours, not of the data set
    endings: tuple[str, ...]  # of its files, IMAGE among them if it has one
    size: tuple[int, int] | None  # width and height in the COCO file; None if it doesn't list the frame
    annotations: tuple[dict, ...]  # of the COCO file
    found: list[Finding] = field(default_factory=list)

    def say(self, rule: str, ending: str, text: str) -> None:
        """Note that a rule is broken by a file."""
        self.found.append(Finding(rule, self.place(ending), text))

    def findings(self) -> list[Finding]:
        """Read all files that are there and check them against one another."""
        images = {ending: self.read(ending) for ending in _PIXELS}
        objects, json_size = self.read_polygons()
        if images[INSTANCES] is None:
            return self.found
        sizes = {ending: image.shape[1::-1] for ending, image in images.items() if image is not None}
        size = sizes[INSTANCES]
        if json_size is not None:
            sizes[POLYGONS] = json_size
        for ending, other in sizes.items():
            if other != size:
                text = f"is {other[0]}x{other[1]}, but instanceIds {size[0]}x{size[1]} pixels"
                self.say("size", ending, text)
        if self.size not in (None, size):
            self.say("coco", INSTANCES, f"the COCO file says {self.size[0]}x{self.size[1]} pixels")
        if any(other != size for other in (*sizes.values(), self.size or size)):
            return self.found
        labels, instances = images[LABELS], images[INSTANCES]
        if void := self.frame.void_labels():
            of_labels = LABEL_OF_VALUE[instances] if labels is None else labels
            of_labels, instances = without_void(of_labels, instances, void)
            labels = labels if labels is None else of_labels
        self.check_values(instances)
        if labels is not None:
            self.check_labels(labels, instances)
            if images[TRAIN_IDS] is not None:
                self.check_train_ids(images[TRAIN_IDS], labels)
            if images[COLOR] is not None:
                self.check_colour(images[COLOR], labels)
        if objects is not None:
            self.check_outlines(objects, instances)
        if self.size is not None:
            self.check_coco(instances)
        return self.found

    # ---- reading --------------------------------------------------------------------------------

    def place(self, ending: str) -> str:
        """The place of a file of the frame."""
        return self.frame.place(IMAGE_KIND if ending == IMAGE else self.frame.kind, ending)

    def content(self, ending: str) -> bytes | None:
        """The bytes of a file, None if it isn't there or can't be read."""
        if ending not in self.endings:
            return None
        try:
            return (self.frame.root / self.place(ending)).read_bytes()
        except OSError as error:
            self.say("damaged", ending, f"can't be read ({error.strerror})")
            return None

    def read(self, ending: str) -> np.ndarray | None:
        """The image (H,W) or (H,W,C) in RGB order, None if it isn't there or not of the kind of _PIXELS."""
        content = self.content(ending)
        if content is None:
            return None
        path, wanted = Path(ending), _PIXELS[ending]
        try:
            png = png_of(path, content, "readers expect a PNG")
            if png.kind == wanted:
                return pixels_of(path, content, png)
            self.say("mode", ending, f"must be {wanted}, but is {png.kind}")
        except InputError as error:
            self.say("damaged", ending, str(error).removeprefix(f"{path}: "))
        return None

    def read_polygons(self) -> tuple[list[LabelledPolygon] | None, tuple[int, int] | None]:
        """The polygons and the size that their file states; None where they can't be used."""
        text = self.content(POLYGONS)
        if text is None:
            return None, None
        try:
            content = json.loads(text)
            objects, width, height = polygons_from_json(content)
            deleted = sum("deleted" in entry for entry in content["objects"])
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            self.say("damaged", POLYGONS, f"not a file of polygons ({' '.join(str(error).split())})")
            return None, None
        if deleted and self.synthetic:
            self.say(
                "deleted", POLYGONS, f"{deleted} objects have the key 'deleted', which some readers skip"
            )
        usable = True
        for number, thing in enumerate(objects):
            if thing.label not in name2label and thing.label.removesuffix("group") not in name2label:
                self.say("label", POLYGONS, f"object {number}: {thing.label!r} is not a Cityscapes label")
                usable = False
            if len(thing.polygon) < 3:
                self.say("polygon", POLYGONS, f"object {number} ({thing.label}) has fewer than 3 points")
                usable = False
        return objects if usable else None, (width, height)

    # ---- rules ----------------------------------------------------------------------------------

    def check_values(self, instances: np.ndarray) -> None:
        """Bare label ids, or label * 1000 + ordinal for the classes that have instances."""
        values = np.flatnonzero(np.bincount(instances.ravel()))
        labels = [(value, _label_of(value)) for value in values.tolist()]
        bad = [v for v, label in labels if not label or (v >= FIRST_SINGLE_ID and not label.hasInstances)]
        if bad:
            text = f"holds {_some(bad)}: neither a label id nor label * 1000 + k of a class with instances"
            self.say("value", INSTANCES, text)

    def differing(self, differ: np.ndarray, labels: np.ndarray) -> tuple[int, int, int]:
        """How many pixels (H,W) bool differ, and row and column of the first; plates of raw frames may."""
        if not self.synthetic:
            differ = differ & (labels != LICENSE_PLATE_ID)
        first = int(differ.argmax())
        return int(np.count_nonzero(differ)), *divmod(first, differ.shape[1])

    def check_labels(self, labels: np.ndarray, instances: np.ndarray) -> None:
        """The label map is the instance map without ordinals."""
        count, y, x = self.differing(labels != LABEL_OF_VALUE.take(instances), labels)
        if count:
            where = f"{labels[y, x]} for {instances[y, x]} at {x},{y}"
            self.say("labels", LABELS, f"differs from instanceIds in {count} pixels: {where}")

    def check_train_ids(self, train_ids: np.ndarray, labels: np.ndarray) -> None:
        """Train ids are those of the label map; raw ones may have been drawn anew, with other edges."""
        count = np.count_nonzero(train_ids != TRAIN_ID_OF_ID.take(labels))
        if count > (0 if self.synthetic else labels.size // 100):
            self.say("train_ids", TRAIN_IDS, f"not the train ids of labelIds in {count} pixels")

    def check_colour(self, colour: np.ndarray, labels: np.ndarray) -> None:
        """The colour image has the official colours, opaque."""
        differ = colour.view(np.uint32)[..., 0] != colour_map(labels).view(np.uint32)[..., 0]
        count, y, x = self.differing(differ, labels)
        if count:
            text = f"wrong in {count} pixels: {colour[y, x].tolist()} for label {labels[y, x]} at {x},{y}"
            self.say("colour", COLOR, text)

    def check_outlines(self, objects: list[LabelledPolygon], instances: np.ndarray) -> None:
        """The polygons, drawn anew, are the instance map: IoU of 0.9 for all above 400 pixels."""
        height, width = instances.shape
        top = topmost(objects, width, height)
        single = np.array([thing.is_instance for thing in objects], bool)
        value_of = np.array([*(max(thing.label_id, 0) for thing in objects), 0])  # the last: no object
        value_of[:-1][single] = _NOBODY + np.flatnonzero(single)
        for value, place in match_instances(objects, top, instances).items():
            value_of[place] = value
        drawn = value_of.astype(np.uint16)[top]
        differ = drawn != instances
        # Outlines drawn smoothly through an enlarged map leave its stairs by less than one step, and official
        # maps may be of a library that draws edges otherwise. Thin poles would fail by that alone: an opening
        # by a little more than a step removes such slivers and leaves flaws.
        step = np.ones((_grain(instances) + 2,) * 2, np.uint8)
        differ = cv2.morphologyEx(
            differ.view(np.uint8), cv2.MORPH_OPEN, step, borderType=cv2.BORDER_CONSTANT, borderValue=0
        ).view(bool)
        areas = np.bincount(instances.ravel(), minlength=2**16)
        missing = np.bincount(instances[differ], minlength=2**16)
        surplus = np.bincount(drawn[differ], minlength=2**16)
        for value in np.flatnonzero((missing + surplus) * 10 > areas).tolist():
            area = int(max(areas[value], surplus[value]))
            union = areas[value] + surplus[value]
            iou = (areas[value] - missing[value]) / union
            if area <= MIN_AREA or value == 0 or iou >= MIN_IOU:
                continue
            if value >= _NOBODY:
                name = f"object {value - _NOBODY} ({objects[value - _NOBODY].label})"
                text = f"{name} shows {area} pixels, but instanceIds has no such one"
            else:
                name = f"{_label_of(value).name} ({value}) of {areas[value]} pixels"
                text = f"{name}: drawn from the polygons IoU is {iou:.2f}"
            self.say("outline", POLYGONS, text)

    def check_coco(self, instances: np.ndarray) -> None:
        """The frame's COCO annotations are its scored instances and groups, to the pixel."""
        areas = np.bincount(instances.ravel())
        scored = {target.label_id for target in TARGET_CLASSES.values()}
        wanted = {v for v in np.flatnonzero(areas).tolist() if int(LABEL_OF_VALUE[v]) in scored}
        seen = set()

        def wrong(text: str) -> None:
            self.say("coco", INSTANCES, text)

        for one in self.annotations:
            where, value = f"COCO annotation {one['id']}", one["instance_id"]
            if value not in wanted or value in seen:
                wrong(f"{where}: instance_id {value} is not there, or twice")
                continue
            seen.add(value)
            if (one["iscrowd"] == 1) != (value < FIRST_SINGLE_ID):
                wrong(f"{where}: iscrowd {one['iscrowd']} for {value}")
            code = one["segmentation"]
            if isinstance(code, list):
                code = rle.merge(rle.frPyObjects(code, *instances.shape))
            if not np.array_equal(rle.decode(code), instances == value):
                wrong(f"{where}: its mask is not that of {value}")
            if one["area"] != areas[value]:
                wrong(f"{where}: area {one['area']}, not {areas[value]} pixels")
            if list(one["bbox"]) != rle.toBbox(code).tolist():
                wrong(f"{where}: bbox {one['bbox']} is not that of its mask")
        if missing := sorted(wanted - seen):
            wrong(f"the COCO file lacks {_some(missing)}; export again")


def _label_of(value: int) -> Label | None:
    """The label of a value of an instance map, None if there is no such label."""
    return id2label.get(value if value < FIRST_SINGLE_ID else value // 1000)


def _some(values: list[int]) -> str:
    return ", ".join(map(str, values[:5])) + (f" and {len(values) - 5} more" if len(values) > 5 else "")


def _grain(ids: np.ndarray) -> int:
    """Side in pixels of what was one pixel before a map was enlarged: the least distance of two changes."""
    changes = np.flatnonzero((ids[1:] != ids[:-1]).any(axis=1))
    return int(np.diff(changes).min()) if len(changes) > 1 else 1
