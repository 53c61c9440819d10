"""What can be done in a session of the page, without a browser."""

import socket
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

import scripts.demo
from augment.placement.filters import FILTERS, Filters
from data.coco import coco_path
from data.frame import list_frames
from demo import actions, uploads
from demo.files import write_zip
from demo.images import before_and_after, in_scene, jpeg_file, scene_image
from demo.options import DemoOptions
from demo.state import FORCED, Wishes, begin
from demo.studio import Studio
from streets.scenes import write_streets
from support.errors import InputError
from tests.demo.conftest import FREE, WISHES
from tests.demo.readers import check_official
from tests.miniature import write_miniature, write_png
from tests.programs import refused
from tests.town import (
    write_checkpoint,
    write_density_checkpoint,
    write_places_checkpoint,
)


@pytest.fixture
def two(studio, begun):
    """Two persons."""
    first = actions.click(studio, begun, WISHES, *FREE)
    return actions.click(studio, first, WISHES, 90.5, 105.5)


def test_a_click_puts_the_foot_there(studio, begun):
    state = actions.click(studio, begun, WISHES, *FREE)
    (placed,) = state.objects
    x0, _, x1, y1 = placed.facts["box"]
    assert ((x0 + x1) / 2, y1) == pytest.approx(FREE, abs=0.01)
    assert placed.patch.foot == int(FREE[1])
    changed = state.image.label_ids != begun.image.label_ids
    assert changed.any() and (state.image.instance_ids[changed] == 24002).all()
    assert "Put there: person 1" in state.message and "pixels seen" in state.message


def test_the_sliders_show_the_place_exactly_and_the_size_is_the_median_there(studio, begun):
    state = actions.click(studio, begun, WISHES, *FREE)
    z = actions.place_noise(studio, state, WISHES)
    assert z[2:] == pytest.approx(0, abs=1e-9)
    same = actions.move(studio, state, WISHES, 0, z[0])
    assert same.objects[0].theta == pytest.approx(state.objects[0].theta, rel=1e-9)


def test_a_slider_moves_one_number_and_the_mask_with_it(studio, begun):
    state = actions.click(studio, begun, WISHES, *FREE)
    z = actions.place_noise(studio, state, WISHES)
    moved = state
    for height in (0.1, 0.2, -0.5):
        moved = actions.move(studio, moved, WISHES, 2, height)
    assert actions.place_noise(studio, moved, WISHES) == pytest.approx([z[0], z[1], -0.5, z[3]], abs=1e-6)
    assert len(moved.objects[0].patch.mask) < len(state.objects[0].patch.mask)
    assert actions.undo(moved).objects == state.objects, "one drag is one change"


def test_what_filters_reject_is_explained_in_words_unless_forced(studio, begun):
    sky = (128.5, 30.5)
    refused = actions.click(studio, begun, WISHES, *sky)
    assert not refused.objects
    assert refused.message == f"**Rejected:** the filter “support” asks: {FILTERS['support']}."
    tall = actions.click(studio, begun, WISHES, 180.5, 80.5)
    assert not tall.objects and "“height”" in tall.message and " m high" in tall.message
    assert len(actions.click(studio, begun, replace(WISHES, filters=FORCED), *sky).objects) == 1
    others = tuple(filter_name for filter_name in FILTERS if filter_name not in ("support", "height"))
    assert len(actions.click(studio, begun, replace(WISHES, filters=Filters(others)), *sky).objects) == 1


def test_too_near_to_another_one_names_the_limit(studio, begun):
    state = actions.click(studio, begun, WISHES, *FREE)
    again = actions.click(studio, state, WISHES, FREE[0] + 5, FREE[1])
    assert again.objects == state.objects and "0.5 times the height" in again.message


def test_surprise_says_what_was_rejected_before_and_differs_each_time(studio, begun):
    wishes = replace(WISHES, filters=Filters(("inside", "support")))
    state = actions.surprise(studio, begun, wishes)
    other = actions.surprise(studio, state, wishes)
    assert len(other.objects) == 2 and not np.array_equal(*(one.theta for one in other.objects))
    assert other.message.startswith("Drawn: person 2")
    nothing = actions.surprise(studio, begun, replace(WISHES, filters=Filters(min_score=1.0)))
    assert not nothing.objects and "the score of the place is at least 1" in nothing.message


