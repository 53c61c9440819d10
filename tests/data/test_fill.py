"""Filling holes: hand-made scenes, borders of the image, bad luck, and likeness to what was really there."""

import numpy as np
import pytest
from cityscapesscripts.helpers.labels import name2label
from scipy import ndimage

from data.erasures import erase_exactly
from data.fill import fill_hole
from data.geometry import is_thing
from data.labels import LABEL_OF_VALUE
from streets.scenes import make_scene

ROAD, SIDEWALK, BUILDING, SKY, POLE, HOOD = (
    name2label[name].id for name in ("road", "sidewalk", "building", "sky", "pole", "ego vehicle")
)
PERSON, CAR = 24000, 26000


def scene(width: int = 64, height: int = 48) -> np.ndarray:
    """Values of an instance map: building, below it sidewalk from row 24 on, road from row 32 on."""
    values = np.full((height, width), BUILDING, np.uint16)
    values[24:], values[32:] = SIDEWALK, ROAD
    return values


def person(values: np.ndarray, left: int = 30, top: int = 16, foot: int = 38) -> np.ndarray:
    """Put somebody 6 pixels wide with parted legs into the map; the mask (H,W) bool."""
    hole = np.zeros(values.shape, bool)
    hole[top:foot, max(left, 0) : left + 6] = True
    hole[foot - 8 : foot, left + 2 : left + 4] = False
    values[hole] = PERSON
    return hole


def filled(values: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The values after filling; both maps agree, and what is outside the hole and the inputs stay."""
    labels = LABEL_OF_VALUE[values]
    before = labels.copy(), values.copy()
    new_labels, new_values = fill_hole(labels, values, hole)
    assert new_labels.dtype == np.uint8 and new_values.dtype == np.uint16
    assert np.array_equal(labels, before[0]) and np.array_equal(values, before[1])
    assert np.array_equal(new_labels, LABEL_OF_VALUE[new_values])
    assert np.array_equal(new_values[~hole], values[~hole])
    return new_values


@pytest.mark.parametrize("left", [30, 0, 58, -3])
def test_level_surfaces_go_on_up_to_the_border_of_the_image(left):
    values = scene()
    assert np.array_equal(filled(values, person(values, left)), scene())


@pytest.mark.parametrize(("top", "foot"), [(0, 38), (16, 48)])
def test_level_surfaces_go_on_where_the_hole_leaves_the_image_above_or_below(top, foot):
    values = scene()
    assert np.array_equal(filled(values, person(values, top=top, foot=foot)), scene())


def test_a_slanting_kerb_crosses_a_wide_hole_in_a_line():
    rows, columns = np.mgrid[:48, :64]
    ground_truth = np.where(rows > 20 + columns / 4, ROAD, BUILDING).astype(np.uint16)
    hole = np.zeros(ground_truth.shape, bool)
    hole[16:46, 20:44] = True
    values = np.where(hole, CAR, ground_truth).astype(np.uint16)
    assert (filled(values, hole) != ground_truth).sum() <= 24  # a pixel a column


def test_an_upright_border_stays_where_it_is_above():
    ground_truth = scene()
    ground_truth[:24, 33:] = SKY
    values = ground_truth.copy()
    assert np.array_equal(filled(values, person(values)), ground_truth)


@pytest.mark.parametrize("behind", [CAR, CAR // 1000, HOOD])  # single, a group, no thing
def test_other_things_are_no_filling_but_go_on_between_their_two_sides(behind):
    ground_truth = scene()
    ground_truth[20:34, 10:50] = behind
    values = ground_truth.copy()
    assert np.array_equal(filled(values, person(values)), ground_truth)
    values = scene()
    values[20:34, 36:50] = CAR  # touches the person's right side only
    assert (filled(values, person(values)) == np.where(values == CAR, CAR, scene())).all()


def test_no_bite_is_left_in_what_stands_behind_but_what_stands_in_front_keeps_its_outline():
    car = np.zeros((48, 64), bool)
    car[18:34, 33:60] = True
    values = np.where(car, CAR, scene()).astype(np.uint16)
    hole = person(values, top=21, foot=38)  # over the car's left side: its corners can be seen
    hole[18:21] = False
    assert np.array_equal(filled(values, hole)[21:30], np.where(car, CAR, scene())[21:30])

    values = scene()
    in_front = np.zeros(values.shape, bool)
    in_front[20:46, 36:50] = True
    in_front[28:34, 36:42] = False
    hole = person(values)
    hole[28:34, 36:42] = True
    values[hole], values[in_front] = PERSON, CAR
    assert not (filled(values, hole)[hole] == CAR).any()


def test_a_pole_comes_down_to_the_ground():
    ground_truth = scene()
    ground_truth[:24, 32:34] = POLE
    values = ground_truth.copy()
    assert np.array_equal(filled(values, person(values)), ground_truth)


def test_what_lies_on_the_scene_is_not_spread():
    ground_truth = scene()
    ground_truth[:, 6:9] = HOOD  # between a person at the border of the image and everything else
    values = ground_truth.copy()
    assert np.array_equal(filled(values, person(values, left=0)), ground_truth)


@pytest.mark.parametrize("around", [CAR, HOOD])
def test_a_map_without_surfaces_becomes_unlabeled(around):
    values = np.full((20, 30), around, np.uint16)
    hole = np.zeros(values.shape, bool)
    hole[5:20, 0:10] = True
    found = filled(values, hole)
    assert np.isin(found[hole], (0, around)).all()
    assert (filled(values, np.ones_like(hole)) == 0).all()
    assert np.array_equal(filled(values, np.zeros_like(hole)), values)


def test_a_far_surface_is_found():
    values = np.full((64, 256), CAR, np.uint16)
    values[:, 200:] = ROAD
    hole = np.zeros(values.shape, bool)
    hole[30:40, 10:14] = True
    values[hole] = PERSON
    values[20:50, 14] = CAR + 1  # another one on this side
    assert np.isin(filled(values, hole)[hole], (ROAD, CAR, CAR + 1)).all()


@pytest.mark.parametrize("size", [(512, 256), (128, 64)])
def test_the_fill_is_nearer_to_the_ground_truth_than_the_nearest_surface(size):
    right, nearest_right, pixels = 0, 0, 0
    for index in range(8):
        made = make_scene(0, "val", index, *size, erased=True)
        for erasure in made.erasures:
            if erasure.removed[0] // 1000 != 24:
                continue
            exact, _ = erase_exactly(made.label_ids, made.instance_ids, erasure)
            hole = np.isin(made.instance_ids, erasure.removed)
            labels, _ = fill_hole(made.label_ids, made.instance_ids, hole)
            nearest = ndimage.distance_transform_edt(
                is_thing(made.label_ids), return_distances=False, return_indices=True
            )
            right += (labels == exact)[hole].sum()
            nearest_right += (made.label_ids[tuple(nearest)] == exact)[hole].sum()
            pixels += hole.sum()
    assert right / pixels > nearest_right / pixels + 0.05
    assert right / pixels > 0.7
