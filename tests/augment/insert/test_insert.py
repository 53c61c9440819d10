"""scripts/insert.py from end to end: an official tree, the same bytes however it is made, clear refusals."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation.instance import Instance
from cityscapesscripts.evaluation.instances2dict import instances2dict
from cityscapesscripts.helpers.annotation import Annotation
from cityscapesscripts.preparation.json2instanceImg import createInstanceImage
from cityscapesscripts.preparation.json2labelImg import createLabelImage
from pycocotools import mask as rle
from pycocotools.coco import COCO
from torchvision.datasets import Cityscapes

import augment.insert.places
from augment.insert.contact_sheet import GAP, HEAD_HEIGHT, TEXT_HEIGHT, contact_sheet
from augment.insert.gates import RULES, Gates
from augment.insert.options import gates_of, parse
from augment.insert.places import column, working_maps
from augment.insert.scene import read_image
from augment.insert.tree import plan, sum_up
from data.camera import published_camera
from data.cityscapes import list_frames, read_maps
from data.coco import coco_path
from data.geometry import LEAST_INSTANCES, METRIC_RANGES, Patch, metric_heights
from data.labels import TARGET_CLASSES
from data.pictures import OUTLINE
from data.writer import colour_map
from model import load_model, predict_places
from scripts.insert import main
from support.errors import InputError, run_program
from support.files import LOCK, alone_in
from tests.miniature import write_miniature
from tests.town import write_checkpoint, write_density_checkpoint, write_town

FRAMES = 4
COMMAND = ("--per_image", "2-3", "--no_apart", "--min_visible", "20", "--may_hide", "--render", "overlay")


def run(monkeypatch, *arguments, workers: int = 0) -> int:
    """The exit status of the program, run in this process."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["insert", *map(str, arguments), "--num_workers", str(workers)])
    with pytest.raises(SystemExit) as stopped:
        run_program(main)
    torch.set_num_threads(threads)
    return stopped.value.code


def content(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
    }


def records(tree: Path) -> list[str]:
    """What the files of shards hold that are not merged."""
    return [path.read_text() for path in tree.glob(".work/*.jsonl")]


def maps(root: Path, index: int, split: str = "train"):
    return read_maps(list_frames(root, split)[index])


def lines(out: Path) -> list[dict]:
    """The manifest's lines of objects, and of images that failed."""
    found = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    return [line for line in found if line["status"] != "ok"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("town")
    write_town(root, FRAMES)
    write_town(root, 1, "val")
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("person"))


@pytest.fixture(scope="module")
def out(source, checkpoint, tmp_path_factory):
    """The tree that most tests look at."""
    before = content(source)
    out = tmp_path_factory.mktemp("out") / "tree"
    with pytest.MonkeyPatch.context() as monkeypatch:
        arguments = ("--checkpoint", checkpoint, "--db_root", source, "--out", out, *COMMAND)
        assert run(monkeypatch, *arguments, "--coco", "--preview", 2) == 0
    assert content(source) == before
    return out


# ---- the tree -----------------------------------------------------------------------------------


def test_the_tree_has_all_files_and_nothing_else(out, source):
    made = set(content(out))
    kinds = {name for name in content(source) if "/train/" in name}
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
        labels, ids = read_maps(frame)
        annotation = Annotation()
        annotation.fromJsonFile(str(frame.label_path).replace("labelIds.png", "polygons.json"))
        assert np.array_equal(np.asarray(createInstanceImage(annotation, "ids")), ids)
        assert np.array_equal(np.asarray(createLabelImage(annotation, "ids")), labels)


