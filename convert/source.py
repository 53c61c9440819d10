"""What every format says of its data set, and reading its files."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.images import read_png
from support.errors import InputError, warn

_NUMBERS = 1001  # of one label in the keys of `segments_of_maps`: none, and 0 to 999


@dataclass(frozen=True)
class Category:
    """A category by the data set's own name, and whether it tells instances of it apart."""

    name: str
    thing: bool


@dataclass(frozen=True)
class SourceImage:
    """An image with its annotation, and where it comes to lie in the tree.

    place: sequence and frame number (0..999999), unique within the city; None: counted by the engine.
    segments: (key, category, whether a single instance) where a data set lists them in a file of its own.
    problem: why that list can't be used, so that the item fails; empty if nothing is wrong.
    """

    split: str
    city: str  # letters and digits
    place: tuple[int, int] | None
    image: Path
    annotations: tuple[Path, ...]
    segments: tuple[tuple[int, int, bool], ...] = ()
    problem: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.image, *self.annotations)


@dataclass(frozen=True)
class DataSet:
    """The items in the order in which they are counted, and the categories by their ids in the files."""

    items: list[SourceImage]
    categories: dict[int, Category]


@dataclass(frozen=True)
class Segments:
    """keys (H,W) of any integer type; of_key: category and whether a single instance, by key.

    Keys that `of_key` lacks are void.
    """

    keys: np.ndarray
    of_key: dict[int, tuple[int, bool]]


def path_below(folder: Path, file_name: str) -> Path:
    """Where a file lies that a list names, by whatever way it is written there.

    The longest end of it that is there: lists of other machines have backslashes, folders of their own and
    absolute paths. If none is there, the last part alone.
    """
    parts = [part for part in re.split(r"[/\\]", file_name) if part not in ("", ".", "..")] or [file_name]
    ends = (folder.joinpath(*parts[first:]) for first in range(len(parts) - 1))
    return next((path for path in ends if path.is_file()), folder / parts[-1])


def existing_folder(path: Path, what: str) -> Path:
    """The folder. Raises InputError, saying what it should hold, if there is none."""
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; it should hold {what}")
    return path


def check_found(items: list[SourceImage], absent: list[str], otherwise: str) -> None:
    """Name the splits that are left out, by what is `absent` of each. InputError if there are no items."""
    if not items:
        raise InputError((absent or [otherwise])[0])
    for line in absent:
        warn(f"{line}; that split is left out")


def read_map(path: Path, bits: int) -> np.ndarray:
    """A map (H,W) uint8 or uint16 of a grey PNG with 8 or 16 bits; 8 bits may be palette indices."""
    palettes = tuple(f"{n}-bit palette" for n in (1, 2, 4, 8)) if bits == 8 else ()
    return read_png(path, (f"{bits}-bit grey", *palettes), f"it must have {bits} bits and one channel")


def colour_keys(path: Path) -> np.ndarray:
    """The keys (H,W) int32 of a PNG in the COCO panoptic format, R + 256 G + 65536 B; alpha means nothing."""
    colours = read_png(path, ("8-bit RGB", "8-bit RGBA"), "segment ids are colours (RGB, 8 bits)")
    return colours[..., :3].astype(np.int32) @ np.array([1, 256, 65536], np.int32)


def segments_of_maps(
    labels: np.ndarray, instances: np.ndarray, categories: dict[int, Category], *, first: int = 0
) -> Segments:
    """Segments of a label map and an instance map of values label * 1000 + number, or bare labels.

    Numbers below `first` mean no single instance, and so does an instance of another label than the label map
    has there. Raises ValueError if the maps differ in size, and for labels that are no category.
    """
    if labels.shape != instances.shape:
        sizes = " and ".join(f"{a.shape[1]}x{a.shape[0]}" for a in (labels, instances))
        raise ValueError(f"label map and instance map differ in size: {sizes} pixels")
    label, number = np.divmod(instances.astype(np.int32), 1000)
    single = (label == labels) & (number >= first) & (instances >= 1000)
    keys = labels * np.int32(_NUMBERS) + np.where(single, number + 1, 0)
    present = {key: divmod(key, _NUMBERS) for key in values_in(keys)}
    check_known((label for label, _ in present.values()), categories)
    of_key = {
        key: (label, number > 0 and categories[label].thing) for key, (label, number) in present.items()
    }
    return Segments(keys, of_key)


def check_known(labels: Iterable[int], categories: dict[int, Category]) -> None:
    """Raises ValueError for ids that are no category."""
    if unknown := sorted(set(labels) - categories.keys()):
        raise ValueError(f"holds ids that are no category of the data set: {', '.join(map(str, unknown))}")


def values_in(keys: np.ndarray) -> list[int]:
    """The values of an integer map, rising."""
    if keys.max() < 2**17:  # counting is faster than sorting
        return np.flatnonzero(np.bincount(keys.ravel())).tolist()
    return np.unique(keys).tolist()
