"""augment/placement/filters.py: each filter alone."""

import dataclasses

import numpy as np
import pytest
from cityscapesscripts.helpers.labels import name2label

from augment.compose import contact_rows
from augment.placement.filters import FILTERS, Filters, Surroundings, box_rejection, mask_rejection
from data.geometry import HeightFit, MaskPatch
from data.labels import TARGET_CLASSES
from data.writer import rasterise
from tests.town import CAMERA, HEIGHT, WIDTH, town_objects

PERSON = TARGET_CLASSES["person"]
LABELS, IDS = rasterise(town_objects(0), WIDTH, HEIGHT)
AROUND = Surroundings(LABELS, IDS, CAMERA, None, None)
GOOD = np.array([118.0, 35, 138, 100])  # 1.7 m high, on the road


def rejection(box=GOOD, around=AROUND, **filters) -> str | None:
    return box_rejection(np.array(box, float), PERSON, around, Filters(**filters))


def all_but(name: str) -> tuple[str, ...]:
    return tuple(one for one in FILTERS if one != name)


def test_a_good_box_passes():
    assert rejection() is None


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((-2, 35, 18, 100), "inside"),
        ((118, -3, 138, 100), "inside"),
        ((118, 10, 138, 54), "support"),  # on the house
        ((118, 80, 138, 122), "support"),  # on the ego vehicle
        ((118, 80, 138, 100), "height"),  # half a metre
        ((118, 0, 138, 100), "height"),
    ],
)
def test_each_filter_rejects_and_can_be_switched_off(box, reason):
    assert rejection(box) == reason
    assert rejection(box, rules=all_but(reason)) in (None, "height")
    assert rejection(box, rules=()) is None


def test_new_objects_keep_a_distance_in_heights_of_the_taller_one():
    for x0, reason in ((138, "apart"), (160, "apart"), (171, None), (60, None), (90, "apart")):
        around = dataclasses.replace(AROUND, new_boxes=((10, 90, 12, 95), (x0, 35, x0 + 20, 100)))
        assert rejection(around=around) == reason  # 65 pixels high: 32.5 apart
        assert rejection(around=around, min_apart=0) is None
        assert rejection(around=around, rules=all_but("apart")) is None
    smaller_and_further = dataclasses.replace(AROUND, new_boxes=((130, 50, 134, 66),))
    assert rejection(around=smaller_and_further) is None  # 34 rows up the road


def test_feet_on_a_thing_count_by_what_the_thing_stands_on():
    assert rejection((30, 25, 50, 95), rules=("support",)) is None  # on the car, which stands on the road


def test_height_goes_by_the_fit_without_a_camera_and_passes_without_either():
    fit = HeightFit(slope=0.65, intercept=0.0, low=-0.2, high=0.2)  # foot at 100/128: height 65/128
    fitted = dataclasses.replace(AROUND, camera=None, fit=fit)
    assert rejection(around=fitted) is None
    assert rejection((118, 10, 138, 100), fitted) == "height"
    assert rejection((118, 10, 138, 100), dataclasses.replace(AROUND, camera=None)) is None


def test_what_the_user_asks_for_holds_with_all_filters_off():
    region = np.zeros((HEIGHT, WIDTH), bool)
    region[99, 128] = True
    assert rejection(rules=(), region=(120, 90, 130, 100)) is None
    assert rejection(rules=(), region=(130, 90, 140, 100)) == "region"
    assert rejection(around=dataclasses.replace(AROUND, region=region)) is None
    assert rejection(around=dataclasses.replace(AROUND, region=~region)) == "region"
    assert rejection((118, 35, 138, 400), dataclasses.replace(AROUND, region=region), rules=()) == "region"
    assert rejection(rules=(), height=(60, 70)) is None
    assert rejection(rules=(), height=(70, 80)) == "height_range"
    assert rejection(rules=(), height=(0.5, 0.6)) is None  # fractions of the 128 rows
    assert rejection(rules=(), height=(0.1, 0.5)) == "height_range"
    assert rejection(rules=(), distance=(7, 8)) is None
    assert rejection(rules=(), distance=(8, 20)) == "distance"


