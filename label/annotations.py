"""Things that somebody has annotated: masks and polygons of COCO's format, polygons of YOLO's.

Boxes alone are refused: a map needs to know of each pixel what it shows. An annotation is told by its
category, its id, and its mask, which is drawn as pycocotools draw it, so clipped at the picture's edges.
"""

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import yaml
from pycocotools import mask as rle

from convert.source import path_below
from label.pictures import Picture
from support.errors import InputError, name_some
from support.files import files_below, listed, read_json, read_text

WHAT = "COCO instance annotation"
NO_BOXES = (
    "a box doesn't say which of its pixels are the object's, and a label map needs that: make masks of the"
    " boxes first, with a promptable segmenter for example"
)
_FARTHEST = 10**5  # pixels; no coordinate of a polygon lies beyond


@dataclass(frozen=True)
class Thing:
    """An annotated object. category: place in `Annotations.categories`; mask: what pycocotools read.

    polygons in pixels; of YOLO's they are fractions of the picture, `relative`.
    """

    number: int | str
    category: int
    crowd: bool
    mask: list[list[float]] | dict
    relative: bool = False

    def drawn(self, height: int, width: int) -> np.ndarray:
        """The mask (H,W) bool. Raises ValueError if a run-length code is of another size or damaged."""
        if isinstance(self.mask, dict):
            if list(self.mask["size"]) != [height, width]:
                size = "x".join(map(str, self.mask["size"][::-1]))
                raise ValueError(f"the mask of annotation {self.number} is made for {size} pixels")
            runs = self.mask["counts"]
            if isinstance(runs, list):
                if sum(runs) != height * width:
                    raise ValueError(f"the mask of annotation {self.number} doesn't fill the picture")
                return rle.decode(rle.frPyObjects(self.mask, height, width)).view(bool)
            if (
                sum(run_lengths(runs)) != height * width
            ):  # what no run covers pycocotools would leave to chance
                raise ValueError(f"the mask of annotation {self.number} doesn't fill the picture")
            return rle.decode(self.mask | {"counts": runs.encode()}).view(bool)
        scale = (width, height) if self.relative else (1, 1)
        shapes = [(np.reshape(polygon, (-1, 2)) * scale).ravel().tolist() for polygon in self.mask]
        return rle.decode(rle.merge(rle.frPyObjects(shapes, height, width))).view(bool)


def run_lengths(code: str) -> list[int]:
    """The lengths in a compressed run-length code of COCO's; one that is cut short ends with the last whole.

    A character holds five bits of a number, the lowest first, and whether more follow; from the fourth on a
    number is the difference to the last but one.
    """
    runs, value, shift = [], 0, 0
    for character in code.encode():
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)  # the sign
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    return runs


@dataclass(frozen=True)
class Annotated:
    """What is known of a picture: its things, and (width, height) if the file says so."""

    things: tuple[Thing, ...]
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Annotations:
    """Names of the categories, what is known of each picture by its name, and lines on what is left out."""

    categories: list[str]
    of_picture: dict[str, Annotated]
    left_out: list[str]


def read_annotations(path: Path, folder: Path, pictures: list[Picture]) -> Annotations:
    """What a COCO file, or a folder of YOLO, says of pictures. InputError if it can't be used.

    folder: of the pictures. Left out is what has no counterpart: pictures that a COCO file doesn't list, and
    entries whose picture isn't there.
    """
    found = _read_yolo(path, folder, pictures) if path.is_dir() else _read_coco(path, folder, pictures)
    if not found.of_picture:
        raise InputError(f"--annotations {path}: is about none of the pictures; do the two belong together?")
    return found


# ---- COCO ---------------------------------------------------------------------------------------


