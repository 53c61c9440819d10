"""A folder of cut-outs as a collection."""

import json
import pickle
import zlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from augment.paint.backends import CannotFillError
from augment.paint.bank import Limits, build_bank
from augment.paint.choosing import Wish, choose, draw_kind, wish_of_kind
from augment.paint.collection import Kind
from augment.paint.export import Cutter
from augment.paint.folder import LONGEST, read_folder
from data.camera import Camera
from data.frame import list_frames
from engine.records import WorkItem, write_outputs
from streets.scenes import write_streets
from support.errors import InputError

CLASSES = ("person", "car", "rider")
RED, GREEN = (200, 0, 0), (0, 200, 0)
CAMERA = Camera(1000.0, 1000.0, 500.0, 200.0, 1.3, 0.02)


def object_of(width: int = 20, height: int = 40, margin: int = 5) -> np.ndarray:
    """A red box with an outline of half-transparent pixels, on green that nobody must see: RGBA uint8."""
    rgba = np.zeros((height + 2 * margin, width + 2 * margin, 4), np.uint8)
    rgba[..., :3] = GREEN
    rgba[margin - 1 : height + margin + 1, margin - 1 : width + margin + 1, 3] = 100
    rgba[margin : height + margin, margin : width + margin] = (*RED, 255)
    return rgba


def save(root, file: str, image: np.ndarray | None = None, **more):
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(object_of() if image is None else image).save(path, **more)
    return path


def test_folders_are_kinds_and_files_are_rows(tmp_path):
    for file in ("person/a.png", "person/b.png", "cone/c.png", "car/d.png", "contact_sheets/person.png"):
        save(tmp_path, file)
    (tmp_path / "objects.yaml").write_text("cone: {places: person, label: dynamic, height: [0.3, 1]}\n")
    (tmp_path / "LICENCE").write_text("not looked at")
    (tmp_path / "person/.hidden").write_text("nor this")
    folder = read_folder(tmp_path)
    cone = Kind("cone", "person", "dynamic", (0.3, 1.0))
    assert folder.kinds == (Kind("car", "car", "car"), cone, Kind("person", "person", "person"))
    assert folder.files == ("car/d.png", "cone/c.png", "person/a.png", "person/b.png")
    shelf = folder.shelf("person")
    assert shelf.keys.tolist() == ["person/a.png", "person/b.png"] and shelf.rows.tolist() == [2, 3]
    assert folder.table.size.tolist() == [[20, 40]] * 4
    assert folder.table.aspect == pytest.approx(0.5) and folder.table.whole.all()
    assert np.isnan(folder.table.light).all() and np.isnan(folder.table.camera).all()


def test_alpha_is_the_outline_and_what_is_behind_it_leaves_no_trace(tmp_path):
    save(tmp_path, "person/a.png")
    cutout = read_folder(tmp_path).cutout(0)
    assert cutout.alpha.shape == (40, 20) and (cutout.alpha == 255).all() and (cutout.rgb == RED).all()
    round_one = object_of()
    rows, columns = np.mgrid[:50, :30]
    outside = ((rows - 24.5) / 20) ** 2 + ((columns - 14.5) / 10) ** 2 > 1
    round_one[outside] = (*GREEN, 0)
    save(tmp_path, "person/a.png", round_one)
    cutout = read_folder(tmp_path).cutout(0)
    assert (cutout.alpha == 0).any() and (cutout.rgb == RED).all()


