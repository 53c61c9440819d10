"""scripts/insert.py: clear messages about bad input, and numbers that stay right on a difficult image."""

import itertools
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle

from augment.placement.filters import Filters
from augment.placement.plan import sum_up
from augment.placement.scene import read_image
from augment.validate import validate_tree
from data.frame import list_frames
from data.geometry import MaskPatch
from data.labels import TARGET_CLASSES
from tests.equality import files_in
from tests.programs import refused, run_here, run_ok
from tests.scripts.insert.inserting import COMMAND, FRAMES, insert, lines, maps
from tests.town import write_places_checkpoint, write_town

# ---- bad input ----------------------------------------------------------------------------------


def test_broken_images_are_skipped_named_and_added_once_mended(out, source, checkpoint, tmp_path):
    root = tmp_path / "in"
    shutil.copytree(source, root)  # times of change too, which the manifest lists
    frames = list_frames(root, "train")
    polygons = frames[2].label_path.with_name(f"{frames[2].name}_gtFine_polygons.json")
    good = frames[1].label_path.read_bytes(), polygons.read_bytes()
    frames[1].label_path.write_bytes(good[0][:100])
    polygons.write_bytes(b'{"objects": [{"label": "spaceship", "polygon": [[1, 1], [2, 2], [3, 1]]}]}')
    instances = frames[3].instance_path.read_bytes()
    frames[3].instance_path.unlink()
    arguments = ("--checkpoint", checkpoint, "--db_root", root, "--out", tmp_path / "out", *COMMAND)
    done = run_here(insert, *arguments)
    assert done.returncode == 1
    printed = done.stderr
    assert frames[1].label_path.name in printed and polygons.name in printed and "3 images skipped" in printed
    summary = json.loads((tmp_path / "out" / "insert.json").read_text())
    assert summary["images_failed"] == [frame.name for frame in frames[1:]]
    assert summary["state"] == "incomplete"
    failed = [one for one in lines(tmp_path / "out") if one["status"] == "failed"]
    assert [one["image"] for one in failed] == summary["images_failed"] and "damaged" in failed[0]["reason"]
    assert len(list_frames(tmp_path / "out", "train")) == FRAMES - 3
    frames[3].instance_path.write_bytes(instances)
    frames[1].label_path.write_bytes(good[0])
    polygons.write_bytes(good[1])
    for path in (frames[1].label_path, polygons, frames[3].instance_path):
        shutil.copystat(source / path.relative_to(root), path)
    run_ok(insert, *arguments, "--coco", "--preview", 2)
    assert files_in(tmp_path / "out") == files_in(out)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--checkpoint": "nowhere"}, "no checkpoint"),
        ({"--checkpoint": "places"}, "--render cutout"),
        ({"--target": "car=3"}, "no checkpoint for that class"),
        ({"--target": "spaceship=3"}, "CLASS=COUNT"),
        ({"--db_root": "empty"}, "gtFine"),
        ({"--db_root": None}, "--db_root is required"),
        ({"--out": "SOURCE/new"}, "inside the input"),
        ({"--out": "SOURCE"}, "inside the input"),
        ({"--out": "SOURCE/.."}, "around it"),
        ({"--out": "full"}, "not empty"),
        ({"--split": "val"}, "--force"),
        ({"--split": "nosuch", "--force": True}, "no such split"),
        ({"--region": "5,5,5,9"}, "empty"),
        ({"--region": "nosuch.png"}, "can't be read as an image"),
        ({"--z_spatial": "1,2"}, "takes 4"),
        ({"--temperature": "0"}, "--temperature must be above 0"),
        ({"--temperature": "0.5"}, "the published where module"),
        ({"--per_image": "3-1"}, "no range"),
        ({"--protect": "spaceship"}, "no Cityscapes label"),
        ({"--max_overlap": "2"}, "must be at least 0 and at most 1"),
        ({"--attempts": "0"}, "at least 1"),
        ({"--instances": "x.png"}, "belongs to --image"),
        (
            {"--coco": True, "--coco_like": "mine/instancesonly_filtered_gtFine_train.json"},
            "--coco writes a file of that name",
        ),
        ({"--raw": "copy", "--render": "none"}, "--raw"),
        ({"--raw": "copy", "--render": "overlay", "--image": "x_gtFine_labelIds.png"}, "--raw"),
        ({"--render": "paint"}, "choose none"),
        ({"--render": "swap", "--db_root": "bare"}, "no leftImg8bit image for"),
        ({"--render": "overlay", "--db_root": "bare"}, "go without --render"),
        ({"--render": "swap", "--render_config": "nosuch.yaml"}, "can't be read as YAML"),
        ({"--render": "swap", "--render_config": "wrong.yaml"}, "unknown setting 'hue'"),
        ({"--render": "overlay", "--render_config": "wrong.yaml"}, "belongs to --render swap"),
        ({"--render": "sd_inpaint", "--bank": "bank.npz"}, "belongs to --render swap, recolor"),
        ({"--render": "swap", "--shadow": "2"}, "shadow must be at least 0 and at most 1"),
    ],
)
def test_bad_input_is_one_line_status_2_and_nothing_written(
    change, words, source, checkpoint, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "gtFine").symlink_to(source / "gtFine")
    (tmp_path / "wrong.yaml").write_text("backend:\n  hue: 3\n")
    write_places_checkpoint(tmp_path / "places")
    options = {"--checkpoint": checkpoint, "--db_root": source, "--out": "out"} | change
    arguments = []
    for option, value in options.items():
        if value is not None:
            arguments += [option] if value is True else [option, str(value).replace("SOURCE", str(source))]
    before = files_in(source)
    assert words in refused(insert, *arguments, keeps=tmp_path)
    assert files_in(source) == before


