"""scripts.insert --raw, --panoptic and --dry_run: new frames beside the source's, and what would be done."""

import json

import pytest
import torchvision
from cityscapesscripts.evaluation.evalPanopticSemanticLabeling import evaluatePanoptic

from augment.repaint.validate import validate_tree
from data.cityscapes import list_frames
from tests.augment.insert.inserting import content, lines, run
from tests.town import write_checkpoint, write_town

COMMAND = ("--per_image", "1-2", "--no_apart", "--min_visible", "20", "--render", "overlay")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("source")
    write_town(root, 3)
    return root


@pytest.fixture(scope="module")
def arguments(source, tmp_path_factory):
    checkpoint = write_checkpoint(tmp_path_factory.mktemp("checkpoint"))
    return ("--checkpoint", checkpoint, "--db_root", source, *COMMAND)


def test_new_frames_lie_beside_those_of_the_source(source, arguments, tmp_path, monkeypatch):
    out = tmp_path / "out"
    both = (*arguments, "--out", out, "--raw", "symlink", "--coco", "--panoptic", "--train_ids")
    assert run(monkeypatch, *both) == 0
    raw = [frame.name for frame in list_frames(source, "train")]
    new = sorted({one["image"] for one in lines(out) if one["status"] == "inserted"})
    assert new and all(name.split("_")[0].endswith("ins") for name in new)
    assert [frame.name for frame in list_frames(out, "train")] == sorted([*raw, *new])
    link = next((out / "leftImg8bit/train").glob(f"*/{raw[0]}_leftImg8bit.png"))
    assert link.is_symlink() and not link.readlink().is_absolute()
    data = torchvision.datasets.Cityscapes(out, "train", "fine", ["instance", "semantic"])
    assert len(data) == len(raw) + len(new)
    assert validate_tree(out) == []

    coco = json.loads(next((out / "annotations").glob("*train.json")).read_text())
    assert len(coco["images"]) == len(data)
    assert {one["source"] for one in coco["annotations"]} == {"original", "inserted"}
    panoptic = out / "gtFine" / "cityscapes_panoptic_train.json"
    pictures = str(panoptic.with_suffix(""))
    found = evaluatePanoptic(str(panoptic), pictures, str(panoptic), pictures, str(tmp_path / "result.json"))
    assert found["All"]["pq"] == pytest.approx(1)

    before = content(out)
    assert run(monkeypatch, *both) == 0
    assert content(out) == before


def test_a_dry_run_counts_and_writes_nothing(source, arguments, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert run(monkeypatch, *arguments, "--out", out, "--dry_run") == 0
    assert not out.exists()
    told = capsys.readouterr().out
    assert "3 images" in told and "0 of them finished" in told
    tried = int(told.split("objects to be tried: ")[1].split()[0])

    assert run(monkeypatch, *arguments, "--out", out) == 0
    assert sum("object" in one for one in lines(out)) == tried
    before = content(out)
    capsys.readouterr()
    assert run(monkeypatch, *arguments, "--out", out, "--dry_run") == 0
    assert "3 of them finished" in capsys.readouterr().out and content(out) == before


@pytest.mark.parametrize("more", [("--render", "none"), ("--image", "x_gtFine_labelIds.png")])
def test_raw_frames_need_pictures_and_a_split(arguments, more, tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, *arguments, "--out", tmp_path / "out", "--raw", "copy", *more) == 2
    assert "--raw" in capsys.readouterr().err and not (tmp_path / "out").exists()
