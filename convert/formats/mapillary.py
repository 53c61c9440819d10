"""Mapillary Vistas, versions 1.2 and 2.0.

The archive of version 2.0 holds both, as config_VERSION.json and training/VERSION/instances/; that of 1.2 has
config.json and training/instances/. v2.0 is taken where both are there. An instance map has 16 bits,
category * 256 + instance; the category is the place in the list "labels" of the config file, whose entries
have the fields "name" and "instances".
"""

from pathlib import Path

from convert.source import (
    Category,
    DataSet,
    Segments,
    SourceImage,
    check_found,
    check_known,
    read_map,
    values_in,
)
from support.errors import InputError
from support.files import listed, read_json

_SPLITS = {"training": "train", "validation": "val"}
_VERSIONS = {"config_v2.0.json": "v2.0", "config_v1.2.json": "v1.2", "config.json": "."}


def find(root: Path) -> DataSet:
    """See `convert.formats`."""
    config = next((root / name for name in _VERSIONS if (root / name).is_file()), None)
    if config is None:
        raise InputError(f"{root}: holds none of {', '.join(_VERSIONS)}; is it Mapillary Vistas?")
    try:
        labels = read_json(config, "Vistas config")["labels"]
        categories = {k: Category(one["name"], bool(one["instances"])) for k, one in enumerate(labels)}
    except (KeyError, TypeError) as error:
        raise InputError(f"{config}: is no Vistas config ({error!r} where a field was expected)") from None
    items, absent = [], []
    for folder, split in _SPLITS.items():
        if not (root / folder).is_dir():
            continue
        maps = root / folder / _VERSIONS[config.name] / "instances"
        if not maps.is_dir():
            absent.append(f"{maps}: no such folder; it should hold the 16-bit instance maps")
        for path in listed(maps, "*.png"):
            image = root / folder / "images" / f"{path.stem}.jpg"
            items.append(SourceImage(split, f"vistas{split}", None, image, (path,)))
    check_found(
        items, absent, f"{root}: has no instance maps in training/ or validation/; unpack the archive there"
    )
    return DataSet(items, categories)


def read(item: SourceImage, categories: dict[int, Category]) -> Segments:
    """See `convert.formats`."""
    keys = read_map(item.annotations[0], 16)
    present = {key: key // 256 for key in values_in(keys)}
    check_known(present.values(), categories)
    return Segments(keys, {key: (label, categories[label].thing) for key, label in present.items()})
