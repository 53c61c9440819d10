"""A tiny home-made Cityscapes tree for tests: flat streets with one person and one car on each frame."""

import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from data.frame import Frame

SKY, BUILDING, SIDEWALK, ROAD, PERSON, CAR = 23, 11, 8, 7, 24, 26
CITY = "littleton"


def write_png(path: Path, array: np.ndarray) -> None:
    """Write a uint8 or uint16 map (or a colour image) as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def miniature_maps(width: int, height: int, rng: np.random.Generator, *, things: bool = True):
    """Label map (uint8) and instance map (uint16) of one street, both (height, width).

    The person (id 24000, an ellipse) stands in the left half, the car (id 26000, a rectangle) in the right
    half; both pass the thresholds of a usable instance.
    """
    rows, columns = np.mgrid[:height, :width]
    ids = np.full((height, width), SKY, np.uint16)
    for label, start in ((BUILDING, rng.uniform(0.1, 0.4)), (SIDEWALK, 0.55), (ROAD, 0.65)):
        ids[rows >= round(height * start)] = label
    if things:
        half_width, half_height = width * rng.uniform(0.03, 0.04), height * rng.uniform(0.13, 0.17)
        centre_x, centre_y = width * rng.uniform(0.1, 0.4), height * rng.uniform(0.5, 0.7)
        inside = ((columns - centre_x) / half_width) ** 2 + ((rows - centre_y) / half_height) ** 2 <= 1
        ids[inside] = PERSON * 1000
        car_width, car_height = int(width * rng.uniform(0.18, 0.25)), int(height * rng.uniform(0.2, 0.25))
        x0, y0 = int(width * rng.uniform(0.5, 0.7)), int(height * rng.uniform(0.55, 0.7))
        ids[y0 : y0 + car_height, x0 : x0 + car_width] = CAR * 1000
    labels = np.where(ids < 1000, ids, ids // 1000).astype(np.uint8)
    return labels, ids


def frame_paths(root: Path, index: int, split: str = "train") -> tuple[Path, Path]:
    """Where `write_miniature` puts label map and instance map of frame `index`."""
    frame = Frame.official(Path(root), split, CITY, index, 19)
    return frame.label_path, frame.instance_path


def write_miniature(
    root: Path,
    split: str = "train",
    count: int = 4,
    width: int = 256,
    height: int = 128,
    seed: int = 0,
    empty: int = 0,
) -> None:
    """Write `count` frames under `root`/gtFine/`split`; the last `empty` of them without person and car."""
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        labels, ids = miniature_maps(width, height, rng, things=index < count - empty)
        label_path, instance_path = frame_paths(root, index, split)
        write_png(label_path, labels)
        write_png(instance_path, ids)


def litter(root: Path) -> None:
    """What systems and editors leave behind: "._NAME" beside each file, .DS_Store, .ipynb_checkpoints."""
    for folder, _, names in list(os.walk(root)):
        copies = Path(folder).parent / ".ipynb_checkpoints"
        for name in names:
            Path(folder, f"._{name}").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X        ")
            copies.mkdir(exist_ok=True)
            shutil.copy(Path(folder, name), copies)
        Path(folder, ".DS_Store").touch()


def as_coarse(root: Path) -> None:
    """Turn the annotation of a tree into coarse annotation, gtCoarse/."""
    for path in list(Path(root, "gtFine").glob("*/*/*")):
        path.rename(path.with_name(path.name.replace("_gtFine_", "_gtCoarse_")))
    Path(root, "gtFine").rename(Path(root, "gtCoarse"))
