"""scripts/insert.py: what a user may ask for."""

import json

import cv2
import numpy as np
import pytest
import torch

from augment.placement.filters import FILTERS, Filters
from augment.placement.options import parse
from augment.placement.places import column, working_maps
from augment.placement.plan import plan
from data.camera import published_camera
from data.frame import list_frames
from data.geometry import METRIC_RANGES, MIN_INSTANCES, metric_heights
from model import load_model
from support.errors import InputError
from tests.equality import files_in
from tests.miniature import write_miniature
from tests.programs import refused, run_here, run_ok
from tests.scripts.insert.inserting import COMMAND, FRAMES, insert, lines
from tests.town import write_checkpoint, write_density_checkpoint


def test_a_budget_is_spread_evenly_and_depends_on_names_and_seed_alone():
    names = [f"a_{index:06d}_000019" for index in range(10)]
    planned = plan(names, {}, 3, budget={"person": 25, "rider": 4})
    assert planned == plan(names, {}, 3, budget={"rider": 4, "person": 25})
    flat = [name for chosen in planned for name in chosen]
    assert (flat.count("person"), flat.count("rider")) == (25, 4)
    assert all(2 <= chosen.count("person") <= 3 and chosen.count("rider") <= 1 for chosen in planned)
    assert planned != plan(names, {}, 4, budget={"person": 25, "rider": 4})
    counts = [len(chosen) for chosen in plan(names, {"car": 1, "person": 1}, 0, (0, 2))]
    assert set(counts) == {0, 1, 2}
    assert plan(names, {"car": 1, "person": 1}, 0, (0, 2))[:5] == plan(
        names[:5], {"car": 1, "person": 1}, 0, (0, 2)
    )
    with pytest.raises(InputError, match="too many"):
        plan(names, {"car": 1}, 0, (256, 256))


def test_several_checkpoints_share_a_budget(source, checkpoint, tmp_path, capsys):
    car_place = (4.0, 0.0, -1.0, 0.0, 2.6, -0.9)
    car = write_checkpoint(tmp_path / "car", "car", car_place, spread=0.0)
    arguments = ("--db_root", source, "--out", tmp_path / "out", "--target", "person=3,car=2", "--no_gate")
    run_ok(insert, "--checkpoint", checkpoint, car, *arguments)
    tried = [one["class"] for one in lines(tmp_path / "out")]
    assert (tried.count("person"), tried.count("car")) == (3, 2)
    summary = json.loads((tmp_path / "out" / "insert.json").read_text())
    assert summary["objects_inserted"] == {"car": 2, "person": 3}
    report = capsys.readouterr().out
    assert [line.split() for line in report.splitlines() if line.startswith("car")] == [
        ["car", "4", "6", "2"]
    ]


def test_images_without_new_objects_are_copied_as_they_are_and_counted(source, tmp_path):
    in_the_sky = (12.8, 0.0, 0.0, 0.0, 4.0, 2.5)
    checkpoint = write_checkpoint(tmp_path / "sky", place=in_the_sky)
    out = tmp_path / "out"
    arguments = ("--checkpoint", checkpoint, "--db_root", source, "--out", out, "--attempts", 9)
    run_ok(insert, *arguments)
    summary = json.loads((out / "insert.json").read_text())
    assert summary["objects_given_up"] == {"person": FRAMES} and summary["images_changed"] == 0
    assert sum(summary["refusals"]["person"].values()) == 9 * FRAMES
    assert set(summary["refusals"]["person"]) <= {"inside", "support", "height"}
    made, original = files_in(out), files_in(source)
    for name in made.keys() & original.keys():
        assert made[name] == original[name]
    assert not (out / "leftImg8bit").exists() and "not written" in summary["settings"]["render"]
    refused(insert, *arguments, "--no_gate")  # other settings
    run_ok(insert, *arguments, "--no_gate", "--overwrite")
    assert json.loads((out / "insert.json").read_text())["objects_inserted"] == {"person": FRAMES}


