"""Metrics on hand-made cases with known answers: boxes, what they stand on and cover, shapes, baselines."""

import dataclasses

import numpy as np
import pytest

from augment.compose import contact_rows
from data.camera import Camera
from data.geometry import (
    MIN_INSTANCES,
    STRIP_ROWS,
    box_iou,
    box_spread,
    boxes_of_theta,
    fit_heights,
    height_residuals,
    inside_image,
    metric_heights,
    place_features,
    sliced_distance,
    supported,
    supporting_pixels,
    too_few,
)
from data.instances import theta_of_box
from evaluation.baselines import BASELINES, Training, draw_boxes
from evaluation.metrics import EvaluatedScene, overlap, placement_distances, replacement_scores
from evaluation.shapes import (
    ShapeFeature,
    frechet_distance,
    mask_iou,
    mask_spread,
    nearest_iou,
    precision_recall,
    shapes_of,
)
from support.seeds import generator
from tests.miniature import BUILDING, CAR, PERSON, ROAD, SIDEWALK

ON_ROAD = ("road", "sidewalk")
POLE = 17


def street(width: int = 40, height: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Label and instance map: building above row 20, road below."""
    labels = np.full((height, width), BUILDING, np.uint8)
    labels[20:] = ROAD
    return labels, labels.astype(np.uint16)


def add_thing(maps: tuple[np.ndarray, np.ndarray], label: int, number: int, window: tuple) -> None:
    maps[0][window], maps[1][window] = label, label * 1000 + number


def boxes(*rows) -> np.ndarray:
    return np.array(rows, float).reshape(-1, 4)


# ---- boxes --------------------------------------------------------------------------------------


def test_boxes_of_theta_invert_theta_of_box():
    box = (30, 10, 49, 89)  # first and last pixels
    theta = theta_of_box(box, 256, 128)[None]
    assert np.allclose(boxes_of_theta(theta, 256, 128), [[30, 10, 50, 90]], atol=1e-3)
    assert np.allclose(boxes_of_theta(theta, 512, 256), [[60, 20, 100, 180]], atol=1e-3)
    assert np.allclose(
        boxes_of_theta(-theta, 256, 128), [[30, 10, 50, 90]], atol=1e-3
    )  # flipped: edges in order
    assert np.allclose(boxes_of_theta(np.array([[1, 0, 0, 0, 1, 0]]), 20, 10), [[0, 0, 20, 10]])
    assert np.isfinite(boxes_of_theta(np.zeros((1, 6)), 20, 10)).all()


def test_box_iou_of_known_boxes():
    a = np.array([0.0, 0, 10, 10])
    others = boxes([0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [2, 2, 4, 4])
    assert np.allclose(box_iou(a, others), [1, 1 / 3, 0, 0.04])
    assert box_iou(a[None], a[None] * 0)[0] == 0


def test_box_spread_is_mean_over_pairs():
    same, far = [0, 0, 10, 10], [50, 50, 60, 60]
    assert box_spread(boxes(same, same, same)) == 0
    assert box_spread(boxes(same, far)) == 1
    assert box_spread(boxes(same, same, far)) == pytest.approx(2 / 3)
    assert np.isnan(box_spread(boxes(same)))


def test_inside_image_tolerates_half_a_pixel():
    found = inside_image(boxes([0, 0, 40, 20], [-0.4, 0, 40.4, 20], [-1, 0, 5, 5], [0, 0, 5, 21]), 40, 20)
    assert found.tolist() == [True, True, False, False]


# ---- support ------------------------------------------------------------------------------------


def test_support_looks_at_five_rows_below_the_middle_half():
    labels, ids = street()
    supporting = supporting_pixels(labels, ids, ON_ROAD)
    assert supporting[20:].all() and not supporting[:20].any()
    found = supported(
        boxes(
            [10, 5, 20, 30],  # on the road
            [10, 0, 20, 10],  # before the building
            [10, 0, 20, 17],  # 2 of 5 rows are road
            [10, 0, 20, 18],  # 3 of 5 rows are road
            [10, 10, 20, 37],  # 3 of 5 rows are inside the image
            [10, 10, 20, 38],  # 2 of 5 rows
            [10, 10, 20, 40],  # the strip is outside
            [-30, 5, -10, 30],  # beside the image
            [10, 5, 10, 30],  # no width: one column
        ),
        supporting,
    )
    assert found.tolist() == [True, False, False, True, True, False, False, False, True]
    assert STRIP_ROWS == 5

    labels[30:, :10] = SIDEWALK
    only_road = supporting_pixels(labels, ids, ("road",))
    # box 0..20, middle half 5..15: just half of its strip is road; box 0..16: the strip 4..12 has a quarter
    assert supported(boxes([0, 5, 20, 30], [0, 5, 16, 30]), only_road).tolist() == [True, False]


def test_support_covered_by_a_thing_is_what_lies_under_the_thing():
    maps = street()
    add_thing(maps, CAR, 0, np.s_[10:26, 5:15])  # stands on the road
    add_thing(maps, CAR, 1, np.s_[2:8, 25:35])  # hangs before the building
    supporting = supporting_pixels(*maps, ON_ROAD)
    assert supported(boxes([6, 0, 14, 12], [26, 0, 34, 3]), supporting).tolist() == [True, False]

    add_thing(maps, PERSON, 0, np.s_[26:40, 5:15])  # now the car is covered below by one who leaves the image
    assert not supporting_pixels(*maps, ON_ROAD)[10:, 5:15].any()
    maps[0][39, 5:15] = maps[1][39, 5:15] = ROAD  # who stands on a last row of road: car -> person -> road
    assert supporting_pixels(*maps, ON_ROAD)[10:, 5:15].all()


def test_support_of_a_thing_in_two_pieces_is_under_its_lowest_row():
    maps = street()
    add_thing(maps, CAR, 0, np.s_[4:8, 5:15])
    add_thing(maps, CAR, 0, np.s_[12:24, 5:15])
    supporting = supporting_pixels(*maps, ON_ROAD)
    assert supporting[4:8, 5:15].all() and not supporting[8:12, 5:15].any()


# ---- height -------------------------------------------------------------------------------------


def test_metric_height_recovers_what_was_projected():
    camera = Camera(fx=565, fy=565, u0=256, v0=128, height=1.25, pitch=0.05)
    for ahead in (5.0, 12.0, 40.0):
        (_, top), (_, foot) = camera.project(np.array([[1.0, 1.7, ahead], [1.0, 0.0, ahead]]))
        assert metric_heights(boxes([0, top, 5, foot]), camera) == pytest.approx(1.7, abs=1e-6)
    above = boxes([0, 20, 5, camera.horizon - 1], [0, 20, 5, camera.horizon])
    assert np.isnan(metric_heights(above, camera)).all()


def test_height_fit_withstands_outliers():
    rng = np.random.default_rng(0)
    foot = rng.uniform(0.5, 0.9, 100)
    height = 1.4 * (foot - 0.45) * np.exp(rng.normal(0, 0.01, 100))
    height[:10] = 0.6  # one in ten is something else
    real = np.stack([foot * 0, foot - height, foot * 0 + 0.1, foot], 1)
    fit = fit_heights(real)
    assert fit.slope == pytest.approx(1.4, rel=0.03) and -fit.intercept / fit.slope == pytest.approx(
        0.45, abs=0.01
    )
    assert fit.low < 0 < fit.high
    double = boxes([0, 0.7 - 2 * float(fit.heights(0.7)), 0.1, 0.7])
    assert height_residuals(double, fit) == pytest.approx(np.log(2))
    assert np.isfinite(height_residuals(boxes([0, 0, 0.1, 0.1], [0, 0.1, 0.1, 0.1]), fit)).all()
    assert fit_heights(np.repeat(real, 30, 0)).slope == pytest.approx(1.4, rel=0.03)  # more than are used


def test_nothing_is_fitted_to_too_few_instances():
    foot = np.linspace(0.5, 0.9, MIN_INSTANCES)
    real = np.stack([foot * 0, foot / 2, foot * 0 + 0.1, foot], 1)
    assert fit_heights(real).slope == pytest.approx(0.5) and too_few(MIN_INSTANCES) is None
    assert fit_heights(real[1:]) is None and fit_heights(real[:0]) is None
    assert too_few(0) == f"0 training instances, {MIN_INSTANCES} needed"
    assert too_few(1) == f"1 training instance, {MIN_INSTANCES} needed"
    same_foot = np.tile(real[:1], (MIN_INSTANCES, 1))  # no two boxes tell a slope
    assert fit_heights(same_foot).slope == 0


# ---- overlap ------------------------------------------------------------------------------------


def test_overlap_tells_front_from_behind():
    maps = street()
    add_thing(maps, CAR, 0, np.s_[10:30, 0:20])  # foot at row 30
    feet = contact_rows(*maps)
    assert set(np.unique(feet)) == {0, 30}
    view = EvaluatedScene("a", *maps, maps[0] > 0, feet, None, (), boxes())
    full = np.ones((4, 4), bool)
    behind, before = np.array([10.0, 12, 30, 28]), np.array([10.0, 12, 30, 30])
    assert overlap(view, full, behind) == (0.5, 0.5)  # its foot is higher: behind
    assert overlap(view, full, before) == (0, 0.5)  # not lower: in front
    assert overlap(view, full, behind, own_id=CAR * 1000) == (0, 0)
    left = np.zeros((4, 4))
    left[:, :2] = 1
    assert overlap(view, left, behind) == (1, 1)  # only the mask counts
    assert overlap(view, full, np.array([50.0, 12, 60, 28])) == (0, 0)  # outside the image
    maps[0][5:32, 20:30] = maps[1][5:32, 20:30] = POLE  # on the road before the car
    view = dataclasses.replace(view, feet=contact_rows(*maps))
    assert overlap(view, full, before) == (0.5, 1)  # as in insertion


# ---- distance -----------------------------------------------------------------------------------


def test_sliced_distance_of_equal_and_of_shifted_samples():
    rng = np.random.default_rng(0)
    sample = rng.standard_normal((50, 4))
    assert sliced_distance(sample, rng.permutation(sample)) == pytest.approx(0, abs=1e-12)
    shifted = sliced_distance(sample, sample + [3, 0, 0, 0])
    assert shifted == pytest.approx(3 / 2, rel=0.05)  # |shift| / sqrt(dimensions)
    assert shifted == sliced_distance(sample, sample + [3, 0, 0, 0])


def test_placement_distances_put_real_first():
    rng = np.random.default_rng(0)
    corner, size = rng.uniform(0.4, 0.5, (60, 2)), rng.uniform(0.1, 0.2, (60, 2))
    real = np.concatenate([corner, corner + size], 1)
    found = placement_distances({"near": real[::-1], "far": real + [-0.4, -0.4, -0.4, -0.4]}, real, 3)
    assert found["real"] < 0.5 and found["near"] < 0.5 and found["far"] > 2
    assert placement_distances({"near": real}, real[:3], 3) == {}
    assert np.allclose(place_features(boxes([0.2, 0.1, 0.4, 0.5])), [[0.3, 0.5, np.log(0.4), np.log(0.2)]])


def test_replacement_scores_take_the_best_of_k():
    labels, ids = street(80, 40)
    true_box = np.array([0.5, 0.5, 0.6, 0.7])
    placed = np.tile(true_box, (2, 10, 1))
    placed[0, 0] += [0.1, 0, 0.1, 0]  # seed 0: the first one lies 8 pixels beside it
    placed[0, 0, 1] -= 0.2  # and is twice as high
    placed[1, :6] = [0, 0, 0.1, 0.1]
    view = EvaluatedScene("a", labels, ids, labels > 0, labels * 0, None, (1,), true_box[None])
    scores = replacement_scores(placed, true_box, view)
    assert scores["iou_at_1"].tolist() == [0, 0] and np.allclose(scores["iou_at_5"], [1, 0])
    assert np.allclose(scores["iou_at_10"], 1) and scores["iou50_at_10"].tolist() == [1, 1]
    assert scores["centre_error"][0] == pytest.approx(np.hypot(8, 4) / 80)
    assert scores["log_height_ratio"][0] == pytest.approx(np.log(2))


# ---- shapes -------------------------------------------------------------------------------------


def test_mask_iou_and_spread():
    masks = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]], bool)
    assert np.allclose(mask_iou(masks, masks)[0], [1, 0.5, 0, 0])
    assert mask_iou(masks[3:], masks[3:]) == 1
    assert mask_spread(masks[:3]) == pytest.approx((0.5 + 1 + 1) / 3)
    assert mask_spread(np.repeat(masks[:1], 3, 0)) == 0 and np.isnan(mask_spread(masks[:1]))
    assert np.allclose(nearest_iou(masks[:2], masks[1:3]), [0.5, 1])


def test_shapes_are_cut_at_one_half():
    masks = np.zeros((2, 64, 64), bool)
    masks[0, :, :32] = True
    shapes = shapes_of(masks).reshape(2, 32, 32)
    assert shapes[0, :, :16].all() and not shapes[0, :, 16:].any() and not shapes[1].any()


def test_precision_and_recall_of_simple_clouds():
    grid = np.stack(np.meshgrid(np.arange(6.0), np.arange(6.0)), -1).reshape(-1, 2)
    assert precision_recall(grid, grid) == (1, 1)
    assert precision_recall(grid, grid + 100) == (0, 0)
    precision, recall = precision_recall(grid, grid[(grid < 3).all(1)])  # one corner only: good but narrow
    assert precision == 1 and 0.25 <= recall < 0.6
    assert np.isnan(precision_recall(grid, grid[:3])).all()
    collapsed = np.repeat(grid[:1] + 0.1, 20, 0)
    assert precision_recall(grid, collapsed) == (1, 0)


def test_frechet_distance_of_equal_and_of_shifted_samples():
    sample = np.random.default_rng(0).standard_normal((200, 5))
    assert frechet_distance(sample, sample) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(sample, sample + [3, 0, 4, 0, 0]) == pytest.approx(25)
    scaled = frechet_distance(sample, 2 * sample)  # |mean|^2 + trace of the covariance
    assert scaled == pytest.approx(np.square(sample.mean(0)).sum() + np.trace(np.cov(sample.T)))
    assert np.isnan(frechet_distance(sample, sample[:1]))


def test_shape_feature_keeps_distances_of_the_training_shapes():
    training = np.random.default_rng(0).random((20, 1024)) < 0.5
    feature = ShapeFeature(training)
    coordinates = feature(training)
    assert coordinates.shape == (20, 20)
    true = np.linalg.norm(training[0].astype(float) - training[1])
    assert np.linalg.norm(coordinates[0] - coordinates[1]) == pytest.approx(true)
    assert ShapeFeature(np.repeat(training, 5, 0))(training).shape == (20, 64)


# ---- baselines ----------------------------------------------------------------------------------


@pytest.fixture
def training() -> Training:
    """Three scenes a, b, c with 2, 1, 1 instances; a and b have almost the same map."""
    maps = np.zeros((3, 4, 8), np.uint8)
    maps[1, 0, 0] = 1
    maps[2] = 7
    real = boxes([0.1, 0.4, 0.2, 0.8], [0.3, 0.4, 0.4, 0.7], [0.5, 0.5, 0.6, 0.6], [0.7, 0.5, 0.8, 0.9])
    return Training(real, np.ones((4, 8, 8), bool), np.array([0, 0, 1, 2]), ("a", "b", "c"), maps)


def test_nearest_leaves_out_the_scene_itself(training):
    same = training.labels_small[0]
    assert training.nearest_scene(same, "elsewhere") == 0
    assert training.nearest_scene(same, "a") == 1
    assert training.nearest_scene(training.labels_small[2] + 1, "c") in (0, 1)
    drawn, chosen = draw_boxes("nearest", training, same, "a", range(3), 5)
    assert drawn.shape == (3, 5, 4) and (chosen == 2).all() and (drawn == training.boxes[2]).all()
    _, chosen = draw_boxes("nearest", training, same, "elsewhere", range(5), 5)
    assert set(chosen.ravel()) == {0, 1}
    maps = training.labels_small[:1]
    alone = Training(training.boxes[:2], training.masks[:2], np.zeros(2, int), ("a",), maps)
    assert alone.nearest_scene(same, "a") is None
    assert draw_boxes("nearest", alone, same, "a", range(1), 2)[0].shape == (1, 2, 4)


def test_uniform_boxes_lie_in_the_image(training):
    drawn, _ = draw_boxes("uniform", training, training.labels_small[0], "x", range(20), 20)
    drawn = drawn.reshape(-1, 4)
    heights = drawn[:, 3] - drawn[:, 1]
    assert drawn.min() >= 0 and drawn.max() <= 1 and (drawn[:, 2:] > drawn[:, :2]).all()
    assert 0.1 - 1e-9 <= heights.min() < 0.12 and 0.35 < heights.max() <= 0.4 + 1e-9
    assert drawn[:, 0].std() > 0.2  # all over the image


def test_baselines_draw_the_same_whatever_else_is_drawn(training):
    small = training.labels_small[0]
    for method in BASELINES:
        many, _ = draw_boxes(method, training, small, "x", range(3), 6)
        few, _ = draw_boxes(method, training, small, "x", range(1, 2), 2)
        assert (many[1:2, :2] == few).all()
    prior, chosen = draw_boxes("prior", training, small, "x", range(5), 20)
    assert (prior == training.boxes[chosen]).all() and set(chosen.ravel()) == {0, 1, 2, 3}
    other, _ = draw_boxes("prior", training, small, "x", range(5), 20, "/24000")
    assert (other != prior).any()
    first, second = (generator(0, "x", 0, purpose).random() for purpose in ("a", "b"))
    assert first != second
