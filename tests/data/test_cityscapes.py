import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from cityscapesscripts.helpers.labels import id2label
from PIL import Image

from data.cityscapes import (
    Frame,
    all_frames,
    compact_mask,
    list_frames,
    read_maps,
    resize_nearest,
    theta_of_box,
    usable_instances,
)
from data.labels import CHANNEL_OF_ID, TARGET_CLASSES
from support.errors import InputError
from tests.miniature import (
    CAR,
    PERSON,
    ROAD,
    SKY,
    as_coarse,
    frame_paths,
    litter,
    miniature_maps,
    write_miniature,
    write_png,
)

SHARED = Path(__file__).parents[3] / "shared"
PARITY = Path(os.environ.get("PARITY_DIR", SHARED / "parity"))
SAMPLE = SHARED / "data" / "cityscapes_sample"


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


# ---- parity with the reference program ----------------------------------------------------------


def maps_of(labels, ids):
    channels = CHANNEL_OF_ID[labels]
    return resize_nearest(channels, 256, 128), resize_nearest(ids, 256, 128), resize_nearest(ids, 1024, 512)


@pytest.mark.skipif(
    not (PARITY / "instances_train.json").exists() or not SAMPLE.exists(),
    reason="the parity numbers or the Cityscapes sample are not here (PARITY_DIR names the folder)",
)
def test_usable_instances_are_those_of_the_reference():
    wanted = json.loads((PARITY / "instances_train.json").read_text())
    frames = {frame.name: frame for frame in list_frames(SAMPLE, "train")}
    assert set(wanted) <= set(frames)
    compared = 0
    for name, lists in wanted.items():
        labels, ids = read_maps(frames[name])
        for key, instances in lists.items():
            target, _, flip = key.partition("_")
            step = -1 if flip else 1
            full = ids[:, ::step]
            found = usable_instances(*maps_of(labels[:, ::step], full), TARGET_CLASSES[target])
            assert [one.instance_id for one in found] == [one["id"] for one in instances], (name, key)
            for one, other in zip(found, instances, strict=True):
                assert one.area == other["area"]
                np.testing.assert_allclose(one.theta, other["theta"], atol=1e-5)
                mean = compact_mask(full, one.instance_id, 128, 128).mean()
                assert mean == pytest.approx(other["compact_mean"], abs=1e-3)
                compared += 1
    assert compared > 0


# ---- one image ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(256, 128), (1024, 512), (64, 32), (100, 37), (2048, 1024), (3000, 1111)])
@pytest.mark.parametrize("source", [(1024, 2048), (128, 256), (101, 77)])
def test_resize_is_pillows_nearest(source, size):
    array = np.random.default_rng(0).integers(0, 34, source, np.uint8)
    wanted = np.asarray(Image.fromarray(array).resize(size, Image.Resampling.NEAREST))
    np.testing.assert_array_equal(resize_nearest(array, *size), wanted)
    assert resize_nearest(array.astype(np.uint16), *size).dtype == np.uint16


def test_theta_is_one_inside_the_box():
    width, height, box = 32, 16, (5, 2, 11, 9)
    theta = theta_of_box(box, width, height)
    x = 2 * (np.arange(width) + 0.5) / width - 1
    y = 2 * (np.arange(height) + 0.5) / height - 1
    assert np.flatnonzero(abs(theta[0] * x + theta[2]) <= 1).tolist() == list(range(5, 12))
    assert np.flatnonzero(abs(theta[4] * y + theta[5]) <= 1).tolist() == list(range(2, 10))
    mirrored = theta_of_box((width - 1 - 11, 2, width - 1 - 5, 9), width, height)
    np.testing.assert_allclose(mirrored, theta * [1, 0, -1, 0, 1, 1], rtol=1e-6)
    np.testing.assert_array_equal(theta_of_box((0, 0, 31, 15), width, height), [1, 0, 0, 0, 1, 0])


