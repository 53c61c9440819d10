"""data/camera.py: camera files, and the published calibrations that stand in for them."""

import json
from pathlib import Path

import numpy as np
import pytest

from data.camera import assumption_lines, assumptions, published_camera
from data.frame import Frame, list_frames
from tests.miniature import write_miniature
from tests.town import CAMERA, HEIGHT, WIDTH, write_town

AACHEN, FRANKFURT = "aachen_000000_000019", "frankfurt_000000_000576"


def test_the_standard_calibration_at_its_own_size():
    camera = published_camera(AACHEN, 2048, 1024)
    assert (camera.fx, camera.fy, camera.u0, camera.v0) == (2262.52, 2265.30, 1096.98, 513.137)
    assert (camera.height, camera.pitch, camera.assumed) == (1.22, 0.038, "standard")
    assert camera.horizon == pytest.approx(427.0, abs=0.1)  # a positive pitch looks down: above the middle


@pytest.mark.parametrize("name", [AACHEN, FRANKFURT])
@pytest.mark.parametrize("size", [(1024, 512), (256, 128), (1000, 1024)])
def test_a_scaled_calibration_sees_the_same_heights(name, size):
    full, scaled = published_camera(name, 2048, 1024), published_camera(name, *size)
    points = np.array([[0.5, 0.0, 12.0], [0.5, 1.7, 12.0], [-3.0, 0.0, 40.0]])
    assert scaled.project(points) == pytest.approx(full.project(points) * size / np.array([2048, 1024]))
    (_, foot), (_, top), _ = scaled.project(points)
    assert scaled.metric_height(top, foot) == pytest.approx(1.7)
    assert scaled.top_row(1.7, foot) == pytest.approx(top)


def test_frankfurt_has_a_calibration_of_its_own():
    camera = published_camera(FRANKFURT, 2048, 1024)
    assert camera.assumed == "frankfurt" and camera.horizon == pytest.approx(407.9, abs=0.1)
    foot, top = camera.project(np.array([[0.0, 0.0, 20.0], [0.0, 1.7, 20.0]]))[:, 1]
    assert published_camera(AACHEN, 2048, 1024).metric_height(top, foot) > 2  # the wrong one says


def test_a_frame_s_own_file_comes_first(tmp_path):
    write_town(tmp_path, 1)
    (frame,) = list_frames(tmp_path, "train")
    assert frame.camera(WIDTH, HEIGHT, "cityscapes") == frame.camera(WIDTH, HEIGHT) == CAMERA


def test_without_a_file_there_is_a_camera_only_if_it_is_asked_for(tmp_path):
    write_miniature(tmp_path, count=1)
    (frame,) = list_frames(tmp_path, "train")
    loose = Frame.of_maps(frame.label_path, frame.instance_path, "loose")
    for one in (frame, loose):
        assert one.camera(256, 128) is None
        assert one.camera(256, 128, "cityscapes") == published_camera(one.name, 256, 128)


def test_a_map_outside_a_tree_has_no_camera(monkeypatch):
    monkeypatch.chdir("/")
    assert Frame.of_maps(Path("loose.png")).read_camera() is None


def test_assumptions_count_the_images_and_name_the_numbers():
    assumed = assumptions([FRANKFURT, AACHEN, "frankfurt_000001_000019"])
    assert {name: one["images"] for name, one in assumed.items()} == {"frankfurt": 2, "standard": 1}
    assert assumed["standard"]["pitch"] == 0.038 and "assumed" not in assumed["standard"]
    assert json.loads(json.dumps(assumed)) == assumed
    (frankfurt, standard) = assumption_lines(assumed)
    assert "(2)" in frankfurt and "pitch 0.05 rad" in frankfurt and "fx 2262.52" in standard
    assert assumptions([]) == {} and assumption_lines({}) == []
