"""Ground truth of a focus crop stays true."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from augment.repaint.focus import Window, draw_window
from augment.repaint.ground_truth import CropGroundTruth, crop_ground_truth, grown, has_fragment
from data.frame import POLYGONS
from data.outlines import outline
from data.writer import LabelledPolygon, colour_map, rasterise
from support.errors import InputError
from tests.mini_frames import (
    CARAVAN_ID,
    HOLED_ID,
    MOTORCYCLE_ID,
    TINY_ID,
    TRAIN,
    TWO_PARTS_ID,
    mini_frame,
    mini_objects,
)
from tests.official import official_maps

WIDTH, HEIGHT = 256, 128


def annotation_of(ground_truth: CropGroundTruth) -> dict[str, bytes]:
    """The annotation files of a focus crop by the end of their names."""
    files = mini_frame(None, TRAIN[0]).annotation(
        ground_truth.label_ids, ground_truth.instance_ids, ground_truth.objects
    )
    return {place.partition(TRAIN[0] + "_gtFine")[2]: content for place, content in files.items()}


# ---- raster mode --------------------------------------------------------------------------------


def _mini(index: int = 0) -> tuple[np.ndarray, list[LabelledPolygon]]:
    objects = mini_objects(index)
    return rasterise(objects, WIDTH, HEIGHT)[1], objects


def test_raster_ground_truth_is_the_enlarged_window_and_everything_follows_from_it():
    ids, objects = _mini()
    before = ids.copy()
    window = Window(10, 60, 90, 45, 3)
    ground_truth = crop_ground_truth(ids, objects, window, (WIDTH, HEIGHT), fragments="keep")
    cut = Image.fromarray(ids[60:105, 10:100])
    assert np.array_equal(
        ground_truth.instance_ids, np.asarray(cut.resize((WIDTH, HEIGHT), Image.Resampling.NEAREST))
    )
    assert ground_truth.instance_ids.dtype == np.uint16 and ground_truth.label_ids.dtype == np.uint8
    values = ground_truth.instance_ids
    assert np.array_equal(ground_truth.label_ids, np.where(values < 1000, values, values // 1000))
    files = annotation_of(ground_truth)
    assert files.keys() == {"_labelIds.png", "_instanceIds.png", "_color.png", "_polygons.json"}
    colour = cv2.imdecode(np.frombuffer(files["_color.png"], np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(cv2.cvtColor(colour, cv2.COLOR_BGRA2RGBA), colour_map(ground_truth.label_ids))
    singles = [value for value in np.unique(ids[60:105, 10:100]).tolist() if value >= 1000]
    assert TWO_PARTS_ID in singles
    assert ground_truth.id_map == {value: value for value in singles}
    assert np.array_equal(ids, before)


@pytest.mark.parametrize("value", [24064, 25088, 26112, 27136, 28160, 29184, 32000, 33024])
def test_ids_that_are_multiples_of_256_survive(value):
    ids = np.full((HEIGHT, WIDTH), 7, np.uint16)
    ids[40:80, 100:160] = value
    ground_truth = crop_ground_truth(ids, None, Window(80, 30, 100, 50, 2), (WIDTH, HEIGHT))
    assert (
        (ground_truth.instance_ids == value).sum() == (ground_truth.label_ids == value // 1000).sum() > 12000
    )
    content = annotation_of(ground_truth)["_instanceIds.png"]
    read = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(read, ground_truth.instance_ids)


def test_without_polygons_there_is_raster_ground_truth_only():
    ids, _ = _mini()
    window = Window(10, 60, 90, 45, 3)
    assert "_polygons.json" not in annotation_of(crop_ground_truth(ids, None, window, (WIDTH, HEIGHT)))
    with pytest.raises(InputError, match="take mode raster"):
        crop_ground_truth(ids, None, window, (WIDTH, HEIGHT), mode="polygon")


@pytest.mark.parametrize("mode", ["raster", "polygon"])
def test_a_window_forced_over_a_tiny_fragment_gives_ground_truth_without_it(mode):
    ids, objects = _mini()
    ids[90, 60] = 24002  # one pixel, on the car that every window must hold
    objects.append(LabelledPolygon("person", np.array([[60, 90]] * 3)))
    rng = np.random.default_rng(0)
    y, x = np.nonzero(ids == TWO_PARTS_ID)
    box = (x.min(), y.min(), x.max() + 1, y.max() + 1)
    for _ in range(20):
        window = draw_window(box, (WIDTH, HEIGHT), rng)
        assert has_fragment(ids, window, 4)
    ground_truth = crop_ground_truth(ids, objects, window, (WIDTH, HEIGHT), mode, "resample")
    assert ground_truth.dropped in ([24002], [TINY_ID, 24002])
    assert not np.isin(ground_truth.instance_ids, (24002,)).any() and 24002 not in ground_truth.id_map
    column, row = ((np.array([60, 90]) + 0.5 - (window.x0, window.y0)) * WIDTH / window.width).astype(int)
    assert ground_truth.instance_ids[row, column] == 0
    assert rasterise(ground_truth.objects, WIDTH, HEIGHT)[1][row, column] == 0

    kept = crop_ground_truth(ids, objects, window, (WIDTH, HEIGHT), mode, "keep")
    assert kept.dropped == [] and kept.instance_ids[row, column] == kept.id_map[24002]


# ---- polygons -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "bounds"), [(1.5, (0.91, 0.97)), (3, (0.93, 0.97)), (8, (0.93, 0.97))])
def test_grown_outlines_agree_with_the_enlarged_map(scale, bounds):
    """Random 40-gons of radius 10 and 40 pixels; what Pillow's drawing permits, rounded down."""
    rng = np.random.default_rng(0)
    for radius, bound in zip((10, 40), bounds, strict=True):
        side = 4 * radius
        found = []
        for _ in range(12):
            angle, reach = np.sort(rng.uniform(0, 2 * np.pi, 40)), radius * rng.uniform(0.7, 1.3, 40)
            points = np.stack([np.cos(angle), np.sin(angle)], 1) * reach[:, None] + side / 2
            objects = [LabelledPolygon("car", np.rint(points).astype(int))]
            ids = rasterise(objects, side, side)[1]
            size = (round(side * scale),) * 2
            ground_truth = crop_ground_truth(ids, objects, Window(0, 0, side, side, 1), size)
            drawn, map_ = rasterise(ground_truth.objects, *size)[1] > 0, ground_truth.instance_ids > 0
            found.append((drawn & map_).sum() / (drawn | map_).sum())
        assert np.mean(found) > bound


