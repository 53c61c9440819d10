"""A rider that is shown as it is comes with the two-wheeler: one object, two instances."""

import json

import numpy as np
import pytest
import torch
from pycocotools import mask as official
from torchvision import tv_tensors

from augment.paint.bank import build_bank
from data.coco import coco_path
from data.frame import list_frames
from data.instances import TWO_WHEELERS, rides
from data.labels import TARGET_CLASSES
from data.writer import rasterise
from insertion import InsertInstances, thing_masks
from scripts import cutouts
from streets.scenes import write_streets
from tests.programs import run_ok
from tests.scripts.insert.inserting import insert, lines
from tests.town import write_places_checkpoint

SIZE = 512, 256
RIDER = TARGET_CLASSES["rider"].label_id


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("streets")
    write_streets(root, 16, 0, SIZE, seed=6, mixed=True)
    return root


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return write_places_checkpoint(tmp_path_factory.mktemp("places"), "rider,bicycle")


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    return tmp_path_factory.mktemp("bank") / "bank.npz"


@pytest.fixture(scope="module")
def folder(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cutouts") / "cut"
    given = ("--db_root", source, "--out", folder, "--classes", "rider", "bicycle", "--min_height", 8)
    run_ok(cutouts.main, *given, "--num_workers", 1)
    return folder


@pytest.fixture(scope="module", params=("bank", pytest.param("cutouts", marks=pytest.mark.slow)))
def collection(request, bank, folder):
    """What is shown: the flag, which is the name in the transform too, and its value."""
    return {"bank": ("bank", bank), "cutouts": ("cutouts", folder)}[request.param]


@pytest.fixture(scope="module")
def out(source, places, collection, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "tree"
    flag, value = collection
    given = ("--checkpoint", places, "--db_root", source, "--out", out, f"--{flag}", value, "--coco")
    off = ("--no_height", "--no_support", "--min_area", 30, "--render", "cutout")
    run_ok(insert, *given, *off, "--per_image", 4)
    return out


@pytest.fixture(scope="module")
def inserted(out):
    found = [one for one in lines(out) if one["status"] == "inserted"]
    assert sum(one["class"] == "rider" for one in found) > 4
    return found


def test_riders_are_shown_with_what_they_ride_and_two_wheelers_that_nobody_rides(source, bank):
    table = build_bank(source, "train", bank).table
    label = table.instance_id // 1000
    assert (table.ridden[table.whole & (label == RIDER)] > 0).all()
    assert not table.ridden[label != RIDER].any()
    pairs = {
        (frame.name, *pair)
        for frame in list_frames(source, "train")
        for pair in rides(frame.read_instance_ids())
    }
    rows = zip(table.frame.tolist(), table.instance_id.tolist(), table.ridden.tolist(), strict=True)
    assert {row for row in rows if row[2]} <= pairs
    ridden = {(frame, two_wheeler) for frame, _, two_wheeler in pairs}
    alone = [
        key
        for key, whole in zip(zip(table.frame, table.instance_id, strict=True), table.whole, strict=True)
        if whole and key[1] // 1000 in TWO_WHEELERS
    ]
    assert alone and ridden.isdisjoint(alone)


def test_both_stand_on_the_maps_in_the_polygons_in_coco_and_in_the_manifest(out, inserted):
    frames = {frame.name: frame for frame in list_frames(out, "train")}
    coco = json.loads(coco_path(out, "train").read_text())
    areas = {}
    for one in coco["annotations"]:
        areas.setdefault(one["image_id"], []).append(one["area"])
    for one in inserted:
        labels, ids = frames[one["image"]].read_maps()
        values = [one["instance_id"]]
        if one["class"] == "rider":
            values.append(one["ridden"]["instance_id"])
            assert values[1] // 1000 in TWO_WHEELERS
            assert TARGET_CLASSES[one["ridden"]["class"]].label_id == values[1] // 1000
        else:
            assert "ridden" not in one
        for value in values:
            assert (labels[ids == value] == value // 1000).all() and (ids == value).any()
        seen = np.isin(ids, values)
        assert np.count_nonzero(seen) == one["pixels"]
        assert not (seen & (official.decode(one["amodal"]) == 0)).any()
    for frame in frames.values():
        labels, ids = frame.read_maps()
        drawn, _ = rasterise(frame.read_polygons(labels.shape), *SIZE)
        assert np.array_equal(drawn, labels)


def test_the_rider_alone_has_foot_and_height_of_the_place(out, inserted):
    frames = {frame.name: frame for frame in list_frames(out, "train")}
    checked = 0
    for one in inserted:
        if one["class"] == "rider" and not one["hidden_pixels"]:
            rows = np.flatnonzero((frames[one["image"]].read_instance_ids() == one["instance_id"]).any(1))
            assert abs(rows[-1] + 1 - one["box"][3]) <= 2
            assert abs(len(rows) - (one["box"][3] - one["box"][1])) <= 2
            assert one["extent"][3] >= rows[-1] + 1
            checked += 1
    assert checked > 2


def test_below_another_label_both_are_one_object(source, places, folder, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own/cyclist").symlink_to(folder / "rider")
    (tmp_path / "own/objects.yaml").write_text("cyclist: {places: rider, label: dynamic}")
    given = ("--checkpoint", places, "--db_root", source, "--out", tmp_path / "out", "--classes", "rider")
    shown = ("--render", "cutout", "--cutouts", tmp_path / "own")
    run_ok(insert, *given, *shown, "--no_gate", "--per_image", 2, "--scenes", 4)
    found = [one for one in lines(tmp_path / "out") if one["status"] == "inserted"]
    assert found and all(one["label"] == "dynamic" and "ridden" not in one for one in found)


def test_the_transform_adds_a_mask_for_each_of_the_two(source, places, collection, out):
    shown = dict([collection])
    transform = InsertInstances(places, (3, 3), 1.0, "cutout", classes=["rider"], attempts=40, **shown)
    added = 0
    for number, frame in enumerate(list_frames(source, "train")):
        labels, ids = frame.read_maps()
        masks, of_masks = thing_masks(ids)
        image = tv_tensors.Image(torch.from_numpy(frame.read_image(ids.shape)).permute(2, 0, 1))
        torch.manual_seed(number)
        _, target = transform(image, {"masks": masks, "labels": of_masks, "semantic": labels})
        assert (target["masks"].sum(0) <= 1).all()
        new = target["labels"].tolist()
        riders = new.count(RIDER) - of_masks.tolist().count(RIDER)
        two_wheelers = sum(map(new.count, TWO_WHEELERS)) - sum(map(of_masks.tolist().count, TWO_WHEELERS))
        assert riders == two_wheelers
        added += riders
    assert added > 2
