"""augment/insert/gates.py: each rule alone."""

import dataclasses

import numpy as np
import pytest

from augment.compose import contact_rows
from augment.insert.gates import RULES, Gates, Surroundings, box_refusal, mask_refusal
from data.geometry import HeightFit, Patch
from data.labels import TARGET_CLASSES
from data.writer import rasterise
from tests.town import CAMERA, HEIGHT, WIDTH, town_objects

PERSON = TARGET_CLASSES["person"]
LABELS, IDS = rasterise(town_objects(0), WIDTH, HEIGHT)
AROUND = Surroundings(LABELS, IDS, CAMERA, None, None)
GOOD = np.array([118.0, 35, 138, 100])  # 1.7 m high, on the road


def refusal(box=GOOD, around=AROUND, **gates) -> str | None:
    return box_refusal(np.array(box, float), PERSON, around, Gates(**gates))


def test_a_good_box_passes():
    assert refusal() is None


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
def test_each_rule_refuses_and_can_be_switched_off(box, reason):
    assert refusal(box) == reason
    assert refusal(box, rules=tuple(rule for rule in RULES if rule != reason)) in (None, "height")
    assert refusal(box, rules=()) is None


def test_new_objects_keep_a_distance_in_heights_of_the_taller_one():
    for x0, reason in ((138, "apart"), (160, "apart"), (171, None), (60, None), (90, "apart")):
        around = dataclasses.replace(AROUND, new_boxes=((10, 90, 12, 95), (x0, 35, x0 + 20, 100)))
        assert refusal(around=around) == reason  # 65 pixels high: 32.5 apart
        assert refusal(around=around, min_apart=0) is None
        assert refusal(around=around, rules=tuple(rule for rule in RULES if rule != "apart")) is None
    smaller_and_further = dataclasses.replace(AROUND, new_boxes=((130, 50, 134, 66),))
    assert refusal(around=smaller_and_further) is None  # 34 rows up the road


def test_feet_on_a_thing_count_by_what_the_thing_stands_on():
    assert refusal((30, 25, 50, 95), rules=("support",)) is None  # on the car, which stands on the road


def test_height_goes_by_the_fit_without_a_camera_and_passes_without_either():
    fit = HeightFit(slope=0.65, intercept=0.0, low=-0.2, high=0.2)  # foot at 100/128: height 65/128
    fitted = dataclasses.replace(AROUND, camera=None, fit=fit)
    assert refusal(around=fitted) is None
    assert refusal((118, 10, 138, 100), fitted) == "height"
    assert refusal((118, 10, 138, 100), dataclasses.replace(AROUND, camera=None)) is None


def test_what_the_user_asks_for_holds_with_all_rules_off():
    region = np.zeros((HEIGHT, WIDTH), bool)
    region[99, 128] = True
    assert refusal(rules=(), region=(120, 90, 130, 100)) is None
    assert refusal(rules=(), region=(130, 90, 140, 100)) == "region"
    assert refusal(around=dataclasses.replace(AROUND, region=region)) is None
    assert refusal(around=dataclasses.replace(AROUND, region=~region)) == "region"
    assert refusal((118, 35, 138, 400), dataclasses.replace(AROUND, region=region), rules=()) == "region"
    assert refusal(rules=(), height=(60, 70)) is None
    assert refusal(rules=(), height=(70, 80)) == "height_range"
    assert refusal(rules=(), distance=(7, 8)) is None
    assert refusal(rules=(), distance=(8, 20)) == "distance"


def mask_rule(x0: int, y0: int, x1: int, y1: int, hidden: int = 0, **gates) -> str | None:
    """The refusal of a full rectangle whose first `hidden` rows are hidden."""
    patch = Patch(np.ones((y1 - y0, x1 - x0), bool), x0, y0)
    hidden_rows = np.zeros_like(patch.mask)
    hidden_rows[:hidden] = True
    return mask_refusal(patch, hidden_rows, LABELS, contact_rows(LABELS, IDS), Gates(**gates))


def test_least_pixels_follow_the_size_of_the_image():
    assert (Gates().least_area(2048 * 1024), Gates().least_visible(2048 * 1024)) == (525, 53)
    assert (Gates().least_area(100), Gates().least_visible(100)) == (1, 1)
    assert (Gates(min_area=7).least_area(100), Gates(min_visible=8).least_visible(100)) == (7, 8)


def test_rules_about_the_mask():
    assert mask_rule(118, 35, 138, 100) is None
    assert mask_rule(118, 35, 138, 100, hidden=30) == "overlap"
    assert mask_rule(118, 35, 138, 100, hidden=30, max_overlap=0.5) is None
    assert mask_rule(118, 35, 138, 100, hidden=30, rules=()) is None
    assert mask_rule(100, 50, 111, 81) is None  # covers a person that stands behind
    assert mask_rule(100, 50, 111, 81, max_overlap_any=0.5) == "overlap"
    assert mask_rule(118, 35, 121, 37) == "visible"  # 6 pixels, of 9 that 256 x 128 ask for
    assert mask_rule(118, 35, 121, 38) is None
    assert mask_rule(118, 35, 121, 38, min_area=10) == "visible"
    assert mask_rule(118, 35, 121, 37, rules=()) is None
    assert mask_rule(118, 35, 138, 100, hidden=65, rules=()) == "visible"  # nothing at all can't be inserted
    assert mask_rule(118, 35, 138, 100, protected=(7,)) == "protected"
    assert mask_rule(118, 35, 138, 60, protected=(7,)) is None
