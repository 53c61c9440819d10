"""Outlines of masks and of maps: filled again they are the same."""

import cv2
import numpy as np
from PIL import Image, ImageDraw

from augment.compose import (
    one_piece,
)
from data.outlines import outline


def fill(polygon: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    image = Image.new("I", (shape[1] + 20, shape[0] + 20), 0)
    ImageDraw.Draw(image).polygon((polygon + 10).ravel().tolist(), fill=1)
    return np.asarray(image) > 0


def test_outlines_fill_to_the_same_mask_and_pieces_and_holes_nearly_so():
    rng = np.random.default_rng(0)
    for _ in range(60):
        height, width = (int(size) for size in rng.integers(5, 90, 2))
        cells = rng.random((6, 6))
        field = cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC)
        mask = one_piece(field > 0.5)
        if not mask.any():
            continue
        assert np.array_equal(fill(outline(mask), mask.shape), np.pad(mask, 10))
        holed = mask & (field < 0.9)
        holed[:, width // 2 : width // 2 + 3] = False
        if holed.sum() >= 400:
            filled = fill(outline(holed), mask.shape)[10:-10, 10:-10]
            assert (filled & holed).sum() / (filled | holed).sum() > 0.9


def test_outlines_of_single_pixels_have_three_points():
    assert outline(np.ones((1, 1), bool)).shape == (3, 2)
