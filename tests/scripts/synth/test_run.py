"""The whole synthesis run on a small home-made tree: what it writes, and how it behaves when disturbed."""

import hashlib
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from cityscapesscripts.helpers.labels import id2label

from augment.validate import validate_tree
from data.frame import list_frames
from engine.records import MANIFEST
from scripts.synth import build, export, run, score
from support.files import at_work_in
from tests.equality import tree_in
from tests.mini_frames import MOTORCYCLE_ID, TRAIN, write_mini
from tests.miniature import as_coarse, litter
from tests.programs import as_flags, refused, run_here, run_ok

PLAIN = ("--samples", "1", "--raw_splits", "train", "--num_workers", "1")


def repaint(root: Path, out: Path, *flags) -> str:
    """What a run prints that must end well, of one sample an instance unless the flags say otherwise."""
    return run_ok(run.main, "--db_root", root, "--out", out, *PLAIN, *flags)


def lines_of(out: Path, stage: str) -> list[dict]:
    """The lines of a stage's instances and samples, and of the frames that select looked at."""
    lines = [json.loads(text) for text in (out / MANIFEST).read_text().splitlines()]
    return [x for x in lines if x["stage"] == stage and (stage == "select" or "sources" not in x)]


def image(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("source")
    write_mini(root)
    litter(root)
    return root


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory) -> Path:
    """The tree of an undisturbed run in one process."""
    out = tmp_path_factory.mktemp("finished") / "out"
    repaint(source, out)
    return out


# ---- what a run writes --------------------------------------------------------------------------


def test_a_run_gives_a_sound_tree(finished):
    assert validate_tree(finished, verify=True) == []
    lines = lines_of(finished, "integrate")
    assert len(lines) == 3 * len(TRAIN) and {line["status"] for line in lines} == {"ok"}
    for line in lines:
        assert len(line["outputs"]) == 6  # focus crop, four files of ground truth, panorama
        focus = finished / f"leftImg8bit/train/{line['synthetic'].split('_')[0]}/{line['synthetic']}"
        assert image(f"{focus}_leftImg8bit.png").shape == (128, 256, 3)
    cities = (finished / "leftImg8bit" / "train").iterdir()
    assert {path.name for path in cities} == {"ash", "ashsyn", "elm-park", "elmparksyn"}
    coco = json.loads((finished / "annotations/instancesonly_filtered_gtFine_train.json").read_text())
    assert len(coco["images"]) == 4 * len(TRAIN)


def test_coarse_annotation_and_void_of_the_data_set(tmp_path):
    root, out = tmp_path / "in", tmp_path / "out"
    write_mini(root)
    shutil.rmtree(root / "gtFine/val", ignore_errors=True)
    for path in list(root.glob("gtFine/train/*/*")):
        if path.name.endswith(("_color.png", "_polygons.json")):
            path.unlink()  # they show what the maps call void now
            continue
        ids = image(path)
        ids[ids == 23] = 255
        cv2.imwrite(str(path), ids)
    as_coarse(root)
    refusing = run_here(run.main, "--db_root", root, "--out", out, *PLAIN, "--limit", 1)
    assert "void.txt if they mean void" in refusing.stdout
    (root / "void.txt").write_text("255")
    repaint(root, out, "--limit", 1, "--overwrite")
    assert validate_tree(out) == [] and not (out / "gtFine").exists()
    made = [image(path) for path in out.glob("gtCoarse/train/*syn/*_labelIds.png")]
    assert made and all(one.max() < 34 for one in made)


@pytest.mark.parametrize("backend", ["swap", "recolor", "cv_inpaint"])
@pytest.mark.parametrize("match", ["ring", "legacy"])
def test_only_masked_pixels_change(source, finished, tmp_path, backend, match):
    if (backend, match) == ("swap", "ring"):
        out = finished
    else:
        out = tmp_path / "out"
        repaint(source, out, "--backend", backend, "--colour_match", match, "--limit", 2)
    lines = lines_of(out, "integrate")
    assert lines
    for line in lines:
        raw = image(source / next(path for path in line["inputs"] if path.startswith("leftImg8bit/")))
        ids = image(source / next(path for path in line["inputs"] if path.endswith("_instanceIds.png")))
        edited = image(out / next(path for path in line["outputs"] if path.startswith("panorama/")))
        mask = ids == line["instance_id"]
        assert np.array_equal(edited[~mask], raw[~mask])
        assert (edited[mask] != raw[mask]).any()