@pytest.mark.parametrize(
    "points",
    [
        [[5, 5], [5, 5], [5, 5]],
        [[5, 5], [7, 5], [6, 5]],
        [[5, 5], [5, 9], [5, 9]],
        [[2, 2], [12, 2], [12, 8], [2, 8]],
        [[2, 8], [12, 8], [12, 2], [2, 2]],  # walked the other way round
    ],
)
def test_pixels_lines_and_boxes_are_enlarged_exactly(points):
    objects = [LabelledPolygon("car", np.array(points))]
    ids = rasterise(objects, 20, 10)[1]
    ground_truth = crop_ground_truth(ids, objects, Window(0, 0, 20, 10, 1), (100, 50), fragments="keep")
    assert np.array_equal(rasterise(ground_truth.objects, 100, 50)[1], ground_truth.instance_ids)


def test_bridges_to_holes_and_parts_do_not_become_gaps():
    mask = np.zeros((40, 80), bool)
    mask[5:35, 5:45] = True
    mask[15:25, 15:30] = False
    mask[10:20, 55:75] = True
    objects = [LabelledPolygon("bicycle", outline(mask))]
    ids = np.where(mask, np.uint16(33000), np.uint16(7))
    ground_truth = crop_ground_truth(ids, objects, Window(0, 0, 80, 40, 1), (400, 200))
    drawn = rasterise(ground_truth.objects, 400, 200)[1] == 33000
    wanted = ground_truth.instance_ids == 33000
    gaps = cv2.erode((wanted & ~drawn).view(np.uint8), np.ones((3, 3)))
    surplus = cv2.erode((drawn & ~wanted).view(np.uint8), np.ones((3, 3)))
    assert not gaps.any() and not surplus.any()