def test_objects_are_removed_and_come_back(studio, two):
    left = actions.remove(studio, actions.choose(two, 0), WISHES)
    assert len(left.objects) == 1 and left.chosen == 0
    mask = left.image.inserted == 1
    assert mask.any() and not mask[:, 175:185].any(), "the other one stayed"
    back = actions.undo(left)
    assert np.array_equal(back.image.instance_ids, two.image.instance_ids)
    for _ in range(2):
        back = actions.undo(back)
    assert not back.objects and actions.undo(back).message == "There is nothing to undo."


def test_a_changed_object_leaves_later_ones_as_they_were(studio, two):
    before = two.image.inserted == 2
    moved = actions.move(studio, actions.choose(two, 0), WISHES, 2, -1.0)
    assert np.array_equal(moved.image.inserted == 2, before)
    assert moved.chosen == 0 and (moved.image.inserted == 1).sum() < (two.image.inserted == 1).sum()


def test_pixels_change_where_objects_are(studio, begun):
    swapped = actions.click(studio, begun, WISHES, *FREE)
    flat = actions.repaint(studio, swapped, replace(WISHES, pixels="overlay"))
    seen = flat.image.inserted > 0
    assert (flat.image.rgb[seen] == (220, 20, 60)).all()
    assert (flat.image.rgb[~seen] == begun.image.rgb[~seen]).all()
    assert (swapped.image.rgb[seen] != begun.image.rgb[seen]).any()
    before, after = before_and_after(flat)
    assert np.array_equal(before, begun.image.rgb) and np.array_equal(after, flat.image.rgb)


def test_heat_is_painted_over_as_strongly_as_wished(studio, begun):
    plain, half, full = (scene_image(studio, begun, WISHES, opacity).astype(int) for opacity in (0, 0.5, 1))
    assert np.array_equal(plain, begun.image.rgb)
    assert np.abs(half - (plain + full) / 2).max() <= 1 and np.abs(full - plain).max() > 50


def test_an_image_that_is_shown_again_is_not_written_again(tmp_path):
    red = np.full((128, 256, 3), (220, 20, 60), np.uint8)
    path = Path(jpeg_file(red, tmp_path))
    stamp = path.stat().st_mtime_ns
    assert jpeg_file(red.copy(), tmp_path) == str(path) and path.stat().st_mtime_ns == stamp
    assert np.abs(np.asarray(Image.open(path), int) - red).max() <= 3
    assert jpeg_file(255 - red, tmp_path) != str(path) and len(list(tmp_path.iterdir())) == 2


def test_a_large_image_is_shown_smaller_and_clicks_are_meant_in_its_pixels(studio, tmp_path):
    labels = np.full((1024, 2048), 7, np.uint8)
    write_png(tmp_path / "a.png", labels)
    write_png(tmp_path / "b.png", labels.astype(np.uint16))
    state = uploads.upload(str(tmp_path / "a.png"), str(tmp_path / "b.png"), None, True)
    assert scene_image(studio, state, WISHES, 0).shape == (512, 1024, 3)
    assert in_scene(state, 300, 200) == (601, 401)


# ---- files --------------------------------------------------------------------------------------


def test_the_zip_is_a_tree_that_official_readers_accept(two, tmp_path):
    path = write_zip(two, tmp_path / "town.zip")
    root = tmp_path / "tree"
    with zipfile.ZipFile(path) as archive:
        archive.extractall(root)
    check_official(root, "train", persons=4)
    (frame,) = list_frames(root, "train")
    assert np.array_equal(frame.read_maps()[1], two.image.instance_ids)
    new = [one for one in COCO(str(coco_path(root, "train"))).anns.values() if one["source"] == "inserted"]
    assert [one["instance_id"] for one in new] == two.image.new_ids


def test_there_is_nothing_to_download_without_objects(begun, tmp_path):
    with pytest.raises(InputError, match="nothing to download"):
        write_zip(begun, tmp_path / "a.zip")


def test_a_tree_without_images_is_shown_in_official_colours(tmp_path, capsys):
    write_miniature(tmp_path / "maps", count=1)
    model = write_density_checkpoint(tmp_path / "person")
    options = DemoOptions((str(model),), db_root=str(tmp_path / "maps"), split="train", camera="cityscapes")
    bare = Studio(options)
    assert list(bare.painters) == ["overlay"] and "flat colour: " in capsys.readouterr().err
    wishes = Wishes("person", FORCED, pixels="overlay")
    begun = begin(bare.scene(0))
    assert begun.image.camera.assumed
    after = actions.click(bare, begun, wishes, *FREE)
    assert (before_and_after(after)[1][after.image.inserted > 0] == (220, 20, 60)).all()


