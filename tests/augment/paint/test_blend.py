"""Matching colours and pasting: only masked pixels change, and nothing of the old object stays."""

import numpy as np
import pytest

from augment.paint.blend import (
    from_lab,
    in_shadow,
    match_colours,
    paste,
    resize,
    ring_of,
    ring_statistics,
    shadow_of,
    to_lab,
)


def disc(height: int = 60, width: int = 80, radius: int = 14) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (rows - height // 2) ** 2 + (columns - width // 2) ** 2 < radius**2


def smooth(height: int = 60, width: int = 80, shift: int = 0) -> np.ndarray:
    """An RGB image without edges, all values within 20..220."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([60 + rows + shift, 90 + columns, 200 - rows - columns // 2], 2)
    return np.uint8(np.clip(image, 20, 220))


# ---- pasting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("feather", (0, 1, 2.0, 3.5))
def test_paste_changes_nothing_outside_the_mask(feather):
    frame, mask = smooth(), disc(30, 40, 10)
    patch = np.full((30, 40, 3), 7, np.uint8)
    result = paste(frame, patch, mask, (15, 20, 55, 50), feather)
    inside = np.zeros(frame.shape[:2], bool)
    inside[20:50, 15:55] = mask
    assert np.array_equal(result[~inside], frame[~inside])
    assert (result[inside] != frame[inside]).any(1).all()
    assert np.array_equal(frame, smooth())  # the argument is not written to


@pytest.mark.parametrize("feather", (0, 2.0))
@pytest.mark.parametrize("box", ((0, 0, 30, 20), (50, 40, 80, 60), (0, 40, 30, 60), (20, 0, 80, 60)))
def test_pasting_a_crop_of_the_frame_changes_nothing(feather, box):
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (60, 80, 3), np.uint8)
    x0, y0, x1, y1 = box
    mask = rng.random((y1 - y0, x1 - x0)) < 0.7
    assert np.array_equal(paste(frame, frame[y0:y1, x0:x1], mask, box, feather), frame)


def test_nothing_of_the_old_object_shows_in_the_rim():
    """A red object replaced by a blue one on grey: the soft edge is between blue and grey."""
    mask = disc()
    frame = np.full((60, 80, 3), 128, np.uint8)
    frame[mask] = (255, 0, 0)
    patch = np.zeros_like(frame)
    patch[mask] = (0, 0, 255)
    result = paste(frame, patch, mask, (0, 0, 80, 60), 3)
    red, green, blue = result[mask].T.astype(int)
    assert red.max() <= 128 and abs(red - green).max() <= 1
    assert 20 < ((blue > 150) & (blue < 250)).sum() < mask.sum() / 2  # there is a soft edge
    assert result[30, 40].tolist() == [0, 0, 255]


def test_pixels_that_the_patch_leaves_as_they_are_make_no_edge_inside_the_object():
    """A window in the middle of a car, of the colour that stood there before: no halo around it."""
    mask = disc()
    frame = np.full((60, 80, 3), 128, np.uint8)
    frame[mask] = (255, 0, 0)
    patch = frame.copy()
    patch[mask] = (0, 0, 255)
    patch[27:34, 37:44] = (255, 0, 0)
    result = paste(frame, patch, mask, (0, 0, 80, 60), 3)
    inner = disc(radius=9)  # all of it further than the soft edge from the edge of the mask
    assert np.array_equal(result[inner], patch[inner])
    assert (result[mask] != patch[mask]).any()  # the soft edge is where it belongs


def test_no_soft_edge_at_the_frame_border():
    frame = np.full((20, 20, 3), 100, np.uint8)
    mask = np.zeros((20, 20), bool)
    mask[:, :10] = True
    result = paste(frame, np.zeros_like(frame), mask, (0, 0, 20, 20), 2)
    assert not result[:, :8].any() and result[10, 9].any()
    everything = paste(frame, np.zeros_like(frame), np.ones_like(mask), (0, 0, 20, 20), 2)
    assert not everything.any()


def test_an_image_is_reduced_softly():
    checks = np.uint8(np.indices((80, 80)).sum(0) % 2 * 255)[..., None].repeat(3, 2)
    assert abs(resize(checks, 40, 40).astype(int) - 128).max() <= 1  # NEAREST would give 0 or 255
    assert resize(checks, 80, 80) is checks


def test_a_shadow_falls_on_the_ground_below_an_object():
    frame, mask = np.full((60, 80, 3), 160, np.uint8), disc(radius=12)
    ground = np.ones((60, 80), bool)
    ground[:, :36] = False
    shaded = in_shadow(frame, shadow_of(mask, 0.5), ground & ~mask)
    change = frame[..., 0].astype(int) - shaded[..., 0]
    assert not change[mask].any() and not change[~ground].any()
    assert change.min() == 0 and 30 < change.max() <= 80  # at most half
    assert not change[:38].any() and change[42:].sum() > 0.3 * change.sum()
    assert np.array_equal(in_shadow(frame, shadow_of(mask, 0), ground), frame)
    at_the_border = np.roll(mask, 25, 0)
    at_the_border[:30] = False  # its foot is out of sight
    assert shadow_of(at_the_border, 0.5).shape == mask.shape


# ---- colours ------------------------------------------------------------------------------------


def test_the_ring_lies_around_the_mask():
    mask = disc()
    ring = ring_of(mask)
    assert ring.any() and not (ring & mask).any()
    rows, columns = np.nonzero(ring)
    distance = np.hypot(rows - 30, columns - 40)
    assert distance.min() > 14 and distance.max() < 14 + 2 + 0.12 * 28 + 1
    for empty in (np.zeros_like(mask), np.ones_like(mask)):
        assert not ring_of(empty).any()
        assert ring_statistics(smooth(), ring_of(empty)) is None


def test_ring_undoes_a_shift_of_light():
    original, mask = smooth(), disc()
    lab = to_lab(original)
    lab[..., 0] = lab[..., 0] * 0.95 - 6
    lab[..., 1] += 4
    darker = from_lab(lab)
    matched = match_colours(darker, original, mask, "ring").astype(int)
    before = np.abs(darker.astype(int) - original)[mask].mean()
    after = np.abs(matched - original)[mask].mean()
    assert before > 10 and after < 2.5


def test_ring_is_bounded():
    """A patch from another world is not dragged all the way."""
    original, mask = np.full((60, 80, 3), 250, np.uint8), disc()
    dark = np.full_like(original, 10)
    dark[mask] = 120
    matched = match_colours(dark, original, mask, "ring")
    shift = to_lab(matched)[30, 40, 0] - to_lab(dark)[30, 40, 0]
    assert 15 < shift < 32  # 20 by the shift; the gain acts on the distance from the mean


def test_ring_leaves_what_fits_bit_for_bit():
    original, mask = smooth(), disc()
    patch = original.copy()
    patch[mask] = (255, 0, 200)
    assert match_colours(patch, original, mask, "ring") is patch
    everywhere = np.ones_like(mask)
    assert match_colours(smooth(shift=30), original, everywhere, "ring").tolist() == smooth(shift=30).tolist()


def test_none_changes_nothing():
    patch = smooth(shift=9)
    assert match_colours(patch, smooth(), disc(), "none") is patch


def test_legacy_is_the_published_arithmetic():
    """m = ceil(mean difference outside the mask, all channels); the result is |patch - m|: 3 becomes 17."""
    mask = np.array([[True, True, False, False]])
    original = np.zeros((1, 4, 3), np.uint8)
    patch = np.array([[[3, 20, 255], [0, 21, 19], [20, 20, 20], [19, 20, 18]]], np.uint8)
    # Outside: (60 + 57) / 6 = 19.5, so m = 20.
    expected = [[[17, 0, 235], [20, 1, 1], [0, 0, 0], [1, 0, 2]]]
    result = match_colours(patch, original, mask, "legacy")
    assert result.dtype == np.uint8 and result.tolist() == expected
    darker = match_colours(original + np.uint8(9), original + np.uint8(20), mask, "legacy")
    assert (darker == 2).all()  # a patch that is too dark becomes darker still: m = 11, |9 - 11|
    whole = match_colours(patch, original, np.ones_like(mask), "legacy")
    assert np.array_equal(whole, patch)  # no pixel outside: m = 0
