"""scripts/insert.py with a model of several classes, which knows places alone."""

import json
from collections import Counter

import numpy as np
import pytest

from augment.paint.painter import Painter
from augment.placement.places import count_classes
from data.frame import list_frames
from data.geometry import boxes_of_theta
from data.labels import TARGET_CLASSES
from streets.scenes import write_streets
from tests.programs import refused, run_ok
from tests.scripts.insert.inserting import insert, lines
from tests.town import write_places_checkpoint

SIZE = 512, 256


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Without trains."""
    root = tmp_path_factory.mktemp("streets")
    write_streets(root, 6, 0, SIZE, seed=0)
    return root


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return write_places_checkpoint(tmp_path_factory.mktemp("places"), "person,car,train")


@pytest.fixture(scope="module")
def command(places, source, tmp_path_factory):
    bank = tmp_path_factory.mktemp("bank") / "bank.npz"
    common = ("--checkpoint", places, "--db_root", source, "--bank", bank)
    return (*common, "--no_gate", "--may_hide", "--render", "cutout")


def tried(out) -> Counter:
    return Counter(one["class"] for one in lines(out))


def test_one_checkpoint_serves_all_its_classes(command, tmp_path, monkeypatch):
    """What a cut-out should be like is told by foot, height and aspect: no shape was drawn."""
    wishes, choose = [], Painter.choose
    monkeypatch.setattr(
        Painter, "choose", lambda self, *given: wishes.append(given[2]) or choose(self, *given)
    )
    run_ok(insert, *command, "--out", tmp_path / "out", "--per_image", 3, "--preview", 2)
    found = lines(tmp_path / "out")
    assert {one["class"] for one in found} == {"person", "car", "train"}
    inserted = [one for one in found if one["status"] == "inserted"]
    assert {one["class"] for one in inserted} == {"person", "car"} and len(inserted) > 4
    assert all(one["score_shape"] is None and 0 < one["score_place"] <= 1 for one in inserted)
    boxes = boxes_of_theta(np.array([one["theta"] for one in inserted]), *SIZE)
    wished = {wish.box.tobytes(): wish for wish in wishes}
    for one, box in zip(inserted, boxes, strict=True):
        np.testing.assert_allclose(one["box"], box, atol=1e-3)
        wish = wished[np.array(one["box"]).tobytes()]
        assert wish.silhouette is None and wish.class_name == one["class"] and wish.light is not None
        assert 0.5 < wish.aspect / ((box[2] - box[0]) / (box[3] - box[1])) < 2
    # No train is in the data: none can be shown.
    refusals = [one["refusals"] for one in found if one["class"] == "train"]
    assert refusals and all(set(reasons) == {"render"} for reasons in refusals)
    assert "classes" not in json.loads((tmp_path / "out" / "insert.json").read_text())["settings"]


def test_classes_by_number_by_name_and_as_the_data_have_them(command, source, tmp_path):
    run_ok(insert, *command, "--out", tmp_path / "budget", "--target", "person=3,car=2")
    assert tried(tmp_path / "budget") == {"person": 3, "car": 2}

    run_ok(insert, *command, "--out", tmp_path / "named", "--per_image", 5, "--classes", "car")
    assert tried(tmp_path / "named") == {"car": 30}
    summary = json.loads((tmp_path / "named" / "insert.json").read_text())
    assert summary["settings"]["classes"] == ["car"]

    there = Counter()
    for frame in list_frames(source, "train"):
        there.update((np.unique(frame.read_instance_ids()) // 1000).tolist())
    counts = count_classes(list_frames(source, "train"))
    assert counts == {name: there[target.label_id] for name, target in TARGET_CLASSES.items()}
    assert not counts["train"] and counts["person"] != counts["car"]
    run_ok(insert, *command, "--out", tmp_path / "like", "--per_image", 9, "--classes", "like-data")
    assert tried(tmp_path / "like").keys() == {"person", "car"}
    summary = json.loads((tmp_path / "like" / "insert.json").read_text())
    assert summary["settings"]["classes"] == "like-data"
    assert summary["class_counts"] == {name: counts[name] for name in ("car", "person")}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--render", "swap"), "give --render cutout"),
        (("--render", "recolor"), "give --render cutout"),
        (("--classes", "person,rider"), "--classes rider: no checkpoint for that class"),
        (("--classes", "person,spaceship"), "'spaceship' is no class"),
        (("--classes", "car,car"), "named twice"),
        (("--classes", "person", "--target", "car=3"), "exclude each other"),
        (("--z_appr", ",".join(["0"] * 16)), "draws no shapes"),
    ],
)
def test_what_it_can_not_do_is_one_line(command, tmp_path, flags, words):
    assert words in refused(insert, *command, "--out", tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()


def test_two_checkpoints_of_one_class_are_one_line(command, places, tmp_path):
    at = command.index(places) + 1
    twice = (*command[:at], places, *command[at:], "--out", tmp_path / "out")
    assert "a second one for person" in refused(insert, *twice)


def test_a_class_that_the_data_lack_altogether_is_one_line(source, tmp_path):
    places = write_places_checkpoint(tmp_path / "places", "bus,train")
    common = ("--checkpoint", places, "--db_root", source, "--render", "cutout", "--out", tmp_path / "out")
    assert "no instance of bus, train" in refused(insert, *common, "--classes", "like-data")
