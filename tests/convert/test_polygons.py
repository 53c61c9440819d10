"""Polygons of segments: drawn in their order they give the map."""

import cv2
import numpy as np

from convert.polygons import polygons_of
from data.writer import topmost


def test_polygons_of_a_wild_map_are_exact_for_stuff_and_nearly_so_for_instances():
    rng = np.random.default_rng(1)
    noise = cv2.GaussianBlur(rng.normal(size=(80, 120, 12)).astype(np.float32), (0, 0), 4)
    parts = noise.argmax(2).astype(np.int32)
    single = np.arange(12) >= 8
    labels = [
        *("unlabeled", "road", "sky", "building", "wall", "fence", "terrain", "vegetation"),
        *["car"] * 4,
    ]
    drawn = polygons_of(parts, labels, single)
    top = topmost([polygon for _, polygon in drawn], 120, 80)
    wrong = np.array([part for part, _ in drawn])[top] != parts
    assert sorted(part for part, _ in drawn if single[part]) == [8, 9, 10, 11]
    assert not wrong[~single[parts]].any()
    assert wrong.mean() < 0.01