def test_official_readers_read_the_tree(out):
    kinds = ["instance", "semantic", "polygon", "color"]
    data = Cityscapes(str(out), split="train", mode="fine", target_type=kinds)
    assert len(data) == FRAMES
    picture, (instance, semantic, polygon, colour) = data[1]
    labels, ids = maps(out, int(Path(data.images[1]).name.split("_")[1]))  # listed in any order
    assert picture.size == semantic.size == colour.size == (256, 128)
    assert np.array_equal(np.asarray(instance), ids) and np.array_equal(np.asarray(semantic), labels)
    assert {"person", "car", "road"} <= {one["label"] for one in polygon["objects"]}

    for one in lines(out):
        if one["status"] == "inserted":
            frame = next(frame for frame in list_frames(out, "train") if frame.name == one["image"])
            _, ids = read_maps(frame)
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
    labels, ids = working_maps(*read_maps(frame), model.small, torch.device("cpu"))
    z = column(np.array([first["z_spatial"]], np.float32), torch.device("cpu"))
    theta = predict_places(model, labels, ids, z)[0]
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


# ---- the same bytes -----------------------------------------------------------------------------


def test_any_number_of_workers_makes_the_same_bytes(out, source, checkpoint, tmp_path, monkeypatch):
    arguments = ("--checkpoint", checkpoint, "--db_root", source, "--out", tmp_path / "two", *COMMAND)
    assert run(monkeypatch, *arguments, "--coco", "--preview", 2, workers=2) == 0
    assert content(tmp_path / "two") == content(out)


