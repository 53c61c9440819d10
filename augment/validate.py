"""Is a tree what readers of Cityscapes and COCO expect? Every rule, as findings.

The rules (docs/synthesis.md#what-validate-checks) are those that the official data keep. A part of the data
set is as good as all of it: a split without ground truth (test), or raw frames without colour images or
polygons, break no rule as long as none of the split has them. Frames in cities named ...syn or ...ins are
ours and must have all four files; only where the raw frames have no polygons can they have none. Raw frames
may carry the key "deleted" and the 8-bit value 255 for licence plates, which frames of ours never do.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import Label, id2label, name2label
from pycocotools import mask as rle

from augment.tree_extras import BESIDE
from data.coco import CATEGORY_IDS, categories, coco_path
from data.frame import (
    ANNOTATION,
    COLOR,
    GT_KINDS,
    IMAGE_KIND,
    INSTANCES,
    LABELS,
    POLYGONS,
    TRAIN_IDS,
    Frame,
    gt_kind,
    official_name,
)
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
from engine.records import MANIFEST
from support.errors import InputError
from support.files import digest, listed

RULES = {
    "layout": "files lie in TYPE/SPLIT/CITY/ and nowhere else; no panorama below leftImg8bit/",
    "name": "CITY_SSSSSS_FFFFFF_TYPE, with the name of the folder as city, without underscore",
    "files": "image, labelIds, instanceIds, color and polygons of a frame are all there",
    "damaged": "files can be read",
    "mode": "8-bit RGB image, 8-bit labelIds, 16-bit instanceIds, RGBA color",
    "size": "all files of a frame have the same width and height",
    "value": "instance maps hold label ids, and label * 1000 + k for classes with instances",
    "labels": "labelIds is instanceIds without the ordinals",
    "train_ids": "labelTrainIds is labelIds in official train ids (raw ones: but for 1 %)",
    "colour": "color has the official colours of labelIds",
    "deleted": "no object of ours has the key 'deleted'",
    "label": "polygons have official labels, or such with 'group' behind",
    "polygon": "polygons have three points or more",
    "outline": "polygons, drawn anew, have an IoU of 0.9 with instanceIds, above 400 pixels, slivers apart",
    "manifest": "what the manifest lists is there (--verify: unchanged)",
    "coco": "COCO files: ids from 1, the eight categories, exact masks, areas and boxes, groups as crowds",
}
_FOLDERS = (IMAGE_KIND, *GT_KINDS)
_COCO_KEYS = {"image_id", "category_id", "iscrowd", "area", "bbox", "segmentation", "instance_id"}
_IMAGE = ".png"  # how the name of a frame's image ends; those of its annotation end as in ANNOTATION
_PIXELS = {  # of each of its files, in the order in which they are read
    _IMAGE: "8-bit RGB",
    LABELS: "8-bit grey",
    INSTANCES: "16-bit grey",
    TRAIN_IDS: "8-bit grey",
    COLOR: "8-bit RGBA",
}
_DERIVED = (TRAIN_IDS, "_instanceTrainIds.png")  # made by the official tools on demand
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


def validate_tree(root: Path, map_function: Callable = map, *, verify: bool = False) -> list[Finding]:
    """All findings in a tree, those on the whole tree first, then frame by frame; empty if it is sound.

    map_function may spread the frames over processes; verify: compare all files that the manifest lists with
    their digests. Raises InputError if `root` holds neither leftImg8bit/ nor gtFine/.
    """
    root = Path(root)
    if not any((root / kind).is_dir() for kind in _FOLDERS):
        raise InputError(f"{root}: holds neither leftImg8bit/ nor gtFine/; give the folder of a data set")
    findings: list[Finding] = []
    frames = []
    for split in _splits(root):
        images = _files_by_name(root, "leftImg8bit", split, (_IMAGE,), findings)
        ground_truths = _files_by_name(root, gt_kind(root, split), split, (*ANNOTATION, *_DERIVED), findings)
        findings += _missing_files(root, split, images, ground_truths)
        names = images.keys() | ground_truths.keys()
        annotated = _read_coco(root, split, names, findings)
        for name in sorted(names):
            size, annotations = annotated.get(name, (None, ()))
            endings = (*images.get(name, ()), *ground_truths.get(name, ()))
            frame = Frame(root, split, _city(name), name, gt_kind(root, split))
            frames.append(FrameCheck(frame, endings, size, annotations))
    findings += _check_panoramas(root)
    findings += _check_manifest(root, verify, map_function)
    for found in map_function(FrameCheck.findings, frames):
        findings += found
    return findings


# ---- layout -------------------------------------------------------------------------------------


def _splits(root: Path) -> list[str]:
    folders = [path for kind in _FOLDERS for path in listed(root / kind, "*") if path.is_dir()]
    # The official panoptic export lies beside the splits.
    return sorted({path.name for path in folders if not path.name.startswith("cityscapes_panoptic")})


def _city(name: str) -> str:
    return name.split("_")[0]


def _ours(name: str) -> bool:
    return _city(name).endswith(("syn", BESIDE))


def _files_by_name(
    root: Path, kind: str, split: str, endings: tuple[str, ...], findings: list[Finding]
) -> dict[str, list[str]]:
    """Endings of the files of each frame in TYPE/SPLIT; what is named otherwise becomes a finding."""
    typed = kind if kind in GT_KINDS else "leftImg8bit"
    any_ending = "|".join(map(re.escape, endings))
    found: dict[str, list[str]] = {}
    for folder in listed(root / kind / split, "*"):
        place = str(folder.relative_to(root))
        if not folder.is_dir():
            findings.append(Finding("layout", place, "a file where readers expect folders of cities only"))
            continue
        if kind == "leftImg8bit" and "panorama" in folder.name:
            findings.append(Finding("layout", place, "panoramas must lie outside leftImg8bit/"))
            continue
        if "_" in folder.name:
            findings.append(Finding("name", place, "a city's name can't hold an underscore"))
            continue
        pattern = re.compile(rf"{re.escape(folder.name)}_\d{{6}}_\d{{6}}_{typed}({any_ending})")
        for path in listed(folder, "*"):
            match = pattern.fullmatch(path.name)
            if match is None or path.is_dir():
                wanted = f"{folder.name}_SSSSSS_FFFFFF_{typed}" + ("_..." if kind in GT_KINDS else ".png")
                text = f"readers expect {wanted} here, and nothing else"
                findings.append(Finding("name", str(path.relative_to(root)), text))
            else:
                found.setdefault(official_name(path.name), []).append(match[1])
    return found


def _missing_files(
    root: Path, split: str, images: dict[str, list[str]], ground_truths: dict[str, list[str]]
) -> Iterator[Finding]:
    """Frames without what the other frames of their split have (see above)."""
    ground_truth = gt_kind(root, split)
    raw_has = {ending for name, endings in ground_truths.items() if not _ours(name) for ending in endings}
    anything_raw = any(not _ours(name) for name in images.keys() | ground_truths.keys())
    for_raw = [ending for ending in ANNOTATION if ending in raw_has or ending in (LABELS, INSTANCES)]
    for_ours = [e for e in ANNOTATION if e != POLYGONS or e in raw_has or not anything_raw]
    for name in sorted(images.keys() | ground_truths.keys()):
        if name not in images and (_ours(name) or (root / "leftImg8bit" / split).is_dir()):
            place = f"{ground_truth}/{split}/{_city(name)}/{name}"
            yield Finding("files", place, f"has no image in leftImg8bit/{split}/{_city(name)}/")
        if not _ours(name) and not (root / ground_truth / split).is_dir():
            continue
        wanted = for_ours if _ours(name) else for_raw
        missing = [ending for ending in wanted if ending not in ground_truths.get(name, ())]
        if missing:
            text = "lacks " + ", ".join(f"{name}_{ground_truth}{ending}" for ending in missing)
            yield Finding("files", f"{ground_truth}/{split}/{_city(name)}/{name}", text)


def _check_panoramas(root: Path) -> list[Finding]:
    """Whole edited frames: named as the crops they belong to."""
    findings: list[Finding] = []
    for folder in listed(root / "panorama", "*"):
        for name in sorted(_files_by_name(root, "panorama", folder.name, (_IMAGE,), findings)):
            crop = Frame(root, folder.name, _city(name), name)
            if not (root / crop.place(IMAGE_KIND, _IMAGE)).exists():
                text = "the crop of this panorama is not there"
                findings.append(Finding("files", crop.panorama_place, text))
    return findings


# ---- manifest and COCO --------------------------------------------------------------------------


def _check_manifest(root: Path, verify: bool, map_function: Callable) -> list[Finding]:
    """The outputs of the last line of each item exist, and with `verify` have their digests."""
    path = root / MANIFEST
    if not path.exists():
        return []
    last: dict[tuple[str, str], dict] = {}
    for number, text in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        try:
            line = json.loads(text)
            last[line["stage"], line["key"]] = line
        except (ValueError, KeyError, TypeError):
            if text.endswith(b"\n"):  # the last line may be cut short
                return [Finding("manifest", MANIFEST, f"line {number} is damaged")]
    listed = {
        output: sha
        for line in last.values()
        if line.get("status") == "ok"
        for output, sha in line.get("outputs", {}).items()
    }
    items = [(root, output, sha if verify else None) for output, sha in sorted(listed.items())]
    if not verify:
        map_function = map
    return [finding for finding in map_function(_check_output, items) if finding]


def _check_output(item: tuple[Path, str, str | None]) -> Finding | None:
    root, output, sha = item
    if not (root / output).exists():
        return Finding("manifest", output, "listed in the manifest, but not there")
    if sha is not None and digest((root / output).read_bytes()) != sha:
        return Finding("manifest", output, "has changed since it was written")
    return None


def _read_coco(
    root: Path, split: str, there: set[str], findings: list[Finding]
) -> dict[str, tuple[tuple[int, int], tuple[dict, ...]]]:
    """Size and annotations of each frame in a split's COCO file; none if there is none that can be read.

    there: names of the frames of the split.
    """
    path = coco_path(root, split)
    if not path.exists():
        return {}
    place = str(path.relative_to(root))
    try:
        content = json.loads(path.read_bytes())
        images = {image["id"]: image for image in content["images"]}
        names = {number: official_name(image["file_name"]) for number, image in images.items()}
        sizes = {number: (image["width"], image["height"]) for number, image in images.items()}
        by_image: dict[int, list[dict]] = {number: [] for number in images}
        labels = {one["id"]: one["name"] for one in content["categories"]}
        texts = []
        if len(images) < len(content["images"]):
            texts.append("image ids occur twice")
        if [*labels.items()] not in [[(c["id"], c["name"]) for c in categories(k)] for k in CATEGORY_IDS]:
            texts.append("its categories are not the eight scored classes with ids 1 to 8 or Cityscapes ids")
        if [one["id"] for one in content["annotations"]] != [*range(1, len(content["annotations"]) + 1)]:
            texts.append("annotation ids do not count from 1")
        for one in content["annotations"]:
            if missing := _COCO_KEYS - one.keys():
                texts.append(f"annotation {one['id']} lacks {', '.join(sorted(missing))}")
                continue
            if one["image_id"] not in by_image:
                texts.append(f"annotation {one['id']} is of no image")
                continue
            label = id2label.get(one["instance_id"] if one["iscrowd"] else one["instance_id"] // 1000)
            if label is None or labels.get(one["category_id"]) != label.name:
                texts.append(f"annotation {one['id']} of {one['instance_id']} has a wrong category")
            if "ignore" in one:
                texts.append(f"annotation {one['id']} has the key 'ignore'")
            by_image[one["image_id"]].append(one)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        text = f"not a COCO file of our export ({error!r}); export again"
        findings.append(Finding("coco", place, text))
        return {}
    in_file = set(names.values())
    for some, what in (
        (there - in_file, "frames of the split are not in it"),
        (in_file - there, "of its frames are not in the split"),
    ):
        if some:
            texts.append(f"{len(some)} {what}, the first is {min(some)}; export again")
    findings += [Finding("coco", place, text) for text in texts]
    return {names[number]: (sizes[number], tuple(by_image[number])) for number in images}


# ---- the files of one frame ---------------------------------------------------------------------


@dataclass
class FrameCheck:
    """A frame to check: which of its files are there, what COCO says of it, and what was found."""

    frame: Frame
    endings: tuple[str, ...]  # of its files, _IMAGE among them if it has one
    size: tuple[int, int] | None  # width and height in the COCO file; None if it doesn't list the frame
    annotations: tuple[dict, ...]  # of the COCO file
    found: list[Finding] = field(default_factory=list)

    @property
    def synthetic(self) -> bool:
        return _ours(self.frame.name)

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
        return self.frame.place(IMAGE_KIND if ending == _IMAGE else self.frame.kind, ending)

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