def test_outlines_grow_by_the_margin_and_keep_their_corners():
    square = np.array([[0, 0], [10, 0], [10, 10], [0, 10]])
    assert np.array_equal(np.unique(grown(square, 2), axis=0), [[-2, -2], [-2, 12], [12, -2], [12, 12]])
    assert np.array_equal(grown(square, 0), square)


def test_polygon_ground_truth_is_drawn_from_its_file_as_the_official_tools_draw_it():
    ids, objects = _mini()
    window = Window(90, 45, 160, 80, 4)
    ground_truth = crop_ground_truth(ids, objects, window, (WIDTH, HEIGHT), mode="polygon", fragments="keep")
    labels, values = official_maps(annotation_of(ground_truth)["_polygons.json"])
    assert np.array_equal(labels, ground_truth.label_ids)
    assert np.array_equal(values, ground_truth.instance_ids)

    labels = [thing.label for thing in ground_truth.objects]
    assert {"persongroup", "caravan", "vegetation"} <= set(labels)
    assert "license plate" not in labels  # it is left of the window
    # the group has no number
    assert (ground_truth.label_ids == 24).any() and (ground_truth.instance_ids == 24).any()
    in_order = iter(thing.label for thing in objects)
    assert all(label in in_order for label in labels)  # nothing was moved in the depth order


def test_polygon_ground_truth_tells_old_ids_from_new_ones():
    ids, objects = _mini()
    ids[ids == 26001] = 26007  # as in a tree from which instances were removed
    window = Window(126, 63, 130, 65, 4)  # without the first car
    ground_truth = crop_ground_truth(ids, objects, window, (WIDTH, HEIGHT), mode="polygon", fragments="keep")
    assert ground_truth.id_map[26007] == 26000
    assert ground_truth.id_map[MOTORCYCLE_ID] == 32000 and ground_truth.id_map[HOLED_ID] == 33000
    assert ground_truth.id_map[CARAVAN_ID] == 29000 and TWO_PARTS_ID not in ground_truth.id_map
    raster = crop_ground_truth(ids, objects, window, (WIDTH, HEIGHT), fragments="keep")
    for old, new in ground_truth.id_map.items():
        if old != TINY_ID:
            mine, other = ground_truth.instance_ids == new, raster.instance_ids == old
            assert (mine & other).sum() / (mine | other).sum() > 0.85


@pytest.mark.parametrize("mode", ["raster", "polygon"])
def test_licence_plates_stay_undrawn_and_deleted_objects_away(mini, mode):
    frame, (ids, _) = mini_frame(mini, TRAIN[0]), _mini()
    assert "deleted" in frame.annotation_path(POLYGONS).read_text()
    objects = frame.read_polygons(ids.shape)
    ground_truth = crop_ground_truth(ids, objects, Window(0, 0, 256, 128, 1), (WIDTH, HEIGHT), mode)
    (plate,) = (thing.polygon for thing in ground_truth.objects if thing.label == "license plate")
    x, y = plate.mean(0).astype(int)
    assert ground_truth.instance_ids[y, x] == TWO_PARTS_ID and ground_truth.label_ids[y, x] == 26
    content = json.loads(annotation_of(ground_truth)["_polygons.json"])
    assert all(entry.keys() == {"label", "polygon"} for entry in content["objects"])
    assert sum(entry["label"] == "car" for entry in content["objects"]) == 2  # and no third
