"""Scenes and objects that a person brings along, without a browser."""

import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from demo import actions, uploads
from demo.files import write_zip
from demo.state import begin
from label.classes import known_labels
from label.labeller import Labeller, Wanted
from support.errors import InputError
from tests.augment.paint.test_folder import object_of
from tests.demo.conftest import FREE, WISHES
from tests.demo.readers import check_official
from tests.label.stand_in import StandIn
from tests.miniature import write_png
from tests.town import HEIGHT, WIDTH


def test_a_scene_of_ones_own(studio, tmp_path):
    frame = studio.frames[1]
    image = tmp_path / "own.jpg"
    Image.fromarray(studio.scene(1).image.rgb).save(image)
    maps = str(frame.label_path), str(frame.instance_path)
    state = actions.click(studio, uploads.upload(*maps, str(image), False), WISHES, *FREE)
    assert state.scene.frame.name == frame.name
    with zipfile.ZipFile(write_zip(state, tmp_path / "own.zip")) as archive:
        archive.extractall(tmp_path / "tree")
    check_official(tmp_path / "tree", "train", persons=3)
    without = actions.click(studio, uploads.upload(*maps, None, False), WISHES, *FREE)
    assert without.image.rgb is None and len(without.objects) == 1


def test_a_picture_alone_is_a_scene_where_a_segmenter_is_there(studio, tmp_path, monkeypatch):
    """The maps are those that the segmenter gives, here the ground truth; the picture stands upright."""
    frame, rgb = studio.frames[1], studio.scene(1).image.rgb
    path, note = tmp_path / "mine.webp", Image.Exif()
    note[0x0112] = 3  # held upside down
    Image.fromarray(np.rot90(rgb, 2)).save(path, lossless=True, exif=note)
    alone = None, None, str(path), False
    with pytest.raises(InputError, match="started with --segmenter"):
        uploads.own_scene(studio, *alone)
    model = StandIn.of([(frame.image_path, frame.label_path, frame.instance_path)])
    monkeypatch.setattr(studio, "labeller", Labeller.of(Wanted.of_model(model, known_labels(None))))
    begun = uploads.own_scene(studio, *alone)
    assert np.array_equal(begun.image.rgb, rgb)
    assert np.array_equal(begun.image.label_ids, frame.read_maps()[0])
    state = actions.click(studio, begun, WISHES, *FREE)
    with zipfile.ZipFile(write_zip(state, tmp_path / "own.zip")) as archive:
        archive.extractall(tmp_path / "tree")
    check_official(tmp_path / "tree", "train", persons=3)
    (tmp_path / "junk.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"^junk\.jpg: truncated or damaged"):
        uploads.own_scene(studio, None, None, str(tmp_path / "junk.jpg"), False)
    maps = str(frame.label_path), str(frame.instance_path)
    assert uploads.own_scene(studio, *maps, None, True).scene.frame.name == frame.name


@pytest.mark.parametrize(
    ("names", "words"),
    (
        (("junk", "instances", None), "junk.png: "),
        (("labels", None, None), "Two maps are needed"),
        (("instances", "labels", None), "a label map is an 8-bit grey PNG"),
        (("labels", "small", None), "has 256x128 pixels, but its instance map 20x10"),
        (("labels", "instances", "junk"), "junk.png: truncated or damaged"),
        (("labels", "instances", "tiny"), f"but its annotation {WIDTH}x{HEIGHT}"),
    ),
)
def test_a_wrong_upload_gets_a_sentence(studio, tmp_path, names, words):
    frame = studio.frames[0]
    (tmp_path / "junk.png").write_bytes(b"\x89PNG no image")
    write_png(tmp_path / "small.png", np.zeros((10, 20), np.uint16))
    write_png(tmp_path / "tiny.png", np.zeros((10, 20), np.uint8))
    paths = {"labels": frame.label_path, "instances": frame.instance_path}
    given = [name and str(paths.get(name, tmp_path / f"{name}.png")) for name in names]
    with pytest.raises(InputError) as error:
        uploads.upload(*given, False)
    assert words in str(error.value) and str(tmp_path) not in str(error.value)
    assert "\n" not in str(error.value)


# ---- somebody's own object ----------------------------------------------------------------------


@pytest.fixture
def taken(studio, begun, tmp_path):
    path = tmp_path / "cone.png"
    Image.fromarray(object_of(40, 80)).save(path)
    return uploads.take_object(studio, begun, path=str(path))


def test_an_uploaded_object_stands_where_is_clicked_as_often_as_wanted(studio, taken):
    assert "Your cut-out: 40x80 pixels" in taken.message
    state = actions.click(studio, taken, WISHES, *FREE)
    state = actions.click(studio, state, WISHES, 90.5, 105.5)
    assert len(state.objects) == 2 and "Put there: person 2" in state.message
    for number, (x, y) in enumerate((FREE, (90.5, 105.5)), 1):
        mask = state.image.inserted == number
        rows, columns = np.nonzero(mask)
        assert rows.max() + 1 == round(y) and abs((columns.min() + columns.max() + 1) / 2 - x) <= 1
        height = rows.max() + 1 - rows.min()
        assert columns.max() + 1 - columns.min() == pytest.approx(height / 2, abs=1)
        assert (state.image.rgb[mask][:, 0] > 2 * state.image.rgb[mask][:, 1]).mean() > 0.8  # red
        assert (state.image.instance_ids[mask] // 1000 == 24).all()
    assert state.image.rgb.shape == taken.image.rgb.shape


def test_it_may_be_of_no_class_and_have_a_height(studio, taken):
    own = next(iter(taken.own.cutouts.files))
    path = taken.own.cutouts.root / own
    state = uploads.take_object(studio, taken, path=str(path), metres=0.8, no_class=True)
    assert "40x80 pixels, 0.8 m high, dynamic. Click" in state.message
    state = actions.click(studio, state, WISHES, *FREE)
    mask = state.image.inserted == 1
    rows = np.flatnonzero(mask.any(1))
    assert (state.image.instance_ids[mask] == 5).all() and "dynamic 1" in state.message
    assert actions.named(state, 0) == "1: dynamic"
    camera = state.image.camera
    pixel = camera.metric_height(rows[-1], rows[-1] + 1)
    assert camera.metric_height(rows[0], rows[-1] + 1) == pytest.approx(0.8, abs=pixel)


def test_it_stays_what_it_is_whatever_is_done_with_others(studio, taken, tmp_path):
    state = actions.click(studio, taken, WISHES, *FREE)
    without = uploads.take_object(studio, state, path=None)
    state = actions.click(studio, without, WISHES, 90.5, 105.5)
    assert without.own.cutouts is None and "render" in state.objects[1].facts
    own = state.image.inserted == 1
    repainted = actions.repaint(studio, state, replace(WISHES, pixels="overlay"))
    assert np.array_equal(repainted.image.rgb[own], state.steps[1].rgb[own])
    moved = actions.move(studio, actions.choose(state, 0), WISHES, 2, 0.3)
    assert (moved.image.rgb[moved.image.inserted == 1][:, 0] > 80).mean() > 0.8 and moved.objects[0].own
    assert moved.objects[1].own is None
    removed = actions.remove(studio, actions.choose(state, 0), WISHES)
    assert len(removed.objects) == 1 and removed.objects[0].own is None
    assert actions.undo(actions.click(studio, taken, WISHES, *FREE)).own is taken.own
    (path,) = (write_zip(state, tmp_path / "new.zip"),)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "unpacked")
    check_official(tmp_path / "unpacked", "train", 4)


def test_surprise_shows_it_too_and_another_scene_keeps_it(studio, taken):
    state = actions.surprise(studio, taken, WISHES)
    assert state.objects[0].own is taken.own.cutouts and "Drawn: person 1" in state.message
    other = actions.in_scene_of(state, begin(studio.scene(1)))
    assert other.own is taken.own and not other.objects


def test_what_is_no_cutout_is_named_as_it_was_called(studio, begun, tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "photo.png")
    with pytest.raises(InputError, match=r"^photo.png: an 8-bit RGB image, but a cut-out is") as error:
        uploads.take_object(studio, begun, path=str(tmp_path / "photo.png"))
    assert str(tmp_path) not in str(error.value)


def test_one_with_too_few_pixels_is_rejected_in_words(studio, begun, tmp_path):
    Image.fromarray(object_of(10, 12)).save(tmp_path / "small.png")
    state = uploads.take_object(studio, begun, path=str(tmp_path / "small.png"))
    state = actions.click(studio, state, WISHES, *FREE)
    assert not state.objects and "too few pixels" in state.message
