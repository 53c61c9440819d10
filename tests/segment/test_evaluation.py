"""AP by both programs, of perfect and of worse predictions."""

from dataclasses import replace

import pytest
from pycocotools import mask as rle

from data.frame import Frame
from segment.evaluation import Predicted, cityscapes_metrics, coco_metrics
from segment.samples import (
    CLASSES,
    frames_of,
    read_ground_truth,
)
from streets.scenes import write_streets
from tests.town import write_town


def perfect(ground_truth) -> list[Predicted]:
    """A prediction for each single instance that is there."""
    return [
        Predicted(one["category_id"], 0.9, one["segmentation"])
        for one in ground_truth.annotations
        if not one["iscrowd"]
    ]


def test_perfect_predictions_have_ap_1_by_both_programs_and_worse_ones_less(tmp_path):
    write_streets(tmp_path / "tree", 0, 3, (512, 256), seed=5)
    ground_truths = [
        read_ground_truth(frame, None) for frame in frames_of(str(tmp_path / "tree"), "val", "--val")
    ]
    maps = ground_truths[0].frame.label_path, ground_truths[0].frame.instance_path
    ground_truths[0] = replace(ground_truths[0], frame=Frame.of_maps(*maps, "a name with blanks"))
    predictions = [perfect(ground_truth) for ground_truth in ground_truths]
    coco = coco_metrics(ground_truths, predictions)
    official = cityscapes_metrics(ground_truths, predictions, tmp_path / "files")
    for metrics in (coco, official):
        assert [metrics[name] for name in ("AP", "AP50")] == pytest.approx([1, 1])
        assert metrics["classes"]["person"]["AP"] == pytest.approx(1)
    present = {one["category_id"] for ground_truth in ground_truths for one in ground_truth.annotations}
    assert {n for n, name in enumerate(CLASSES) if n and coco["classes"][name]["AP"] is not None} == present

    missing = [[one for one in found if CLASSES[one.number] != "person"][:-1] for found in predictions]
    coco, official = (
        coco_metrics(ground_truths, missing),
        cityscapes_metrics(ground_truths, missing, tmp_path / "worse"),
    )
    assert coco["classes"]["person"]["AP"] == official["classes"]["person"]["AP"] == 0.0
    assert coco["AP"] < 1 and official["AP"] < 1


def test_nothing_predicted_is_ap_0_and_small_instances_can_be_left_out(tmp_path):
    write_town(tmp_path, 1, "val")
    ground_truths = [read_ground_truth(frame, None) for frame in frames_of(str(tmp_path), "val", "--val")]
    assert coco_metrics(ground_truths, [[]])["AP"] == 0.0
    large = [one for one in perfect(ground_truths[0]) if rle.area(one.code) >= 100]
    assert coco_metrics(ground_truths, [large])["classes"]["person"]["AP"] < 1
    assert coco_metrics(ground_truths, [large], least_area=100)["classes"]["person"]["AP"] == pytest.approx(1)
