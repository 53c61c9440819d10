"""The bank of instances: what it keeps of a split, and when it is made again."""

import os
import shutil
from concurrent.futures import ProcessPoolExecutor

import cv2
import numpy as np
import pytest

from augment.compose import one_piece
from augment.paint.backends import make_backend
from augment.paint.bank import Limits, build_bank, open_bank
from data.frame import list_frames
from data.geometry import MaskPatch
from support.errors import InputError
from tests.mini_frames import MOTORCYCLE_ID, TRAIN, mini_frame


@pytest.fixture(scope="module")
def bank(tree, tmp_path_factory):
    return build_bank(tree, "train", tmp_path_factory.mktemp("bank") / "b.npz")


def test_the_bank_is_the_same_for_any_number_of_processes(tree, tmp_path):
    one, two = tmp_path / "one.npz", tmp_path / "two.npz"
    build_bank(tree, "train", one)
    with ProcessPoolExecutor(2) as pool:
        build_bank(tree, "train", two, pool.map)
    assert one.read_bytes() == two.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["one.npz", "two.npz"]  # no temporary file


def test_the_bank_knows_its_instances(bank, tree):
    table, shelf = bank.table, bank.shelf("motorcycle")
    assert len(shelf.rows) == len(TRAIN)  # id 32000 is a multiple of 256
    assert 24001 not in table.instance_id  # three pixels
    assert (table.instance_id >= 24000).all()  # no groups
    rgb, mask = bank.image(int(shelf.rows[0]))
    frame = mini_frame(tree, TRAIN[0])
    whole = frame.read_instance_ids() == MOTORCYCLE_ID
    x, y, w, h = cv2.boundingRect(np.uint8(whole))
    assert np.array_equal(mask, whole[y : y + h, x : x + w])
    assert np.abs(rgb.astype(int) - frame.read_image()[y : y + h, x : x + w])[mask].mean() < 4  # JPEG
    behind_the_pole = table.instance_id == 26000
    assert (table.covered[behind_the_pole] > 0.1).all()
    assert (table.covered[table.instance_id == MOTORCYCLE_ID] < 0.05).all()


def test_the_bank_is_kept_until_something_changes(tree, tmp_path):
    root, path = tmp_path / "tree", tmp_path / "cache" / "bank.npz"
    shutil.copytree(tree, root)
    build_bank(root, "train", path)
    first = path.stat().st_mtime_ns
    assert len(build_bank(root, "train", path).table.frame) and path.stat().st_mtime_ns == first
    image = mini_frame(root, TRAIN[0]).image_path
    cv2.imwrite(str(image), 255 - cv2.imread(str(image)))
    build_bank(root, "train", path)
    second = path.stat().st_mtime_ns
    assert second != first
    build_bank(root, "train", path, limits=Limits(per_class=2))
    assert path.stat().st_mtime_ns != second
    path.write_bytes(path.read_bytes()[:1000])
    assert len(build_bank(root, "train", path).table.frame)  # damaged: made again


@pytest.mark.parametrize(("offset", "value", "reason"), [(0, 0, "magic number"), (6, 255, "version")])
def test_a_bank_whose_directory_is_damaged_is_one_line(tree, tmp_path, offset, value, reason):
    path = tmp_path / "b.npz"
    build_bank(tree, "train", path)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + offset] = value
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"b.npz: no bank of instances .*{reason}"):
        open_bank(path)
    build_bank(tree, "train", path)
    open_bank(path)  # made anew


def test_the_bank_keeps_the_freest_of_each_size(tree, tmp_path):
    bank = build_bank(tree, "train", tmp_path / "bank.npz", limits=Limits(per_class=4, longest=30))
    labels = bank.table.instance_id // 1000
    assert np.bincount(labels).max() == 4
    assert {26000, 26001} <= set(bank.table.instance_id.tolist())  # both sizes of car
    assert bank.table.size.max() == 30


def test_a_bad_frame_is_left_out_with_a_warning(tree, tmp_path, capsys):
    root = tmp_path / "tree"
    shutil.copytree(tree, root)
    mini_frame(root, TRAIN[0]).image_path.write_bytes(b"no image")
    mini_frame(root, TRAIN[1]).instance_path.write_bytes(b"no map")
    bank = build_bank(root, "train", tmp_path / "bank.npz")
    assert set(bank.table.frame) == set(TRAIN[2:])
    said = capsys.readouterr().err
    assert TRAIN[0] in said and TRAIN[1] in said and len(said.splitlines()) == 2


@pytest.mark.parametrize(("kind", "ending"), (("leftImg8bit", ".png"), ("gtFine", "_instanceIds.png")))
def test_what_is_wrong_with_all_frames_is_one_line(tree, tmp_path, kind, ending):
    root = tmp_path / "tree"
    shutil.copytree(tree, root)
    for name in TRAIN:
        (root / mini_frame(root, name).place(kind, ending)).write_bytes(b"GIF89a")
    with pytest.raises(InputError, match=f"no instances to show: .*{TRAIN[0]}.*: a GIF, but"):
        build_bank(root, "train", tmp_path / "bank.npz")
    assert not (tmp_path / "bank.npz").exists()


def test_a_split_without_images_is_one_line(tree, tmp_path):
    root = tmp_path / "tree"
    shutil.copytree(tree / "gtFine", root / "gtFine")
    assert len(list_frames(root, "train")) == len(TRAIN)
    with pytest.raises(InputError, match="has no images in leftImg8bit/train"):
        make_backend("swap", {"bank": str(tmp_path / "bank.npz")}, root, "train")


def test_the_bank_knows_whom_nobody_cuts_or_covers_and_from_where_they_were_seen(bank, tree):
    table = bank.table
    assert not table.whole[table.instance_id == 26000].any()  # behind a pole
    assert table.whole[table.instance_id == MOTORCYCLE_ID].all()
    assert (table.frame_size == (512, 256)).all()
    for row in np.flatnonzero(table.whole).tolist():
        frame = mini_frame(tree, str(table.frame[row]))
        ids = frame.read_instance_ids()
        patch = MaskPatch(ids == table.instance_id[row], 0, 0)
        assert tuple(table.box[row]) == patch.box
        camera = frame.camera(512, 256)
        known = [np.nan] * 4 if camera is None else [camera.fx, camera.u0, camera.fy, camera.horizon]
        np.testing.assert_allclose(table.camera[row], known, rtol=1e-6)
        cutout = bank.cutout(row)
        x0, y0, x1, y1 = patch.box
        assert np.array_equal(cutout.alpha > 0, one_piece(patch.mask[y0:y1, x0:x1]))
        assert cutout.rgb.shape[:2] == (y1 - y0, x1 - x0)