def test_torchrun_makes_the_same_bytes(out, source, checkpoint, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [
        "-m",
        "scripts.insert",
        "--checkpoint",
        checkpoint,
        "--db_root",
        source,
        "--out",
        tmp_path / "o",
    ]
    command += [*COMMAND, "--num_workers", "0", "--coco", "--preview", "2"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert content(tmp_path / "o") == content(out)


def test_a_killed_run_goes_on_to_the_same_tree(out, source, checkpoint, tmp_path, monkeypatch, capsys):
    tree = tmp_path / "tree"
    arguments = [*map(str, ("--checkpoint", checkpoint, "--db_root", source, "--out", tree)), *COMMAND]
    process = subprocess.Popen([sys.executable, "-m", "scripts.insert", *arguments, "--num_workers", "0"])
    while process.poll() is None and not any(records(tree)):
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (tree / "gtFine" / ".left_over.png.1.tmp").write_bytes(b"half")
    assert run(monkeypatch, *arguments, "--coco", "--preview", 2) == 0
    assert content(tree) == content(out)
    capsys.readouterr()
    assert run(monkeypatch, *arguments) == 0
    assert "complete already" in capsys.readouterr().out


def test_a_full_disk_is_one_line_and_what_is_done_is_kept(
    out, source, checkpoint, tmp_path, monkeypatch, capsys
):
    tree = tmp_path / "tree"
    arguments = ("--checkpoint", checkpoint, "--db_root", source, "--out", tree, *COMMAND)
    with monkeypatch.context() as patched:
        real, written = augment.insert.places.write_outputs, []

        def write_outputs(folder, files):
            if len(written) == 2:
                raise OSError(28, "No space left on device")
            written.append(files)
            return real(folder, files)

        patched.setattr(augment.insert.places, "write_outputs", write_outputs)
        assert run(monkeypatch, *arguments) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error:") and "No space left" in message and str(tree) in message
    assert not list(tree.rglob("*.tmp")) and sum(text.count('"sources"') for text in records(tree)) == 2
    assert run(monkeypatch, *arguments, "--coco", "--preview", 2) == 0
    assert "holds 2 of 4 images already" in capsys.readouterr().out
    assert content(tree) == content(out)


# ---- what the user asks for ---------------------------------------------------------------------


def test_a_budget_is_spread_evenly_and_depends_on_names_and_seed_alone():
    names = [f"a_{index:06d}_000019" for index in range(10)]
    planned = plan(names, ("person", "rider"), 3, budget={"person": 25, "rider": 4})
    assert planned == plan(names, ("person", "rider"), 3, budget={"rider": 4, "person": 25})
    flat = [name for chosen in planned for name in chosen]
    assert (flat.count("person"), flat.count("rider")) == (25, 4)
    assert all(2 <= chosen.count("person") <= 3 and chosen.count("rider") <= 1 for chosen in planned)
    assert planned != plan(names, ("person", "rider"), 4, budget={"person": 25, "rider": 4})
    counts = [len(chosen) for chosen in plan(names, ("car", "person"), 0, (0, 2))]
    assert set(counts) == {0, 1, 2}
    assert plan(names, ("car", "person"), 0, (0, 2))[:5] == plan(names[:5], ("car", "person"), 0, (0, 2))
    with pytest.raises(InputError, match="too many"):
        plan(names, ("car",), 0, (256, 256))


def test_several_checkpoints_share_a_budget(source, checkpoint, tmp_path, monkeypatch, capsys):
    car_place = (4.0, 0.0, -1.0, 0.0, 2.6, -0.9)
    car = write_checkpoint(tmp_path / "car", "car", car_place, spread=0.0)
    arguments = ("--db_root", source, "--out", tmp_path / "out", "--target", "person=3,car=2", "--no_gate")
    assert run(monkeypatch, "--checkpoint", checkpoint, car, *arguments) == 0
    tried = [one["class"] for one in lines(tmp_path / "out")]
    assert (tried.count("person"), tried.count("car")) == (3, 2)
    summary = json.loads((tmp_path / "out" / "insert.json").read_text())
    assert summary["objects_inserted"] == {"car": 2, "person": 3}
    report = capsys.readouterr().out
    assert [line.split() for line in report.splitlines() if line.startswith("car")] == [
        ["car", "4", "6", "2"]
    ]


def test_refused_images_are_copied_as_they_are_and_counted(source, tmp_path, monkeypatch):
    in_the_sky = (12.8, 0.0, 0.0, 0.0, 4.0, 2.5)
    checkpoint = write_checkpoint(tmp_path / "sky", place=in_the_sky)
    out = tmp_path / "out"
    arguments = ("--checkpoint", checkpoint, "--db_root", source, "--out", out, "--attempts", 9)
    assert run(monkeypatch, *arguments) == 0
    summary = json.loads((out / "insert.json").read_text())
    assert summary["objects_given_up"] == {"person": FRAMES} and summary["images_changed"] == 0
    assert sum(summary["refusals"]["person"].values()) == 9 * FRAMES
    assert set(summary["refusals"]["person"]) <= {"inside", "support", "height"}
    made, original = content(out), content(source)
    for name in made.keys() & original.keys():
        assert made[name] == original[name]
    assert not (out / "leftImg8bit").exists() and "not written" in summary["settings"]["render"]
    assert run(monkeypatch, *arguments, "--no_gate") == 2  # other settings
    assert run(monkeypatch, *arguments, "--no_gate", "--overwrite") == 0
    assert json.loads((out / "insert.json").read_text())["objects_inserted"] == {"person": FRAMES}


def test_region_height_distance_protected_labels_and_fixed_noise(source, checkpoint, tmp_path, monkeypatch):
    mask = np.zeros((128, 256), np.uint8)
    mask[:, :60] = 255
    cv2.imwrite(str(tmp_path / "region.png"), mask)

    def result(*arguments) -> list[dict]:
        out = tmp_path / "out"
        common = ("--checkpoint", checkpoint, "--db_root", source, "--out", out, "--overwrite", "--no_gate")
        assert run(monkeypatch, *common, *arguments) == 0
        return lines(out)

    for region in ("0,0,60,128", tmp_path / "region.png"):
        inserted = [one for one in result("--region", region) if one["status"] == "inserted"]
        assert inserted and all((one["box"][0] + one["box"][2]) / 2 < 60 for one in inserted)
    assert all(set(one["refusals"]) == {"height_range"} for one in result("--height", "10-30"))
    assert all(one["status"] == "inserted" for one in result("--distance", "5-10"))
    assert all(set(one["refusals"]) == {"distance"} for one in result("--distance", "10-30"))
    assert all(one["refusals"]["protected"] for one in result("--protect", "road,building"))
    fixed = result("--z_spatial", "0,0.5,1,-1", "--z_appr", ",".join(["0.25"] * 16))
    assert all(one["z_spatial"] == [0, 0.5, 1, -1] and one["z_appr"] == [0.25] * 16 for one in fixed)


def test_each_rule_has_a_switch():
    required = ["--checkpoint", "x", "--db_root", "y", "--out", "z"]
    assert gates_of(parse(required)).rules == tuple(RULES)
    for rule in RULES:
        assert gates_of(parse([*required, f"--no_{rule}"])).rules == tuple(r for r in RULES if r != rule)
    assert gates_of(parse([*required, "--no_gate"])).rules == ()
    limits = gates_of(parse([*required, "--max_overlap", "0.1", "--min_score", "0.2", "--min_area", "9"]))
    assert (limits.max_overlap, limits.min_score, limits.min_area) == (0.1, 0.2, 9)


def test_the_score_rule_refuses_and_is_counted(source, checkpoint, tmp_path, monkeypatch):
    arguments = ("--checkpoint", checkpoint, "--db_root", source, "--out", tmp_path / "out", "--scenes", 1)
    assert run(monkeypatch, *arguments, "--min_score", "1", "--attempts", 3) == 0
    assert json.loads((tmp_path / "out" / "insert.json").read_text())["refusals"]["person"]["score"] > 0


def test_a_density_gives_likelihoods_as_scores_and_its_temperature_is_one_of_the_settings(
    source, tmp_path, monkeypatch, capsys
):
    checkpoint = write_density_checkpoint(tmp_path / "density")
    arguments = ("--checkpoint", checkpoint, "--db_root", source, "--no_gate", "--out")
    assert run(monkeypatch, *arguments, tmp_path / "learnt") == 0
    assert run(monkeypatch, *arguments, tmp_path / "cool", "--temperature", 0.25) == 0
    scores = {}
    for name, temperature in (("learnt", 1), ("cool", 0.25)):
        settings = json.loads((tmp_path / name / "insert.json").read_text())["settings"]
        assert settings["temperature"] == temperature
        model = load_model(checkpoint, temperature=temperature)
        inserted = [one for one in lines(tmp_path / name) if one["status"] == "inserted"]
        scores[name] = [one["score_place"] for one in inserted]
        for one in inserted:
            frame = next(frame for frame in list_frames(source, "train") if frame.name == one["image"])
            labels, ids = working_maps(*read_maps(frame), model.small, torch.device("cpu"))
            theta = predict_places(model, labels, ids, column(np.array([one["z_spatial"]]), model.device))
            assert one["temperature"] == temperature
            assert theta[0].tolist() == pytest.approx(one["theta"], rel=1e-3, abs=1e-3)
            likelihood = model.density(labels).likelihood(theta).item()
            assert 0 < likelihood <= 1 and one["score_place"] == pytest.approx(likelihood, rel=1e-3)
    assert len(scores["learnt"]) == len(scores["cool"]) == FRAMES and scores["learnt"] != scores["cool"]
    capsys.readouterr()
    assert run(monkeypatch, *arguments, tmp_path / "cool", "--temperature", 0.5) == 2
    assert "--overwrite" in capsys.readouterr().err
    limit = max(scores["learnt"])
    strict = (
        "--checkpoint",
        checkpoint,
        "--db_root",
        source,
        "--out",
        tmp_path / "strict",
        "--min_score",
        limit,
    )
    off = [f"--no_{rule}" for rule in RULES if rule != "score"]
    assert run(monkeypatch, *strict, *off, "--region", "0,0,128,128", "--attempts", 40) == 0
    chosen = [one for one in lines(tmp_path / "strict") if one["status"] == "inserted"]
    assert all(one["score_place"] >= limit and one["box"][0] + one["box"][2] < 256 for one in chosen)
    refusals = json.loads((tmp_path / "strict" / "insert.json").read_text())["refusals"]["person"]
    assert refusals["score"] > 0 and refusals["region"] > 0


def test_a_single_image_without_polygons_or_camera(checkpoint, tmp_path, monkeypatch):
    write_miniature(tmp_path / "in", count=1)
    (frame,) = list_frames(tmp_path / "in", "train")
    loose = tmp_path / "loose.png"
    loose.write_bytes(frame.label_path.read_bytes())
    for number, given in enumerate(
        (["--image", frame.label_path], ["--image", loose, "--instances", frame.instance_path])
    ):
        out = tmp_path / f"out{number}"
        assert run(monkeypatch, "--checkpoint", checkpoint, *given, "--out", out, "--no_gate") == 0
        (made,) = list_frames(out, "train")
        ids = read_maps(made)[1]
        assert (ids == 24001).sum() == lines(out)[0]["pixels"] > 0
        assert not list(out.rglob("*polygons.json")) and not (out / "camera").exists()
    assert run(monkeypatch, "--checkpoint", checkpoint, "--image", tmp_path / "no.png", "--out", out) == 2
    for inside in (tmp_path / "in" / "new", tmp_path / "in", tmp_path):
        given = ("--image", frame.label_path, "--out", inside)
        assert run(monkeypatch, "--checkpoint", checkpoint, *given) == 2
    assert not (tmp_path / "in" / "new").exists()


def test_heights_go_by_the_training_instances_without_cameras(checkpoint, tmp_path, monkeypatch):
    write_miniature(tmp_path / "in", count=LEAST_INSTANCES)
    arguments = ("--checkpoint", checkpoint, "--db_root", tmp_path / "in", "--out", tmp_path / "out")
    assert run(monkeypatch, *arguments) == 0
    summary = json.loads((tmp_path / "out" / "insert.json").read_text())
    assert summary["height_fits"]["person"]["low"] < 0 < summary["height_fits"]["person"]["high"]
    assert summary["refusals"]["person"]["height"] > 0  # the tiny model's persons are larger


def test_too_few_training_instances_switch_the_height_rule_off(checkpoint, tmp_path, monkeypatch, capsys):
    write_miniature(tmp_path / "in", count=1)
    arguments = ("--checkpoint", checkpoint, "--db_root", tmp_path / "in", "--out", tmp_path / "out")
    assert run(monkeypatch, *arguments) == 0
    assert "no plausible heights of person: 1 training instance, 30 needed" in capsys.readouterr().err
    summary = json.loads((tmp_path / "out" / "insert.json").read_text())
    assert summary["height_fits"] == {} and "height" not in summary["refusals"]["person"]


def test_an_assumed_camera_judges_heights_and_distances_and_is_named(
    checkpoint, tmp_path, monkeypatch, capsys
):
    write_miniature(tmp_path / "in", count=1)
    out = tmp_path / "out"
    arguments = ("--checkpoint", checkpoint, "--db_root", tmp_path / "in", "--out", out, "--distance", "1-9")
    assert run(monkeypatch, *arguments) == 2  # a distance needs a camera
    assert "--camera cityscapes" in capsys.readouterr().err
    assert run(monkeypatch, *arguments, "--camera", "cityscapes") == 0
    told, settings = capsys.readouterr(), json.loads((out / "insert.json").read_text())["settings"]
    assert "camera assumed, not read, for images without a camera file (1)" in told.out
    assert "30 needed" not in told.err
    assert settings["assumed_cameras"]["standard"]["images"] == 1
    assert not (out / "camera").exists()  # an assumption is no file of the source
    camera = published_camera("littleton_000000_000019", 256, 128)
    (made,) = lines(out)
    assert made["status"] == "inserted" and made["camera_assumed"] == "standard"
    low, high = METRIC_RANGES["person"]
    assert low <= metric_heights(np.array([made["box"]]), camera)[0] <= high
    assert 1 <= camera.ground_depth(made["box"][3]) <= 9


def test_cameras_of_the_source_are_not_replaced_by_an_assumed_one(
    out, source, checkpoint, tmp_path, monkeypatch
):
    arguments = ("--checkpoint", checkpoint, "--db_root", source, "--out", tmp_path / "again", *COMMAND)
    assert run(monkeypatch, *arguments, "--coco", "--preview", 2, "--camera", "cityscapes") == 0
    assert content(tmp_path / "again") == content(out)


# ---- bad input ----------------------------------------------------------------------------------


def test_broken_images_are_skipped_named_and_added_once_mended(
    out, source, checkpoint, tmp_path, monkeypatch, capsys
):
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
    assert run(monkeypatch, *arguments) == 1
    told = capsys.readouterr().err
    assert frames[1].label_path.name in told and polygons.name in told and "3 images skipped" in told
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
    assert run(monkeypatch, *arguments, "--coco", "--preview", 2) == 0
    assert content(tmp_path / "out") == content(out)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--checkpoint": "nowhere"}, "no checkpoint"),
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
        ({"--region": "nosuch.png"}, "can't be read as a picture"),
        ({"--z_spatial": "1,2"}, "takes 4"),
        ({"--temperature": "0"}, "--temperature must be above 0"),
        ({"--temperature": "0.5"}, "the published where module"),
        ({"--per_image": "3-1"}, "no range"),
        ({"--protect": "spaceship"}, "no Cityscapes label"),
        ({"--max_overlap": "2"}, "must be at least 0 and at most 1"),
        ({"--attempts": "0"}, "at least 1"),
        ({"--instances": "x.png"}, "belongs to --image"),
    ],
)
def test_bad_input_is_one_line_status_2_and_nothing_written(
    change, words, source, checkpoint, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    options = {"--checkpoint": checkpoint, "--db_root": source, "--out": "out"} | change
    arguments = []
    for option, value in options.items():
        if value is not None:
            arguments += [option] if value is True else [option, str(value).replace("SOURCE", str(source))]
    before = content(source), content(tmp_path)
    assert run(monkeypatch, *arguments) == 2
    message = capsys.readouterr().err.splitlines()
    assert len(message) == 1 and message[0].startswith("error:") and words in message[0]
    assert (content(source), content(tmp_path)) == before
    assert not (tmp_path / "out").exists()


def test_train_ids_on_request_even_for_a_tree_that_is_complete(source, checkpoint, tmp_path, monkeypatch):
    arguments = ("--checkpoint", checkpoint, "--db_root", source, "--out", tmp_path, "--scenes", 2)
    assert run(monkeypatch, *arguments) == 0
    assert not list(tmp_path.rglob("*TrainIds*"))
    assert run(monkeypatch, *arguments, "--train_ids") == 0
    for frame in list_frames(tmp_path, "train"):
        path = frame.label_path.with_name(f"{frame.name}_gtFine_labelTrainIds.png")
        train_ids, labels = (cv2.imread(str(one), cv2.IMREAD_UNCHANGED) for one in (path, frame.label_path))
        assert (labels == TARGET_CLASSES["person"].label_id).any()
        assert np.array_equal(train_ids == 11, labels == 24) and np.array_equal(train_ids == 0, labels == 7)


def test_a_second_process_on_the_same_tree_is_one_line_and_status_2(
    source, checkpoint, tmp_path, monkeypatch, capsys
):
    arguments = ("--checkpoint", checkpoint, "--db_root", source, "--out", tmp_path / "tree", "--scenes", 1)
    with alone_in(tmp_path / "tree"):  # as an insertion does
        assert run(monkeypatch, *arguments) == 2
        assert run(monkeypatch, *arguments, "--overwrite") == 2
        assert set(content(tmp_path / "tree")) == {LOCK}
    printed = capsys.readouterr().err
    assert (
        printed == 2 * f"error: --out {tmp_path / 'tree'}: another process is at work there; wait for its"
        " end, or choose another --out\n"
    )
    assert run(monkeypatch, *arguments) == 0


def test_val_is_inserted_into_only_when_forced(source, checkpoint, tmp_path, monkeypatch):
    arguments = ("--checkpoint", checkpoint, "--db_root", source, "--out", tmp_path / "out", "--split", "val")
    assert run(monkeypatch, *arguments, "--force") == 0
    assert len(list_frames(tmp_path / "out", "val")) == 1


# ---- one image in work --------------------------------------------------------------------------


def test_numbers_count_hidden_instances_of_the_polygons_and_end_at_999(tmp_path):
    write_town(tmp_path, 1)
    (frame,) = list_frames(tmp_path, "train")
    polygons = frame.label_path.with_name(f"{frame.name}_gtFine_polygons.json")
    listed = json.loads(polygons.read_text())
    hidden = {"label": "person", "polygon": [[1, 1], [2, 2], [3, 1]]}
    listed["objects"].insert(0, hidden)
    polygons.write_text(json.dumps(listed))
    assert read_image(frame).new_id("person") == 24003
    assert read_image(frame).new_id("rider") == 25000
    image = read_image(frame)
    image.instance_ids[0, 0] = 24999
    assert image.new_id("person") is None


def test_a_dropped_instance_takes_its_own_polygon_along_where_numbers_have_a_gap(tmp_path):
    """As in a tree that an earlier insertion dropped 24000 from: the list's first person is 24001."""
    write_town(tmp_path, 1)
    (frame,) = list_frames(tmp_path, "train")
    labels, ids = (map_.copy() for map_ in read_maps(frame))
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
    gates = Gates(rules=(), min_visible=20, may_hide=True)
    reason, facts = image.put("person", Patch(np.ones((30, 8), bool), 148, 50), gates)
    assert reason is None and facts["dropped"] == [24001]
    persons = [thing.polygon.tolist() for thing in image.outlines.objects if thing.label == "person"]
    assert [90, 60] in persons[0] and len(persons) == 2  # the small one of 24001 is gone


def test_what_is_seen_of_an_object_is_told_as_it_is_in_the_end(tmp_path):
    write_town(tmp_path, 1)
    image = read_image(list_frames(tmp_path, "train")[0])
    gates = Gates(rules=())
    _, first = image.put("person", Patch(np.ones((30, 10), bool), 180, 70), gates)
    _, second = image.put("person", Patch(np.ones((30, 10), bool), 185, 75), gates)
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


def test_new_objects_of_an_image_keep_a_distance(out, source, checkpoint, tmp_path, monkeypatch):
    def gaps(tree: Path) -> list[float]:
        """Between the feet of any two new objects of an image, in heights of the taller one."""
        found = []
        for first, second in itertools.combinations([one for one in lines(tree) if "box" in one], 2):
            if first["image"] == second["image"]:
                (a0, b0, a1, b1), (c0, d0, c1, d1) = first["box"], second["box"]
                found.append(np.hypot(max(c0 - a1, a0 - c1, 0), b1 - d1) / max(b1 - b0, d1 - d0))
        return found

    arguments = ("--checkpoint", checkpoint, "--db_root", source, "--out", tmp_path / "out")
    assert run(monkeypatch, *arguments, "--per_image", 2) == 0
    assert min(gaps(out)) < 0.4
    assert len(gaps(tmp_path / "out")) > 1 and min(gaps(tmp_path / "out")) > 0.45  # but for rounding


def test_nothing_vanishes_unless_it_may(source, checkpoint, tmp_path, monkeypatch):
    arguments = ("--checkpoint", checkpoint, "--db_root", source, "--per_image", 3, "--min_visible", 1000)
    assert run(monkeypatch, *arguments, "--out", tmp_path / "may", "--may_hide") == 0
    assert any(one.get("dropped") for one in lines(tmp_path / "may"))
    assert run(monkeypatch, *arguments, "--out", tmp_path / "out") == 0
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
