"""COCO panoptic annotation of a tree's split, as the official Cityscapes tools write it."""

import glob
import shutil
import tempfile
from pathlib import Path

from cityscapesscripts.preparation.createPanopticImgs import convert2panoptic

from data.frame import gt_kind, list_frames
from data.official import kept_quiet, map_for_tools


def write_panoptic(root: Path, split: str) -> Path:
    """Write the panoptic annotation of all frames of a split, and return the path of its JSON.

    gtFine/cityscapes_panoptic_SPLIT.json and the folder of that name beside it, with official label ids,
    where detectron2 looks for them; earlier ones are replaced. In gtCoarse/ for a split that lies there.
    OSError or ValueError if a map can't be read, InputError for what else the official tool has to say.
    """
    ground_truth, name = Path(root) / gt_kind(root, split), f"cityscapes_panoptic_{split}"
    # The tool looks for maps by a pattern: it gets a folder of its own, with links to those of the split.
    made = tempfile.TemporaryDirectory(dir=root, prefix=".panoptic-")
    with made as folder, tempfile.TemporaryDirectory() as links:
        maps = Path(links) / split / "maps"
        maps.mkdir(parents=True)
        for frame in list_frames(root, split):
            (maps / f"{frame.name}_gtFine_instanceIds.png").symlink_to(map_for_tools(frame, Path(links)))
        with kept_quiet(str(ground_truth / split)):
            convert2panoptic(glob.escape(links), folder, setNames=[split])
        shutil.rmtree(ground_truth / name, ignore_errors=True)
        (Path(folder) / name).rename(ground_truth / name)
        return (Path(folder) / f"{name}.json").replace(ground_truth / f"{name}.json")
