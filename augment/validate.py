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
from pathlib import Path

from cityscapesscripts.helpers.labels import id2label

from augment.frame_check import IMAGE, Finding, FrameCheck
from augment.tree_extras import BESIDE
from data.coco import CATEGORY_IDS, categories, coco_path
from data.frame import (
    ANNOTATION,
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
from engine.records import MANIFEST, read_manifest
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
_DERIVED = (TRAIN_IDS, "_instanceTrainIds.png")  # made by the official tools on demand


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
        images = _files_by_name(root, IMAGE_KIND, split, (IMAGE,), findings)
        ground_truths = _files_by_name(root, gt_kind(root, split), split, (*ANNOTATION, *_DERIVED), findings)
        findings += _missing_files(root, split, images, ground_truths)
        names = images.keys() | ground_truths.keys()
        annotated = _read_coco(root, split, names, findings)
        for name in sorted(names):
            size, annotations = annotated.get(name, (None, ()))
            endings = (*images.get(name, ()), *ground_truths.get(name, ()))
            frame = Frame(root, split, _city(name), name, gt_kind(root, split))
            frames.append(FrameCheck(frame, _ours(name), endings, size, annotations))
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
    typed = kind if kind in GT_KINDS else IMAGE_KIND
    any_ending = "|".join(map(re.escape, endings))
    found: dict[str, list[str]] = {}
    for folder in listed(root / kind / split, "*"):
        place = str(folder.relative_to(root))
        if not folder.is_dir():
            findings.append(Finding("layout", place, "a file where readers expect folders of cities only"))
            continue
        if kind == IMAGE_KIND and "panorama" in folder.name:
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
        if name not in images and (_ours(name) or (root / IMAGE_KIND / split).is_dir()):
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
        for name in sorted(_files_by_name(root, "panorama", folder.name, (IMAGE,), findings)):
            crop = Frame(root, folder.name, _city(name), name)
            if not (root / crop.place(IMAGE_KIND, IMAGE)).exists():
                text = "the crop of this panorama is not there"
                findings.append(Finding("files", crop.panorama_place, text))
    return findings


# ---- manifest and COCO --------------------------------------------------------------------------


def _check_manifest(root: Path, verify: bool, map_function: Callable) -> list[Finding]:
    """The outputs of the last line of each item exist, and with `verify` have their digests."""
    try:
        last = {(line["stage"], line["key"]): line for line in read_manifest(root)}
    except InputError as error:
        return [Finding("manifest", MANIFEST, str(error).removeprefix(f"{root / MANIFEST}, "))]
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
