"""Build and export: one tree of raw and synthetic frames, and its COCO annotation."""

import errno
import json
import os
import shutil
from pathlib import Path

import cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling as Official
import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from augment.tree_extras import add_raw, export_coco, new_instances, splits_of
from data.coco import annotations_of, categories, coco_path
from data.frame import list_frames
from data.writer import encode_png
from scripts.synth import build, export
from support.errors import InputError
from tests.equality import files_in
from tests.mini_frames import HOLED_ID, MOTORCYCLE_ID, TRAIN, TWO_PARTS_ID, add_crops, write_mini
from tests.programs import refused, run_ok


@pytest.fixture(scope="module")
def tree(mini, tmp_path_factory):
    """Raw and synthetic frames, with COCO annotation of both; tests that change anything make their own."""
    out = tmp_path_factory.mktemp("tree")
    add_crops(mini, out)
    add_raw(mini, out, ["train", "val"], "symlink")
    export_coco(out, ["train", "val"])
    return out


# ---- build --------------------------------------------------------------------------------------


def test_raw_frames_enter_by_link_or_copy_and_a_second_time_changes_nothing(mini, tmp_path):
    before, stamps = files_in(mini), {p: p.stat().st_mtime_ns for p in mini.rglob("*")}
    for mode in ("symlink", "hardlink", "copy"):
        out = tmp_path / mode
        add_crops(mini, out)
        synthetic = files_in(out)
        assert add_raw(mini, out, ["train", "val"], mode) == len(before)
        assert files_in(out) == before | synthetic
        there = {path: path.lstat().st_ino for path in out.rglob("*")}
        assert add_raw(mini, out, ["train", "val"], mode) == len(before)
        assert {path: path.lstat().st_ino for path in out.rglob("*")} == there
        image = out / "leftImg8bit" / "train" / "ash" / "ash_000000_000019_leftImg8bit.png"
        assert image.is_symlink() == (mode == "symlink")
        assert image.samefile(mini / image.relative_to(out)) == (mode != "copy")
        assert not list(out.rglob("*.tmp"))
    assert files_in(mini) == before
    assert {p: p.stat().st_mtime_ns for p in mini.rglob("*")} == stamps


def test_another_mode_replaces_and_only_the_splits_asked_for_enter(mini, tmp_path):
    assert add_raw(mini, tmp_path, ["val", "test"], "symlink") == 12
    assert splits_of(tmp_path) == ["val"]
    add_raw(mini, tmp_path, ["val"], "copy")
    assert not [path for path in tmp_path.rglob("*") if path.is_symlink()]
    add_raw(mini, tmp_path, ["val"], "hardlink")
    image = "leftImg8bit/val/oak/oak_000000_000576_leftImg8bit.png"
    assert (tmp_path / image).samefile(mini / image)
    with pytest.raises(InputError, match="has no frames of test"):
        add_raw(mini, tmp_path, ["test"], "copy")


def test_links_are_relative_so_that_a_tree_moves_with_its_source(mini, tmp_path):
    before = tmp_path / "before"
    root, out = before / "data" / "city", before / "made" / "deep" / "tree"
    shutil.copytree(mini, root)
    wanted = files_in(root)
    add_raw(root, out, ["train", "val"], "symlink")
    before.rename(tmp_path / "after")
    root, out = (tmp_path / "after" / path.relative_to(before) for path in (root, out))
    assert files_in(out) == wanted
    there = {path: path.lstat().st_ino for path in out.rglob("*")}
    add_raw(root, out, ["train", "val"], "symlink")
    assert {path: path.lstat().st_ino for path in out.rglob("*")} == there
    out.rename(tmp_path / "tree")  # without its source: the links lead nowhere until they are made again
    add_raw(root, tmp_path / "tree", ["train", "val"], "symlink")
    assert files_in(tmp_path / "tree") == wanted


def test_a_file_of_another_content_is_never_replaced(mini, tmp_path):
    mine = tmp_path / "gtFine" / "train" / "ash" / "ash_000000_000019_gtFine_labelIds.png"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"of a synthetic frame")
    for mode in ("symlink", "hardlink", "copy"):
        with pytest.raises(InputError, match=r"labelIds\.png: is not the file of .*; remove it"):
            add_raw(mini, tmp_path, ["train"], mode)
        assert mine.read_bytes() == b"of a synthetic frame"


