import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.frame import list_frames
from data.instances import (
    PLACE_GRID,
    compact_mask,
    resize_nearest,
    rides,
    theta_of_box,
    usable_instances,
    usable_places,
)
from data.labels import CHANNEL_OF_ID, TARGET_CLASSES
from tests.miniature import CAR, PERSON, ROAD

SHARED = Path(__file__).parents[3] / "shared"
PARITY = Path(os.environ.get("PARITY_DIR", SHARED / "parity"))
SAMPLE = SHARED / "data" / "cityscapes_sample"


# ---- parity with the reference program ----------------------------------------------------------


def maps_of(labels, ids):
    channels = CHANNEL_OF_ID[labels]
    return resize_nearest(channels, 256, 128), resize_nearest(ids, 256, 128), resize_nearest(ids, 1024, 512)


@pytest.mark.skipif(
    not (PARITY / "instances_train.json").exists() or not SAMPLE.exists(),
    reason="the parity numbers or the Cityscapes sample are not here (PARITY_DIR names the folder)",
)
def test_usable_instances_are_those_of_the_reference():
    wanted = json.loads((PARITY / "instances_train.json").read_text())
    frames = {frame.name: frame for frame in list_frames(SAMPLE, "train")}
    assert set(wanted) <= set(frames)
    compared = 0
    for name, lists in wanted.items():
        labels, ids = frames[name].read_maps()
        for key, instances in lists.items():
            target, _, flip = key.partition("_")
            step = -1 if flip else 1
            full = ids[:, ::step]
            found = usable_instances(*maps_of(labels[:, ::step], full), TARGET_CLASSES[target])
            assert [one.instance_id for one in found] == [one["id"] for one in instances], (name, key)
            for one, other in zip(found, instances, strict=True):
                assert one.area == other["area"]
                np.testing.assert_allclose(one.theta, other["theta"], atol=1e-5)
                mean = compact_mask(full, one.instance_id, 128, 128).mean()
                assert mean == pytest.approx(other["compact_mean"], abs=1e-3)
                compared += 1
    assert compared > 0


# ---- one image ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(256, 128), (1024, 512), (64, 32), (100, 37), (2048, 1024), (3000, 1111)])
@pytest.mark.parametrize("source", [(1024, 2048), (128, 256), (101, 77)])
def test_resize_is_pillows_nearest(source, size):
    array = np.random.default_rng(0).integers(0, 34, source, np.uint8)
    wanted = np.asarray(Image.fromarray(array).resize(size, Image.Resampling.NEAREST))
    np.testing.assert_array_equal(resize_nearest(array, *size), wanted)
    assert resize_nearest(array.astype(np.uint16), *size).dtype == np.uint16


def test_theta_is_one_inside_the_box():
    width, height, box = 32, 16, (5, 2, 11, 9)
    theta = theta_of_box(box, width, height)
    x = 2 * (np.arange(width) + 0.5) / width - 1
    y = 2 * (np.arange(height) + 0.5) / height - 1
    assert np.flatnonzero(abs(theta[0] * x + theta[2]) <= 1).tolist() == list(range(5, 12))
    assert np.flatnonzero(abs(theta[4] * y + theta[5]) <= 1).tolist() == list(range(2, 10))
    mirrored = theta_of_box((width - 1 - 11, 2, width - 1 - 5, 9), width, height)
    np.testing.assert_allclose(mirrored, theta * [1, 0, -1, 0, 1, 1], rtol=1e-6)
    np.testing.assert_array_equal(theta_of_box((0, 0, 31, 15), width, height), [1, 0, 0, 0, 1, 0])


