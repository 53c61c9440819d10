"""An augmented tree back in the terms of somebody's own COCO file, so that the same training reads it.

Images, categories and annotations keep their ids, names and whatever else the file says of them. Masks lose
the pixels that inserted objects hide, and inserted objects come after them.

OUT/annotations/FILE          of the same name as the file
OUT/images/FILE_NAME          links to leftImg8bit, by the names of the images in it
"""

import json
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from cityscapesscripts.helpers.labels import id2label
from pycocotools import mask as rle

from data.coco import fields_of_code, file_name
from data.frame import Frame
from data.images import read_instance_map, read_label_map
from data.labels import LABEL_OF_VALUE
from engine.records import read_manifest
from label.annotations import Thing, coco_thing, read_coco
from label.classes import known_labels, labels_of_annotation
from support.errors import InputError, name_some
from support.files import replacing, write_atomic

LABEL_SUMMARY = "label.json"  # of the tree of `scripts.label`
ANNOTATIONS, IMAGES = "annotations", "images"


def write_coco_like(
    like: Path, source: Path, frames: list[tuple[Frame, Frame]], out: Path, map_function: Callable = map
) -> tuple[Path, list[str]]:
    """Write the annotation of frames that `scripts.insert` made; its path, and what is left out.

    source: the tree that objects were inserted into; frames: of it, and of OUT; those of which OUT has
    nothing are passed over. map_function may spread them over processes. Raises InputError if the file can't
    be used, or is about none of the frames.
    """
    content, entry_of = matched(like, source, [frame for frame, _ in frames])
    labels = _labels(like, content, source)
    category_of: dict[str, int | str] = {}
    for entry in content["categories"]:
        category_of.setdefault(labels[str(entry["name"])], entry["id"])
    place = {entry["id"]: number for number, entry in enumerate(content["categories"])}
    annotated: dict[int | str, list[tuple[dict, Thing]]] = {}
    for entry in content["annotations"]:
        annotated.setdefault(entry["image_id"], []).append((entry, coco_thing(like, entry, place)))
    there = [
        (new, entry)
        for (_, new), entry in zip(frames, entry_of, strict=True)
        if entry is not None and new.instance_path.exists()
    ]
    order = {entry["id"]: number for number, entry in enumerate(content["images"])}
    there.sort(key=lambda pair: order[pair[1]["id"]])
    jobs = [(new, annotated.get(entry["id"], [])) for new, entry in there]
    work = partial(_annotations, category_of=category_of)
    images, annotations, lacking = [], [], set()
    numbers = [entry.get("id") for entry in content["annotations"]]
    free = max((number for number in numbers if isinstance(number, int)), default=0) + 1
    for (new, entry), (kept, added, without) in zip(there, map_function(work, jobs), strict=True):
        images.append(entry)
        annotations += kept
        for one in added:
            annotations.append({"id": free, "image_id": entry["id"], **one})
            free += 1
        lacking |= without
        if new.image_path:
            _link(new.image_path, out / IMAGES / _relative(entry["file_name"]))
    left_out = (
        [f"inserted objects without a category in {like}: {name_some(sorted(lacking))}"] if lacking else []
    )
    if count := sum(entry is None for entry in entry_of):
        left_out.append(f"{count} images of {source} that {like} doesn't list")
    path = out / ANNOTATIONS / like.name
    path.parent.mkdir(parents=True, exist_ok=True)
    written = content | {"images": images, "annotations": annotations}
    write_atomic(path, json.dumps(written).encode())
    return path, left_out


def _labels(like: Path, content: dict, source: Path) -> dict[str, str]:
    """The label of each category: as `scripts.label` had it, else by its name."""
    names = [str(entry["name"]) for entry in content["categories"]]
    try:
        found = json.loads((source / LABEL_SUMMARY).read_text())["settings"]["annotated"]
        if found and set(names) <= found.keys():
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return labels_of_annotation(names, known_labels(None), like)


# ---- images -------------------------------------------------------------------------------------


