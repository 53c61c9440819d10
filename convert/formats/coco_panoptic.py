"""Any data set in the COCO panoptic format.

annotations/panoptic_SPLIT.json (or beside the images' folders) names the images, the categories, and
the segments of each image; the folder of the same name holds their PNGs, segment id = R + 256 G + 65536
B, 0 for void. Images lie in SPLIT/ or images/SPLIT/. Numbers behind the name of a split (train2017) are
dropped. Ids may be numbers or text; an annotation of an image that isn't listed, a second one, and an image
without any are named and left out.
"""

import re
from pathlib import Path

from convert.source import (
    Category,
    DataSet,
    Segments,
    SourceImage,
    check_found,
    colour_keys,
    path_below,
    values_in,
)
from support.errors import InputError, name_some, warn
from support.files import listed, read_json

_PREFIX = "panoptic_"
_WHAT = "COCO panoptic annotation"


def find(root: Path) -> DataSet:
    """See `convert.formats`."""
    files = [*listed(root / "annotations", f"{_PREFIX}*.json"), *listed(root, f"{_PREFIX}*.json")]
    if not files:
        raise InputError(
            f"{root}: holds no annotations/{_PREFIX}SPLIT.json; is it in the COCO panoptic format?"
        )
    items: list[SourceImage] = []
    categories: dict[int, Category] = {}
    absent: list[str] = []
    for file in files:
        content, pngs, name = read_json(file, _WHAT), file.with_suffix(""), file.stem.removeprefix(_PREFIX)
        images = next((one for one in (root / name, root / "images" / name) if one.is_dir()), None)
        if not pngs.is_dir():
            absent.append(f"{pngs}: no such folder; it should hold the segment PNGs of {file.name}")
            continue
        if images is None:
            absent.append(f"{root}: has no folder {name}/ or images/{name}/ with the images of {file.name}")
            continue
        try:
            _add(file, content, images, items, categories)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{file}: is no {_WHAT} ({error!r} where a field was expected)") from None
    check_found(items, absent, f"{files[0]}: holds no annotation of a listed image; take another --root")
    return DataSet(items, categories)


def _add(
    file: Path, content: dict, images: Path, items: list[SourceImage], categories: dict[int, Category]
) -> None:
    """Add what one JSON file holds of the images in a folder."""
    for entry in content["categories"]:
        # Without the word, all are things: those whose label has no instances are merged all the same.
        category = Category(str(entry["name"]), bool(int(entry.get("isthing", 1))))
        if categories.setdefault(int(entry["id"]), category) != category:
            raise InputError(
                f"{file}: category {entry['id']} is another one than before; mend one of the two"
            )
    name, pngs = file.stem.removeprefix(_PREFIX), file.with_suffix("")
    split = re.sub(r"\d+$", "", name) or name
    city = "coco" + re.sub(r"[^a-z0-9]", "", split.lower())
    left_out: dict[str, list[str]] = {}
    listed_images = _named(content["images"], "id", left_out)
    file_names = {str(entry["id"]): entry["file_name"] for entry in listed_images}
    annotated: set[str] = set()
    for entry in _named(content["annotations"], "image_id", left_out):
        image, png = str(entry["image_id"]), path_below(pngs, entry["file_name"])
        if image in annotated or image not in file_names:
            why = "second annotations of an image" if image in annotated else "annotations of no listed image"
            left_out.setdefault(why, []).append(entry["file_name"])
            continue
        annotated.add(image)
        segments, problem = (), ""
        try:
            segments = tuple(_segment(one, categories) for one in entry["segments_info"])
        except (KeyError, TypeError, ValueError) as error:
            problem = f"{png}: its entry in {file.name} can't be read ({error!r} where a field was expected)"
        path = path_below(images, file_names[image])
        items.append(SourceImage(split, city, None, path, (png,), segments, problem))
    if bare := [file_names[image] for image in file_names if image not in annotated]:
        left_out["images without annotation"] = bare
    for why, names in left_out.items():
        warn(f"{file}: {len(names)} {why}, left out: {name_some(names)}")


def _named(entries: list, number: str, left_out: dict[str, list[str]]) -> list[dict]:
    """The entries of a list with a number and a file name, by file name; places of all others are noted."""
    good = []
    for place, entry in enumerate(entries, 1):
        if isinstance(entry, dict) and number in entry and isinstance(entry.get("file_name"), str):
            good.append(entry)
        else:
            left_out.setdefault(f"entries without {number} or file_name", []).append(f"number {place}")
    return sorted(good, key=lambda entry: entry["file_name"])


def _segment(entry: dict, categories: dict[int, Category]) -> tuple[int, int, bool]:
    """Key, category and whether a single instance."""
    category = int(entry["category_id"])
    single = category in categories and categories[category].thing and not int(entry.get("iscrowd") or 0)
    return int(entry["id"]), category, single


def read(item: SourceImage, categories: dict[int, Category]) -> Segments:
    """See `convert.formats`."""
    (path,) = item.annotations
    keys = colour_keys(path)
    of_key = {key: (category, single) for key, category, single in item.segments}
    if unlisted := [key for key in values_in(keys) if key and key not in of_key]:
        raise ValueError(f"holds segments that its JSON file doesn't list: {unlisted[:5]}")
    if unknown := sorted({category for category, _ in of_key.values()} - categories.keys()):
        raise ValueError(f"its JSON file gives it categories that are not listed: {unknown}")
    return Segments(keys, of_key)