def _read_coco(path: Path, folder: Path, pictures: list[Picture]) -> Annotations:
    content = read_coco(path)
    there = {picture.path: picture.name for picture in pictures}
    missing, name_of, of_picture, left_out = [], {}, {}, []
    place = {entry["id"]: number for number, entry in enumerate(content["categories"])}
    things: dict[int | str, list[Thing]] = {}
    for entry in content["annotations"]:
        thing = coco_thing(path, entry, place)
        things.setdefault(entry["image_id"], []).append(thing)
    for entry in content["images"]:
        name = there.get(path_below(folder, entry["file_name"]))
        if name is None:
            missing.append(entry["file_name"])
            continue
        if name in of_picture:
            raise InputError(
                f"--annotations {path}: {entry['file_name']} and {name_of[name]} are both about {name};"
                " rename one"
            )
        name_of[name] = entry["file_name"]
        size = (entry["width"], entry["height"]) if {"width", "height"} <= entry.keys() else None
        of_picture[name] = Annotated(tuple(things.pop(entry["id"], ())), size)
    if orphans := sorted(map(str, things.keys() - {entry["id"] for entry in content["images"]})):
        left_out.append(f"{path}: annotations of no listed image, left out, of the ids {name_some(orphans)}")
    if missing:
        left_out.append(
            f"{path}: {len(missing)} pictures that aren't in {folder}, left out: {name_some(missing)}"
        )
    unlisted = [picture.name for picture in pictures if picture.name not in of_picture]
    if unlisted:
        left_out.append(
            f"{path}: doesn't list {len(unlisted)} pictures, which are left out: {name_some(unlisted)}"
        )
    return Annotations([str(entry["name"]) for entry in content["categories"]], of_picture, left_out)


def read_coco(path: Path) -> dict:
    """The content of a COCO file of instances, its fields checked. Raises InputError for anything else."""
    content = read_json(path, WHAT)
    wanted = {
        "images": {"id": (int, str), "file_name": str},
        "categories": {"id": (int, str), "name": str},
        "annotations": {"image_id": (int, str), "category_id": (int, str)},
    }
    for name, fields in wanted.items():
        entries = content.get(name)
        if not isinstance(entries, list) or (name == "categories" and not entries):
            raise InputError(f"{path}: is no {WHAT}, it has no list “{name}”; give another file")
        for number, entry in enumerate(entries, 1):
            for field, kind in fields.items():
                if not isinstance(entry, dict) or not isinstance(entry.get(field), kind):
                    raise InputError(f"{path}: number {number} of “{name}” has no {field}; mend the file")
    for name in ("images", "categories"):
        twice = [one for one, count in Counter(entry["id"] for entry in content[name]).items() if count > 1]
        if twice:
            raise InputError(f"{path}: id {twice[0]} stands more than once in “{name}”; mend the file")
    for number, entry in enumerate(content["images"], 1):
        for field in ("width", "height"):
            if not isinstance(entry.get(field, 0), int):
                raise InputError(f"{path}: number {number} of “images”: {field} is no number; mend the file")
    return content


def coco_thing(path: Path, entry: dict, place: dict[int | str, int]) -> Thing:
    """An annotation. Raises InputError if it has no mask, or one that can't be."""
    number, mask = entry.get("id", 0), entry.get("segmentation")
    where = f"--annotations {path}: annotation {number} of image {entry['image_id']}"
    if entry["category_id"] not in place:
        raise InputError(f"{where} has category {entry['category_id']}, which is not listed; mend the file")
    if not mask:
        raise InputError(f"{where} has a box and no mask; {NO_BOXES}")
    if isinstance(mask, dict):
        size, runs = mask.get("size"), mask.get("counts")
        is_size = isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) for side in size)
        is_code = isinstance(runs, str) and runs.isascii()
        is_list = isinstance(runs, list) and all(isinstance(run, int) and run >= 0 for run in runs)
        sound = is_size and (is_code or is_list)
    else:
        sound = isinstance(mask, list) and all(map(_is_polygon, mask))
    if not sound:
        raise InputError(
            f"{where} has a mask that is neither polygons of at least three points nor a run-length code;"
            " mend the file"
        )
    return Thing(number, place[entry["category_id"]], entry.get("iscrowd") in (1, "1"), mask)


def _is_polygon(polygon: object) -> bool:
    """Whether it is a list x, y, x, y, ... of three points or more that are not absurdly far away."""
    return (
        isinstance(polygon, list)
        and len(polygon) >= 6
        and len(polygon) % 2 == 0
        and all(isinstance(number, (int, float)) and abs(number) < _FARTHEST for number in polygon)
    )


# ---- YOLO ---------------------------------------------------------------------------------------


def _read_yolo(path: Path, folder: Path, pictures: list[Picture]) -> Annotations:
    """A folder with a YAML file that has `names`, and a text file for each picture, below labels/ as a rule.

    A picture without such a file shows none of the categories.
    """
    categories = _yolo_names(path)
    root = path / "labels" if (path / "labels").is_dir() else path
    texts = [text for text in files_below(root) if text.suffix == ".txt"]
    files = _yolo_files(path, folder, pictures, texts)
    of_picture, used, count = {}, {}, 0
    for picture in pictures:
        file = files[picture.name]
        lines = () if file is None else tuple(_yolo_lines(file, len(categories)))
        if file in used and file is not None:
            raise InputError(
                f"--annotations {path}: {file.relative_to(path)} is the file of both {used[file]} and"
                f" {picture.name}; rename one"
            )
        used[file], count = picture.name, count + (file is not None)
        of_picture[picture.name] = Annotated(lines)
    if not count:
        raise InputError(
            f"--annotations {path}: holds no text file called as a picture; is it a folder of YOLO's format?"
        )
    others = [text for text in texts if text not in used]
    left_out = []
    if others:
        names = name_some(sorted(str(one.relative_to(path)) for one in others))
        left_out = [f"{path}: {len(others)} files of pictures that aren't in {folder}, left out: {names}"]
    return Annotations(categories, of_picture, left_out)