def test_train_ids_on_request_even_for_a_tree_that_is_complete(source, checkpoint, tmp_path):
    arguments = ("--checkpoint", checkpoint, "--db_root", source, "--out", tmp_path, "--scenes", 2)
    run_ok(insert, *arguments)
    assert not list(tmp_path.rglob("*TrainIds*"))
    run_ok(insert, *arguments, "--train_ids")
    for frame in list_frames(tmp_path, "train"):
        path = frame.label_path.with_name(f"{frame.name}_gtFine_labelTrainIds.png")
        train_ids, labels = (cv2.imread(str(one), cv2.IMREAD_UNCHANGED) for one in (path, frame.label_path))
        assert (labels == TARGET_CLASSES["person"].label_id).any()
        assert np.array_equal(train_ids == 11, labels == 24) and np.array_equal(train_ids == 0, labels == 7)


def test_val_is_inserted_into_only_when_forced(source, checkpoint, tmp_path):
    arguments = ("--checkpoint", checkpoint, "--db_root", source, "--out", tmp_path / "out", "--split", "val")
    run_ok(insert, *arguments, "--force")
    assert len(list_frames(tmp_path / "out", "val")) == 1


# ---- one image in work --------------------------------------------------------------------------


def test_numbers_count_occluded_instances_of_the_polygons_and_end_at_999(tmp_path):
    write_town(tmp_path, 1)
    (frame,) = list_frames(tmp_path, "train")
    polygons = frame.label_path.with_name(f"{frame.name}_gtFine_polygons.json")
    listed = json.loads(polygons.read_text())
    occluded = {"label": "person", "polygon": [[1, 1], [2, 2], [3, 1]]}
    listed["objects"].insert(0, occluded)
    polygons.write_text(json.dumps(listed))
    assert read_image(frame).new_id("person") == 24003
    assert read_image(frame).new_id("rider") == 25000
    image = read_image(frame)
    image.instance_ids[0, 0] = 24999
    assert image.new_id("person") == 24003  # the lowest that is free
    image.instance_ids.ravel()[:1000] = 24000 + np.arange(1000)
    assert image.copy().new_id("person") == 24003
    image.taken.clear()
    assert image.new_id("person") is None


def test_a_dropped_instance_takes_its_own_polygon_along_where_numbers_have_a_gap(tmp_path):
    """As in a tree that an earlier insertion dropped 24000 from: the list's first person is 24001."""
    write_town(tmp_path, 1)
    (frame,) = list_frames(tmp_path, "train")
    labels, ids = (map_.copy() for map_ in frame.read_maps())
    polygons = frame.label_path.with_name(f"{frame.name}_gtFine_polygons.json")
    listed = json.loads(polygons.read_text())
    listed["objects"].append({"label": "person", "polygon": [[90, 60], [92, 60], [92, 69], [90, 69]]})
    gone = ids == 24000
    ids[gone], labels[gone] = 11, 11
    ids[60:70, 90:93], labels[60:70, 90:93] = 24002, 24
    listed["objects"] = [one for one in listed["objects"] if one["polygon"][0] != [100, 50]]
    polygons.write_text(json.dumps(listed))
    cv2.imwrite(str(frame.label_path), labels)
    cv2.imwrite(str(frame.instance_path), ids)

    image = read_image(frame)
    filters = Filters(rules=(), min_visible=20, may_hide=True)
    reason, facts = image.put("person", MaskPatch(np.ones((30, 8), bool), 148, 50), filters)
    assert reason is None and facts["dropped"] == [24001]
    persons = [thing.polygon.tolist() for thing in image.outlines.objects if thing.label == "person"]
    assert [90, 60] in persons[0] and len(persons) == 2  # the small one of 24001 is gone