def test_region_height_distance_protected_labels_and_fixed_noise(source, checkpoint, tmp_path):
    mask = np.zeros((128, 256), np.uint8)
    mask[:, :60] = 255
    cv2.imwrite(str(tmp_path / "region.png"), mask)

    def result(*arguments) -> list[dict]:
        out = tmp_path / "out"
        common = ("--checkpoint", checkpoint, "--db_root", source, "--out", out, "--overwrite", "--no_gate")
        run_ok(insert, *common, *arguments)
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


def test_each_filter_has_a_switch():
    required = ["--checkpoint", "x", "--db_root", "y", "--out", "z"]
    assert parse(required).filters == Filters()
    for filter_name in FILTERS:
        assert parse([*required, f"--no_{filter_name}"]).filters.rules == tuple(
            r for r in FILTERS if r != filter_name
        )
    assert parse([*required, "--no_gate"]).filters.rules == ()
    limits = parse([*required, "--max_overlap", "0.1", "--min_score", "0.2", "--min_area", "9"]).filters
    assert (limits.max_overlap, limits.min_score, limits.min_area) == (0.1, 0.2, 9)


def test_the_score_filter_rejects_and_is_counted(source, checkpoint, tmp_path):
    arguments = ("--checkpoint", checkpoint, "--db_root", source, "--out", tmp_path / "out", "--scenes", 1)
    run_ok(insert, *arguments, "--min_score", "1", "--attempts", 3)
    assert json.loads((tmp_path / "out" / "insert.json").read_text())["refusals"]["person"]["score"] > 0


def test_a_density_gives_likelihoods_as_scores_and_its_temperature_is_one_of_the_settings(
    source, tmp_path, capsys
):
    checkpoint = write_density_checkpoint(tmp_path / "density")
    arguments = ("--checkpoint", checkpoint, "--db_root", source, "--no_gate", "--out")
    run_ok(insert, *arguments, tmp_path / "learnt")
    run_ok(insert, *arguments, tmp_path / "cool", "--temperature", 0.25)
    scores = {}
    for name, temperature in (("learnt", 1), ("cool", 0.25)):
        settings = json.loads((tmp_path / name / "insert.json").read_text())["settings"]
        assert settings["temperature"] == temperature
        model = load_model(checkpoint)
        inserted = [one for one in lines(tmp_path / name) if one["status"] == "inserted"]
        scores[name] = [one["score_place"] for one in inserted]
        for one in inserted:
            frame = next(frame for frame in list_frames(source, "train") if frame.name == one["image"])
            labels, ids = working_maps(*frame.read_maps(), model.maps.small, torch.device("cpu"))
            where = model.where.on(labels, ids, temperature)
            theta = where.sample(column(np.array([one["z_spatial"]]), model.device))
            assert one["temperature"] == temperature
            assert theta[0].tolist() == pytest.approx(one["theta"], rel=1e-3, abs=1e-3)
            likelihood = where.score(theta).item()
            assert 0 < likelihood <= 1 and one["score_place"] == pytest.approx(likelihood, rel=1e-3)
    assert len(scores["learnt"]) == len(scores["cool"]) == FRAMES and scores["learnt"] != scores["cool"]
    capsys.readouterr()
    assert "--overwrite" in refused(insert, *arguments, tmp_path / "cool", "--temperature", 0.5)
    limit = max(scores["learnt"])
    strict = ("--checkpoint", checkpoint, "--db_root", source, "--out", tmp_path / "strict")
    off = [f"--no_{filter_name}" for filter_name in FILTERS if filter_name != "score"]
    run_ok(insert, *strict, *off, "--min_score", limit, "--region", "0,0,128,128", "--attempts", 40)
    chosen = [one for one in lines(tmp_path / "strict") if one["status"] == "inserted"]
    assert all(one["score_place"] >= limit and one["box"][0] + one["box"][2] < 256 for one in chosen)
    rejections = json.loads((tmp_path / "strict" / "insert.json").read_text())["refusals"]["person"]
    assert rejections["score"] > 0 and rejections["region"] > 0


