"""COCO panoptic annotation of a tree's split, as the official Cityscapes tools write it."""

import contextlib
import io
import shutil
import tempfile
from pathlib import Path

from cityscapesscripts.preparation.createPanopticImgs import convert2panoptic


def write_panoptic(root: Path, split: str) -> Path:
    """Write the panoptic annotation of all frames of a split, and return the path of its JSON.

    gtFine/cityscapes_panoptic_SPLIT.json and the folder of that name beside it, with official label ids,
    where detectron2 looks for them; earlier ones are replaced. OSError or ValueError if a map can't be read.
    """
    truth = Path(root) / "gtFine"
    name = f"cityscapes_panoptic_{split}"
    with tempfile.TemporaryDirectory(dir=root, prefix=".panoptic-") as folder:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints a line for each image
            convert2panoptic(str(truth), folder, setNames=[split])
        shutil.rmtree(truth / name, ignore_errors=True)
        (Path(folder) / name).rename(truth / name)
        return (Path(folder) / f"{name}.json").replace(truth / f"{name}.json")