def test_what_is_seen_of_an_object_is_told_as_it_is_in_the_end(tmp_path):
    write_town(tmp_path, 1)
    image = read_image(list_frames(tmp_path, "train")[0])
    filters = Filters(rules=())
    _, first = image.put("person", MaskPatch(np.ones((30, 10), bool), 180, 70), filters)
    _, second = image.put("person", MaskPatch(np.ones((30, 10), bool), 185, 75), filters)
    amodal = [image.seen(one["inserted_value"]).pop("amodal") for one in (first, second)]
    for code, (x0, y0) in zip(amodal, ((180, 70), (185, 75)), strict=True):
        whole = rle.decode(code)
        assert (
            whole.shape == image.label_ids.shape
            and whole[y0 : y0 + 30, x0 : x0 + 10].sum() == whole.sum() == 300
        )
    assert image.seen(first["inserted_value"]) == {
        "amodal": amodal[0],
        "extent": [180, 70, 190, 100], "pixels": 300 - 125, "hidden_pixels": 125,
    }  # fmt: skip
    assert image.seen(second["inserted_value"]) == {
        "amodal": amodal[1],
        "extent": [185, 75, 195, 105], "pixels": 300, "hidden_pixels": 0,
    }  # fmt: skip


def test_new_objects_of_an_image_keep_a_distance(out, source, checkpoint, tmp_path):
    def gaps(tree: Path) -> list[float]:
        """Between the feet of any two new objects of an image, in heights of the taller one."""
        found = []
        for first, second in itertools.combinations([one for one in lines(tree) if "box" in one], 2):
            if first["image"] == second["image"]:
                (a0, b0, a1, b1), (c0, d0, c1, d1) = first["box"], second["box"]
                found.append(np.hypot(max(c0 - a1, a0 - c1, 0), b1 - d1) / max(b1 - b0, d1 - d0))
        return found

    arguments = ("--checkpoint", checkpoint, "--db_root", source, "--out", tmp_path / "out")
    run_ok(insert, *arguments, "--per_image", 2)
    assert min(gaps(out)) < 0.4
    assert len(gaps(tmp_path / "out")) > 1 and min(gaps(tmp_path / "out")) > 0.45  # but for rounding


def test_nothing_vanishes_unless_it_may(source, checkpoint, tmp_path):
    arguments = ("--checkpoint", checkpoint, "--db_root", source, "--per_image", 3, "--min_visible", 1000)
    run_ok(insert, *arguments, "--out", tmp_path / "may", "--may_hide")
    assert any(one.get("dropped") for one in lines(tmp_path / "may"))
    run_ok(insert, *arguments, "--out", tmp_path / "out")
    assert not any(one.get("dropped") for one in lines(tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "insert.json").read_text())["refusals"]["person"]["hides"] > 0
    for index in range(FRAMES):
        assert np.isin(maps(source, index)[1], maps(tmp_path / "out", index)[1]).all()


def test_counts_over_images():
    none = dict.fromkeys(TARGET_CLASSES, 0)
    blocks = [
        [
            {"class": "car", "status": "inserted", "refusals": {"support": 2}},
            {"class": "car", "status": "refused", "refusals": {"support": 3, "height": 1}},
            {"status": "ok", "image": "a", "before": none, "after": none | {"car": 1}},
        ],
        [{"status": "failed", "key": "b"}],
    ]
    counts = sum_up(blocks)
    assert counts["images"] == 2 and counts["images_failed"] == ["b"] and counts["images_changed"] == 1
    assert counts["refusals"] == {"car": {"height": 1, "support": 5}}
    assert counts["objects_inserted"] == counts["objects_given_up"] == {"car": 1}
    assert counts["instances_after"]["car"] == 1


def test_void_of_the_data_set_is_refused_or_void_in_the_new_tree(checkpoint, tmp_path):
    root, out = tmp_path / "in", tmp_path / "out"
    write_town(root, 3)
    for frame in list_frames(root, "train"):
        for path in (frame.label_path, frame.instance_path):
            values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            values[values == 23] = 255
            cv2.imwrite(str(path), values)
        for ending in ("color.png", "polygons.json"):
            frame.label_path.with_name(f"{frame.name}_gtFine_{ending}").unlink()
    command = ("--checkpoint", checkpoint, "--db_root", root, "--out", out, *COMMAND)
    done = run_here(insert, *command)
    assert done.returncode == 1 and "in/void.txt if they mean void" in done.stderr
    (root / "void.txt").write_text("255")
    run_ok(insert, *command, "--per_image", "0-1", "--overwrite", "--coco", "--panoptic")
    assert {
        len(image.label_ids[image.label_ids > 33]) for image in map(read_image, list_frames(out, "train"))
    } == {0}
    beside = ("--raw", "symlink", "--panoptic", "--coco")
    run_ok(insert, *command, *beside, "--overwrite")
    assert (out / "void.txt").read_text() == "255" and list_frames(out, "train")[0].label_path.is_symlink()
    assert validate_tree(out) == []
