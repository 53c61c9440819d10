"""scripts/insert.py from end to end: an official tree, the same bytes however it is made."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation.instance import Instance
from cityscapesscripts.evaluation.instances2dict import instances2dict
from pycocotools.coco import COCO
from torchvision.datasets import Cityscapes

from augment.placement.contact_sheet import GAP, HEAD_HEIGHT, TEXT_HEIGHT, contact_sheet
from augment.placement.places import column, working_maps
from data.coco import coco_path
from data.drawing import OUTLINE
from data.frame import list_frames
from data.writer import colour_map
from model import load_model
from tests.equality import files_in
from tests.official import assert_drawn_as_by_official_tools
from tests.scripts.insert.inserting import FRAMES, lines, maps

# ---- the tree -----------------------------------------------------------------------------------


def test_the_tree_has_all_files_and_nothing_else(out, source):
    made = set(files_in(out))
    kinds = {name for name in files_in(source) if "/train/" in name}
    extras = {
        "manifest.jsonl",
        "insert.json",
        "preview.png",
        "annotations/instancesonly_filtered_gtFine_train.json",
    }
    masks = {f"inserted/train/town/town_{index:06d}_000019_inserted.png" for index in range(FRAMES)}
    assert made == kinds | extras | masks


def test_maps_change_only_under_the_objects_and_ids_go_on_counting(out, source):
    for index in range(FRAMES):
        (labels_before, ids_before), (labels, ids) = maps(source, index), maps(out, index)
        name = list_frames(out, "train")[index].name
        inserted = cv2.imread(str(out / f"inserted/train/town/{name}_inserted.png"), cv2.IMREAD_UNCHANGED)
        objects = [one for one in lines(out) if one["image"] == name and one["status"] == "inserted"]
        assert np.array_equal(labels, np.where(ids < 1000, ids, ids // 1000))
        assert [one["instance_id"] for one in objects] == [24002 + number for number in range(len(objects))]
        for one in objects:
            assert np.array_equal(inserted == one["inserted_value"], ids == one["instance_id"])
        changed = ids != ids_before
        dropped = np.isin(ids_before, [value for one in objects for value in one["dropped"]])
        assert not (changed & (inserted == 0) & ~dropped).any()
        assert changed[inserted > 0].all()
        assert np.array_equal(labels[~changed], labels_before[~changed])
        cars = ids_before == 26000
        assert (ids[cars] == 26000).all()  # its foot is lower than those of the new persons
        colours = cv2.imread(str(out / f"gtFine/train/town/{name}_gtFine_color.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(cv2.cvtColor(colours, cv2.COLOR_BGRA2RGBA), colour_map(labels))
        rgb_before, rgb = (
            cv2.imread(str(root / f"leftImg8bit/train/town/{name}_leftImg8bit.png")) for root in (source, out)
        )
        assert np.array_equal(rgb[inserted == 0], rgb_before[inserted == 0])
        assert (rgb[inserted > 0][:, ::-1] == (220, 20, 60)).all()
    assert any(one.get("hidden_pixels") for one in lines(out))


def test_official_rasterising_of_the_polygons_gives_the_same_maps(out):
    for frame in list_frames(out, "train"):
        assert_drawn_as_by_official_tools(frame)


def test_official_readers_read_the_tree(out):
    kinds = ["instance", "semantic", "polygon", "color"]
    data = Cityscapes(str(out), split="train", mode="fine", target_type=kinds)
    assert len(data) == FRAMES
    image, (instance, semantic, polygon, colour) = data[1]
    labels, ids = maps(out, int(Path(data.images[1]).name.split("_")[1]))  # listed in any order
    assert image.size == semantic.size == colour.size == (256, 128)
    assert np.array_equal(np.asarray(instance), ids) and np.array_equal(np.asarray(semantic), labels)
    assert {"person", "car", "road"} <= {one["label"] for one in polygon["objects"]}

    for one in lines(out):
        if one["status"] == "inserted":
            frame = next(frame for frame in list_frames(out, "train") if frame.name == one["image"])
            _, ids = frame.read_maps()
            official = Instance(ids, one["instance_id"])
            assert official.labelID == 24 and official.pixelCount == one["pixels"]  # whatever covers it later
            rows, columns = np.nonzero(ids == one["instance_id"])
            assert one["extent"] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    paths = [str(frame.instance_path) for frame in list_frames(out, "train")]
    counted = instances2dict(paths, verbose=False)
    persons = sum(len(found["person"]) for found in counted.values())
    groups = FRAMES  # listed by that tool as instances
    assert persons - groups == json.loads((out / "insert.json").read_text())["instances_after"]["person"]


def test_coco_file_says_which_instances_are_new(out):
    coco = COCO(str(coco_path(out, "train")))
    new = {
        (coco.imgs[a["image_id"]]["file_name"], a["instance_id"])
        for a in coco.anns.values()
        if a["source"] == "inserted"
    }
    expected = {
        (f"town/{one['image']}_leftImg8bit.png", one["instance_id"])
        for one in lines(out)
        if one["status"] == "inserted"
    }
    assert new == expected
    for annotation in coco.anns.values():
        file_name = coco.imgs[annotation["image_id"]]["file_name"]
        index = int(file_name.split("_")[1])
        assert np.array_equal(coco.annToMask(annotation), maps(out, index)[1] == annotation["instance_id"])


def test_the_manifest_explains_each_object_and_the_summary_counts_them(out, source, checkpoint):
    model = load_model(checkpoint)
    inserted = [one for one in lines(out) if one["status"] == "inserted"]
    first = next(one for one in inserted if one["object"] == 1)
    frame = next(frame for frame in list_frames(source, "train") if frame.name == first["image"])
    labels, ids = working_maps(*frame.read_maps(), model.maps.small, torch.device("cpu"))
    z = column(np.array([first["z_spatial"]], np.float32), torch.device("cpu"))
    theta = model.where.on(labels, ids).sample(z)[0]
    assert theta.tolist() == pytest.approx(first["theta"], abs=1e-4)
    assert first["source"] == frame.label_path.name and len(first["z_appr"]) == 16
    summary = json.loads((out / "insert.json").read_text())
    assert summary["state"] == "complete"
    assert summary["objects_inserted"] == {"person": len(inserted)}
    dropped = sum(24000 <= value < 25000 for one in inserted for value in one["dropped"])
    before, after = summary["instances_before"]["person"], summary["instances_after"]["person"]
    assert (before, after) == (2 * FRAMES, 2 * FRAMES + len(inserted) - dropped)
    assert summary["settings"]["gates"]["min_visible"] == 20


def test_the_contact_sheet_shows_before_heat_after_and_the_new_object(out):
    sheet = cv2.imread(str(out / "preview.png"))[:, :, ::-1]
    row = HEAD_HEIGHT + 240 + TEXT_HEIGHT
    assert sheet.shape == (2 * row - HEAD_HEIGHT, 3 * (480 + GAP) + 240, 3)
    panels = [sheet[HEAD_HEIGHT:][:240, x : x + 480] for x in range(0, 3 * (480 + GAP), 480 + GAP)]
    before, heat, after = panels
    assert not np.array_equal(before, heat)
    lined = (after == OUTLINE).all(2) & (before != after).any(2)
    assert 100 < np.count_nonzero(lined) < 0.2 * lined.size


def test_the_contact_sheet_begins_with_the_largest_object(out, source, checkpoint):
    inserted = [one for one in lines(out) if one["status"] == "inserted"]
    items = [
        (frame, made, [one for one in inserted if one["image"] == frame.name])
        for frame, made in zip(list_frames(source, "train"), list_frames(out, "train"), strict=True)
    ]
    models = {"person": load_model(checkpoint)}
    largest = min(inserted, key=lambda one: (-one["pixels"], one["image"]))["image"]
    first = next(item for item in items if item[0].name == largest)
    sheet = contact_sheet([item for item in items if item[2]], models, 1)
    assert len({one["pixels"] for one in inserted}) > 1
    assert np.array_equal(sheet, contact_sheet([first], models, 1))