def test_a_model_without_a_density_is_refused(tmp_path):
    with pytest.raises(InputError, match="no density of places"):
        Studio(DemoOptions((str(write_checkpoint(tmp_path)),), db_root=str(tmp_path)))


# ---- time ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Scenes of 1024 x 512 pixels, and the models that come with the project."""
    root = tmp_path_factory.mktemp("large")
    write_streets(root / "streets", 2, 1, (1024, 512), 0)
    torch.set_num_threads(1)
    return Studio(DemoOptions(db_root=str(root / "streets"), bank=str(root / "bank.npz"), device="cpu"))


@pytest.mark.parametrize(("pixels", "limit"), (("overlay", 1), ("swap", 2)))
def test_a_click_is_fast(large, pixels, limit, capsys):
    wishes = Wishes("person", FORCED, pixels=pixels)
    begun = begin(large.scene(0))
    seconds = []
    for x in (300, 500, 700):
        start = time.perf_counter()
        state = actions.click(large, begun, wishes, x + 0.5, 400.5)
        actions.place_noise(large, state, wishes)
        scene_image(large, state, wishes, 0)
        before_and_after(state)
        seconds.append(time.perf_counter() - start)
        assert len(state.objects) == 1
    with capsys.disabled():
        print(f"\na click at 1024x512, {pixels}: {min(seconds):.2f} s, slowest of three {max(seconds):.2f} s")
    assert min(seconds) < limit


def test_the_shape_follows_its_sliders(large):
    wishes = Wishes("person", FORCED, pixels="overlay")
    state = actions.click(large, begin(large.scene(0)), wishes, 500.5, 400.5)
    values = actions.shape_values(large, state)
    changed = actions.reshape(large, state, wishes, 0, values[0] + 2)
    assert actions.shape_values(large, changed) == pytest.approx(values + [2, 0, 0, 0], abs=1e-4)
    assert not np.array_equal(changed.image.inserted, state.image.inserted)
    assert np.array_equal(changed.objects[0].theta, state.objects[0].theta)
    other = actions.another_shape(large, state, wishes)
    assert not np.array_equal(other.objects[0].z_appr, state.objects[0].z_appr)


# ---- the program --------------------------------------------------------------------------------


def test_without_gradio_the_program_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "demo.page", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert "pip install -r requirements-demo.txt" in refused(scripts.demo.main, "--port", port)


def test_a_model_of_places_alone_shows_other_instances_as_they_are(tmp_path):
    write_streets(tmp_path / "town", 3, 0, (512, 256), seed=0)
    model = write_places_checkpoint(tmp_path / "places", "person,car")
    options = DemoOptions(
        (str(model),), db_root=str(tmp_path / "town"), split="train", bank=str(tmp_path / "b"), device="cpu"
    )
    studio = Studio(options)
    assert studio.classes == ("person", "car") and list(studio.painters) == ["cutout"]
    wishes = Wishes("person", FORCED, pixels="cutout")
    state = actions.surprise(studio, begin(studio.scene(0)), wishes)
    state = actions.surprise(studio, state, replace(wishes, class_name="car"))
    assert [placed.class_name for placed in state.objects] == ["person", "car"]
    asked = studio.inserter_for(state.image, replace(wishes, filters=Filters())).filters_for(
        state.image, "car"
    )
    assert "at least 7 pixels" in actions.in_words("visible", wishes, asked)  # 1/20000 of the image
    assert "of the shape" not in state.message and len(actions.shape_values(studio, state)) == 0
    shown = set()
    for _ in range(8):
        state = actions.another_shape(studio, actions.choose(state, 0), wishes)
        shown.add(state.objects[0].facts["render"]["source"])
    assert len(shown) > 1
    frame = list_frames(tmp_path / "town", "train")[0]
    bare = uploads.upload(str(frame.label_path), str(frame.instance_path), None, False)
    with pytest.raises(InputError, match="add the image"):
        actions.click(studio, bare, wishes, 300.5, 200.5)
