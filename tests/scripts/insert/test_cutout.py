"""scripts/insert.py --render cutout: instances of the data set with their own outlines."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
from pycocotools import mask as official

import augment.paint.choosing
from augment.compose import contact_rows
from augment.paint.bank import open_bank
from augment.paint.choosing import MAX_ENLARGEMENT
from augment.paint.cutout import place
from augment.placement.filters import Filters
from data.frame import list_frames
from data.geometry import is_thing
from data.labels import TARGET_CLASSES
from scripts.evaluate_pixels import main as evaluate_pixels
from tests.programs import refused, run_ok
from tests.scripts.insert.inserting import insert, lines

SIZE = 512, 256
CHECKPOINTS = ("builtin:person", "builtin:car")


@pytest.fixture(scope="module")
def source(street_scenes):
    return street_scenes


@pytest.fixture(scope="module")
def arguments(source):
    return ("--checkpoint", *CHECKPOINTS, "--db_root", source, "--render", "cutout", "--per_image", "4")


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    return tmp_path_factory.mktemp("bank") / "bank.npz"


@pytest.fixture(scope="module")
def out(source, arguments, bank, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "tree"
    run_ok(insert, *arguments, "--out", out, "--bank", bank)
    return out


@pytest.fixture(scope="module")
def inserted(out):
    found = [one for one in lines(out) if one["status"] == "inserted"]
    assert {one["class"] for one in found} == {"person", "car"} and len(found) > 12
    return found


def test_the_mask_is_the_outline_of_the_instance_at_the_foot_and_height_of_the_model(inserted, bank, out):
    shelves = open_bank(bank)
    frames = {frame.name: frame for frame in list_frames(out, "train")}
    for one in inserted:
        shelf = shelves.shelf(one["class"])
        (row,) = shelf.rows[shelf.keys == one["render"]["source"]].tolist()
        x0, y0, x1, y1 = one["box"]
        placed = place(shelves.cutout(row), ((x0 + x1) / 2, y1), y1 - y0, one["render"]["mirrored"], SIZE)
        whole = np.zeros(SIZE[::-1], bool)
        whole[placed.patch.window] = placed.patch.mask
        assert np.array_equal(official.decode(one["amodal"]) > 0, whole)
        assert abs(placed.patch.foot - y1) <= 0.5 and abs(placed.box[3] - placed.box[1] - (y1 - y0)) <= 1.5
        labels, ids = frames[one["image"]].read_maps()
        seen = ids == one["instance_id"]
        assert np.count_nonzero(seen) == one["pixels"] and not (seen & ~whole).any()
        assert (labels[seen] == TARGET_CLASSES[one["class"]].label_id).all()
        assert one["render"]["enlargement"] == pytest.approx(placed.enlargement)
        assert (y1 - y0) / shelves.table.size[row, 1] <= MAX_ENLARGEMENT


def test_no_image_shows_an_instance_twice_nor_one_that_stands_in_it(inserted, bank):
    table = open_bank(bank).table
    shown = Counter((one["image"], one["render"]["source"]) for one in inserted)
    assert max(shown.values()) == 1
    whole = {
        f"{frame}/{instance_id}"
        for frame, instance_id in zip(table.frame[table.whole], table.instance_id[table.whole], strict=True)
    }
    for one in inserted:
        assert one["render"]["source"] in whole and not one["render"]["source"].startswith(one["image"])


def test_the_filters_judge_that_mask(source, inserted):
    """Of the first object of each image, before which nothing was inserted."""
    limits = Filters()
    frames = {frame.name: frame for frame in list_frames(source, "train")}
    first = [one for one in inserted if one["inserted_value"] == 1]
    for one in first:
        labels, ids = frames[one["image"]].read_maps()
        feet, mask = contact_rows(labels, ids), official.decode(one["amodal"]) > 0
        foot = np.flatnonzero(mask.any(1))[-1] + 1
        assert (feet[mask] > foot).mean() <= limits.max_overlap
        assert np.count_nonzero(mask & (feet <= foot)) >= limits.area_limit(labels.size)
    assert len(first) > 5


def test_only_what_is_seen_of_it_and_ground_change(source, out):
    before = {frame.name: frame for frame in list_frames(source, "train")}
    shaded = 0
    for frame in list_frames(out, "train"):
        old, new = before[frame.name].read_image(), frame.read_image()
        labels, ids = frame.read_maps()
        _, old_ids = before[frame.name].read_maps()
        objects = ids != old_ids
        changed = (old != new).any(2)
        assert not is_thing(labels)[changed & ~objects].any()
        assert (new[changed & ~objects] <= old[changed & ~objects]).all()
        shaded += np.count_nonzero(changed & ~objects)
        assert not objects.any() or changed[objects].mean() > 0.9
    assert shaded > 100


def test_the_summary_says_how_it_was_painted(out, inserted):
    settings = json.loads((out / "insert.json").read_text())["settings"]["render"]
    assert settings["backend"] == "cutout" and settings["shadow"] == 0.5
    assert {one["render"]["backend"] for one in inserted} == {"cutout"}


def test_where_all_would_be_enlarged_too_much_nothing_is_put_on_the_maps_either(
    source, arguments, tmp_path, monkeypatch
):
    monkeypatch.setattr(augment.paint.choosing, "MAX_ENLARGEMENT", 0.01)
    run_ok(insert, *arguments, "--out", tmp_path / "out")
    found = lines(tmp_path / "out")
    assert all(one["status"] == "refused" and one["refusals"]["render"] for one in found)
    for frame, made in zip(list_frames(source, "train"), list_frames(tmp_path / "out", "train"), strict=True):
        assert np.array_equal(frame.read_image(), made.read_image())
        assert np.array_equal(frame.read_maps()[1], made.read_maps()[1])


# ---- what scripts.evaluate_pixels says of it ----------------------------------------------------


def test_its_pixels_are_compared_with_those_of_real_instances(source, out, inserted, tmp_path):
    kept = tmp_path / "tree"
    shutil.copytree(out, kept)
    said = run_ok(evaluate_pixels, "--tree", kept, "--db_root", source, "--write")
    results = json.loads((kept / "pixels.json").read_text())
    assert results.keys() == {"car", "person"}
    for name, found in results.items():
        mine = [one for one in inserted if one["class"] == name]
        shown = {one["render"]["source"] for one in mine}
        assert found["objects"] == len(mine) and found["repeats"]["instances"] == len(shown)
        assert found["repeats"]["most_often_in_an_image"] == 1
        low, median, high = found["enlargement"]
        assert (
            low
            <= median
            == pytest.approx(np.median([one["render"]["enlargement"] for one in mine]), abs=1e-3)
        )
        contrasts = [one["render"]["contrast"] for one in mine]
        assert min(contrasts) - 0.1 <= found["contrast"]["new"][1] <= max(contrasts) + 0.1
        assert 0 <= found["contrast"]["distance_of_real_halves"] < found["contrast"]["distance"] + 1
        assert f"{name}, {len(mine)} objects" in said and f"{len(shown)} instances shown" in said
    summary = json.loads((out / "insert.json").read_text())
    assert summary["cutouts"] == {name: found["repeats"] for name, found in results.items()}


def test_trees_that_have_no_pixels_to_compare_are_one_line(source, tmp_path):
    command = ("--tree", tmp_path / "out", "--db_root", source)
    assert "a tree that scripts.insert has finished" in refused(evaluate_pixels, *command)
    run_ok(insert, "--checkpoint", "builtin:person", "--db_root", source, "--out", tmp_path / "out")
    assert "has no images" in refused(evaluate_pixels, *command)