def matched(like: Path, source: Path, frames: list[Frame]) -> tuple[dict, list[dict | None]]:
    """The content of a COCO file, and its entry for the image of each frame; None where it has none.

    Raises InputError if the file can't be used, or lists none of them.
    """
    content, names = read_coco(like), picture_names(source)
    called = [names.get(f"{frame.split}/{frame.key}") or file_name(frame) for frame in frames]
    entries = _entries(like, content["images"], called)
    if not any(entries):
        raise InputError(f"--coco_like {like}: lists none of the images of {source}; give the file that does")
    return content, entries


def picture_names(source: Path) -> dict[str, str]:
    """What the picture of each frame was called, in a tree of `scripts.label`, by "split/city/seq/frame"."""
    if not (source / LABEL_SUMMARY).exists():
        return {}
    return {line["key"]: line["picture"] for line in read_manifest(source)}


def _relative(name: str) -> Path:
    """A file name of a list as a place below a folder, whatever machine wrote it."""
    name = re.sub(r"^([A-Za-z]:(?=[/\\])|\w+://)", "", name)  # a drive, or what a URL begins with
    return Path(*(part for part in re.split(r"[/\\]", name) if part not in ("", ".", "..")))


def _entries(like: Path, images: list[dict], names: list[str]) -> list[dict | None]:
    """The entry of each image by its name: one of the two is the end of the other. None: there is none."""
    by_last: dict[str, list[tuple[tuple[str, ...], dict]]] = {}
    for entry in images:
        parts = _relative(entry["file_name"]).parts
        by_last.setdefault(parts[-1] if parts else "", []).append((parts, entry))
    found: list[dict | None] = []
    taken: dict[int | str, str] = {}
    for name in names:
        parts = Path(name).parts
        fitting = [
            entry
            for other, entry in by_last.get(parts[-1], [])
            if parts[-len(other) :] == other or other[-len(parts) :] == parts
        ]
        ids = {entry["id"] for entry in fitting}
        if len(ids) > 1 or ids & taken.keys():
            other = taken.get(fitting[0]["id"], fitting[-1]["file_name"])
            raise InputError(f"--coco_like {like}: can't tell {name} from {other}; give names with folders")
        taken |= dict.fromkeys(ids, name)
        found.append(fitting[0] if fitting else None)
    return found


def _link(target: Path, link: Path) -> None:
    """A relative symbolic link, made anew."""
    link.parent.mkdir(parents=True, exist_ok=True)
    with replacing(link) as temporary:
        temporary.symlink_to(os.path.relpath(target.absolute(), link.parent.resolve()))


# ---- one image ----------------------------------------------------------------------------------


def _annotations(
    job: tuple[Frame, list[tuple[dict, Thing]]], category_of: dict[str, int | str]
) -> tuple[list[dict], list[dict], set[str]]:
    """Annotations that were there, those that are new, and labels of new objects that are no category."""
    frame, annotated = job
    ids = read_instance_map(frame.instance_path)
    numbers = read_label_map(frame.root / frame.place("inserted", ".png"))
    new = numbers > 0
    kept = []
    for entry, thing in annotated:
        try:
            mask = thing.drawn(*ids.shape)
        except ValueError as error:
            raise InputError(
                f"{frame.instance_path}: {error}; give the file that it was labelled with"
            ) from None
        if not (mask & new).any():
            kept.append(entry)
        elif (mask & ~new).any():
            kept.append(entry | _mask(mask & ~new))
    added, lacking = [], set()
    for number in np.unique(numbers[new]).tolist():
        seen = numbers == number
        for value in np.unique(ids[seen]).tolist():
            label = id2label[int(LABEL_OF_VALUE[value])].name
            if label not in category_of:
                lacking.add(label)
                continue
            about = {"category_id": category_of[label], "iscrowd": 0, "source": "inserted"}
            added.append(about | _mask(seen & (ids == value)))
    return kept, added, lacking


def _mask(mask: np.ndarray) -> dict:
    """Run-length code, area and box of a mask (H,W) bool, in pixels."""
    return fields_of_code(rle.encode(np.asfortranarray(mask.view(np.uint8))))
