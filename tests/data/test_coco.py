"""data/coco.py: the annotation that pycocotools loads, and scores a perfect prediction by."""

import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from data.coco import annotations_of, categories, coco_path, write_coco
from data.frame import list_frames
from support.errors import InputError
from tests.town import write_town


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    root = tmp_path_factory.mktemp("coco")
    write_town(root, 3)
    frames = list_frames(root, "train")
    write_coco(root, "train", frames, {frames[1].name: (24001,)})
    return root


def test_categories_are_the_eight_scored_classes_in_label_order():
    assert [one["id"] for one in categories()] == list(range(1, 9))
    assert [one["cityscapes_id"] for one in categories()] == [24, 25, 26, 27, 28, 31, 32, 33]
    assert [one["name"] for one in categories()][:3] == ["person", "rider", "car"]


def test_masks_with_parts_and_holes_are_exact_and_other_labels_are_left_out():
    ids = np.full((40, 60), 7, np.uint16)
    ids[5:20, 5:20] = 26003
    ids[8:12, 8:12] = 7
    ids[30:35, 50:55] = 26003
    ids[30:35, 10:15] = 24
    ids[0:3, 0:3] = 29001  # caravan
    found = annotations_of(ids, {26003})
    assert [one["instance_id"] for one in found] == [24, 26003]
    crowd, car = found
    assert (crowd["iscrowd"], crowd["category_id"], crowd["source"]) == (1, 1, "original")
    assert (car["iscrowd"], car["category_id"], car["source"]) == (0, 3, "inserted")
    assert np.array_equal(rle.decode(car["segmentation"]), ids == 26003)
    assert car["area"] == (ids == 26003).sum()
    assert car["bbox"] == [5, 5, 50, 30]
    assert "ignore" not in car and "id" not in car


def test_the_file_counts_from_one_and_names_images_below_leftimg8bit(town):
    content = json.loads(coco_path(town, "train").read_text())
    assert [one["id"] for one in content["annotations"]] == list(range(1, len(content["annotations"]) + 1))
    assert [one["id"] for one in content["images"]] == [1, 2, 3]
    for image in content["images"]:
        assert (town / "leftImg8bit" / "train" / image["file_name"]).exists()
        assert (image["width"], image["height"]) == (256, 128)
    inserted = [one for one in content["annotations"] if one["source"] == "inserted"]
    assert [(one["image_id"], one["instance_id"]) for one in inserted] == [(2, 24001)]


def test_pycocotools_gives_perfect_predictions_an_average_precision_of_one(town):
    ground_truth = COCO(str(coco_path(town, "train")))
    predictions = [
        {key: one[key] for key in ("image_id", "category_id", "segmentation")} | {"score": 0.9}
        for one in ground_truth.dataset["annotations"]
        if not one["iscrowd"]
    ]
    judge = COCOeval(ground_truth, ground_truth.loadRes(predictions), "segm")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    assert judge.stats[0] == pytest.approx(1.0)


def test_the_order_of_processing_does_not_matter_and_bad_maps_are_named(town, tmp_path):
    frames = list_frames(town, "train")
    path = write_coco(tmp_path, "train", frames, {frames[1].name: (24001,)}, lambda f, x: iter([*map(f, x)]))
    assert path.read_bytes() == coco_path(town, "train").read_bytes()
    write_town(tmp_path, 1)
    (frame,) = list_frames(tmp_path, "train")
    frame.instance_path.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"instanceIds\.png: truncated or damaged"):
        write_coco(tmp_path, "train", [frame], {})
    left_out = []
    path = write_coco(tmp_path, "train", [frame, frames[1]], {}, left_out=left_out)
    assert len(left_out) == 1 and "instanceIds.png: truncated or damaged" in left_out[0]
    (image,) = json.loads(path.read_text())["images"]
    assert image["id"] == 1 and frames[1].name in image["file_name"]


def test_a_square_of_20_pixels_keeps_its_400_pixels_as_a_polygon():
    ids = np.zeros((40, 50), np.uint16)
    ids[10:30, 5:25] = 26000
    (one,) = annotations_of(ids, polygons=True)
    assert one["segmentation"] == [[5, 10, 5, 30, 25, 30, 25, 10]]
    assert rle.area(rle.frPyObjects(one["segmentation"], 40, 50)).tolist() == [400]


@pytest.mark.parametrize("touching", [False, True])
def test_ragged_masks_are_outlined_exactly_or_not_at_all(touching):
    rng = np.random.default_rng(3)
    outlined = 0
    for _ in range(20):
        mask = rng.random((12, 16)) < 0.12
        mask = cv2.dilate(mask.view(np.uint8), np.ones((2, 3))) > 0 if touching else mask
        (one,) = annotations_of(np.where(mask, np.uint16(24001), np.uint16(7)), polygons=True)
        code = one["segmentation"]
        if isinstance(code, list):
            outlined += 1
            assert all(len(part) >= 8 and len(part) % 2 == 0 for part in code)
            code = rle.merge(rle.frPyObjects(code, *mask.shape))
        assert np.array_equal(rle.decode(code), mask)
    assert outlined > 5