def test_a_large_one_is_reduced_by_its_own_pixels(tmp_path):
    large = object_of(600, 2 * LONGEST, 7)
    large[7:, 7::2, :3] = np.where(large[7:, 7::2, 3:] == 255, 100, large[7:, 7::2, :3])
    save(tmp_path, "person/a.png", large)
    rows_above, width = 7 + LONGEST, large.shape[1]  # of a rider
    runs = [rows_above * width, large[rows_above:, ..., 0].size]
    save(tmp_path, "rider/b.png", large, pnginfo=_note("ridden", {"instance_id": 33001, "runs": runs}))
    folder = read_folder(tmp_path)
    assert folder.table.size.tolist() == [[300, LONGEST], [300, LONGEST // 2]]
    assert folder.table.ridden.tolist() == [0, 33001] and folder.cutout(0).ridden is None
    assert np.array_equal(folder.cutout(1).ridden.any(1), np.arange(LONGEST) >= LONGEST // 2)
    assert np.abs(folder.cutout(0).rgb[2:-2, 2:-2].astype(int) - (150, 50, 50)).max() <= 1


def test_it_can_be_sent_to_a_process(tmp_path):
    save(tmp_path, "person/a.png")
    folder = read_folder(tmp_path)
    other = pickle.loads(pickle.dumps(folder))
    assert other.kinds == folder.kinds and other.digest == folder.digest
    assert np.array_equal(other.cutout(0).rgb, folder.cutout(0).rgb)


def test_the_digest_follows_pixels_names_and_settings(tmp_path):
    save(tmp_path, "person/a.png")
    found = [read_folder(tmp_path).digest]
    for change in (
        lambda: save(tmp_path, "person/a.png", object_of(21)),
        lambda: (tmp_path / "person/a.png").rename(tmp_path / "person/b.png"),
        lambda: (tmp_path / "objects.yaml").write_text("person: {height: [1, 2]}"),
    ):
        change()
        found.append(read_folder(tmp_path).digest)
    assert len(set(found)) == 4
    (tmp_path / "notes.txt").write_text("not looked at")
    assert read_folder(tmp_path).digest == found[-1]


# ---- what a data set's instances keep -----------------------------------------------------------


@pytest.fixture(scope="module")
def streets(tmp_path_factory):
    root = tmp_path_factory.mktemp("streets")
    write_streets(root, 6, 1, (512, 256), seed=3)
    return root


@pytest.fixture(scope="module")
def exported(streets, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported")
    for frame in list_frames(streets, "train"):
        item = WorkItem(frame.name, task=frame)
        lines = Cutter(CLASSES, 8)(item, lambda files: write_outputs(out, files))
        assert lines[-1]["outputs"].keys() == {line["file"] for line in lines[:-1]}
    return out


def test_a_round_trip_keeps_what_the_choice_reads(streets, exported, tmp_path):
    bank = build_bank(streets, "train", tmp_path / "bank.npz", limits=Limits(longest=10**4))
    folder = read_folder(exported)
    rows = {key: row for name in CLASSES for row, key in _keys(bank, name) if bank.table.whole[row]}
    assert len(rows) == len(folder.files) > 10
    assert np.count_nonzero(folder.table.ridden) == len(folder.shelf("rider").rows) > 1
    for row, file in enumerate(folder.files):
        other = rows[f"{folder.table.frame[row]}/{folder.table.instance_id[row]}"]
        assert file.endswith(f"/{folder.table.frame[row]}_{folder.table.instance_id[row]}.png")
        for column in ("size", "box", "frame_size", "aspect", "ridden"):
            assert np.array_equal(getattr(folder.table, column)[row], getattr(bank.table, column)[other])
        shapes = (np.unpackbits(one.table.shape[at]) for one, at in ((folder, row), (bank, other)))
        assert np.mean(np.not_equal(*shapes)) < 0.02  # holes are filled
        for column in ("camera", "light", "solidity"):
            found, known = getattr(folder.table, column)[row], getattr(bank.table, column)[other]
            assert found == pytest.approx(known, rel=5e-2, nan_ok=True), column
        cutout, known = folder.cutout(row), bank.cutout(other)
        assert np.array_equal(cutout.alpha, known.alpha) and cutout.light == pytest.approx(known.light)
        assert np.array_equal(cutout.ridden, known.ridden)
        inside = known.alpha > 0
        assert np.abs(cutout.rgb[inside].astype(int) - known.rgb[inside]).mean() < 6  # JPEG


def _keys(bank, name):
    shelf = bank.shelf(name)
    return zip(shelf.rows.tolist(), shelf.keys.tolist(), strict=True)


def test_none_is_shown_in_its_own_image(exported):
    folder = read_folder(exported)
    frame = folder.table.frame[folder.shelf("person").rows[0]]
    wish = Wish("person", np.array([0, 0, 5.0, 10.0]), None, None, None, None, (512, 256), str(frame))
    keys = {choose(folder, wish, set(), np.random.default_rng(seed)).key for seed in range(60)}
    assert keys and not any(frame in key for key in keys)


# ---- what is drawn ------------------------------------------------------------------------------


def test_each_instance_of_any_kind_is_as_likely_as_any_other(tmp_path):
    for file in ("person/a.png", "cone/a.png", "cone/b.png", "cone/c.png"):
        save(tmp_path, file)
    (tmp_path / "objects.yaml").write_text("cone: {places: person, label: static}\n")
    folder = read_folder(tmp_path)

    def drawn(*shown: str) -> Counter:
        kinds = (
            draw_kind([folder], "person", set(shown), np.random.default_rng(seed)) for seed in range(400)
        )
        return Counter(kind.name for _, kind in kinds)

    assert drawn()["person"] == pytest.approx(100, abs=30) and drawn().total() == 400
    assert drawn("cone/a.png", "cone/b.png")["person"] == pytest.approx(200, abs=30)
    assert drawn("person/a.png") == {"cone": 400}
    with pytest.raises(CannotFillError, match="no car"):
        draw_kind([folder], "car", set(), np.random.default_rng(0))


def test_a_height_in_metres_counts_where_there_is_a_camera():
    box, silhouette = np.array([480.0, 100, 520, 300]), np.ones((32, 32), bool)
    wish = Wish("person", box, 0.4, silhouette, None, CAMERA, (1000, 500), "")
    cone = Kind("cone", "person", "dynamic", (0.4, 0.6))
    metres = []
    for seed in range(50):
        other = wish_of_kind(wish, cone, np.random.default_rng(seed))
        x0, y0, x1, y1 = other.box
        assert (x0 + x1, y1) == pytest.approx((1000, 300)) and other.aspect is other.silhouette is None
        metres.append(CAMERA.metric_height(y0, y1))
    assert 0.4 <= min(metres) < 0.43 and 0.57 < max(metres) <= 0.6
    for same in (
        wish_of_kind(replace(wish, camera=None), cone, np.random.default_rng(0)),
        wish_of_kind(wish, replace(cone, height=None), np.random.default_rng(0)),
    ):
        assert np.array_equal(same.box, wish.box) and same.class_name == "cone"
    child = Kind("child", "person", "person", (1.0, 1.2))
    assert wish_of_kind(wish, child, np.random.default_rng(0)).silhouette is wish.silhouette


# ---- what is refused ----------------------------------------------------------------------------


def _grey_with_alpha(path):
    Image.new("LA", (40, 40), (5, 200)).save(path)


def _animated(path):
    images = [Image.fromarray(object_of(width)) for width in (20, 30)]
    images[0].save(path, save_all=True, append_images=images[1:])


def _truncated(path):
    content = save(path.parent, path.name).read_bytes()
    path.write_bytes(content[:-20])


def _huge(path):
    save(path.parent, path.name)
    content = bytearray(path.read_bytes())
    header = b"IHDR" + (10**5).to_bytes(4, "big") * 2 + content[24:29]
    path.write_bytes(content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:])


def _note(name, content) -> PngImagePlugin.PngInfo:
    note = PngImagePlugin.PngInfo()
    note.add_text(name, json.dumps(content))
    return note


def _with_note(name, content):
    return lambda path: save(path.parent, path.name, pnginfo=_note(name, content))


@pytest.mark.parametrize(
    "make, words",
    [
        (
            lambda path: Image.new("RGB", (40, 40)).save(path),
            "8-bit RGB image, but a cut-out is a PNG with an alpha",
        ),
        (
            lambda path: save(path.parent, path.name, object_of() * np.uint8([1, 1, 1, 0])),
            "only 0 connected pixels",
        ),
        (lambda path: save(path.parent, path.name, object_of(5, 5)), "only 25 connected pixels"),
        (lambda path: save(path.parent, path.name, object_of()[10:20, 10:25]), "opaque everywhere"),
        (_grey_with_alpha, "8-bit grey with alpha image"),
        (lambda path: Image.fromarray(object_of()).quantize().save(path), "palette image"),
        (lambda path: Image.new("RGB", (40, 40)).save(path, "JPEG"), "a JPEG, but"),
        (lambda path: Image.new("RGB", (40, 40)).save(path, "WEBP"), "a WebP, but"),
        (lambda path: path.write_text("hello"), "truncated or damaged"),
        (lambda path: path.write_bytes(b""), "x.png"),
        (lambda path: path.mkdir(), "is no file"),
        (_animated, "animated"),
        (_truncated, "its end is missing"),
        (_huge, "too large"),
        (_with_note("cutout", {"frame": "a", "box": [1, 2]}), "its text 'cutout' is damaged"),
        (_with_note("ridden", {"instance_id": 33001, "runs": [5, 5]}), "its text 'ridden' is damaged"),
        (_with_note("ridden", {"instance_id": 33001, "runs": [0, 30 * 50]}), "its text 'ridden' is damaged"),
        (_with_note("ridden", {"instance_id": 24001, "runs": [30 * 50]}), "its text 'ridden' is damaged"),
        (_with_note("ridden", {"instance_id": 33001, "runs": [-1, 30 * 50 + 1]}), "its text 'ridden' is"),
        (_with_note("ridden", [33001]), "its text 'ridden' is damaged"),
    ],
)
def test_a_bad_file_is_named_in_one_line(tmp_path, make, words):
    save(tmp_path, "person/good.png")
    make(tmp_path / "person/x.png")
    with pytest.raises(InputError, match=words) as error:
        read_folder(tmp_path)
    assert str(error.value).startswith(str(tmp_path / "person/x.png")) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content, words",
    [
        ("cone: {places: person}", "cone: label 'cone': choose person, rider"),
        ("cone: {label: dynamic}", "cone is no class"),
        ("cone: {places: dog, label: dynamic}", "places 'dog'"),
        ("cone: {places: person, label: road}", "label 'road'"),
        ("cone: {places: [person, rider], label: dynamic}", r"places \['person', 'rider'\]: choose"),
        ("cone: {places: person, label: [dynamic]}", r"label \['dynamic'\]: choose"),
        ("cone: {places: person, label: dynamic, height: 2020-13-45}", "can't be read as YAML"),
        ("1: {places: person, label: dynamic}", "1 is read as no text; write a folder's name in quotes"),
        ("cone: {places: person, label: dynamic, height: 2}", r"height 2: must be \[MIN, MAX\]"),
        ("cone: {places: person, label: dynamic, height: [2, 1]}", "0 < MIN <= MAX"),
        ("cone: {places: person, label: dynamic, height: [.nan, 1]}", "0 < MIN <= MAX"),
        ("cone: {places: person, label: dynamic, size: 3}", "unknown size"),
        ("cone: [1]", "is no mapping"),
        ("dog: {places: person, label: dynamic}", "there is no folder"),
        ("[1, 2]", "must hold a folder's name"),
        ("cone: {", "can't be read as YAML"),
        ("", "cone is no class"),
    ],
)
def test_a_bad_objects_file_is_named_in_one_line(tmp_path, content, words):
    save(tmp_path, "cone/good.png")
    (tmp_path / "objects.yaml").write_text(content)
    with pytest.raises(InputError, match=words) as error:
        read_folder(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_a_folder_without_cutouts_says_what_to_do(tmp_path):
    (tmp_path / "person").mkdir()
    with pytest.raises(InputError, match="holds no cut-outs; put PNGs"):
        read_folder(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        read_folder(tmp_path / "absent")