def one_box(box_width, box_height, instance_id=PERSON * 1000):
    """Maps of 256x128 (small = big) that are road but for one filled box."""
    ids = np.full((128, 256), ROAD, np.uint16)
    ids[4 : 4 + box_height, 4 : 4 + box_width] = instance_id
    labels = np.where(ids < 1000, ids, ids // 1000).astype(np.uint8)
    return CHANNEL_OF_ID[labels], ids, ids


@pytest.mark.parametrize(
    ("target", "box", "usable"),
    [
        ("person", (10, 20, 24000), True),
        ("person", (5, 13, 24000), False),  # 65 of 32768 pixels are less than 0.2 %
        ("person", (10, 40, 24000), False),  # aspect 4 is not below 4
        ("person", (11, 40, 24000), True),
        ("person", (20, 12, 24000), False),  # a height of 12 in 128 is a ratio of more than 10
        ("car", (10, 20, 24000), False),  # another class
        ("car", (30, 20, 26003), True),
        ("car", (20, 8, 26003), False),  # 160 of 32768 pixels are less than 0.5 %
        ("car", (60, 20, 26003), False),  # aspect 3 is not below 3
        ("car", (30, 20, CAR), True),  # a group region
    ],
)
def test_thresholds(target, box, usable):
    found = usable_instances(*one_box(*box), TARGET_CLASSES[target])
    assert bool(found) == usable
    if usable:
        assert (found[0].instance_id, found[0].area) == (box[2], box[0] * box[1])
        assert found[0].box == (4, 4, 3 + box[0], 3 + box[1])


def test_thin_shapes_are_not_usable():
    _, ids, _ = one_box(20, 40)
    ids[5:43, 5:23] = ROAD  # an outline: its area is far below 0.4 of its box
    channels = CHANNEL_OF_ID[np.where(ids < 1000, ids, ids // 1000)]
    assert not usable_instances(channels, ids, ids, TARGET_CLASSES["person"])


def test_groups_can_be_switched_off():
    assert not usable_instances(*one_box(30, 20, CAR), TARGET_CLASSES["car"], group_instances=False)
    assert usable_instances(*one_box(30, 20, 26001), TARGET_CLASSES["car"], group_instances=False)


def test_compact_mask_fills_its_frame():
    ids = np.zeros((50, 60), np.uint16)
    ids[10:20, 5:35] = 26000
    ids[10:20, 5:20] = 26001
    assert (compact_mask(ids, 26000, 32, 16) == 255).all()
    ids[10:15, 20:35] = 0
    ids[10, 20] = 26000  # one pixel holds the box at its old size
    mask = compact_mask(ids, 26000, 32, 16)
    assert mask.shape == (16, 32) and mask.dtype == np.uint8
    assert (mask[10:] == 255).all() and (mask[:6, 6:] == 0).all()


# ---- places of any size -------------------------------------------------------------------------

HOOD, RIDER, BICYCLE = 1, 25, 33


def street(*things, height: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Label and instance maps of a road with boxes of (value in the instance map, x0, y0, x1, y1) on it."""
    ids = np.full((height, 2 * height), ROAD, np.uint16)
    for value, x0, y0, x1, y1 in things:
        ids[y0:y1, x0:x1] = value
    return np.where(ids < 1000, ids, ids // 1000).astype(np.uint8), ids


def places_of(name: str, *things, height: int = 256) -> list[int]:
    return [one.instance_id for one in usable_places(*street(*things, height=height), TARGET_CLASSES[name])]


def test_places_count_from_a_thirty_second_of_the_height():
    assert places_of("person", (24000, 10, 100, 14, 108), (24001, 40, 100, 44, 107)) == [24000]
    assert places_of("person", (24000, 10, 50, 14, 54), (24001, 40, 50, 44, 53), height=128) == [24000]
    assert places_of("car", (24000, 10, 100, 14, 108)) == [] == places_of("person", (24, 10, 100, 14, 108))


def test_places_count_where_the_ground_right_below_is_seen():
    body = (24000, 10, 100, 18, 120)
    for hidden, counts in (
        ((26000, 5, 110, 30, 130), False),  # a car before the legs
        ((26000, 5, 110, 14, 130), True),  # before one of them
        ((26000, 30, 110, 60, 130), True),
        ((HOOD, 0, 120, 512, 256), False),
        ((8, 0, 120, 512, 256), True),  # a sidewalk
    ):
        assert (24000 in places_of("person", body, hidden)) == counts, hidden
    assert places_of("person", (24000, 10, 236, 18, 256)) == []  # cut off by the image's edge


def test_a_rider_meets_the_ground_by_the_two_wheeler():
    ride = ((25000, 20, 80, 32, 112), (33000, 12, 104, 40, 124), (25000, 20, 80, 32, 112))
    assert places_of("rider", *ride) == [25000] and places_of("bicycle", *ride) == [33000]
    assert rides(street(*ride)[1]) == [(25000, 33000)]
    assert places_of("rider", *ride, (26000, 0, 112, 60, 140)) == []


def test_places_are_measured_on_one_grid_whatever_the_size_of_the_map():
    small, large = ((24000, 10, 50, 20, 70),), ((24000, 40, 200, 80, 280),)
    (first,) = usable_places(*street(*small, height=128), TARGET_CLASSES["person"])
    (second,) = usable_places(*street(*large, height=512), TARGET_CLASSES["person"])
    assert first == second and first.box == (160, 800, 319, 1119) and first.area == 160 * 320
    np.testing.assert_allclose(first.theta, theta_of_box((10, 50, 19, 69), 256, 128), rtol=1e-6)
    assert PLACE_GRID == (4096, 2048)