@pytest.mark.parametrize("truth", ["raster", "polygon"])
def test_focus_crops_of_frames_of_another_shape_are_not_stretched(tmp_path, truth):
    root, out = tmp_path / "source", tmp_path / "out"
    write_mini(root, 250, 190)
    repaint(root, out, "--backend", "recolor", "--truth", truth, "--limit", 2)
    assert validate_tree(out, verify=True) == []
    integrated = [line for line in lines_of(out, "integrate") if line["status"] == "ok"]
    assert integrated
    for line in integrated:
        shapes = {image(out / path).shape[:2] for path in line["outputs"] if "leftImg8bit/" in path}
        assert shapes == {(125, 250)}
        assert line["window"]["width"] == 2 * line["window"]["height"]
        panorama = next(path for path in line["outputs"] if path.startswith("panorama/"))
        assert image(out / panorama).shape[:2] == (190, 250)


def test_each_sample_has_a_prompt_of_its_own(source, tmp_path):
    repaint(source, tmp_path, "--backend", "recolor", "--classes", "car", "--limit", 1, "--samples", 2)
    by_instance: dict[str, list] = {}
    for line in lines_of(tmp_path, "generate"):
        by_instance.setdefault(line["instance_id"], []).append(line["prompt"])
    assert by_instance
    for prompts in by_instance.values():
        assert sorted(prompts) == ["a photo of a red car", "a photo of a white car"]


def test_tiny_objects_get_context(finished, source, tmp_path):
    crops = [line["crop"] for line in lines_of(finished, "select") if "crop" in line]
    assert {(crop["width"], crop["height"]) for crop in crops} == {(128, 128)}  # as far as there is room
    repaint(source, tmp_path, "--min_crop", 1, "--limit", 1)
    assert min(line["crop"]["width"] for line in lines_of(tmp_path, "select") if "crop" in line) < 128


def test_an_id_that_is_a_multiple_of_256_is_repainted_and_k_is_obeyed(source, tmp_path):
    out = tmp_path / "out"
    repaint(source, out, "--k", 5)
    frames = [line for line in lines_of(out, "select") if "chosen" in line]
    assert all(len(line["chosen"]) == 5 and MOTORCYCLE_ID in line["chosen"] for line in frames)
    for line in lines_of(out, "select"):
        if line.get("instance_id") == MOTORCYCLE_ID:
            mask = next(path for path in line["outputs"] if path.endswith("_mask.png"))
            assert np.count_nonzero(image(out / mask)) == line["area"] > 0


def test_the_focus_crop_shows_the_window_of_the_panorama(finished):
    for line in lines_of(finished, "integrate"):
        paths = {path.split("/")[0]: path for path in line["outputs"] if path.endswith("leftImg8bit.png")}
        panorama, focus = image(finished / paths["panorama"]), image(finished / paths["leftImg8bit"])
        window = line["window"]
        x0, y0, x1, y1 = line["bbox"]
        assert window["x0"] <= x0 and x1 <= window["x0"] + window["width"] <= 256
        assert window["y0"] <= y0 and y1 <= window["y0"] + window["height"] <= 128
        cut = panorama[window["y0"] :, window["x0"] :][: window["height"], : window["width"]]
        smooth = cv2.resize(cut, (256, 128), interpolation=cv2.INTER_LINEAR)
        assert np.abs(smooth.astype(int) - focus).mean() < 3


def test_built_in_scenes_need_no_input(tmp_path):
    out = tmp_path / "out"
    flags = ("--scenes", 2, "--scene_size", "256x128", "--num_workers", 1)
    run_ok(run.main, "--out", out, *flags)
    assert {line["status"] for line in lines_of(out, "integrate")} == {"ok"}
    assert validate_tree(out) == []
    before = tree_in(out)
    run_ok(run.main, "--out", out, *flags)  # nothing to do
    assert tree_in(out) == before


@pytest.mark.parametrize("raw", ["symlink", "hardlink", "copy"])
def test_train_ids_on_request_for_raw_and_synthetic_frames(source, tmp_path, raw):
    out, before = tmp_path / "out", tree_in(source)
    repaint(source, out, "--limit", 1, "--k", 1, "--backend", "recolor", "--raw", raw, "--train_ids")
    assert tree_in(source) == before
    frames = list_frames(out, "train")
    assert len(frames) == len(TRAIN) + 1
    for frame in frames:
        train_ids = image(frame.label_path.with_name(f"{frame.name}_gtFine_labelTrainIds.png"))
        labels = image(frame.label_path)
        assert train_ids.dtype == np.uint8 and train_ids.shape == labels.shape
        for label in np.unique(labels).tolist():
            assert set(train_ids[labels == label]) == {id2label[label].trainId}
    assert validate_tree(out) == []
    made = tree_in(out)
    run_ok(build.main, "--out", out, "--num_workers", 1)
    assert tree_in(out) == made


