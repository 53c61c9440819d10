"""data/panoptic.py: the annotation that the official panoptic evaluation reads."""

import json

import cv2
import numpy as np
import pytest
from cityscapesscripts.evaluation.evalPanopticSemanticLabeling import evaluatePanoptic
from cityscapesscripts.helpers.csHelpers import printError
from cityscapesscripts.helpers.labels import name2label

from data.frame import list_frames
from data.official import kept_quiet
from data.panoptic import write_panoptic
from support.errors import InputError
from tests.miniature import as_coarse
from tests.town import write_town


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    root = tmp_path_factory.mktemp("panoptic") / "town [v2] it's*?"
    write_town(root, 3)
    write_panoptic(root, "train")
    return root


def test_segments_are_those_of_the_instance_maps(town):
    path = write_panoptic(town, "train")  # a second time: replaced
    content = json.loads(path.read_text())
    assert [one["image_id"] for one in content["annotations"]] == [f.name for f in list_frames(town, "train")]
    assert not list(town.glob(".panoptic-*"))
    first = content["annotations"][0]
    by_id = {one["id"]: one for one in first["segments_info"]}
    assert by_id[24]["iscrowd"] == 1 and by_id[26000]["category_id"] == 26 and by_id[7]["iscrowd"] == 0
    image = cv2.imread(str(path.with_suffix("") / first["file_name"]))[..., ::-1].astype(int)
    instances = cv2.imread(str(list_frames(town, "train")[0].instance_path), cv2.IMREAD_UNCHANGED)
    ids = image @ [1, 256, 65536]
    assert np.array_equal(ids[ids > 0], instances[ids > 0]) and (ids == 26000).sum() == by_id[26000]["area"]


def test_void_and_coarse_maps_are_given_as_the_tool_reads_them(tmp_path):
    write_town(tmp_path, 1)
    (frame,) = list_frames(tmp_path, "train")
    for path in (frame.label_path, frame.instance_path):
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        image[image == name2label["sky"].id] = 255
        cv2.imwrite(str(path), image)
    (tmp_path / "void.txt").write_text("255")
    as_coarse(tmp_path)
    path = write_panoptic(tmp_path, "train")
    (found,) = json.loads(path.read_text())["annotations"]
    assert path.parent == tmp_path / "gtCoarse" and found["image_id"] == frame.name
    assert {24, 26000} <= {one["id"] for one in found["segments_info"]}


def test_a_tool_that_ends_the_process_is_one_line():
    with pytest.raises(InputError, match="the maps: ERROR: no files"), kept_quiet("the maps"):
        printError("no files")


def test_the_official_evaluation_gives_the_ground_truth_full_marks(town, tmp_path):
    path = town / "gtFine" / "cityscapes_panoptic_train.json"
    found = evaluatePanoptic(
        str(path), str(path.with_suffix("")), str(path), str(path.with_suffix("")), str(tmp_path / "r.json")
    )
    assert found["All"]["pq"] == pytest.approx(1)
    assert found["Things"]["n"] >= 2