def one_box(box_width, box_height, instance_id=PERSON * 1000):
    """Maps of 256x128 (small = big) that are road but for one filled box."""
    ids = np.full((128, 256), ROAD, np.uint16)
    ids[4 : 4 + box_height, 4 : 4 + box_width] = instance_id
    labels = np.where(ids < 1000, ids, ids // 1000).astype(np.uint8)
    return CHANNEL_OF_ID[labels], ids, ids


@pytest.mark.parametrize(
    ("target", "box", "usable"),
    [
        ("person", (10, 20, 24000), True),
        ("person", (5, 13, 24000), False),  # 65 of 32768 pixels are less than 0.2 %
        ("person", (10, 40, 24000), False),  # aspect 4 is not below 4
        ("person", (11, 40, 24000), True),
        ("person", (20, 12, 24000), False),  # a height of 12 in 128 is a ratio of more than 10
        ("car", (10, 20, 24000), False),  # another class
        ("car", (30, 20, 26003), True),
        ("car", (20, 8, 26003), False),  # 160 of 32768 pixels are less than 0.5 %
        ("car", (60, 20, 26003), False),  # aspect 3 is not below 3
        ("car", (30, 20, CAR), True),  # a group region
    ],
)
def test_thresholds(target, box, usable):
    found = usable_instances(*one_box(*box), TARGET_CLASSES[target])
    assert bool(found) == usable
    if usable:
        assert (found[0].instance_id, found[0].area) == (box[2], box[0] * box[1])
        assert found[0].box == (4, 4, 3 + box[0], 3 + box[1])


def test_thin_shapes_are_not_usable():
    _, ids, _ = one_box(20, 40)
    ids[5:43, 5:23] = ROAD  # an outline: its area is far below 0.4 of its box
    channels = CHANNEL_OF_ID[np.where(ids < 1000, ids, ids // 1000)]
    assert not usable_instances(channels, ids, ids, TARGET_CLASSES["person"])


def test_groups_can_be_switched_off():
    assert not usable_instances(*one_box(30, 20, CAR), TARGET_CLASSES["car"], group_instances=False)
    assert usable_instances(*one_box(30, 20, 26001), TARGET_CLASSES["car"], group_instances=False)


def test_compact_mask_fills_its_frame():
    ids = np.zeros((50, 60), np.uint16)
    ids[10:20, 5:35] = 26000
    ids[10:20, 5:20] = 26001
    assert (compact_mask(ids, 26000, 32, 16) == 255).all()
    ids[10:15, 20:35] = 0
    ids[10, 20] = 26000  # one pixel holds the box at its old size
    mask = compact_mask(ids, 26000, 32, 16)
    assert mask.shape == (16, 32) and mask.dtype == np.uint8
    assert (mask[10:] == 255).all() and (mask[:6, 6:] == 0).all()


# ---- listing ------------------------------------------------------------------------------------


def test_frames_are_sorted_and_readable(tree):
    write_miniature(tree, split="val", count=3, seed=1)
    frames = list_frames(str(tree), "val")
    assert [frame.name for frame in frames] == [f"littleton_{i:06d}_000019" for i in range(3)]
    labels, ids = read_maps(frames[1])
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
    assert read_maps(frame)[0].shape == (128, 256)


# ---- broken files -------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [0, 1])
def test_truncation_is_noticed_at_every_length(tmp_path, which):
    labels, ids = miniature_maps(2048, 1024, np.random.default_rng(0))
    noise = np.random.default_rng(1).random(labels.shape) < 0.02  # so that the file has a real one's size
    labels[noise], ids[noise] = 5, 5
    frame = Frame("big", tmp_path / "big_labelIds.png", tmp_path / "big_instanceIds.png")
    write_png(frame.label_path, labels)
    write_png(frame.instance_path, ids)
    read_maps(frame)
    path = (frame.label_path, frame.instance_path)[which]
    whole = path.read_bytes()
    assert len(whole) > 20000
    for length in (0, 7, 30, 100, len(whole) // 2, len(whole) * 99 // 100, len(whole) - 9, len(whole) - 1):
        path.write_bytes(whole[:length])
        message = refusal(read_maps, frame)
        assert path.name in message and "again" in message
    for position in (len(whole) // 3, len(whole) - 30):  # one changed byte
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        assert path.name in refusal(read_maps, frame)


def test_a_frame_whose_name_is_no_utf8_is_named(tree):
    for path in frame_paths(tree, 0):
        path.rename(path.with_name(os.fsdecode(b"Stra\xdfe") + path.name))
    assert "its name is no text in the system's encoding; rename" in refusal(list_frames, tree, "train")


def test_other_files_are_no_png(tree):
    label_path, instance_path = frame_paths(tree, 0)
    shutil.copy(label_path, tree / "kept.png")
    label_path.write_text("<html>404</html>")
    assert label_path.name in (message := refusal(read_maps, only_frame(tree))) and "damaged" in message
    Image.open(tree / "kept.png").save(label_path, format="JPEG")
    assert label_path.name in refusal(read_maps, only_frame(tree))
    label_path.unlink()
    label_path.mkdir()
    assert label_path.name in refusal(read_maps, Frame("gone", label_path, instance_path))


@pytest.mark.parametrize(
    ("which", "change", "words"),
    [
        (0, lambda a: np.stack([a] * 3, -1), "8-bit RGB picture"),
        (0, lambda a: np.stack([a] * 4, -1), "8-bit RGBA picture"),
        (0, lambda a: a.astype(np.uint16), "16-bit grey picture"),
        (1, lambda a: (a % 256).astype(np.uint8), "8-bit grey picture"),
        (0, lambda a: a[:64], "256x64"),
        (0, lambda a: np.where(a == ROAD, 34, a).astype(np.uint8), "[34]"),
        (0, lambda a: np.roll(a, 60, axis=1), "disagrees"),
        (0, lambda a: np.full_like(a, 255), "[255]"),
        (1, lambda a: np.full_like(a, 23), "disagrees"),
        (
            0,
            lambda a: np.where(a == ROAD, 40, a).astype(np.uint8),
            "convert both maps first: labelIds to",
        ),
    ],
)
def test_wrong_pictures_are_refused(tree, which, change, words):
    path = frame_paths(tree, 0)[which]
    write_png(path, change(np.asarray(Image.open(path))))
    message = refusal(read_maps, only_frame(tree))
    assert words in message and frame_paths(tree, 0)[which].name in message and "take" in message


def test_train_ids_are_recognised(tree):
    path = frame_paths(tree, 0)[0]
    train_ids = np.vectorize(lambda label: id2label[label].trainId % 256)(np.asarray(Image.open(path)))
    write_png(path, train_ids.astype(np.uint8))
    message = refusal(read_maps, only_frame(tree))
    assert "train ids" in message and "labelIds.png" in message


def test_a_map_of_few_small_ids_is_fine(tree):
    label_path, instance_path = frame_paths(tree, 0)
    ids = np.asarray(Image.open(instance_path)) * 0 + ROAD
    write_png(instance_path, ids)
    write_png(label_path, ids.astype(np.uint8))
    read_maps(only_frame(tree))


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
    labels, _ = read_maps(write_255(tree, where if callable(where) else lambda ids: where, under))
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
    message = refusal(read_maps, frame)
    assert "[255]" in message and f"list them in {tree / 'void.txt'} if they mean void" in message
    (tree / "void.txt").write_text("255\n")
    labels, ids = read_maps(frame)
    region = np.asarray(Image.open(frame.label_path)) == 255
    assert region.any() and not labels[region].any() and not ids[region].any() and labels.max() < 34
    assert (labels.dtype, ids.dtype) == (np.uint8, np.uint16)
    (tree / "void.txt").write_text("void: 255")
    assert "void.txt: must hold numbers from 34 to 255" in refusal(read_maps, frame)
