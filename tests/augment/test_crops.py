"""Crops around an object: lossless, and within the frame."""

import numpy as np
import pytest

from augment.crops import Crop, context_crop
from augment.paint.blend import paste

BOXES = [
    (40, 20, 60, 30),
    (0, 0, 20, 10),  # each corner
    (80, 0, 100, 10),
    (0, 40, 20, 50),
    (80, 40, 100, 50),
    (40, 0, 50, 20),  # each border
    (40, 30, 50, 50),
    (0, 20, 10, 30),
    (90, 20, 100, 30),
    (40, 0, 50, 50),  # as high as the frame
    (20, 10, 90, 30),  # wider than the frame is high
    (0, 0, 100, 50),
    (50, 25, 51, 26),
]


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("margin", [0, 0.25, 2])
def test_crop_and_paste_of_an_unchanged_crop_is_lossless(box, margin):
    frame = np.random.default_rng(3).integers(0, 256, (50, 100, 3), np.uint8)
    crop = context_crop(box, (100, 50), margin)
    patch = crop.cut(frame)
    side = patch.shape[0]
    assert patch.shape == (side, side, 3) and crop.size == (side, side)
    assert side >= max(box[2] - box[0], box[3] - box[1])
    x0, y0, x1, y1 = crop.box
    assert 0 <= x0 <= box[0] and box[2] <= x1 <= 100
    assert 0 <= y0 <= box[1] and box[3] <= y1 <= 50
    assert np.array_equal(crop.back(patch), frame[y0:y1, x0:x1])
    mask = np.ones((y1 - y0, x1 - x0), bool)
    assert np.array_equal(paste(frame, crop.back(patch), mask, crop.box, 0), frame)
    new = 255 - patch
    pasted = paste(frame, crop.back(new), mask, crop.box, 0)
    assert np.array_equal(pasted[y0:y1, x0:x1], 255 - frame[y0:y1, x0:x1])
    pasted[y0:y1, x0:x1] = frame[y0:y1, x0:x1]
    assert np.array_equal(pasted, frame)


def test_crop_has_its_margin_and_is_padded_only_where_the_frame_is_too_small():
    assert context_crop((40, 20, 60, 30), (100, 50)) == Crop(35, 10, 30, 30)
    assert context_crop((80, 40, 100, 50), (100, 50)) == Crop(70, 20, 30, 30)  # shifted inside
    assert context_crop((30, 5, 75, 45), (100, 50)).size == (50, 50)  # less margin, no padding
    # a tiny object gets context
    assert context_crop((40, 20, 42, 23), (100, 50), min_side=24).size == (24, 24)
    assert context_crop((40, 20, 42, 23), (100, 50), min_side=128) == Crop(16, 0, 50, 50)  # less room
    wide = context_crop((20, 10, 90, 30), (100, 50))
    assert wide == Crop(20, 0, 70, 50, (0, 10, 0, 10))
    mask = np.ones((50, 100), bool)
    assert wide.cut(mask).all()
    assert np.count_nonzero(wide.cut(mask, mirror=False)) == 70 * 50
    with pytest.raises(ValueError, match="does not fit"):
        wide.back(np.zeros((50, 70, 3), np.uint8))