def test_a_single_image_without_polygons_or_camera(checkpoint, tmp_path):
    write_miniature(tmp_path / "in", count=1)
    (frame,) = list_frames(tmp_path / "in", "train")
    loose = tmp_path / "loose.png"
    loose.write_bytes(frame.label_path.read_bytes())
    for number, given in enumerate(
        (["--image", frame.label_path], ["--image", loose, "--instances", frame.instance_path])
    ):
        out = tmp_path / f"out{number}"
        run_ok(insert, "--checkpoint", checkpoint, *given, "--out", out, "--no_gate")
        (made,) = list_frames(out, "train")
        ids = made.read_maps()[1]
        assert (ids == 24001).sum() == lines(out)[0]["pixels"] > 0
        assert not list(out.rglob("*polygons.json")) and not (out / "camera").exists()
    refused(insert, "--checkpoint", checkpoint, "--image", tmp_path / "no.png", "--out", out)
    for inside in (tmp_path / "in" / "new", tmp_path / "in", tmp_path):
        given = ("--image", frame.label_path, "--out", inside)
        refused(insert, "--checkpoint", checkpoint, *given)
    assert not (tmp_path / "in" / "new").exists()


def test_heights_go_by_the_training_instances_without_cameras(checkpoint, tmp_path):
    write_miniature(tmp_path / "in", count=MIN_INSTANCES)
    arguments = ("--checkpoint", checkpoint, "--db_root", tmp_path / "in", "--out", tmp_path / "out")
    run_ok(insert, *arguments)
    summary = json.loads((tmp_path / "out" / "insert.json").read_text())
    assert summary["height_fits"]["person"]["low"] < 0 < summary["height_fits"]["person"]["high"]
    assert summary["refusals"]["person"]["height"] > 0  # the tiny model's persons are larger


def test_too_few_training_instances_switch_the_height_filter_off(checkpoint, tmp_path, capsys):
    write_miniature(tmp_path / "in", count=1)
    arguments = ("--checkpoint", checkpoint, "--db_root", tmp_path / "in", "--out", tmp_path / "out")
    run_ok(insert, *arguments)
    assert "no plausible heights of person: 1 training instance, 30 needed" in capsys.readouterr().err
    summary = json.loads((tmp_path / "out" / "insert.json").read_text())
    assert summary["height_fits"] == {} and "height" not in summary["refusals"]["person"]


def test_an_assumed_camera_judges_heights_and_distances_and_is_named(checkpoint, tmp_path):
    write_miniature(tmp_path / "in", count=1)
    out = tmp_path / "out"
    arguments = ("--checkpoint", checkpoint, "--db_root", tmp_path / "in", "--out", out, "--distance", "1-9")
    assert "--camera cityscapes" in refused(insert, *arguments)  # a distance needs a camera
    printed = run_here(insert, *arguments, "--camera", "cityscapes")
    settings = json.loads((out / "insert.json").read_text())["settings"]
    assert "camera assumed, not read, for images without a camera file (1)" in printed.stdout
    assert printed.returncode == 0 and "30 needed" not in printed.stderr
    assert settings["assumed_cameras"]["standard"]["images"] == 1
    assert not (out / "camera").exists()  # an assumption is no file of the source
    camera = published_camera("littleton_000000_000019", 256, 128)
    (made,) = lines(out)
    assert made["status"] == "inserted" and made["camera_assumed"] == "standard"
    low, high = METRIC_RANGES["person"]
    assert low <= metric_heights(np.array([made["box"]]), camera)[0] <= high
    assert 1 <= camera.ground_depth(made["box"][3]) <= 9


def test_cameras_of_the_source_are_not_replaced_by_an_assumed_one(out, source, checkpoint, tmp_path):
    arguments = ("--checkpoint", checkpoint, "--db_root", source, "--out", tmp_path / "again", *COMMAND)
    run_ok(insert, *arguments, "--coco", "--preview", 2, "--camera", "cityscapes")
    assert files_in(tmp_path / "again") == files_in(out)
