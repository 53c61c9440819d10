"""scripts/insert.py --cutouts: somebody's own objects."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from cityscapesscripts.evaluation.instances2dict import instances2dict
from PIL import Image
from pycocotools import mask as official
from pycocotools.coco import COCO
from torchvision.datasets import Cityscapes

import scripts.cutouts
from augment.validate import validate_tree
from data.coco import coco_path
from data.frame import list_frames
from tests.augment.paint.test_folder import object_of
from tests.equality import files_in
from tests.official import assert_drawn_as_by_official_tools
from tests.programs import refused, run_ok
from tests.scripts.insert.inserting import insert, lines

DYNAMIC = 5
HEIGHT = 0.5, 0.8


@pytest.fixture(scope="module")
def source(street_scenes):
    return street_scenes


@pytest.fixture(scope="module")
def cutouts(source, tmp_path_factory):
    """Persons of the data set, and five cones."""
    out = tmp_path_factory.mktemp("cutouts") / "folder"
    run_ok(scripts.cutouts.main, "--db_root", source, "--out", out, "--classes", "person", "--num_workers", 1)
    (out / "cone").mkdir()
    for number in range(5):
        Image.fromarray(object_of(40 + number, 80)).save(out / f"cone/{number}.png")
    kind = f"{{places: person, label: dynamic, height: [{HEIGHT[0]}, {HEIGHT[1]}]}}"
    (out / "objects.yaml").write_text(f"cone: {kind}\n")
    return out


@pytest.fixture(scope="module")
def arguments(source):
    return ("--checkpoint", "builtin:person", "--db_root", source, "--render", "cutout", "--per_image", "4")


@pytest.fixture(scope="module")
def out(arguments, cutouts, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "tree"
    more = ("--coco", "--panoptic", "--train_ids", "--preview", 2)
    printed = run_ok(insert, *arguments, "--out", out, "--cutouts", cutouts, *more)
    count = sum(one.get("label") == "dynamic" for one in lines(out))
    assert f"dynamic{count:>33}" in printed
    return out


@pytest.fixture(scope="module")
def inserted(out):
    found = [one for one in lines(out) if one["status"] == "inserted"]
    labels = Counter(one.get("label", one["class"]) for one in found)
    assert labels.keys() == {"person", "dynamic"} and min(labels.values()) > 2
    return found


def test_only_what_is_in_the_folder_is_shown_and_nothing_twice(inserted, cutouts):
    shown = Counter((one["image"], one["render"]["source"]) for one in inserted)
    assert max(shown.values()) == 1
    for one in inserted:
        file = one["render"]["source"]
        assert (cutouts / file).is_file() and one["class"] == "person"
        assert (one.get("label") == "dynamic") == file.startswith("cone/")


def test_an_object_of_no_class_has_the_bare_label_in_both_maps(inserted, out, source):
    before = {frame.name: frame.read_maps() for frame in list_frames(source, "train")}
    for frame in list_frames(out, "train"):
        labels, ids = frame.read_maps()
        numbers = np.asarray(Image.open(out / frame.place("inserted", ".png")))
        for one in inserted:
            if one["image"] == frame.name and "label" in one:
                seen = numbers == one["inserted_value"]
                assert one["instance_id"] == DYNAMIC and np.count_nonzero(seen) == one["pixels"] > 0
                assert (labels[seen] == DYNAMIC).all() and (ids[seen] == DYNAMIC).all()
                assert not (seen & (official.decode(one["amodal"]) == 0)).any()
        same = numbers == 0
        assert np.array_equal(labels[same], before[frame.name][0][same])
        assert np.array_equal(ids[same], before[frame.name][1][same])


def test_its_height_in_metres_decides_its_size(inserted, source):
    cameras = {frame.name: frame.read_camera() for frame in list_frames(source, "train")}
    found = []
    for one in inserted:
        rows = np.flatnonzero(official.decode(one["amodal"]).any(1))
        camera = cameras[one["image"]]
        if "label" in one:
            pixel = camera.metric_height(rows[-1], rows[-1] + 1)  # as much as one pixel is wrong by
            assert HEIGHT[0] - pixel <= camera.metric_height(rows[0], rows[-1] + 1) <= HEIGHT[1] + pixel
            found.append(one["box"][3] - one["box"][1] > 1.2 * len(rows))  # the place is that of a person
    assert sum(found) > 0.8 * len(found)


def test_official_rasterising_of_the_polygons_gives_the_same_maps(out):
    for frame in list_frames(out, "train"):
        assert_drawn_as_by_official_tools(frame)


def test_the_tree_is_sound_for_validators_and_official_readers(out, inserted):
    assert validate_tree(out, verify=True) == []
    data = Cityscapes(str(out), split="train", mode="fine", target_type=["instance", "semantic"])
    assert len(data) == 8 and data[0][0].size == (512, 256)
    summary = json.loads((out / "insert.json").read_text())
    counted = instances2dict([str(frame.instance_path) for frame in list_frames(out, "train")], verbose=False)
    singles = [one for found in counted.values() for one in found["person"] if one["instID"] >= 1000]
    assert len(singles) == summary["instances_after"]["person"]
    assert summary["objects_inserted"]["dynamic"] == sum("label" in one for one in inserted)
    coco = COCO(str(coco_path(out, "train")))
    new = [one for one in coco.anns.values() if one["source"] == "inserted"]
    assert len(new) == sum("label" not in one for one in inserted)
    panoptic = json.loads((out / "gtFine/cityscapes_panoptic_train.json").read_text())
    categories = {part["category_id"] for one in panoptic["annotations"] for part in one["segments_info"]}
    assert DYNAMIC not in categories and 24 in categories


def test_a_later_object_does_not_make_one_of_no_class_vanish(inserted):
    assert all(one["pixels"] >= 512 * 256 // 40000 for one in inserted)


def test_a_changed_folder_is_not_gone_on_with(arguments, cutouts, out):
    extra = cutouts / "person/extra.png"
    Image.fromarray(object_of()).save(extra)
    try:
        said = refused(insert, *arguments, "--out", out, "--cutouts", cutouts)
    finally:
        extra.unlink()
    assert "other settings or data (render;" in said


def test_beside_them_the_data_set_shows_its_own(arguments, cutouts, tmp_path):
    (tmp_path / "own/cone").mkdir(parents=True)
    (tmp_path / "own/objects.yaml").write_text((cutouts / "objects.yaml").read_text())
    for number in range(30):
        Image.fromarray(object_of(40, 60 + number)).save(tmp_path / f"own/cone/{number}.png")
    more = ("--out", tmp_path / "out", "--cutouts", tmp_path / "own", "--cutouts_beside")
    run_ok(insert, *arguments, *more, "--bank", tmp_path / "bank.npz")
    found = [one["render"]["source"] for one in lines(tmp_path / "out") if one["status"] == "inserted"]
    own = sum(source.startswith("cone/") for source in found)
    assert 0 < own < len(found) and (tmp_path / "bank.npz").is_file()
    assert validate_tree(tmp_path / "out") == []


@pytest.mark.slow
def test_any_number_of_workers_makes_the_same_bytes(arguments, cutouts, tmp_path):
    for workers in (1, 2):
        where = ("--out", tmp_path / str(workers), "--num_workers", workers)
        run_ok(insert, *arguments, "--cutouts", cutouts, *where)
    assert files_in(tmp_path / "1") == files_in(tmp_path / "2")


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--render", "swap", "--cutouts", "here"), "--cutouts belongs to --render cutout"),
        (("--render", "cutout", "--cutouts_beside"), "--cutouts_beside belongs to --cutouts"),
        (("--render", "cutout", "--cutouts", "here", "--bank", "b"), "add --cutouts_beside"),
        (("--render", "cutout", "--cutouts", "absent"), "--cutouts absent: no such folder"),
    ],
)
def test_flags_that_do_not_fit_are_one_line(source, tmp_path, flags, words):
    given = ("--checkpoint", "builtin:person", "--db_root", source, "--out", tmp_path / "out")
    assert words in refused(insert, *given, *flags)


def test_a_class_with_nothing_to_show_is_one_line_and_nothing_is_written(source, cutouts, tmp_path):
    given = ("--checkpoint", "builtin:car", "--db_root", source, "--out", tmp_path / "out")
    said = refused(insert, *given, "--render", "cutout", "--cutouts", cutouts)
    assert "nothing in it takes the places of a car" in said and not list(Path(tmp_path).rglob("*.png"))


def test_a_bad_file_is_one_line_and_nothing_is_written(arguments, cutouts, tmp_path):
    bad = cutouts / "person/bad.png"
    Image.new("LA", (40, 40)).save(bad)
    try:
        said = refused(insert, *arguments, "--out", tmp_path / "out", "--cutouts", cutouts)
    finally:
        bad.unlink()
    assert str(bad) in said and not (tmp_path / "out").exists()
