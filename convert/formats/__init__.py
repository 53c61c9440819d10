"""The formats that can be converted; a module of two functions each.

find(root) lists the items and categories of a data set (InputError if it isn't one of that format);
read(item, categories) gives an item's segments (InputError for a damaged file, ValueError for what it can't
mean, to be said of the annotation).
"""

from importlib import import_module
from types import ModuleType

FORMATS = {
    "coco_panoptic": "COCO panoptic: annotations/panoptic_SPLIT.json, its folder of PNGs, images in SPLIT/",
    "mapillary": "Mapillary Vistas v1.2 or v2.0: config.json or config_VERSION.json, training/, validation/",
    "bdd100k": "BDD100K panoptic bitmasks: labels/pan_seg/bitmasks/SPLIT/, images/10k/SPLIT/",
    "kitti360": "KITTI-360, left camera: data_2d_semantics/train/, data_2d_raw/",
    "idd": "IDD segmentation with the maps its tools make by --id-type id: gtFine/, leftImg8bit/",
    "acdc": "ACDC: gt/CONDITION/SPLIT/, rgb_anon/CONDITION/SPLIT/",
}


def module_of(name: str) -> ModuleType:
    """The module of a format, one of FORMATS."""
    return import_module(f"{__name__}.{name}")
