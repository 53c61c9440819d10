"""scripts/insert.py --render: the images of the new tree agree with its maps, and nothing else changes."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import augment.paint.painter
from augment.options import SynthOptions
from augment.paint.backends import make_backend
from augment.paint.blend import to_lab
from augment.paint.painter import Painter, Rendering
from augment.placement.contact_sheet import GAP, HEAD_HEIGHT
from augment.placement.filters import Filters
from augment.placement.scene import read_image
from data.frame import list_frames
from data.geometry import MaskPatch, is_thing
from tests.equality import files_in
from tests.programs import refused, run_here, run_ok
from tests.scripts.insert.inserting import insert, lines
from tests.town import write_checkpoint

WIDTH, HEIGHT, FRAMES = 256, 128, 4
COMMAND = ("--per_image", "2", "--no_gate", "--min_visible", "20", "--may_hide", "--max_overlap", "0.6")


@pytest.fixture(scope="module")
def source(behind_cars):
    return behind_cars


@pytest.fixture(scope="module")
def arguments(source, checkpoint):
    return ("--checkpoint", checkpoint, "--db_root", source, "--render", "swap", *COMMAND)


@pytest.fixture(scope="module")
def out(source, arguments, tmp_path_factory):
    """The tree that most tests look at."""
    before = files_in(source)
    out = tmp_path_factory.mktemp("out") / "tree"
    run_ok(insert, *arguments, "--out", out, "--preview", 2)
    assert files_in(source) == before
    return out


def changes(source: Path, out: Path):
    """For each frame: images before and after, (label_ids, instance_ids) of both, map of inserted ones."""
    for frame in list_frames(source, "train"):
        made = next(one for one in list_frames(out, "train") if one.name == frame.name)
        before, after = frame.read_maps(), made.read_maps()
        images = (one.read_image(before[0].shape) for one in (frame, made))
        inserted = cv2.imread(str(out / f"inserted/train/ash/{frame.name}_inserted.png"), -1)
        yield frame.name, *images, before, after, inserted


# ---- the images -------------------------------------------------------------------------------


def test_only_new_objects_and_the_ground_at_their_feet_change(source, out):
    occluded = shaded = 0
    for name, before, after, old, new, inserted in changes(source, out):
        objects = [one for one in lines(out) if one["image"] == name and one["status"] == "inserted"]
        occluded += sum(one["hidden_pixels"] for one in objects)
        changed = (before != after).any(2)
        assert objects and changed[inserted > 0].mean() > 0.9
        remains = is_thing(old[0]) & ~is_thing(new[0])  # of things that are covered
        beside = changed & (inserted == 0) & ~remains
        assert not is_thing(new[0])[beside].any()  # things in front, and all others, are as they were
        assert (after[beside] <= before[beside]).all()
        near_feet = np.zeros_like(beside)
        for one in objects:
            x0, y0, x1, y1 = (round(value) for value in one["box"])
            height, width = y1 - y0, x1 - x0
            reach = 3 + width // 4
            near_feet[y1 - height // 6 : y1 + 4 + height // 8, max(x0 - reach, 0) : x1 + reach] = True
        assert not (beside & ~near_feet).any()
        shaded += np.count_nonzero(beside)
    assert occluded > 50 and shaded > 50


def test_the_manifest_and_the_summary_say_how_it_was_painted(out):
    found = [one["render"] for one in lines(out) if one["status"] == "inserted"]
    assert {one["backend"] for one in found} == {"swap"}
    assert {one["prompt"] for one in found} == {"a photo of a man", "a photo of a woman"}
    assert len({one["seed"] for one in found}) == len(found)
    assert found[0]["details"][0]["params"]["choices"] == 8
    settings = json.loads((out / "insert.json").read_text())["settings"]["render"]
    assert (settings["backend"], settings["shadow"], settings["feather"]) == ("swap", 0.5, 2.0)


def test_the_contact_sheet_shows_images(source, out):
    sheet = cv2.imread(str(out / "preview.png"))
    row = sheet[HEAD_HEIGHT : HEAD_HEIGHT + 240]
    before, after = row[:, :480], row[:, 2 * (480 + GAP) :][:, :480]
    inserted = [one for one in lines(out) if one["status"] == "inserted"]
    name = min(inserted, key=lambda one: (-one["pixels"], one["image"]))["image"]
    raw = cv2.imread(str(source / f"leftImg8bit/train/ash/{name}_leftImg8bit.png"))
    assert np.abs(cv2.resize(before, (WIDTH, HEIGHT)).astype(int) - raw).mean() < 3
    assert 0.005 < (before != after).any(2).mean() < 0.3


def test_an_object_behind_a_car_is_cut_from_a_whole_one(source, monkeypatch):
    """The back end sees the whole mask, the image only changes where the object is seen."""
    requests = []

    class Flat:
        name, version, details = "flat", "1", {}

        def fill(self, request):
            requests.append(request)
            return [np.full_like(request.rgb, 255)]  # also around the mask

    monkeypatch.setattr(augment.paint.painter, "make_backend", lambda *_: Flat())
    frame = list_frames(source, "train")[0]
    image = read_image(frame, rgb=True)
    before, ids = image.rgb.copy(), image.instance_ids.copy()
    options = SynthOptions(colour_match="none", feather=0.0)
    painter = Painter(Rendering("sd_inpaint", options, 0.0, "", "train", "", "cpu"), 3)
    mask = np.ones((40, 12), bool)  # rows 60 to 99, half of it behind the car
    reason, facts = image.put("person", MaskPatch(mask, 90, 60), Filters(rules=()), painter.paint)
    facts |= image.seen(facts["inserted_value"])
    assert reason is None and facts["hidden_pixels"] > 100
    (request,) = requests
    assert request.mask.sum() == mask.size and request.source == f"{frame.name}/{facts['instance_id']}"
    assert request.mask.shape == (HEIGHT, HEIGHT)  # min_crop, as far as there is room
    seen = image.instance_ids == facts["instance_id"]
    assert seen.sum() == facts["pixels"] < mask.size
    assert (image.rgb[seen] == 255).all() and np.array_equal(image.rgb[~seen], before[~seen])
    assert (image.instance_ids[ids == 26002] == 26002).all()
    image.put("person", MaskPatch(mask, 200, 60), Filters(rules=()), painter.paint)
    assert [one.deal for one in requests] == [(request.deal[0], 1), (request.deal[0], 2)]


def test_remains_of_a_covered_thing_are_painted_over(source, tmp_path):
    frame = list_frames(source, "train")[0]
    image = read_image(frame, rgb=True)
    x, y = (int(where.mean()) for where in np.nonzero(image.instance_ids == 33000)[::-1])
    image.rgb[image.instance_ids == 33000] = (255, 0, 255)
    rendering = Rendering("swap", SynthOptions(), 0.5, str(source), "train", str(tmp_path / "b.npz"), "cpu")
    mask = np.ones((60, 34), bool)
    filters = Filters(rules=(), min_visible=10_000, may_hide=True)
    reason, facts = image.put("person", MaskPatch(mask, x - 17, 58), filters, Painter(rendering, 0).paint)
    assert reason is None and 33000 in facts["dropped"] and (image.instance_ids == 33000).sum() == 0
    red, green, blue = np.moveaxis(image.rgb.astype(int), 2, 0)
    outside = image.inserted == 0
    assert not ((red - green > 120) & (blue - green > 120))[outside].any()


def test_recolor_paints_the_objects_of_swap_in_the_colour_of_the_prompt(source, checkpoint, tmp_path):
    (tmp_path / "prompts.yaml").write_text("classes:\n  person: [a person in blue]\n")
    (tmp_path / "config.yaml").write_text(
        f"generate:\n  prompts: {tmp_path / 'prompts.yaml'}\n  style: at noon\nbackend:\n  strength: 1.0\n"
    )
    out = tmp_path / "out"
    command = ("--checkpoint", checkpoint, "--db_root", source, "--out", out, *COMMAND)
    flags = ("--render", "recolor", "--render_config", tmp_path / "config.yaml")
    run_ok(insert, *command, *flags)
    found = [one["render"] for one in lines(out) if one["status"] == "inserted"]
    assert {one["prompt"] for one in found} == {"a photo of a person in blue at noon"}
    assert [one["name"] for one in found[0]["details"]] == ["swap", "recolor"]
    bluer = [
        np.median(to_lab(after[inserted > 0])[:, 2]) - np.median(to_lab(before[inserted > 0])[:, 2])
        for _, before, after, _, _, inserted in changes(source, out)
    ]
    assert max(bluer) < 0 and np.mean(bluer) < -8
    (tmp_path / "prompts.yaml").write_text("classes:\n  person: [a person in red]\n")
    refused(insert, *command, *flags)  # other settings


def test_what_can_not_be_painted_is_not_put_on_the_maps_either(source, tmp_path):
    """There is no bus to show: each attempt that passes the filters ends with the reason "render"."""
    bus = write_checkpoint(tmp_path / "bus", "bus")
    out = tmp_path / "out"
    command = ("--checkpoint", bus, "--db_root", source, "--out", out, "--no_gate", "--attempts", 3)
    run_ok(insert, *command, "--render", "swap")
    assert [one["refusals"] for one in lines(out)] == [{"render": 3}] * FRAMES
    made, original = files_in(out), files_in(source)
    for name in original:
        assert made[name] == original[name]
    assert not (out / ".work").exists()


def test_a_back_end_that_breaks_down_fails_its_image_alone(arguments, tmp_path, monkeypatch):
    real = make_backend

    def make(*given):
        backend = real(*given)
        fill = backend.fill

        def broken(request):
            if request.source.startswith("ash_000001"):
                raise RuntimeError("out of\nphotons")
            return fill(request)

        backend.fill = broken
        return backend

    monkeypatch.setattr(augment.paint.painter, "make_backend", make)
    done = run_here(insert, *arguments, "--out", tmp_path / "out")
    assert done.returncode == 1 and "RuntimeError: out of photons" in done.stderr
    failed = [one["image"] for one in lines(tmp_path / "out") if one["status"] == "failed"]
    assert failed == ["ash_000001_000019"] and len(list_frames(tmp_path / "out", "train")) == FRAMES - 1


# ---- bad input ----------------------------------------------------------------------------------


def test_a_single_image_needs_a_data_set_to_show_instances_of(source, checkpoint, tmp_path):
    image = list_frames(source, "train")[0].label_path
    command = ("--checkpoint", checkpoint, "--image", image, "--out", tmp_path / "out", "--render", "swap")
    assert "give it as --db_root" in refused(insert, *command, "--no_gate")
    run_ok(insert, *command, "--no_gate", "--db_root", source)
    assert list((tmp_path / "out").rglob("*_leftImg8bit.png"))


@pytest.mark.slow
def test_a_back_end_that_can_not_be_made_is_one_line(source, checkpoint, tmp_path):
    (tmp_path / "config.yaml").write_text("backend:\n  device: cuda:99\n")
    command = ("--checkpoint", checkpoint, "--db_root", source, "--out", tmp_path / "out")
    flags = ("--render", "sd_inpaint", "--render_config", tmp_path / "config.yaml")
    for workers in (1, 2):
        message = refused(insert, *command, *flags, "--num_workers", workers)
        assert message.startswith("error: device 'cuda:99'")
        assert not any((tmp_path / "out").iterdir())  # free for other settings
