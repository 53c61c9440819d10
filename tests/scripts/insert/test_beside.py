"""scripts.insert --raw, --panoptic and --dry_run: new frames beside the source's, and what would be done."""

import json

import pytest
import torchvision
from cityscapesscripts.evaluation.evalPanopticSemanticLabeling import evaluatePanoptic

from augment.validate import validate_tree
from data.frame import list_frames
from tests.equality import files_in
from tests.miniature import as_coarse, litter
from tests.programs import run_ok
from tests.scripts.insert.inserting import insert, lines
from tests.town import write_town

COMMAND = ("--per_image", "1-2", "--no_apart", "--min_visible", "20", "--render", "overlay")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("source")
    write_town(root, 3)
    litter(root)
    return root


@pytest.fixture(scope="module")
def arguments(source, checkpoint):
    return ("--checkpoint", checkpoint, "--db_root", source, *COMMAND)


def test_new_frames_lie_beside_those_of_the_source(source, arguments, tmp_path):
    out = tmp_path / "out"
    both = (*arguments, "--out", out, "--raw", "symlink", "--coco", "--panoptic", "--train_ids")
    run_ok(insert, *both)
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
    images = str(panoptic.with_suffix(""))
    found = evaluatePanoptic(str(panoptic), images, str(panoptic), images, str(tmp_path / "result.json"))
    assert found["All"]["pq"] == pytest.approx(1)

    before = files_in(out)
    run_ok(insert, *both)
    assert files_in(out) == before


def test_a_dry_run_counts_and_writes_nothing(arguments, tmp_path):
    out = tmp_path / "out"
    printed = run_ok(insert, *arguments, "--out", out, "--dry_run")
    assert not out.exists()
    assert "3 images" in printed and "0 of them finished" in printed
    tried = int(printed.split("objects to be tried: ")[1].split()[0])

    run_ok(insert, *arguments, "--out", out)
    assert sum("object" in one for one in lines(out)) == tried
    before = files_in(out)
    assert "3 of them finished" in run_ok(insert, *arguments, "--out", out, "--dry_run")
    assert files_in(out) == before


@pytest.mark.parametrize(("city", "stem"), [("cam0", "%04d"), ("cam_0", "cam_0_%d"), ("Köln a", "Köln a_%d")])
def test_a_data_set_may_have_names_of_its_own(city, stem, arguments, tmp_path):
    root, out = tmp_path / "own [v2]*", tmp_path / "out [1]?"
    write_town(root, 2)
    for path in list(root.glob("*/train/town/*")):
        path.rename(
            path.with_name(stem % int(path.name.split("_")[1]) + path.name[len("town_000000_000019") :])
        )
    for path in root.glob("*/train/town"):
        path.rename(path.with_name(city))
    arguments = [root if type(one) is type(root) and (one / "gtFine").exists() else one for one in arguments]
    both = (*arguments, "--out", out, "--raw", "symlink", "--coco", "--panoptic", "--preview", 1)
    run_ok(insert, *both)
    raw = [frame.name for frame in list_frames(root, "train")]
    new = sorted({one["image"] for one in lines(out) if one["status"] == "inserted"})
    assert new and [frame.name for frame in list_frames(out, "train")] == sorted([*raw, *new])
    panoptic = json.loads((out / "gtFine/cityscapes_panoptic_train.json").read_text())
    assert {one["image_id"] for one in panoptic["annotations"]} == {*raw, *new}
    assert len(torchvision.datasets.Cityscapes(out, "train", "fine", "semantic")) == len(raw) + len(new)


def test_coarsely_annotated_frames_stay_so(arguments, tmp_path):
    root, out = tmp_path / "in", tmp_path / "out"
    write_town(root, 2, "train_extra")
    as_coarse(root)
    arguments = [root if type(one) is type(root) and (one / "gtFine").exists() else one for one in arguments]
    extra = ("--split", "train_extra", "--raw", "copy", "--coco", "--panoptic", "--train_ids")
    run_ok(insert, *arguments, "--out", out, *extra)
    read = torchvision.datasets.Cityscapes(out, "train_extra", "coarse", ["instance", "semantic"])
    assert len(read) == len(list_frames(out, "train_extra")) > 2
    assert validate_tree(out) == [] and not (out / "gtFine").exists()
