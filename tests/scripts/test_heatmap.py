"""scripts/heatmap.py: where the model would place an object in one image."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from augment.placement.heat import PLACES, coverage, density_of_feet, draw_places, heat_map, heat_over
from augment.placement.scene import read_image
from data.frame import list_frames
from layers.place_density import PLACE_PLANES
from model import WhereWhat, load_model
from options import PRESETS, from_dict
from scripts import heatmap
from scripts.heatmap import best, paint, share_of_half
from tests.programs import as_flags, refused, run_ok
from tests.town import (
    HEIGHT,
    WIDTH,
    write_checkpoint,
    write_density_checkpoint,
    write_places_checkpoint,
    write_town,
)


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    root = tmp_path_factory.mktemp("town")
    write_town(root, 1)
    return list_frames(root, "train")[0]


def test_coverage_counts_boxes_and_cuts_them_at_the_image():
    boxes = np.array([[2.0, 1, 5, 4], [4, 3, 100, 100], [-9, -9, -3, -3]])
    counts = coverage(boxes, 8, 6)
    expected = np.zeros((6, 8), int)
    expected[1:4, 2:5] += 1
    expected[3:, 4:] += 1
    assert np.array_equal(counts, expected)


def test_the_heat_of_a_density_is_hot_where_feet_are(frame):
    model = WhereWhat(from_dict(PRESETS["tiny"] | {"where": "distribution"}, "test"))
    planes = torch.zeros(1, PLACE_PLANES, *model.maps.small)
    planes[0, 0, 20, 40] = 9.0  # a foot in this cell of the 64 x 32, whose pixels are four by four
    model.networks["place_density"].forward = lambda labels: planes[:, None]
    image = read_image(frame)
    heat = heat_map(model, image)
    assert heat.shape == image.label_ids.shape and (heat >= 0).all()
    assert heat[80:84, 160:164].min() > 10 * np.median(heat)
    grey = np.full((*heat.shape, 3), 100, np.uint8)
    rgb = heat_over(grey, heat).astype(int).sum(2)
    assert rgb[80:84, 160:164].min() > rgb[:60].max()


def test_without_a_density_the_heat_is_that_of_boxes(frame, checkpoint):
    model, image = load_model(checkpoint), read_image(frame)
    boxes, _ = draw_places(model, image, PLACES, 0)
    assert np.array_equal(heat_map(model, image), coverage(boxes, WIDTH, HEIGHT))


def test_the_best_boxes_are_not_alike():
    boxes = np.array([[0.0, 0, 10, 10], [1, 0, 11, 10], [50, 0, 60, 10], [30, 0, 40, 10]])
    scores = np.array([0.9, 0.8, 0.3, 0.5])
    assert best(boxes, scores, 3) == [0, 3, 2]
    assert best(boxes, scores, 1) == [0]
    assert best(boxes, scores, 0) == []


def test_places_depend_on_seed_and_number_alone(frame, checkpoint):
    model, image = load_model(checkpoint), read_image(frame)
    boxes, scores = draw_places(model, image, 30, 0)
    assert boxes.shape == (30, 4) and scores.shape == (30,) and ((scores > 0) & (scores < 1)).all()
    assert np.allclose(draw_places(model, image, 5, 0)[0], boxes[:5], atol=1e-2)
    assert not np.allclose(draw_places(model, image, 5, 1)[0], boxes[:5], atol=1)


def test_the_image_is_hot_where_the_boxes_are(frame):
    image = read_image(frame)
    boxes = np.repeat([[118.0, 35, 138, 100]], 4, 0)
    rgb = paint(image.label_ids, coverage(boxes, 256, 128), boxes, np.full(4, 0.5), [None] * 4, 0)
    assert rgb.shape == (512, 1024, 3)
    inside, outside = rgb[160:380, 480:540].astype(int), rgb[160:380, 700:760].astype(int)
    assert inside.sum(2).mean() > outside.sum(2).mean() + 100
    assert (rgb[398:402, 510:514] == (0, 255, 0)).all(2).any()  # a foot that passes


def test_it_writes_image_and_boxes_and_replaces_them_when_asked(frame, checkpoint, tmp_path):
    image, boxes = tmp_path / "new" / "heat.png", tmp_path / "boxes.json"
    arguments = ("--checkpoint", checkpoint, "--image", frame.label_path, "--out", image, "--json", boxes)
    assert "40 places of a person in town_000000_000019" in run_ok(heatmap.main, *arguments, "--n_z", 40)
    assert cv2.imread(str(image)).shape == (512, 1024, 3)
    content = json.loads(boxes.read_text())
    assert len(content["places"]) == 40 and content["camera"] and content["class"] == "person"
    assert {"box", "score", "refusal"} == set(content["places"][0]) and content["density"] is None
    run_ok(heatmap.main, *arguments, "--n_z", 5, "--overwrite")
    assert len(json.loads(boxes.read_text())["places"]) == 5


def test_half_of_the_mass():
    assert share_of_half(np.full((4, 8), 1 / 32)) == 0.5
    alone = np.zeros((4, 8))
    alone[1, 2] = 1
    assert share_of_half(alone) == 1 / 32


def test_the_heat_of_a_density_is_the_density(frame, tmp_path):
    checkpoint = write_density_checkpoint(tmp_path / "density")
    image = read_image(frame)
    mass = density_of_feet(load_model(checkpoint), image)
    assert mass.sum() == pytest.approx(1) and mass.std() > 0
    assert density_of_feet(load_model(write_checkpoint(tmp_path / "published")), image) is None
    heat = heat_map(load_model(checkpoint), image)
    rgb = paint(image.label_ids, heat, np.zeros((0, 4)), np.zeros(0), [], 0).astype(int).sum(2)
    hottest, coldest = (np.unravel_index(find(heat), heat.shape) for find in (np.argmax, np.argmin))
    brightness = [rgb[4 * row, 4 * column] for row, column in (hottest, coldest)]
    assert brightness[0] > brightness[1] + 100

    common = ("--checkpoint", checkpoint, "--image", frame.label_path, "--n_z", 5)
    reports = []
    for number, temperature in enumerate((1, 0.25)):
        files = ("--out", tmp_path / f"{number}.png", "--json", tmp_path / f"{number}.json")
        out = run_ok(heatmap.main, *common, *files, "--temperature", temperature)
        reports.append(json.loads((tmp_path / f"{number}.json").read_text()))
        assert (
            f"entropy {reports[-1]['density']['entropy']:.2f} nats" in out
            and "half of the mass lies on" in out
        )
    assert reports[0]["density"] == {
        "entropy": pytest.approx(-(mass * np.log(mass)).sum()),
        "share_of_half": share_of_half(mass),
    }
    assert reports[1]["density"]["entropy"] < reports[0]["density"]["entropy"]
    assert [one["temperature"] for one in reports] == [1, 0.25]


def test_each_class_has_its_heat(frame, tmp_path):
    checkpoint, found = write_places_checkpoint(tmp_path / "places"), []
    for name in ("person", "car"):
        files = ("--out", tmp_path / f"{name}.png", "--json", tmp_path / f"{name}.json")
        arguments = ("--checkpoint", checkpoint, "--image", frame.label_path, "--n_z", 5, *files)
        assert f"5 places of a {name} in" in run_ok(heatmap.main, *arguments, "--target_class", name)
        found.append(json.loads((tmp_path / f"{name}.json").read_text()))
    assert [one["class"] for one in found] == ["person", "car"]
    assert found[0]["density"]["entropy"] != found[1]["density"]["entropy"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"checkpoint": "nowhere"}, "no checkpoint"),
        ({"checkpoint": "cut.pt"}, "cut.pt: not a readable checkpoint"),
        ({"checkpoint": "places"}, "has places of person, car: say which with --target_class"),
        ({"checkpoint": "places", "target_class": "bus"}, "has places of person, car only; choose"),
        ({"target_class": "unicorn"}, "has places of person only"),
        ({"image": None}, "--image"),
        ({"image": "nowhere.png"}, "no such file; give a scene's label map"),
        ({"image": "."}, "no such file; give a scene's label map"),
        ({"image": "note.txt"}, "no such file; give the instance map"),
        ({"image": "note.txt", "instances": "note.txt"}, "note.txt: truncated or damaged"),
        ({"instances": "MAP"}, "an instance map is a 16-bit grey PNG"),
        ({"out": None}, "--out"),
        ({"out": ""}, "is a folder; give the name of a file"),
        ({"out": ".", "overwrite": []}, "is a folder; give the name of a file"),
        ({"out": "note.txt"}, "give --overwrite"),
        ({"out": "note.txt/heat.png"}, "note.txt/heat.png: can't be written"),
        ({"json": "note.txt"}, "--json note.txt exists: give --overwrite"),
        ({"json": "note.txt/a.json"}, "note.txt/a.json: can't be written"),
        ({"json": "./heat.png"}, "is --out, too; give another name"),
        ({"n_z": 0}, "at least 1"),
        ({"top": -1}, "at least 0"),
        ({"seed": -1}, "at least 0"),
        ({"temperature": -1}, "--temperature must be above 0"),
        ({"temperature": 1e5}, "--temperature must be above 0 and at most 10, not 100000"),
        ({"temperature": 2}, "the published where module has none; leave it out"),
        ({"device": "abacus"}, "unknown"),
    ],
)
def test_bad_input_is_one_line_status_2_and_nothing_written(
    change, words, frame, checkpoint, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("note.txt").write_text("mine")
    Path("cut.pt").write_bytes(checkpoint.read_bytes()[:-1000])
    write_places_checkpoint(tmp_path / "places")
    given = {"checkpoint": checkpoint, "image": frame.label_path, "out": "heat.png", "n_z": 5} | change
    flags = [word.replace("MAP", str(frame.label_path)) for word in as_flags(given)]
    assert words in refused(heatmap.main, *flags, keeps=tmp_path)