def _yolo_names(path: Path) -> list[str]:
    """The categories in their order, by the one YAML file with `names`."""
    found = []
    for file in [*listed(path, "*.yaml"), *listed(path, "*.yml")]:
        try:
            content = yaml.safe_load(read_text(file))
        except yaml.YAMLError as error:
            raise InputError(f"{file}: can't be read as YAML ({str(error).splitlines()[0]})") from None
        names = content.get("names") if isinstance(content, dict) else None
        if isinstance(names, dict) and sorted(names) == list(range(len(names))):
            names = [names[number] for number in range(len(names))]
        if isinstance(names, list) and names:
            found.append([str(name) for name in names])
    if len(found) != 1:
        raise InputError(
            f"--annotations {path}: {len(found)} YAML files there have “names”, a list of all categories;"
            " put one data.yaml there"
        )
    return found[0]


def _yolo_files(
    path: Path, folder: Path, pictures: list[Picture], texts: list[Path]
) -> dict[str, Path | None]:
    """The text file of each picture, by the picture's name.

    Folders called images and labels aside, those of the text below `path` must be the end of the picture's:
    labels/train/a.txt is of images/train/a.png, train/labels/a.txt of train/images/a.png, labels/a.txt of any
    a.png. Where that is so of no picture, and they lie elsewhere, the other way round: labels/train/a.txt is
    of pictures/a.png.
    """
    by_stem: dict[str, list[tuple[tuple[str, ...], Path]]] = {}
    for text in texts:
        by_stem.setdefault(text.stem, []).append((_folders(text.relative_to(path)), text))
    root, there = Path(os.path.abspath(folder)), Path(os.path.abspath(path))

    def nearest(picture: Picture, fits: Callable) -> Path | None:
        fitting = [one for one in by_stem.get(picture.path.stem, []) if fits(one[0])]
        longest = max((len(folders) for folders, _ in fitting), default=0)
        found = [text for folders, text in fitting if len(folders) == longest]
        if len(found) > 1:
            raise InputError(f"{found[0]} and {found[1]} may both be about {picture.name}; remove one")
        return found[0] if found else None

    files = {
        picture.name: nearest(picture, partial(_ends_with, _folders(root / picture.name)))
        for picture in pictures
    }
    if any(files.values()) or root.is_relative_to(there):
        return files
    return {
        picture.name: nearest(picture, partial(_ends_with, end=_folders(Path(picture.name))))
        for picture in pictures
    }


def _folders(file: Path) -> tuple[str, ...]:
    """The folders that a file lies in, without those that YOLO keeps pictures and texts apart by."""
    return tuple(part for part in file.parent.parts if part not in ("images", "labels"))


def _ends_with(folders: tuple[str, ...], end: tuple[str, ...]) -> bool:
    return len(end) <= len(folders) and folders[len(folders) - len(end) :] == end


def _yolo_lines(file: Path, count: int) -> Iterator[Thing]:
    """The polygons of a file: lines "category x y x y x y ...", fractions of width and height."""
    for number, line in enumerate(read_text(file).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        where = f"{file}, line {number}"
        try:
            category, numbers = int(words[0]), [float(word) for word in words[1:]]
        except ValueError:
            raise InputError(f"{where}: is no list of numbers; mend the file") from None
        if not 0 <= category < count:
            raise InputError(f"{where}: there is no category {category}; mend the file or its “names”")
        if len(numbers) == 4:
            raise InputError(f"{where}: has a box and no mask; {NO_BOXES}")
        if len(numbers) < 6 or len(numbers) % 2 or not all(abs(one) < 100 for one in numbers):
            raise InputError(f"{where}: is no polygon of at least three points; mend the file")
        if not all(map(math.isfinite, numbers)):
            raise InputError(f"{where}: is no list of numbers; mend the file")
        yield Thing(number, category, crowd=False, mask=[numbers], relative=True)
