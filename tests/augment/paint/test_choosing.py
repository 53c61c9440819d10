"""Which cut-out is shown where an object is wanted."""

from collections import Counter
from dataclasses import fields, replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from augment.paint.backends import CannotFillError
from augment.paint.choosing import MAX_ENLARGEMENT, Choice, Wish, choose, view_of, views
from augment.paint.collection import GRID, Table, shelf_of
from data.camera import Camera

PERSON, CAR = 24, 26
SIZE = 2000, 1000
CAMERA = Camera(2000.0, 2000.0, 1000.0, 400.0, 1.3, 0.0)  # horizon in row 400
FULL = np.ones((GRID, GRID), bool)
STANDARD = {
    "frame": "town_000000_000000",
    "instance_id": PERSON * 1000,
    "size": (40, 100),
    "aspect": 0.4,
    "solidity": 0.8,
    "covered": 0.0,
    "cut": (False,) * 4,
    "whole": True,
    "box": (980, 500, 1020, 600),
    "frame_size": SIZE,
    "camera": (2000, 1000, 2000, 400),
    "light": (50, 0, 0),
    "shape": np.packbits(FULL),
    "ridden": 0,
}
WISH = Wish("person", np.array([980.0, 500, 1020, 600]), 0.4, FULL, None, CAMERA, SIZE, "here")


def collection(*rows: dict) -> SimpleNamespace:
    """Instances like STANDARD, but for what is given of each; numbered."""
    full = [STANDARD | {"instance_id": PERSON * 1000 + number} | row for number, row in enumerate(rows)]
    table = Table(*(np.array([row[item.name] for row in full]) for item in fields(Table)))
    return SimpleNamespace(table=table, shelf=partial(shelf_of, table))


def chosen(instances, wish: Wish = WISH, shown=(), draws: int = 40) -> list[Choice]:
    return [choose(instances, wish, set(shown), np.random.default_rng(seed)) for seed in range(draws)]


def test_none_is_cut_covered_shown_already_from_the_image_itself_or_enlarged_much():
    instances = collection(
        {"whole": False},
        {"frame": "here"},
        {"size": (20, round(100 / MAX_ENLARGEMENT) - 1)},
        {"instance_id": CAR * 1000},
        {},
        {},
    )
    keys = {choice.key for choice in chosen(instances)}
    assert keys == {"town_000000_000000/24004", "town_000000_000000/24005"}
    (key,) = {choice.key for choice in chosen(instances, shown={"town_000000_000000/24004"})}
    assert key == "town_000000_000000/24005" and instances.table.instance_id[5] == 24005
    with pytest.raises(CannotFillError, match="no person"):
        choose(instances, WISH, keys, np.random.default_rng(0))
    with pytest.raises(CannotFillError, match="no truck"):
        choose(instances, replace(WISH, class_name="truck"), set(), np.random.default_rng(0))


def test_what_fits_better_is_shown_more_often():
    left = FULL.copy()
    left[:, GRID // 2 :] = False
    for worse in ({"shape": np.packbits(left)}, {"aspect": 0.8}, {"light": (5, 0, 0)}, {"size": (28, 70)}):
        light = np.array([50, 0, 0])
        counts = Counter(
            choice.row for choice in chosen(collection({}, worse), replace(WISH, light=light), draws=200)
        )
        assert counts[0] > 1.5 * counts[1] > 0


def test_the_wish_may_lack_silhouette_light_and_camera():
    wish = replace(WISH, silhouette=None, camera=None)
    unknown = {"camera": (np.nan,) * 4, "light": (np.nan,) * 3}
    wide = {"aspect": 1.0, **unknown}
    counts = Counter(choice.row for choice in chosen(collection(unknown, wide), wish, draws=200))
    assert counts[0] > 2 * counts[1] > 0


def test_it_is_mirrored_where_that_brings_its_shape_nearer():
    left = FULL.copy()
    left[:, GRID // 2 :] = False
    instances = collection({"shape": np.packbits(left)})
    mirrored = [choice.mirrored for choice in chosen(instances, replace(WISH, silhouette=left[:, ::-1]))]
    assert np.mean(mirrored) > 0.9
    assert 0.2 < np.mean([choice.mirrored for choice in chosen(instances, draws=100)]) < 0.8


def test_a_car_is_shown_from_the_side_from_which_it_would_be_seen():
    """Seen at the left, it goes to the left as it is and to the right mirrored; of two the nearer one."""
    car = {"instance_id": CAR * 1000, "box": (200, 500, 300, 600), "aspect": 1.0}
    wish = replace(WISH, class_name="car", aspect=1.0, silhouette=None)
    for x, wanted in ((150, False), (1650, True)):
        there = replace(wish, box=np.array([x, 500.0, x + 100, 600]))
        assert {choice.mirrored for choice in chosen(collection(car), there)} == {wanted}
        straight = {**car, "instance_id": CAR * 1000 + 1, "box": (950, 500, 1050, 600)}
        assert np.mean([choice.row == 0 for choice in chosen(collection(car, straight), there)]) > 0.9
    far = {**car, "instance_id": CAR * 1000 + 1, "box": (560, 420, 600, 450)}
    near = replace(wish, box=np.array([150.0, 500, 250, 600]))
    assert np.mean([choice.row == 0 for choice in chosen(collection(car, far), near)]) > 0.7


def test_the_view_is_told_by_foot_and_column():
    wish = replace(WISH, box=np.array([2980.0, 300, 3020, 800]))  # 2000 pixels right, 400 below the horizon
    slope, bearing = view_of(wish)
    assert slope == pytest.approx(0.2) and bearing == pytest.approx(np.pi / 4)
    instances = collection(
        {}, {"camera": (np.nan,) * 4, "frame_size": (1000, 500), "box": (490, 250, 510, 300)}
    )
    slopes, bearings = views(instances.table, np.arange(2), WISH)  # without a camera: as that of the wish
    np.testing.assert_allclose(slopes, 0.1)
    np.testing.assert_allclose(bearings, 0)
    above, _ = view_of(replace(WISH, box=np.array([0.0, 100, 50, 300])))
    assert above > 0  # it can't stand there, but it can be asked


def test_the_same_seed_gives_the_same_choice_whoever_else_is_left():
    instances = collection(*[{"aspect": 0.4 + 0.01 * number} for number in range(12)])
    all_left = chosen(instances)
    assert all_left == chosen(instances) and len({choice.row for choice in all_left}) > 6
    gone = all_left[0].key
    fewer = chosen(instances, shown={gone})
    assert all(one == other for one, other in zip(all_left, fewer, strict=True) if one.key != gone)