def test_a_model_of_places_goes_down_to_the_smallest_that_it_learns_from():
    """4 of 128 rows; asked for can be less than that, not more."""
    any_size = dataclasses.replace(AROUND, camera=None, any_size=True)
    small, smaller = (118, 96, 120, 100), (118, 96.2, 120, 100)
    assert rejection(small, any_size) is None and rejection(smaller, any_size) == "height_range"
    assert rejection(smaller, dataclasses.replace(any_size, any_size=False)) is None
    assert rejection(smaller, any_size, rules=()) is None
    assert rejection(smaller, any_size, height=(2, 30)) == "height_range"
    assert rejection(small, any_size, height=(5, 30)) == "height_range"
    assert Filters().area_limit(2048 * 1024, any_size=True) == 105
    assert Filters(min_area=7).area_limit(100, any_size=True) == 7


def test_a_train_stands_on_rails_or_on_the_road():
    labels = LABELS.copy()
    labels[100:103, 120:200] = name2label["rail track"].id
    around = dataclasses.replace(AROUND, label_ids=labels, camera=None)
    for box, train, car in (
        ((125, 40, 195, 100), None, "support"),  # on rails
        ((125, 40, 195, 110), None, None),  # on the road
        ((125, 10, 195, 62), "support", "support"),  # on the sidewalk
    ):
        found = [
            box_rejection(np.array(box, float), TARGET_CLASSES[name], around, Filters())
            for name in ("train", "car")
        ]
        assert found == [train, car]


def rejection_of_mask(x0: int, y0: int, x1: int, y1: int, occluded: int = 0, **filters) -> str | None:
    """The rejection of a full rectangle whose first `occluded` rows are occluded."""
    patch = MaskPatch(np.ones((y1 - y0, x1 - x0), bool), x0, y0)
    occluded_rows = np.zeros_like(patch.mask)
    occluded_rows[:occluded] = True
    return mask_rejection(patch, occluded_rows, LABELS, contact_rows(LABELS, IDS), Filters(**filters))


def test_least_pixels_follow_the_size_of_the_image():
    assert (Filters().area_limit(2048 * 1024), Filters().visible_limit(2048 * 1024)) == (525, 53)
    assert (Filters().area_limit(100), Filters().visible_limit(100)) == (1, 1)
    assert (Filters(min_area=7).area_limit(100), Filters(min_visible=8).visible_limit(100)) == (7, 8)


def test_filters_about_the_mask():
    assert rejection_of_mask(118, 35, 138, 100) is None
    assert rejection_of_mask(118, 35, 138, 100, occluded=30) == "overlap"
    assert rejection_of_mask(118, 35, 138, 100, occluded=30, max_overlap=0.5) is None
    assert rejection_of_mask(118, 35, 138, 100, occluded=30, rules=()) is None
    assert rejection_of_mask(100, 50, 111, 81) is None  # covers a person that stands behind
    assert rejection_of_mask(100, 50, 111, 81, max_overlap_any=0.5) == "overlap"
    assert rejection_of_mask(118, 35, 121, 37) == "visible"  # 6 pixels, of 9 that 256 x 128 ask for
    assert rejection_of_mask(118, 35, 121, 38) is None
    assert rejection_of_mask(118, 35, 121, 38, min_area=10) == "visible"
    assert rejection_of_mask(118, 35, 121, 37, rules=()) is None
    # nothing at all can't be inserted
    assert rejection_of_mask(118, 35, 138, 100, occluded=65, rules=()) == "visible"
    assert rejection_of_mask(118, 35, 138, 100, protected=(7,)) == "protected"
    assert rejection_of_mask(118, 35, 138, 60, protected=(7,)) is None
