"""augment/compose.py and data/outlines.py: masks at full size, occlusion, dropping, painter's order."""

import json

import numpy as np
import pytest

from augment.compose import (
    FURTHER_DOWN,
    compose,
    contact_rows,
    give_back,
    occluded_part,
    one_piece,
    place_mask,
)
from data.geometry import MaskPatch
from data.outlines import Outlines
from data.writer import polygons_to_json, rasterise
from tests.official import official_maps
from tests.town import box

ROAD, CAR, PERSON = 7, 26, 24


def street() -> tuple[np.ndarray, np.ndarray]:
    """40 x 60: road, car 26000 (rows 20..29, columns 10..29), person 24000 (rows 5..14, columns 20..24)."""
    ids = np.full((40, 60), ROAD, np.uint16)
    ids[20:30, 10:30] = 26000
    ids[5:15, 20:25] = 24000
    return np.where(ids < 1000, ids, ids // 1000).astype(np.uint8), ids


def full_patch(x0: int, y0: int, x1: int, y1: int) -> MaskPatch:
    return MaskPatch(np.ones((y1 - y0, x1 - x0), bool), x0, y0)


# ---- masks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [4, 32, 200])
def test_a_full_mask_fills_exactly_the_pixels_whose_centres_lie_in_the_box(size):
    patch = place_mask(np.ones((size, size), np.float32), np.array([3.4, 5.6, 20.4, 30.5]), 60, 40)
    assert (patch.x0, patch.y0, patch.mask.shape) == (3, 6, (24, 17))
    assert patch.mask.all()
    assert patch.foot == 30


def test_what_lies_outside_the_image_is_left_out_without_moving_the_rest():
    compact = np.zeros((8, 8), np.float32)
    compact[:, 4:] = 1  # the right half
    whole = place_mask(compact, np.array([10.0, 5, 26, 21]), 60, 40)
    cut = place_mask(compact, np.array([-12.0, 5, 4, 21]), 60, 40)
    assert np.array_equal(whole.mask[:, 12:], cut.mask)
    assert cut.x0 == 0
    assert not place_mask(compact, np.array([70.0, 5, 90, 21]), 60, 40).mask.any()
    assert not place_mask(compact, np.array([5.0, 5, 5, 21]), 60, 40).mask.any()


def test_an_enlarged_disc_is_smooth_and_a_reduced_one_keeps_its_area():
    rows, columns = np.mgrid[:32, :32] - 15.5
    disc = (rows**2 + columns**2 <= 14**2).astype(np.float32)
    for size in (320, 12):
        mask = place_mask(disc, np.array([0.0, 0, size, size]), 400, 400).mask
        radius = 14 * size / 32
        assert abs(mask.sum() / (np.pi * radius**2) - 1) < 0.06
    large = place_mask(disc, np.array([0.0, 0, 320, 320]), 400, 400).mask
    edge = np.argmax(large, 1)[40:280]
    assert np.abs(np.diff(edge)).max() < 10  # a NEAREST enlargement has steps of 10 and more


def test_only_the_largest_piece_stays_and_its_holes_are_filled():
    mask = np.zeros((10, 20), bool)
    mask[1:9, 1:9] = True
    mask[3:5, 3:5] = False
    mask[4:6, 15:18] = True
    mask[9, 9] = True  # touches at a corner only
    expected = np.zeros_like(mask)
    expected[1:9, 1:9] = True
    assert np.array_equal(one_piece(mask), expected)
    assert not one_piece(np.zeros((3, 3), bool)).any()


# ---- occlusion ----------------------------------------------------------------------------------


def test_things_with_a_lower_foot_stay_in_front_and_others_are_covered():
    labels, ids = street()
    feet = contact_rows(labels, ids)
    patch = full_patch(18, 2, 28, 25)  # its foot is between those of person and car
    occluded = occluded_part(patch, feet)
    assert np.array_equal(occluded, ids[patch.window] == 26000)
    done = compose(labels, ids, patch, occluded, PERSON, 24001, 1)
    assert (done.instance_ids[20:30, 10:30] == 26000).all()
    assert (done.instance_ids[2:20, 18:28] == 24001).all()
    assert done.dropped == (24000,)
    outside = np.ones(ids.shape, bool)
    outside[2:20, 18:28] = False
    assert np.array_equal(done.instance_ids[outside], ids[outside])
    assert np.array_equal(
        done.label_ids, np.where(done.instance_ids < 1000, done.instance_ids, done.instance_ids // 1000)
    )
    assert ids[10, 22] == 24000  # the arguments stay as they were


def test_each_piece_of_a_group_has_a_foot_of_its_own_and_the_ego_vehicle_is_in_front():
    labels, ids = street()
    for rows in (slice(2, 6), slice(30, 35)):
        labels[rows, 40:45] = ids[rows, 40:45] = CAR
    labels[38:], ids[38:] = 1, 1
    feet = contact_rows(labels, ids)
    assert feet[3, 42] == 6
    assert feet[32, 42] == 35
    assert feet[39, 0] == FURTHER_DOWN
    assert feet[25, 15] == 30
    assert feet[0, 0] == 0


def test_a_rider_and_the_two_wheeler_below_stand_on_one_foot():
    labels, ids = street()
    for value, rows, columns in (
        (25000, slice(5, 20), slice(42, 46)),  # rider
        (33000, slice(18, 30), slice(40, 50)),  # the rider's bicycle: more of it touches
        (33001, slice(8, 12), slice(46, 52)),  # another one, parked behind
        (25001, slice(2, 9), slice(2, 4)),  # a rider whose bicycle can't be seen
    ):
        ids[rows, columns], labels[rows, columns] = value, value // 1000
    ids[5:20, 42:46], labels[5:20, 42:46] = 25000, 25
    feet = contact_rows(labels, ids)
    assert {value: int(feet[ids == value].max()) for value in (25000, 33000, 33001, 25001)} == {
        25000: 30, 33000: 30, 33001: 12, 25001: 9,
    }  # fmt: skip
    between = full_patch(40, 4, 50, 25)  # its foot lies between those of rider and bicycle
    assert np.array_equal(occluded_part(between, feet), np.isin(ids[between.window], (25000, 33000)))


def test_poles_with_their_signs_and_lights_stand_in_front_by_their_foot():
    labels, ids = np.full((60, 80), ROAD, np.uint8), np.full((60, 80), ROAD, np.uint16)
    labels[:20] = ids[:20] = 11  # building
    for label, rows, columns in (
        (17, slice(5, 50), slice(10, 12)),  # a near pole
        (20, slice(5, 25), slice(12, 18)),  # its sign, seen before road too
        (17, slice(8, 9), slice(18, 40)),  # an arm to
        (19, slice(9, 14), slice(36, 40)),  # a light above the road
        (17, slice(8, 30), slice(60, 62)),  # a far pole
        (20, slice(10, 15), slice(70, 76)),  # a sign on the wall
        (26, slice(40, 50), slice(50, 58)),
        (17, slice(10, 40), slice(53, 55)),  # a pole behind that car: its foot can't be seen
    ):
        labels[rows, columns] = ids[rows, columns] = label
    feet = contact_rows(labels, ids)
    assert [feet[30, 10], feet[20, 15], feet[8, 30], feet[12, 38]] == [50] * 4
    assert [feet[20, 60], feet[12, 72], feet[20, 53]] == [30, 15, 40]
    assert feet[55, 5] == feet[10, 5] == 0
    for foot, in_front in ((45, True), (55, False)):
        patch = full_patch(5, 10, 20, foot)
        assert occluded_part(patch, feet).any() == in_front
    crossing = labels.copy()
    crossing[8, 40:62] = 17  # near and far pole meet in the image: each keeps its own foot
    feet = contact_rows(crossing, crossing.astype(np.uint16))
    assert (feet[30, 10], feet[20, 60]) == (50, 30)


def test_small_remains_of_a_covered_thing_become_the_nearest_ground():
    labels, ids = street()
    labels[:, 25:], ids[:, 25:] = 8, 8  # sidewalk beside the person
    patch = full_patch(20, 5, 24, 40)  # leaves one column of ten pixels
    for min_visible, dropped in ((10, ()), (11, (24000,))):
        done = compose(labels, ids, patch, np.zeros(patch.mask.shape, bool), PERSON, 24001, min_visible)
        assert done.dropped == dropped
        assert done.given_back.sum() == (10 if dropped else 0)
    assert (done.instance_ids[6:14, 24] == 8).all()
    assert (done.label_ids[6:14, 24] == 8).all()


def test_remains_do_not_become_a_new_object_that_is_no_thing():
    labels, ids = street()
    patch = full_patch(20, 5, 24, 40)
    done = compose(labels, ids, patch, np.zeros(patch.mask.shape, bool), 5, 5, 11)
    assert done.dropped == (24000,) and not (done.label_ids[done.given_back] == 5).any()
    assert np.count_nonzero(done.instance_ids == 5) == np.count_nonzero(patch.mask)


def test_remains_become_unlabeled_where_there_is_no_ground():
    labels, ids = np.full((20, 30), CAR, np.uint8), np.full((20, 30), 26000, np.uint16)
    mask = np.zeros(ids.shape, bool)
    mask[3:5, 3:5] = True
    give_back(labels, ids, mask, np.zeros_like(mask))
    assert (labels[mask] == 0).all() and (ids[mask] == 0).all() and (ids[~mask] == 26000).all()


# ---- outlines -----------------------------------------------------------------------------------


def official(outlines: Outlines, width: int, height: int) -> np.ndarray:
    return official_maps(json.dumps(polygons_to_json(list(outlines.objects), width, height)))[1]


@pytest.mark.parametrize(
    ("order", "label", "whole"),
    [
        (("road", "person", "car"), "truck", True),  # fits under the car
        (("road", "person", "car"), "bus", True),
        (("road", "car", "person"), "truck", False),  # the car is listed before what is covered
        (("road", "person", "car"), "car", False),  # would change the number of the car in front
    ],
)
def test_an_occluded_object_is_uncut_where_the_order_permits(order, label, whole):
    things = {
        "road": box("road", 0, 0, 59, 39),
        "person": box("person", 20, 5, 24, 14),
        "car": box("car", 10, 20, 29, 29),
    }
    objects = [things[name] for name in order]
    labels, ids = rasterise(objects, 60, 40)
    patch = full_patch(18, 8, 28, 25)
    occluded = occluded_part(patch, contact_rows(labels, ids))
    assert occluded.any()
    before = Outlines(tuple(objects))
    label_id = box(label, 0, 0, 1, 1).label_id
    new_id = label_id * 1000 + before.count(label)
    after = before.insert(label, patch, occluded)
    done = compose(labels, ids, patch, occluded, label_id, new_id, 1)
    assert np.array_equal(official(after, 60, 40), done.instance_ids)
    (new,) = (thing for thing in after.objects if all(thing is not one for one in objects))
    assert new.label == label and new.polygon[:, 1].max() == (24 if whole else 19)


@pytest.mark.parametrize(
    "in_front",
    [
        [box("pole", 28, 4, 31, 37)],  # stuff: what the joining line covers is drawn again
        [box("car", 28, 4, 31, 37)],  # an instance: the line leads around it
        [box("car", 28, 0, 31, 37), box("cargroup", 20, 38, 40, 39)],  # around it over a group
        [box("pole", 26, 0, 27, 39), box("car", 28, 6, 31, 39)],
    ],
)
def test_pieces_are_joined_without_a_trace_on_what_stands_in_front(in_front):
    # So that nothing fits under what is before.
    later = [box("road", 0, 10, 24, 39), box("road", 35, 10, 59, 39)]
    objects = [box("building", 0, 0, 59, 39), *in_front, *later]
    _, ids = rasterise(objects, 60, 40)
    patch = full_patch(12, 12, 50, 26)
    occluded = ~np.isin(ids[patch.window], (7, 11))
    wanted = ids.copy()
    wanted[patch.window][~occluded] = 31000
    after = Outlines(tuple(objects)).insert("train", patch, occluded)
    assert after.objects[: len(objects)] == tuple(objects)
    assert np.array_equal(official(after, 60, 40), wanted)


def test_dropped_instances_leave_the_list():
    objects = [box("road", 0, 0, 59, 39), box("person", 1, 1, 3, 3), box("person", 5, 1, 8, 3)]
    _, ids = rasterise(objects, 60, 40)
    assert Outlines(tuple(objects)).without((24000,), ids).objects == (objects[0], objects[2])
    assert Outlines(tuple(objects)).without((), ids).objects == tuple(objects)