def test_the_source_is_never_written(source, tmp_path):
    def state():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in source.rglob("*")}

    before, contents = state(), tree_in(source)
    repaint(source, tmp_path / "out", "--raw", "copy", "--truth", "polygon")
    assert state() == before and tree_in(source) == contents


# ---- going on ----------------------------------------------------------------------------------


def test_a_first_look_at_few_frames_can_grow(source, finished, tmp_path):
    out = tmp_path / "out"
    repaint(source, out, "--dry_run")
    assert not out.exists()
    repaint(source, out, "--only", "elm-park/1/19")
    assert len(lines_of(out, "integrate")) == 3
    repaint(source, out, "--limit", "1")
    assert len(lines_of(out, "integrate")) == 6
    before = tree_in(out)
    assert "2 of 4 frames to do; nothing was written" in repaint(source, out, "--dry_run")
    assert tree_in(out) == before
    repaint(source, out)
    assert tree_in(out) == tree_in(finished)


def test_verify_mends_what_was_changed(source, finished, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished, out, symlinks=True)
    damaged = min((out / "work" / "generate").rglob("*.png"))
    damaged.write_bytes(damaged.read_bytes()[:50])
    max((out / "panorama").rglob("*.png")).unlink()  # of another frame
    repaint(source, out)
    assert damaged.stat().st_size == 50
    repaint(source, out, "--verify")
    assert tree_in(out) == tree_in(finished)


# ---- what goes wrong ----------------------------------------------------------------------------


def test_a_broken_image_fails_alone_and_can_be_mended(source, finished, tmp_path):
    root, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(source, root)
    bad = root / "leftImg8bit/train/ash/ash_000000_000019_leftImg8bit.png"
    good = bad.read_bytes()
    bad.write_bytes(good[: len(good) // 2])
    flags = ("--db_root", root, "--out", out, *PLAIN)
    done = run_here(run.main, *flags)
    assert done.returncode == 1 and "failed     select ash/000000/000019: " in done.stdout
    failed = [line for line in lines_of(out, "select") if line["status"] == "failed"]
    assert [line["key"] for line in failed] == ["ash/000000/000019"]
    assert "damaged" in failed[0]["reason"]
    assert len(lines_of(out, "integrate")) == 9
    bad.write_bytes(good)
    run_ok(run.main, *flags)
    paths = {line["key"]: line["synthetic"] for line in lines_of(out, "integrate")}
    assert paths == {line["key"]: line["synthetic"] for line in lines_of(finished, "integrate")}
    assert validate_tree(out) == []


def test_a_coordinate_out_of_all_bounds_fails_its_frame_alone(source, tmp_path):
    root, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(source, root)
    bad = root / "gtFine/train/ash/ash_000000_000019_gtFine_polygons.json"
    content = json.loads(bad.read_text())
    content["objects"][0]["polygon"][0][0] = 10**12
    bad.write_text(json.dumps(content))
    flags = ("--db_root", root, "--out", out, *PLAIN, "--backend", "recolor", "--only", "ash", "--k", 1)
    done = run_here(run.main, *flags)
    assert done.returncode == 1 and "failed     integrate ash/000000/000019/" in done.stdout
    status = {line["key"][:17]: line["status"] for line in lines_of(out, "integrate")}
    assert status == {"ash/000000/000019": "failed", "ash/000001/000019": "ok"}
    (reason,) = [line["reason"] for line in lines_of(out, "integrate") if line["status"] == "failed"]
    assert "_polygons.json: not a file of polygons" in reason and "Traceback" not in reason


def test_labels_of_another_data_set_fail_their_frame_with_the_conversion_it_needs(source, tmp_path):
    root, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(source, root)
    for frame, value in (("ash_000000_000019", 35002), ("ash_000001_000019", 36)):
        path = root / f"gtFine/train/ash/{frame}_gtFine_instanceIds.png"
        ids = image(path)
        ids[0, :5], ids[1, 0] = value, 65535  # a licence plate is no such label
        cv2.imwrite(str(path), ids)
    flags = ("--db_root", root, "--out", out, *PLAIN)
    assert run_here(run.main, *flags).returncode == 1
    reasons = {line["key"]: line["reason"] for line in lines_of(out, "select") if line["status"] == "failed"}
    assert set(reasons) == {"ash/000000/000019", "ash/000001/000019"}
    for reason, label in zip(reasons.values(), (35, 36), strict=True):
        assert f"instanceIds.png: holds [{label}], label ids above 33; " in reason
        assert "convert both maps first: labelIds to 0..33" in reason and "id * 1000 + k" in reason


def test_what_is_wrong_with_all_frames_is_said_at_once(source, tmp_path):
    root = tmp_path / "source"
    shutil.copytree(source, root)
    for path in root.glob("leftImg8bit/train/*/[!.]*.png"):
        cv2.imwrite(str(path), image(path).astype(np.uint16) * 257)
    done = run_here(run.main, "--db_root", root, "--out", tmp_path / "out", *PLAIN)
    assert done.returncode == 1 and "0 ok, 0 skipped, 4 failed" in done.stdout
    assert done.stdout.count("16-bit RGB image; save it with 8 bits") == 4
    assert "scripts.synth" not in done.stdout and "generate" not in done.stdout


def test_what_nothing_fits_is_skipped_with_a_reason(source, tmp_path):
    root, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(source, root, ignore=shutil.ignore_patterns("elm-park", "ash_000001_*"))
    repaint(root, out, "--classes", "caravan,car")
    generated = {line["instance_id"]: line for line in lines_of(out, "generate")}
    assert generated[29000]["status"] == "skipped" and "no other caravan" in generated[29000]["reason"]
    integrated = {line["key"].split("/")[3]: line for line in lines_of(out, "integrate")}
    assert integrated["29000"]["status"] == "skipped"
    assert "generate skipped: " in integrated["29000"]["reason"]
    assert integrated["26000"]["status"] == "ok"


def test_windows_are_drawn_anew_at_most_twenty_times(source, tmp_path):
    resample = ("--fragments", "resample", "--min_pixels", 100000)
    repaint(source, tmp_path, *resample, "--limit", 1, "--k", 1)
    (line,) = lines_of(tmp_path, "integrate")
    assert line["windows_tried"] == 21 and line["dropped"]


def test_other_settings_are_refused_and_overwrite_takes_only_what_is_ours(source, finished, tmp_path):
    out = tmp_path / "out"
    flags = ("--db_root", source, "--out", out, *PLAIN)
    run_ok(run.main, *flags, "--seed", 1)
    (out / "notes.txt").write_text("mine")
    assert "other settings" in refused(run.main, *flags)
    run_ok(run.main, *flags, "--overwrite")
    assert (out / "notes.txt").read_text() == "mine"
    (out / "notes.txt").unlink()
    assert tree_in(out) == tree_in(finished)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"out": None}, "--out is required"),
        ({"db_root": "none"}, "no such folder"),
        ({"out": "full"}, "not empty"),
        ({"out": "in/out"}, "inside the input"),
        ({"out": "empty", "only": "paris"}, "no such frames"),
        ({"k": 0}, "k must be at least 1"),
        ({"backend": "magic"}, "is unknown: choose swap"),
    ],
)
def test_bad_input_is_one_line_and_nothing_written(source, tmp_path, monkeypatch, change, complaint):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(source, "in")
    Path("full").mkdir()
    Path("empty").mkdir()
    Path("full/notes.txt").touch()
    given = {"db_root": "in", "out": "out", **change}
    assert complaint in refused(run.main, *as_flags(given), keeps=tmp_path)