def test_the_tree_may_not_lie_in_the_source_nor_the_source_in_the_tree(mini, tmp_path):
    for out in (mini, mini / "out", mini.parent):
        with pytest.raises(InputError, match="choose another"):
            add_raw(mini, out, ["train"], "symlink")
    scenes = tmp_path / "work" / "streets"  # where a run puts the built-in scenes
    write_mini(scenes)
    assert add_raw(scenes, tmp_path, ["val"], "symlink") == 12


@pytest.mark.parametrize(
    ("mode", "number", "remedy"),
    [("hardlink", errno.EXDEV, "another disk; .* symlink or copy"), ("symlink", errno.EPERM, "mode copy")],
)
def test_disks_that_cannot_link_are_named_with_the_remedy(mini, tmp_path, monkeypatch, mode, number, remedy):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, f"{mode}_to", refuse)
    with pytest.raises(InputError, match=remedy):
        add_raw(mini, tmp_path, ["val"], mode)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_build_takes_what_it_needs_from_flags_and_says_what_it_lacks(mini, tmp_path):
    flags = ("--out", tmp_path, "--db_root")
    printed = run_ok(build.main, *flags, mini, "--splits", "val", "--mode", "copy")
    assert "12 raw files of val by copy" in printed
    assert "name the data set with --db_root" in refused(build.main, *flags[:2])
    failed = refused(build.main, *flags, "/nowhere")
    assert failed == "error: /nowhere: has no frames of train, val; choose splits that it has\n"


# ---- export -------------------------------------------------------------------------------------


def test_the_file_lists_raw_and_synthetic_frames_and_which_instances_are_repainted(tree):
    assert len(new_instances(tree)[1]) == 2 * len(TRAIN)
    content = json.loads(coco_path(tree, "train").read_text())
    assert len(content["images"]) == 3 * len(TRAIN)
    assert all((tree / "leftImg8bit" / "train" / one["file_name"]).exists() for one in content["images"])
    names = {one["id"]: one["file_name"] for one in content["images"]}
    new = [one for one in content["annotations"] if one["source"] == "synthetic"]
    assert len(new) == 2 * len(TRAIN)
    assert {one["instance_id"] for one in new} == {TWO_PARTS_ID, MOTORCYCLE_ID}
    assert all("syn/" in names[one["image_id"]] for one in new)
    assert {one["source"] for one in content["annotations"]} == {"synthetic", "original"}


@pytest.mark.slow
def test_category_ids_of_cityscapes_and_outlines_along_pixel_edges(mini, tmp_path):
    add_raw(mini, tmp_path, ["val"], "symlink")
    flags = ("--out", tmp_path, "--category_ids", "cityscapes", "--polygons", "--num_workers", 2)
    assert "2 images" in run_ok(export.main, *flags)
    ground_truth = COCO(str(coco_path(tmp_path, "val")))
    assert ground_truth.getCatIds() == [24, 25, 26, 27, 28, 31, 32, 33]
    assert [one["id"] for one in categories("cityscapes")] == ground_truth.getCatIds()
    (frame, _) = list_frames(tmp_path, "val")
    ids = cv2.imread(str(frame.instance_path), cv2.IMREAD_UNCHANGED)
    for one in ground_truth.loadAnns(ground_truth.getAnnIds(imgIds=1)):
        assert one["category_id"] == one["instance_id"] // (1 if one["iscrowd"] else 1000)
        outlined = isinstance(one["segmentation"], list)
        assert outlined != (one["iscrowd"] or one["instance_id"] == HOLED_ID)  # holes can't be expressed
        assert np.array_equal(ground_truth.annToMask(one), ids == one["instance_id"])
        if one["instance_id"] == TWO_PARTS_ID:
            assert len(one["segmentation"]) == 2


def _coco_precision(path: Path, predictions: list[dict]) -> float:
    ground_truth = COCO(str(path))
    judge = COCOeval(ground_truth, ground_truth.loadRes(predictions), "segm")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return judge.stats[0]


