"""Cut-outs: cutting, placing, blending."""

import cv2
import numpy as np
import pytest

from augment.compose import one_piece
from augment.paint.cutout import Cutout, blend, cut_out, place
from augment.paint.sharpness import inner

OWN, BEHIND = np.array((180, 60, 40)), np.array((20, 200, 60))
SIZE = 400, 300  # width and height of the image that is pasted into
NO_GROUND = np.zeros(SIZE[::-1], bool)


def seen_instance(annotated_wider: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A person-like figure of one colour before another, its edges blurred as a lens does: image and mask."""
    figure = np.zeros((220, 120), np.uint8)
    cv2.ellipse(figure, (60, 40), (16, 20), 0, 0, 360, 1, -1)
    cv2.rectangle(figure, (40, 58), (80, 130), 1, -1)
    cv2.rectangle(figure, (42, 130), (54, 200), 1, -1)
    cv2.rectangle(figure, (66, 130), (78, 200), 1, -1)
    soft = cv2.GaussianBlur(figure.astype(np.float32), (0, 0), 1)[..., None]
    mask = cv2.dilate(figure, np.ones((2 * annotated_wider + 1,) * 2, np.uint8)) > 0
    return np.uint8(soft * OWN + (1 - soft) * BEHIND + 0.5), mask


def cutout_of(mask: np.ndarray, rgb=OWN, light=None) -> Cutout:
    x, y, w, h = cv2.boundingRect(np.uint8(mask))
    return Cutout(np.full((h, w, 3), rgb, np.uint8), np.uint8(mask[y : y + h, x : x + w]) * 255, light)


@pytest.mark.parametrize("wider", (0, 1))
def test_nothing_of_the_old_background_shows(wider):
    """Neither in the rim nor where the outline is drawn a little too wide, at any size.

    Where an outline that is too wide makes a narrow corner, as beside the neck, a few pixels are left.
    """
    cutout = cut_out(*seen_instance(wider), None)
    mixed = np.linalg.norm(cutout.rgb - OWN, axis=2) > 0.3 * np.linalg.norm(OWN - BEHIND)
    assert np.count_nonzero(mixed) <= 8 * wider
    image = np.full((*SIZE[::-1], 3), 128, np.uint8)
    for height in (30, 75, 171, 250):
        placed = place(cutout, (200, 280), height, False, SIZE)
        painted = blend(image, placed, np.zeros_like(placed.patch.mask), NO_GROUND[placed.around], 0)
        greener = painted[..., 1].astype(int) - painted[..., 0]  # OWN and the new background are not green
        assert np.count_nonzero(greener > 8) <= 8 * wider


def test_a_rim_that_looks_like_the_object_is_kept():
    rgb, mask = seen_instance()
    rgb[mask] = np.where(np.indices(mask.shape).sum(0)[mask, None] % 7 < 3, OWN, OWN + 30)
    cutout = cut_out(rgb, mask, None)
    x, y, w, h = cv2.boundingRect(np.uint8(mask))
    assert np.array_equal(cutout.rgb[cutout.alpha > 0], rgb[y : y + h, x : x + w][cutout.alpha > 0])


@pytest.mark.parametrize("height", (12, 40, 143, 200))
def test_the_outline_stands_at_the_foot_as_high_as_asked_for(height):
    _, mask = seen_instance()
    cutout = cutout_of(mask)
    placed = place(cutout, (150.2, 271.4), height, False, SIZE)
    x0, y0, x1, y1 = placed.patch.box
    assert y1 == placed.patch.foot == 271 and abs(y1 - y0 - height) <= 1
    assert abs((x0 + x1) / 2 - 150.2) <= 1 and placed.box == (x0, y0, x1, y1)
    own_height, own_width = cutout.alpha.shape
    assert abs((x1 - x0) / (y1 - y0) - own_width / own_height) <= 2 / height
    assert placed.enlargement == pytest.approx(height / own_height)
    assert placed.alpha.min() >= 0 and not placed.alpha[~placed.patch.mask].any()
    assert (placed.alpha[inner(placed.patch.mask)] > 0.95).all()
    assert np.array_equal(one_piece(placed.patch.mask), placed.patch.mask)
    # The outline itself, to the pixel: half of a pixel and more is covered.
    area = cv2.resize(cutout.alpha, placed.alpha.shape[::-1], interpolation=cv2.INTER_AREA)
    if height < own_height:
        assert np.array_equal(placed.patch.mask, one_piece(area >= 128))


def test_mirrored_is_the_mirror_image():
    mask = np.zeros((40, 30), bool)
    mask[:, :10] = mask[30:] = True
    rgb = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    cutout = Cutout(rgb, np.uint8(mask) * 255, None)
    plain, other = (place(cutout, (100, 200), 40, mirrored, SIZE) for mirrored in (False, True))
    assert np.array_equal(plain.rgb, rgb) and np.array_equal(plain.patch.mask, mask)
    assert np.array_equal(other.rgb, rgb[:, ::-1]) and np.array_equal(other.patch.mask, mask[:, ::-1])
    assert plain.box == other.box == (85, 160, 115, 200)


def test_what_lies_beyond_the_image_is_left_out():
    cutout = cutout_of(np.ones((60, 40), bool))
    placed = place(cutout, (5, 320), 60, False, SIZE)
    assert placed.patch.box == (0, 260, 25, 300) and placed.box == (-15, 260, 25, 320)
    assert placed.rgb.shape[:2] == placed.alpha.shape == placed.patch.mask.shape == (40, 25)
    assert not place(cutout, (600, 100), 60, False, SIZE).patch.mask.any()
    assert not place(cutout, (-100, -100), 60, False, SIZE).patch.mask.any()


def test_only_the_visible_outline_and_the_ground_at_the_feet_change():
    image = np.random.default_rng(1).integers(0, 256, (*SIZE[::-1], 3), np.uint8)
    before = image.copy()
    placed = place(cutout_of(seen_instance()[1]), (150, 270), 120, False, SIZE)
    occluded = placed.patch.mask.copy()
    occluded[:, : occluded.shape[1] // 2] = False
    ground = NO_GROUND.copy()
    ground[265:, :160] = True
    painted = blend(image, placed, occluded, ground[placed.around], 0.5)
    assert np.array_equal(image, before)
    changed = (painted != image).any(2)
    seen = np.zeros(SIZE[::-1], bool)
    seen[placed.patch.window] = placed.patch.mask & ~occluded
    assert not changed[~seen & ~ground].any() and changed[seen].mean() > 0.95
    shaded = changed & ~seen
    assert shaded.any() and (painted[shaded] <= image[shaded]).all()
    assert not (blend(image, placed, occluded, ground[placed.around], 0) != image).any(2)[~seen].any()
    assert np.array_equal(painted, blend(image, placed, occluded, ground[placed.around], 0.5))


def test_edges_are_a_mixture_of_object_and_what_is_behind():
    image = np.full((*SIZE[::-1], 3), 250, np.uint8)
    figure = np.zeros((200, 200), np.uint8)
    cv2.circle(figure, (100, 100), 99, 1, -1)
    placed = place(cutout_of(figure > 0, (10, 10, 10)), (200, 250), 50, False, SIZE)
    painted = blend(image, placed, np.zeros_like(placed.patch.mask), NO_GROUND[placed.around], 0)
    colours = painted[placed.patch.window][placed.patch.mask][:, 0]
    assert (colours == 10).mean() > 0.7
    assert np.count_nonzero((colours > 20) & (colours < 140)) > 40