def test_a_run_that_finds_no_instance_is_one_line(source, tmp_path):
    flags = ("--db_root", source, "--out", tmp_path, "--min_area", 99999, *PLAIN)
    assert "passes the filters" in refused(run.main, *flags)


def test_other_programs_leave_a_tree_alone_while_a_run_is_at_work(source, finished, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished, out, symlinks=True)
    with at_work_in(out):  # as a run is
        before = tree_in(out)
        for module in (score, export, build):
            message = refused(module.main, "--out", out)
            assert message.startswith(f"error: --out {out}: another process is at work there; ")
        repaint(source, out, "--dry_run")  # which only reads
        assert tree_in(out) == before


def test_a_split_of_other_frames_is_not_mixed_in(source, tmp_path):
    root, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(source, root)
    repaint(root, out, "--limit", 1)
    shutil.rmtree(root / "gtFine" / "train" / "elm-park")
    assert "other frames" in refused(run.main, "--db_root", root, "--out", out, *PLAIN)


def test_lines_hold_what_the_contract_asks_for(finished):
    common = {"schema", "run_id", "stage", "key", "status", "config_hash", "code_version", "seconds"}
    item = common | {"inputs", "outputs", "class", "instance_id", "bbox", "crop"}
    by_stage = {
        "select": item,
        "generate": item | {"prompt", "negative", "seed", "backend"},
        "integrate": item | {"colour_match", "window", "n", "id_map", "dropped"},
    }
    stages = {json.loads(line)["stage"] for line in (finished / MANIFEST).read_text().splitlines()}
    assert stages == by_stage.keys()
    for stage, wanted in by_stage.items():
        lines = [line for line in lines_of(finished, stage) if line["key"].count("/") > 2]
        assert lines and all(wanted <= line.keys() for line in lines)
        for line in lines:
            for path, sha in line["outputs"].items():
                assert hashlib.sha256((finished / path).read_bytes()).hexdigest() == sha