def _official_precision(tree: Path, folder: Path, predictions: dict[str, np.ndarray], monkeypatch) -> float:
    """The official average precision of predictions, id maps by name of all frames of the train split.

    Three overrides make the official program run with a current NumPy, and keep it from
    writing its caches into its own package and the working folder.
    """
    if not hasattr(np, "in1d"):
        monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    monkeypatch.setattr(Official, "writeDict2JSON", lambda *_: None)
    args = Official.args
    for name, value in (
        ("JSONOutput", False),
        ("quiet", True),
        ("gtInstancesFile", str(folder / "none.json")),
        ("predictionPath", str(folder)),
        ("predictionWalk", None),
        ("instLabels", []),
    ):
        monkeypatch.setattr(args, name, value)
    Official.setInstanceLabels(args)
    frames = list_frames(tree, "train")
    for frame in frames:
        rows = []
        ids = predictions[frame.name]
        for value in np.unique(ids[ids >= 1000]).tolist():
            if value // 1000 not in (29, 30):
                file = f"{frame.name}_{value}.png"
                (folder / file).write_bytes(encode_png((ids == value).astype(np.uint8) * 255))
                rows.append(f"{file} {value // 1000} 0.9\n")
        (folder / f"{frame.name}.txt").write_text("".join(rows))
    ground_truths = [str(frame.instance_path) for frame in frames]
    found = [Official.getPrediction(path, args) for path in ground_truths]
    return Official.evaluateImgLists(found, ground_truths, args)["averages"]["allAp"]


def _maps(tree: Path) -> dict[str, np.ndarray]:
    frames = list_frames(tree, "train")
    return {frame.name: cv2.imread(str(frame.instance_path), cv2.IMREAD_UNCHANGED) for frame in frames}


def test_perfect_predictions_score_one_in_the_official_evaluation(tree, tmp_path, monkeypatch):
    package = Path(Official.__file__).parent
    before = {path.name for path in (*package.iterdir(), *Path().iterdir())}
    assert _official_precision(tree, tmp_path, _maps(tree), monkeypatch) == pytest.approx(1.0)
    assert {path.name for path in (*package.iterdir(), *Path().iterdir())} == before


def test_a_frame_without_instances_and_a_crowd_that_absorbs_a_prediction(mini, tmp_path, monkeypatch):
    """Of one frame all instances go; on the others a prediction lies on the group of persons."""
    tree, results = tmp_path / "tree", tmp_path / "results"
    results.mkdir()
    add_raw(mini, tree, ["train"], "copy")
    empty, *others = list_frames(tree, "train")
    ids = cv2.imread(str(empty.instance_path), cv2.IMREAD_UNCHANGED)
    ids[ids >= 24] = 7
    empty.instance_path.write_bytes(encode_png(ids))
    (path,), left_out = export_coco(tree, ["train"])
    assert left_out == 0
    content = json.loads(path.read_text())
    assert 1 not in {one["image_id"] for one in content["annotations"]}

    maps = _maps(tree)
    for name in maps:
        maps[name] = np.where(maps[name] == 24, np.uint16(24900), maps[name])  # half of it would do as well
    assert _official_precision(tree, results, maps, monkeypatch) == pytest.approx(1.0)
    predictions = []
    for image_id, frame in enumerate((empty, *others), 1):
        for one in annotations_of(maps[frame.name]):
            predictions.append(
                one | {"image_id": image_id, "score": 0.9 if one["instance_id"] != 24900 else 1}
            )
    assert _coco_precision(path, predictions) == pytest.approx(1.0)

    # Without the crowd the same predictions are false.
    content["annotations"] = [one for one in content["annotations"] if not one["iscrowd"]]
    path.write_text(json.dumps(content))
    assert _coco_precision(path, predictions) < 0.97


def test_export_names_what_is_not_there(tmp_path):
    assert "holds no instance maps" in refused(export.main, "--out", tmp_path)
    (tmp_path / "manifest.jsonl").write_text('{"stage": "integrate"}\n')
    with pytest.raises(InputError, match="line 1: damaged"):
        new_instances(tmp_path)
    (tmp_path / "manifest.jsonl").write_text('{"stage": "integ')  # cut short, as by a kill
    assert new_instances(tmp_path) == ("synthetic", {})
