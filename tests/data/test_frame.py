"""data/frame.py: listing, reading, writing; what is wrong with files is said in one line."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from cityscapesscripts.helpers.labels import id2label
from PIL import Image

from data.frame import COLOR, POLYGONS, Frame, all_frames, list_frames, official_name
from data.labels import CHANNEL_OF_ID, TARGET_CLASSES
from support.errors import InputError
from tests.miniature import (
    CAR,
    ROAD,
    SKY,
    as_coarse,
    frame_paths,
    litter,
    miniature_maps,
    write_miniature,
    write_png,
)


@pytest.fixture
def tree(tmp_path):
    write_miniature(tmp_path, count=2)
    return tmp_path


def only_frame(root):
    return list_frames(root, "train")[0]


def refusal(function, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- listing ------------------------------------------------------------------------------------


def test_frames_are_sorted_and_readable(tree):
    write_miniature(tree, split="val", count=3, seed=1)
    frames = list_frames(str(tree), "val")
    assert [frame.name for frame in frames] == [f"littleton_{i:06d}_000019" for i in range(3)]
    labels, ids = frames[1].read_maps()
    wanted_labels, wanted_ids = miniature_maps(256, 128, np.random.default_rng([1, 1]))
    assert (labels.dtype, ids.dtype) == (np.uint8, np.uint16)
    np.testing.assert_array_equal(labels, wanted_labels)
    np.testing.assert_array_equal(ids, wanted_ids)


def test_missing_folders_are_named(tree, tmp_path):
    assert "nowhere" in (message := refusal(list_frames, tmp_path / "nowhere", "train"))
    assert "--db_root" in message
    (tmp_path / "bare").mkdir()
    assert "has no folder gtFine/" in refusal(list_frames, tmp_path / "bare", "train")
    assert "only train" in refusal(list_frames, tree, "val")
    (tree / "gtFine" / "val" / "town").mkdir(parents=True)
    assert "--db_root" in (message := refusal(list_frames, tree, "val"))
    assert "labelIds.png" in message


def test_frames_without_a_partner_are_all_named(tmp_path, capsys):
    write_miniature(tmp_path, count=30, width=32, height=16)
    frame_paths(tmp_path, 0)[0].unlink()
    for index in range(1, 29):
        frame_paths(tmp_path, index)[1].unlink()
    message = refusal(list_frames, tmp_path, "train")
    assert "29 frames" in message and "and 9 more" in message and "--skip_bad_files" in message
    assert "littleton_000001_000019_gtFine_labelIds.png has no instance map" in message
    assert [frame.name for frame in list_frames(tmp_path, "train", skip_incomplete=True)] == [
        "littleton_000029_000019"
    ]
    assert "29 frames" in capsys.readouterr().err


def test_an_instance_map_alone_is_named(tree):
    label_path, instance_path = frame_paths(tree, 0)
    label_path.unlink()
    assert f"{instance_path} has no label map" in refusal(list_frames, tree, "train")


def test_the_same_name_in_two_cities_is_refused(tree):
    folder = frame_paths(tree, 0)[0].parent
    shutil.copytree(folder, folder.with_name("othertown"))
    assert "same name" in refusal(list_frames, tree, "train")


def test_hidden_files_are_no_frames(tree):
    before = list_frames(tree, "train")
    litter(tree)
    (tree / "gtFine/.hidden").mkdir()
    assert list_frames(tree, "train") == all_frames(tree, "train") == before
    assert "only train;" in refusal(list_frames, tree, "val")


def test_a_split_that_is_annotated_coarsely_only_is_found(tree):
    write_miniature(tree / "more", split="train_extra", count=1)
    as_coarse(tree / "more")
    (tree / "more/gtCoarse").rename(tree / "gtCoarse")
    (frame,) = list_frames(tree, "train_extra")
    assert frame.kind == "gtCoarse" and frame.root == tree and frame.name == "littleton_000000_000019"
    assert {one.kind for one in list_frames(tree, "train")} == {"gtFine"}
    assert frame.read_maps()[0].shape == (128, 256)


# ---- broken files -------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [0, 1])
def test_truncation_is_noticed_at_every_length(tmp_path, which):
    labels, ids = miniature_maps(2048, 1024, np.random.default_rng(0))
    noise = np.random.default_rng(1).random(labels.shape) < 0.02  # so that the file has a real one's size
    labels[noise], ids[noise] = 5, 5
    frame = Frame.of_maps(tmp_path / "big_labelIds.png", tmp_path / "big_instanceIds.png")
    write_png(frame.label_path, labels)
    write_png(frame.instance_path, ids)
    frame.read_maps()
    path = (frame.label_path, frame.instance_path)[which]
    whole = path.read_bytes()
    assert len(whole) > 20000
    for length in (0, 7, 30, 100, len(whole) // 2, len(whole) * 99 // 100, len(whole) - 9, len(whole) - 1):
        path.write_bytes(whole[:length])
        message = refusal(frame.read_maps)
        assert path.name in message and "again" in message
    for position in (len(whole) // 3, len(whole) - 30):  # one changed byte
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        assert path.name in refusal(frame.read_maps)


def test_a_frame_whose_name_is_no_utf8_is_named(tree):
    for path in frame_paths(tree, 0):
        path.rename(path.with_name(os.fsdecode(b"Stra\xdfe") + path.name))
    assert "its name is no text in the system's encoding; rename" in refusal(list_frames, tree, "train")


def test_other_files_are_no_png(tree):
    label_path, instance_path = frame_paths(tree, 0)
    shutil.copy(label_path, tree / "kept.png")
    label_path.write_text("<html>404</html>")
    assert label_path.name in (message := refusal(only_frame(tree).read_maps)) and "damaged" in message
    Image.open(tree / "kept.png").save(label_path, format="JPEG")
    assert label_path.name in refusal(only_frame(tree).read_maps)
    label_path.unlink()
    label_path.mkdir()
    assert label_path.name in refusal(Frame.of_maps(label_path, instance_path).read_maps)


@pytest.mark.parametrize(
    ("which", "change", "words"),
    [
        (0, lambda a: np.stack([a] * 3, -1), "8-bit RGB image"),
        (0, lambda a: np.stack([a] * 4, -1), "8-bit RGBA image"),
        (0, lambda a: a.astype(np.uint16), "16-bit grey image"),
        (1, lambda a: (a % 256).astype(np.uint8), "8-bit grey image"),
        (0, lambda a: a[:64], "256x64"),
        (0, lambda a: np.where(a == ROAD, 34, a).astype(np.uint8), "[34]"),
        (0, lambda a: np.roll(a, 60, axis=1), "disagrees"),
        (0, lambda a: np.full_like(a, 255), "[255]"),
        (1, lambda a: np.full_like(a, 23), "disagrees"),
        (0, lambda a: np.where(a == ROAD, 40, a).astype(np.uint8), "convert both maps first: labelIds to"),
    ],
)
def test_wrong_images_are_refused(tree, which, change, words):
    path = frame_paths(tree, 0)[which]
    write_png(path, change(np.asarray(Image.open(path))))
    message = refusal(only_frame(tree).read_maps)
    assert words in message and frame_paths(tree, 0)[which].name in message and "take" in message


def test_train_ids_are_recognised(tree):
    path = frame_paths(tree, 0)[0]
    train_ids = np.vectorize(lambda label: id2label[label].trainId % 256)(np.asarray(Image.open(path)))
    write_png(path, train_ids.astype(np.uint8))
    message = refusal(only_frame(tree).read_maps)
    assert "train ids" in message and "labelIds.png" in message


def test_a_map_of_few_small_ids_is_fine(tree):
    label_path, instance_path = frame_paths(tree, 0)
    ids = np.asarray(Image.open(instance_path)) * 0 + ROAD
    write_png(instance_path, ids)
    write_png(label_path, ids.astype(np.uint8))
    only_frame(tree).read_maps()


def write_255(tree, where, under) -> Frame:
    """A frame whose label map is 255 where its instance map, there set to `under` (None: as it is), is so."""
    label_path, instance_path = frame_paths(tree, 0)
    labels, ids = (np.array(Image.open(path)) for path in (label_path, instance_path))
    region = where(ids)
    labels[region], ids[region] = 255, ids[region] if under is None else under
    write_png(label_path, labels)
    write_png(instance_path, ids)
    return only_frame(tree)


def on_car(ids):
    """A few pixels in the middle of the car."""
    rows, columns = (int(np.median(axis)) for axis in np.nonzero(ids == CAR * 1000))
    return np.s_[rows - 2 : rows + 2, columns - 4 : columns + 4]


@pytest.mark.parametrize(("where", "under"), [(on_car, None), (on_car, 65535), (np.s_[90:95, 5:25], 26000)])
def test_a_licence_plate_counts_as_car(tree, where, under):
    labels, _ = write_255(tree, where if callable(where) else lambda ids: where, under).read_maps()
    assert (labels == 255).any()
    assert (CHANNEL_OF_ID[labels[labels == 255]] == TARGET_CLASSES["car"].channel).all()


@pytest.mark.parametrize(
    ("where", "under"),
    [
        (lambda ids: ids == SKY, 255),
        (lambda ids: ids == SKY, 0),
        (lambda ids: ids == SKY, None),
        (lambda ids: ids == SKY, 65535),
        (lambda ids: np.s_[:1, :9], 255),  # however few
        (lambda ids: np.s_[:1, :9], 65535),
        (on_car, 255),
    ],
)
def test_void_of_255_is_refused_or_read_as_void_where_the_data_set_says_so(tree, where, under):
    frame = write_255(tree, where, under)
    message = refusal(frame.read_maps)
    assert "[255]" in message and f"list them in {tree / 'void.txt'} if they mean void" in message
    (tree / "void.txt").write_text("255\n")
    labels, ids = frame.read_maps()
    region = np.asarray(Image.open(frame.label_path)) == 255
    assert region.any() and not labels[region].any() and not ids[region].any() and labels.max() < 34
    assert (labels.dtype, ids.dtype) == (np.uint8, np.uint16)
    (tree / "void.txt").write_text("void: 255")
    assert "void.txt: must hold numbers from 34 to 255" in refusal(frame.read_maps)


# ---- names and places ---------------------------------------------------------------------------


def test_official_names_are_found_in_file_names_and_others_are_none():
    frame = Frame.official(Path("set"), "train", "streets", 12, 19)
    assert frame.name == "streets_000012_000019" and frame.city == "streets"
    assert (
        official_name("/a_b/streets_000012_000019_leftImg8bit.png") == official_name(frame.name) == frame.name
    )
    for other in ("streets_12_19.png", "000012_000019.png", "a/b/town.png"):
        with pytest.raises(ValueError, match="city_SSSSSS_FFFFFF"):
            official_name(other)


def test_all_files_of_a_frame_are_named_alike_whatever_its_name(tmp_path):
    frame = Frame(tmp_path, "val", "the town", "_a.b", "gtCoarse")
    base = tmp_path / "gtCoarse/val/the town"
    assert frame.label_path == base / "_a.b_gtCoarse_labelIds.png"
    assert frame.instance_path == base / "_a.b_gtCoarse_instanceIds.png"
    assert frame.annotation_path(POLYGONS) == base / "_a.b_gtCoarse_polygons.json"
    assert frame.erasures_path == tmp_path / "erased/val/the town/_a.b_erased.npz"
    assert frame.void_path == tmp_path / "void.txt"
    assert frame.image_path is None and frame.camera_path is None
    for kind, ending in (("leftImg8bit", ".JPG"), ("camera", ".json")):
        path = tmp_path / frame.place(kind, ending)
        path.parent.mkdir(parents=True)
        path.touch()
    assert frame.image_path.name == "_a.b_leftImg8bit.JPG" and frame.camera_path.name == "_a.b_camera.json"


def test_a_label_map_in_a_tree_belongs_to_it_wherever_its_instance_map_is(tree, tmp_path):
    (one, _) = list_frames(tree, "train")
    frame = Frame.of_maps(one.label_path)
    assert (frame.root, frame.split, frame.city, frame.name, frame.kind) == (
        tree, "train", one.city, one.name, "gtFine"
    )  # fmt: skip
    assert frame.instance_path == one.instance_path
    elsewhere = tmp_path / "elsewhere.png"
    assert Frame.of_maps(one.label_path, elsewhere).instance_path == elsewhere
    assert Frame.of_maps(one.label_path, elsewhere).annotation_path(COLOR) == one.annotation_path(COLOR)


def test_what_annotates_a_map_outside_any_tree_lies_beside_it(tmp_path):
    frame = Frame.of_maps(tmp_path / "x_1_gtCoarse_labelIds.png")
    assert (frame.root, frame.city, frame.name, frame.kind) == (None, "x", "x_1", "gtCoarse")
    assert frame.instance_path == tmp_path / "x_1_gtCoarse_instanceIds.png"
    assert Frame.of_maps(tmp_path / "x.png").annotation_path(POLYGONS) == tmp_path / "x_gtFine_polygons.json"
    assert frame.void_path == tmp_path / "void.txt"
    assert (frame.image_path, frame.camera_path, frame.erasures_path) == (None, None, None)
    assert frame.read_erasures() == {} and frame.read_camera() is None


def test_many_frames_are_cheap_to_send_to_another_process(tmp_path):
    write_miniature(tmp_path, count=40, width=32, height=16)
    frames = list_frames(tmp_path, "train")
    assert pickle.loads(pickle.dumps(frames)) == frames
    assert len(pickle.dumps(frames)) < 100 * len(frames)
