"""How sharp a part of a picture is, and making an object as sharp as what is beside it."""

import cv2
import numpy as np
import pytest

from augment.paint.sharpness import TOLERANCE, as_soft_as, inner, softness, softness_around


def picture(blur: float, contrast: int = 100) -> np.ndarray:
    """Patches of grey with edges as a lens of this blur (deviation, pixels) gives them: (120,120,3) uint8."""
    patches = np.random.default_rng(0).integers(0, 2, (15, 15)).astype(np.float32).repeat(8, 0).repeat(8, 1)
    return np.uint8(cv2.GaussianBlur(50 + contrast * patches, (0, 0), blur))[..., None].repeat(3, 2)


ALL = np.ones((120, 120), bool)


def grey(rgb: np.ndarray) -> np.ndarray:
    return rgb[..., 0].astype(np.float32)


def test_softness_grows_with_blur_and_not_with_contrast():
    found = [softness(grey(picture(blur)), ALL) for blur in (0.3, 0.7, 1.2, 2.0)]
    assert found == sorted(found) and found[-1] - found[0] > 0.3
    assert softness(grey(picture(0.7, 30)), ALL) == pytest.approx(found[1], abs=0.03)
    assert softness(grey(picture(1)), ~ALL) is None
    assert softness(np.full((120, 120), 7, np.float32), ALL) is None  # flat


@pytest.mark.parametrize(("own", "around"), ((0.3, 1.2), (0.3, 0.8), (1.2, 0.6)))
def test_an_object_becomes_as_sharp_as_what_is_beside_it(own, around):
    wanted = softness(grey(picture(around)), ALL)
    before = softness(grey(picture(own)), ALL)
    after = softness(grey(as_soft_as(picture(own), ALL, wanted)), ALL)
    assert abs(before - wanted) > TOLERANCE >= abs(after - wanted) - 0.03
    assert abs(after - wanted) < abs(before - wanted)


def test_what_differs_as_little_as_real_ones_do_is_left():
    image = picture(0.7)
    for wanted in (softness(grey(image), ALL) + 0.9 * TOLERANCE, softness(grey(image), ALL), None):
        assert as_soft_as(image, ALL, wanted) is image
    assert as_soft_as(image, np.zeros_like(ALL), 0.9) is image  # too small to tell


def test_inner_pixels_are_two_away_from_the_edge():
    assert np.array_equal(np.argwhere(inner(np.ones((5, 6), bool))), [[2, 2], [2, 3]])


def test_what_is_beside_an_object_does_not_include_its_edge():
    mask = np.zeros((120, 120), bool)
    mask[40:80, 40:80] = True
    image = picture(1.2)
    image[mask] = np.indices((40, 40)).sum(0).reshape(-1, 1) % 2 * 255
    assert softness_around(image, mask) == pytest.approx(softness_around(picture(1.2), mask), abs=0.01)


def test_softness_is_the_same_wherever_its_arrays_are_in_memory():
    others = []  # of other sizes each time, so that the next arrays lie elsewhere
    area = np.zeros((57, 63), bool)
    area[-4:] = True
    for seed in range(30):
        noise = np.random.default_rng(seed).normal(100, 3, area.shape).astype(np.float32)
        noise[-2:, -8:] *= np.linspace(1, 5, 8)  # the strongest edges are the last, where loops end unevenly
        found = set()
        for number in range(40):
            others.append(np.empty(16 * number + 8, np.uint8))
            found.add(softness(noise, area))
        assert len(found) == 1
