"""Contrast, softness and repeats of inserted objects beside real ones."""

import numpy as np
import pytest

from augment.placement.plan import repeats
from data.geometry import MaskPatch
from evaluation.pixels import Looks, distance, halves, patch_of


def test_a_patch_is_the_box_of_a_mask():
    mask = np.zeros((20, 30), bool)
    mask[4:9, 7:8] = mask[8, 7:12] = True
    patch = patch_of(mask)
    assert patch.box == (7, 4, 12, 9) and patch.mask.shape == (5, 5)
    assert np.array_equal(mask[patch.window], patch.mask)


def test_contrast_is_that_of_lightness_and_says_which_is_brighter():
    looks = Looks()
    for own, ground in ((200, 50), (50, 200), (90, 90)):
        rgb = np.full((100, 100, 3), ground, np.uint8)
        rgb[30:70, 40:60] = own
        looks.add(rgb, MaskPatch(np.ones((40, 20), bool), 40, 30))
    bright, dark, alike = looks.contrast
    assert bright > 0.8 and dark == pytest.approx(-bright, abs=1e-3) and abs(alike) < 0.01
    assert looks.softness == []  # nothing to tell it by


def test_an_object_that_is_blurred_is_softer_than_what_is_beside_it():
    rgb = np.random.default_rng(0).integers(0, 256, (25, 25, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    looks, patch = Looks(), MaskPatch(np.ones((40, 40), bool), 30, 30)
    looks.add(rgb, patch)
    ramp = np.uint8(np.linspace(0, 255, 40))
    rgb[30:70, 30:70] = ramp[:, None]
    looks.add(rgb, patch)
    assert abs(looks.softness[0]) < 0.05 and looks.softness[1] > 0.2


def test_the_distance_of_two_samples_is_in_their_unit():
    values = np.linspace(-1, 1, 400).tolist()
    assert distance(values, values) == 0
    assert distance(values, [value + 0.3 for value in values]) == pytest.approx(0.3)
    assert distance(*halves(values)) < 0.01
    assert np.isnan(distance(values, []))


def test_repeats_are_counted_over_all_and_within_an_image():
    shown = [("a", "x"), ("a", "y"), ("b", "x"), ("b", "z"), ("c", "x"), ("c", "x")]
    objects = [{"image": image, "render": {"source": source}} for image, source in shown]
    assert repeats(objects) == {
        "objects": 6,
        "instances": 3,
        "most_often": 4,
        "most_often_in_an_image": 2,
    }
