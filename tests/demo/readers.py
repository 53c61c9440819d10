"""The official readers on a tree of one frame."""

from pathlib import Path

from cityscapesscripts.evaluation.instances2dict import instances2dict
from cityscapesscripts.helpers.csHelpers import getCsFileInfo
from pycocotools.coco import COCO
from torchvision.datasets import Cityscapes

from data.coco import coco_path


def check_official(root: Path, split: str, persons: int) -> None:
    """The tree has image, maps, colours and COCO JSON of one frame, with so many single persons in each."""
    ((image, (labels, colours)),) = Cityscapes(
        root, split=split, mode="fine", target_type=["semantic", "color"]
    )
    assert image.size == labels.size == colours.size
    (path,) = root.glob(f"gtFine/{split}/*/*_instanceIds.png")
    assert getCsFileInfo(str(path)).type == "gtFine"
    (found,) = instances2dict([str(path)], verbose=False).values()
    singles = [one for one in found["person"] if one["instID"] >= 1000]
    assert len(singles) == persons
    coco = COCO(str(coco_path(root, split)))
    category = coco.getCatIds(["person"])
    assert len(coco.getAnnIds(catIds=category, iscrowd=False)) == persons
    assert (root / "leftImg8bit" / split / coco.imgs[1]["file_name"]).is_file()
