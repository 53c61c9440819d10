"""IDD segmentation (both parts of IDD-20k), with label and instance maps.

The maps are made from gtFine/SPLIT/DRIVE/NAME_gtFine_polygons.json by the data set's public tools with
--id-type id: NAME_gtFine_labelids.png, 8 bits, IDD's own ids, and NAME_gtFine_instanceids.png, 16 bits, id
* 1000 + number from 0, or the bare id. Images are leftImg8bit/SPLIT/DRIVE/NAME_leftImg8bit.png or .jpg.
"""

from collections import Counter
from pathlib import Path

from convert.mapping import numbered_names
from convert.source import (
    Category,
    DataSet,
    Segments,
    SourceImage,
    existing_folder,
    read_map,
    segments_of_maps,
)
from support.errors import InputError
from support.files import listed

_FIRST_THING, _LAST_THING = "person", "vehicle fallback"
_LABELS, _INSTANCES, _POLYGONS = (
    f"_gtFine_{what}" for what in ("labelids.png", "instanceids.png", "polygons.json")
)


def find(root: Path) -> DataSet:
    """See `convert.formats`."""
    folder = existing_folder(root / "gtFine", "the annotation of IDD")
    paths = listed(folder, f"*/*/*{_LABELS}")
    if not paths:
        made = "holds polygons only; make" if listed(folder, f"*/*/*{_POLYGONS}") else "holds no"
        raise InputError(
            f"{folder}: {made} SPLIT/DRIVE/NAME{_LABELS} and NAME{_INSTANCES}, which IDD's tools write with"
            " --id-type id"
        )
    items = []
    count: Counter[tuple[str, str]] = Counter()
    for path in paths:
        split, drive, name = path.parents[1].name, path.parent.name, path.name.removesuffix(_LABELS)
        if not drive.isdigit():
            raise InputError(f"{path.parent}: the folders of IDD's drives are numbers")
        image = root / "leftImg8bit" / split / drive / f"{name}_leftImg8bit.png"
        maps = (path, path.with_name(name + _INSTANCES))
        items.append(SourceImage(split, f"idd{split}", (int(drive), count[split, drive]), image, maps))
        count[split, drive] += 1
    names = numbered_names("idd")
    things = names[names.index(_FIRST_THING) : names.index(_LAST_THING) + 1]
    return DataSet(items, {k: Category(name, name in things) for k, name in enumerate(names)})


def read(item: SourceImage, categories: dict[int, Category]) -> Segments:
    """See `convert.formats`."""
    labels, instances = item.annotations
    return segments_of_maps(read_map(labels, 8), read_map(instances, 16), categories)
