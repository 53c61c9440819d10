"""Any data set in the COCO panoptic format.

annotations/panoptic_SPLIT.json (or beside the pictures' folders) names the pictures, the categories, and
the segments of each picture; the folder of the same name holds their PNGs, segment id = R + 256 G + 65536
B, 0 for void. Pictures lie in SPLIT/ or images/SPLIT/. Numbers behind the name of a split (train2017) are
dropped.
"""

import re
from pathlib import Path

from convert.source import (
    Category,
    DataSet,
    Item,
    Segments,
    colour_keys,
    existing_folder,
    read_json,
    values_in,
)
from support.errors import InputError

_PREFIX = "panoptic_"
_WHAT = "COCO panoptic annotation"


def find(root: Path) -> DataSet:
    """See `convert.formats`."""
    files = sorted(
        path for folder in ("annotations", ".") for path in (root / folder).glob(f"{_PREFIX}*.json")
    )
    if not files:
        raise InputError(
            f"{root}: holds no annotations/{_PREFIX}SPLIT.json; is it in the COCO panoptic format?"
        )
    items: list[Item] = []
    categories: dict[int, Category] = {}
    for file in files:
        try:
            _add(root, file, read_json(file, _WHAT), items, categories)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{file}: is no {_WHAT} ({error!r} where a field was expected)") from None
    return DataSet(items, categories)


def _add(root: Path, file: Path, content: dict, items: list[Item], categories: dict[int, Category]) -> None:
    """Add what one JSON file holds."""
    for entry in content["categories"]:
        category = Category(entry["name"], bool(entry["isthing"]))
        if categories.setdefault(entry["id"], category) != category:
            raise InputError(f"{file}: category {entry['id']} is another one than in the files before it")
    name = file.stem.removeprefix(_PREFIX)
    split = re.sub(r"\d+$", "", name) or name
    pngs = existing_folder(file.with_suffix(""), f"the segment PNGs of {file.name}")
    folders = [folder for folder in (root / name, root / "images" / name) if folder.is_dir()]
    if not folders:
        raise InputError(f"{root}: has no folder {name}/ or images/{name}/ with the pictures of {file.name}")
    pictures = {entry["id"]: entry["file_name"] for entry in content["images"]}
    things = {number for number, category in categories.items() if category.thing}
    for entry in sorted(content["annotations"], key=lambda entry: entry["file_name"]):
        segments = tuple(
            (one["id"], one["category_id"], one["category_id"] in things and not one.get("iscrowd"))
            for one in entry["segments_info"]
        )
        picture, png = folders[0] / pictures[entry["image_id"]], pngs / entry["file_name"]
        city = "coco" + re.sub(r"[^a-z0-9]", "", split.lower())
        items.append(Item(split, city, None, picture, (png,), segments))


def read(item: Item, categories: dict[int, Category]) -> Segments:
    """See `convert.formats`."""
    (path,) = item.annotations
    keys = colour_keys(path)
    of_key = {key: (category, single) for key, category, single in item.segments}
    if unlisted := [key for key in values_in(keys) if key and key not in of_key]:
        raise ValueError(f"holds segments that its JSON file doesn't list: {unlisted[:5]}")
    if unknown := sorted({category for category, _ in of_key.values()} - categories.keys()):
        raise ValueError(f"its JSON file gives it categories that are not listed: {unknown}")
    return Segments(keys, of_key)
