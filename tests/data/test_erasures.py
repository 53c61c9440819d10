"""Erasures: applying them, which ones fit each other, their files."""

import io
from pathlib import Path

import numpy as np
import pytest

from data.erasures import Erasure, erase_exactly, erasures_file
from data.frame import Frame
from support.errors import InputError

ROAD, CAR, RIDER, BICYCLE = 7, 26, 25, 33


def erasure(removed: tuple[int, ...], x0: int, y0: int, shown: list[list[int]]) -> Erasure:
    """Pixels that don't change are given as -1."""
    values = np.array(shown)
    return Erasure(removed, x0, y0, values >= 0, values.clip(0).astype(np.uint16))


CAR_0 = erasure((26000,), 1, 1, [[ROAD, 26001, ROAD], [-1, ROAD, 33004]])
CAR_1 = erasure((26001,), 3, 3, [[ROAD, ROAD]])
RIDE = erasure((25000, 33004), 0, 0, [[26002]])
ERASURES = [CAR_0, CAR_1, RIDE]


@pytest.fixture
def frame(tmp_path) -> Frame:
    return Frame.official(tmp_path, "val", "town", 0, 19)


def write(frame: Frame, content: bytes) -> Path:
    path = frame.root / "erased" / "val" / "town" / "town_000000_000019_erased.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_erase_exactly_changes_the_pixels_of_the_mask_in_copies():
    labels = np.full((4, 6), ROAD, np.uint8)
    ids = labels.astype(np.uint16)
    labels[CAR_0.window][CAR_0.mask], ids[CAR_0.window][CAR_0.mask] = CAR, 26000
    labels[2, 1], ids[2, 1] = BICYCLE, 33000  # inside the window, not in the mask
    kept = labels.copy(), ids.copy()
    new_labels, new_ids = erase_exactly(labels, ids, CAR_0)
    assert new_labels.dtype == np.uint8 and new_ids.dtype == np.uint16
    assert new_ids[1:3, 1:4].tolist() == [[ROAD, 26001, ROAD], [33000, ROAD, 33004]]
    assert new_labels[1:3, 1:4].tolist() == [[ROAD, CAR, ROAD], [BICYCLE, ROAD, BICYCLE]]
    outside = np.ones(labels.shape, bool)
    outside[CAR_0.window] = False
    assert (new_labels == labels)[outside].all() and (new_ids == ids)[outside].all()
    assert np.array_equal(labels, kept[0]) and np.array_equal(ids, kept[1])
    with pytest.raises(ValueError, match="sticks out"):
        erase_exactly(labels[:2], ids[:2], CAR_0)


def test_erasures_fit_unless_one_shows_what_the_other_takes_away():
    assert CAR_0.revealed == {26001, 33004} and CAR_1.revealed == frozenset()
    assert not CAR_0.fits(CAR_1) and not CAR_1.fits(CAR_0)
    assert not CAR_0.fits(RIDE) and not RIDE.fits(CAR_0)  # the bicycle goes with its rider
    assert CAR_1.fits(RIDE) and RIDE.fits(CAR_1)


@pytest.mark.parametrize("erasures", [ERASURES, []])
def test_files_hold_everything_and_pairs_share_an_erasure(frame, erasures):
    write(frame, erasures_file(erasures))
    found = frame.read_erasures()
    assert set(found) == {one for erasure in erasures for one in erasure.removed}
    for erasure in erasures:
        for one in erasure.removed:
            again = found[one]
            assert (again.removed, again.x0, again.y0) == (erasure.removed, erasure.x0, erasure.y0)
            for name in ("mask", "instance_ids", "label_ids"):
                first, second = getattr(erasure, name), getattr(again, name)
                assert first.dtype == second.dtype and np.array_equal(first, second)
    if erasures:
        assert found[25000] is found[33004]


def test_a_tree_without_erasures_has_none(frame):
    assert frame.read_erasures() == {}


def changed(**arrays: np.ndarray) -> bytes:
    """A file with other arrays than it should have."""
    content = io.BytesIO()
    with np.load(io.BytesIO(erasures_file(ERASURES))) as file:
        np.savez_compressed(content, **{name: arrays.get(name, file[name]) for name in file.files})
    return content.getvalue()


def array_file() -> bytes:
    content = io.BytesIO()
    np.save(content, np.zeros(4))
    return content.getvalue()


GOOD = erasures_file(ERASURES)
VALUES = GOOD.index(b"shown.npy") + 40  # somewhere in the compressed values
BAD_FILES = {
    "empty": b"",
    "text": b"not an archive",
    "cut": GOOD[: len(GOOD) // 2],
    "a flipped bit": GOOD[:VALUES] + bytes([GOOD[VALUES] ^ 64]) + GOOD[VALUES + 1 :],
    "an array alone": array_file(),
    "another kind": changed(removed=np.zeros((3, 2))),
    "values too few": changed(shown=np.zeros(3, np.uint16)),
    "masks too short": changed(masks=np.zeros(0, np.uint8)),
    "a window outside": changed(windows=np.array([[-1, 1, 2, 3], [3, 3, 1, 2], [0, 0, 1, 1]], np.int32)),
    "flat windows": changed(windows=np.zeros(3, np.int32)),
    "an instance without a window": changed(removed=np.array([[26000, 9]] * 4, np.uint16)),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_damaged_file_is_one_line_with_the_remedy(frame, kind):
    path = write(frame, BAD_FILES[kind])
    with pytest.raises(InputError) as caught:
        frame.read_erasures()
    text = str(caught.value)
    assert str(path) in text and "--erased" in text and "\n" not in text
