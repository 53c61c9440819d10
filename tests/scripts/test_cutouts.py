"""scripts/cutouts.py; how a run is cut short and gone on with: tests/test_same_tree.py."""

import json

import numpy as np
import pytest
from PIL import Image

from augment.paint.folder import read_folder
from data.frame import list_frames
from scripts.cutouts import main
from streets.scenes import write_streets
from tests.programs import refused, run_here, run_ok


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("source")
    write_streets(root, 5, 1, (512, 256), seed=1)
    return root


@pytest.fixture
def out(source, tmp_path):
    run_ok(main, "--db_root", source, "--out", tmp_path / "out", "--num_workers", 1)
    return tmp_path / "out"


def test_each_is_named_by_frame_and_id_and_shows_its_pixels(source, out):
    frames = {
        frame.name: (frame.read_maps()[1], frame.read_image()) for frame in list_frames(source, "train")
    }
    paths = [*out.glob("person/*.png"), *out.glob("car/*.png")]
    assert len(paths) > 4
    for path in paths:
        name, number = path.stem.rsplit("_", 1)
        ids, rgb = frames[name]
        rows, columns = np.nonzero(ids == int(number))
        window = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        rgba = np.asarray(Image.open(path))
        assert rgba.shape == (*ids[window].shape, 4) and len(rgba) >= 32
        inside = ids[window] == int(number)
        assert (rgba[inside][:, 3] == 255).all()
        assert (rgba[inside][:, :3] == rgb[window][inside]).all(1).mean() > 0.5  # the rim may be continued
    summary = json.loads((out / "cutouts.json").read_text())
    assert sum(summary["cutouts"].values()) == len(read_folder(out).files)


def test_what_was_deleted_stays_deleted_and_leaves_the_sheets(source, out):
    before = (out / "contact_sheets/person_0001.png").read_bytes()
    gone = sorted(out.glob("person/*.png"))[:2]
    for path in gone:
        path.unlink()
    left = len(list(out.glob("person/*.png")))
    printed = run_ok(main, "--db_root", source, "--out", out, "--num_workers", 1)
    assert f"person {left}" in printed and not any(path.exists() for path in gone)
    assert (out / "contact_sheets/person_0001.png").read_bytes() != before


def test_classes_and_heights_that_are_asked_for(source, tmp_path):
    flags = ("--classes", "car", "--min_height", 60, "--num_workers", 1)
    run_ok(main, "--db_root", source, "--out", tmp_path / "out", *flags)
    assert not (tmp_path / "out/person").exists()
    assert all(Image.open(path).size[1] >= 60 for path in tmp_path.glob("out/car/*.png"))


def test_a_folder_of_something_else_is_left_alone(source, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    said = refused(main, "--db_root", source, "--out", tmp_path)
    assert "is not empty and holds no earlier run" in said
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert "inside the input" in refused(main, "--db_root", source, "--out", source / "cut")


def test_own_files_survive_going_on_but_a_bad_one_is_named(source, out):
    Image.new("RGB", (50, 50)).save(out / "person/own.png")
    said = refused(main, "--db_root", source, "--out", out, "--num_workers", 1)
    assert str(out / "person/own.png") in said


def test_a_frame_that_cannot_be_read_is_named_and_the_others_are_done(source, tmp_path):
    broken = tmp_path / "in"
    write_streets(broken, 3, 1, (512, 256), seed=1)
    frame = list_frames(broken, "train")[0]
    frame.image_path.write_bytes(b"nothing")
    done = run_here(main, "--db_root", broken, "--out", tmp_path / "out", "--num_workers", 1)
    assert done.returncode == 1 and frame.image_path.name in done.stderr
    assert list(tmp_path.glob("out/*/*.png"))
