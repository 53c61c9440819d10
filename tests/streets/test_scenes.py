"""The built-in street scenes: determinism, official readers, metric sizes, likeness to real maps, manners."""

import json
from pathlib import Path

import numpy as np
import pytest
from cityscapesscripts.evaluation.instance import Instance
from cityscapesscripts.helpers.labels import id2label, name2label

from data.camera import Camera
from data.frame import POLYGONS, list_frames
from data.labels import TARGET_CLASSES
from data.writer import colour_map, rasterise
from scripts import make_streets
from streets.scenes import SETTINGS_FILE, make_scene, write_streets
from support.errors import InputError
from tests.equality import files_in
from tests.official import assert_drawn_as_by_official_tools
from tests.programs import refused, run_here, run_ok

REPOSITORY = Path(__file__).parents[2]
STATISTICS = REPOSITORY.parent / "shared" / "data" / "cityscapes_statistics.json"
WIDTH, HEIGHT = 512, 256
TO_FULL = 2048 / WIDTH  # lengths in the statistics are pixels at 2048x1024


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    out = tmp_path_factory.mktemp("streets") / "tree"
    write_streets(out, 4, 2, (256, 128), 7)
    return out


@pytest.fixture(scope="module")
def scenes():
    return [make_scene(0, "train", index, WIDTH, HEIGHT) for index in range(64)]


def boxes(scene) -> list[tuple[str, int, int, int, int, int]]:
    """(class, area, x0, y0, x1, y1) of every instance, half-open box in pixels."""
    found = []
    for value in np.unique(scene.instance_ids[scene.instance_ids >= 1000]).tolist():
        mask = scene.instance_ids == value
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        found.append((id2label[value // 1000].name, int(mask.sum()), *(int(v) for v in box)))
    return found


def is_usable(name: str, area: int, x0: int, y0: int, x1: int, y1: int) -> bool:
    target, wide, high = TARGET_CLASSES[name], x1 - x0, y1 - y0
    return (
        area > WIDTH * HEIGHT * target.min_size_percent / 100
        and area / (wide * high) > target.min_area_ratio
        and max(high / wide, wide / high) < target.max_aspect_ratio
        and WIDTH / wide < target.max_width_ratio
        and HEIGHT / high < target.max_height_ratio
    )


def test_fewer_scenes_are_the_first_of_many(tree, tmp_path):
    write_streets(tmp_path / "fewer", 2, 1, (256, 128), 7)
    fewer, many = files_in(tmp_path / "fewer", SETTINGS_FILE), files_in(tree)
    assert len(fewer) == 3 * 6 and fewer == {name: many[name] for name in fewer}


def test_a_street_without_people_has_no_person_rider_or_group_of_them_and_is_another_tree(tmp_path):
    write_streets(tmp_path / "tree", 4, 0, (256, 128), 7, with_people=False)
    report = write_streets(tmp_path / "tree", 4, 0, (256, 128), 7, with_people=False)
    assert report.found and report.instances["car"] > 10
    assert not {"person", "rider", "persongroup"} & set(report.instances)
    for index in range(8):
        scene = make_scene(7, "train", index, 256, 128, with_people=False)
        assert not np.isin(scene.label_ids, [name2label["person"].id, name2label["rider"].id]).any()
    with pytest.raises(InputError, match="other settings or data"):
        write_streets(tmp_path / "tree", 4, 0, (256, 128), 7)


def test_mixed_traffic_has_more_of_what_is_rare_and_is_another_tree(tmp_path):
    usual = write_streets(tmp_path / "usual", 30, 0, (128, 64), 7).instances
    mixed = write_streets(tmp_path / "mixed", 30, 0, (128, 64), 7, mixed=True).instances
    large = {"truck", "bus", "train"}
    assert min(mixed[name] for name in large) >= 5
    assert sum(mixed[name] for name in large) > 5 * sum(usual.get(name, 0) for name in large)
    assert all(mixed[name] > 1.3 * usual[name] for name in ("rider", "bicycle", "motorcycle"))
    assert all(0.5 < mixed[name] / usual[name] < 1.5 for name in ("person", "car"))
    for name in ("usual", "mixed"):
        settings = json.loads((tmp_path / name / SETTINGS_FILE).read_text())["settings"]
        assert settings.get("mixed", False) == (name == "mixed")
    with pytest.raises(InputError, match="other settings or data"):
        write_streets(tmp_path / "mixed", 30, 0, (128, 64), 7)


def test_another_seed_split_or_index_is_another_scene():
    scenes = [
        make_scene(*key, 128, 64)
        for key in ((0, "train", 0), (1, "train", 0), (0, "val", 0), (0, "train", 1))
    ]
    images = [scene.rgb.tobytes() for scene in scenes]
    assert len(set(images)) == 4


def test_torchvision_reads_the_tree(tree):
    datasets = pytest.importorskip("torchvision.datasets")
    for split, count in (("train", 4), ("val", 2)):
        targets = ["instance", "semantic", "polygon", "color"]
        dataset = datasets.Cityscapes(str(tree), split=split, mode="fine", target_type=targets)
        assert len(dataset) == count
        image, (instances, semantics, polygons, colour) = dataset[0]
        instances, semantics = np.asarray(instances).astype(np.uint16), np.asarray(semantics)
        assert image.size == (256, 128) == (polygons["imgWidth"], polygons["imgHeight"])
        assert np.array_equal(np.where(instances < 1000, instances, instances // 1000), semantics)
        assert np.array_equal(np.asarray(colour), colour_map(semantics))


def test_official_code_rebuilds_the_maps_from_the_polygons(tree):
    frames = [frame for split in ("train", "val") for frame in list_frames(tree, split)]
    assert len(frames) == 6
    for frame in frames:
        assert_drawn_as_by_official_tools(frame)
        assert "deleted" not in frame.annotation_path(POLYGONS).read_text()
        instances = frame.read_instance_ids()
        for value in np.unique(instances[instances >= 1000]):
            assert Instance(instances.astype(np.int32), int(value)).pixelCount == (instances == value).sum()


def test_every_object_is_visible_inside_the_image_and_maps_follow_from_objects(scenes):
    for scene in scenes[:16]:
        labels, instances = rasterise(scene.objects, WIDTH, HEIGHT)
        assert np.array_equal(labels, scene.label_ids)
        assert np.array_equal(instances, scene.instance_ids)
        numbered = sum(thing.is_instance for thing in scene.objects)
        assert len(np.unique(instances[instances >= 1000])) == numbered
        for thing in scene.objects:
            assert len(thing.polygon) >= 3
            assert thing.polygon.min() >= 0
            assert thing.polygon[:, 0].max() < WIDTH
            assert thing.polygon[:, 1].max() < HEIGHT


def test_persons_have_human_height_under_the_written_camera(scenes):
    heights = []
    for scene in scenes:
        camera = Camera.from_json(json.loads(json.dumps(scene.camera.to_json())))
        persons = [thing for thing in scene.objects if thing.label == "person"]
        for value, person in enumerate(persons, 24000):
            alone = rasterise([person], WIDTH, HEIGHT)[1] > 0
            rows = np.flatnonzero(alone.any(1))
            top, foot = rows[0], rows[-1] + 1
            at_edge = top <= 2 or foot >= HEIGHT - 2
            # One pixel is 5 cm for a person of 35 pixels; smaller ones measure the raster.
            if (scene.instance_ids == value).sum() > 0.95 * alone.sum() and foot - top >= 35 and not at_edge:
                heights.append(camera.metric_height(top, foot))
    assert len(heights) >= 30
    assert min(heights) > 1.0
    assert max(heights) < 2.1
    assert 1.55 < np.median(heights) < 1.85


def test_most_scenes_hold_usable_persons_and_cars(scenes):
    for name in ("person", "car"):
        fraction = np.mean(
            [any(box[0] == name and is_usable(*box) for box in boxes(scene)) for scene in scenes]
        )
        assert fraction > 0.7, f"{name}: {fraction:.2f}"


def test_scenes_resemble_real_maps_in_numbers(scenes):
    if not STATISTICS.exists():
        pytest.skip("the statistics of real maps are not at hand (../shared/data/cityscapes_statistics.json)")
    real = json.loads(STATISTICS.read_text())
    areas = {name: row["mean"] for name, row in real["area_fraction"].items()}
    for name in sorted(areas, key=areas.get)[-10:]:
        ours = np.mean([(scene.label_ids == name2label[name].id).mean() for scene in scenes])
        assert 0.5 < ours / areas[name] < 2, f"area of {name}: {ours:.4f}, real {areas[name]:.4f}"
    every = [box for scene in scenes for box in boxes(scene)]
    for name in ("person", "car"):
        large = np.array([box[1:] for box in every if box[0] == name and box[1] * TO_FULL**2 >= 256])
        height, foot = (large[:, 4] - large[:, 2]) * TO_FULL, large[:, 4] * TO_FULL
        wanted = real["instances"][name]
        pairs = {
            "median height": (np.median(height), wanted["height_px_q5_25_50_75_95"][2]),
            "median foot row": (np.median(foot), wanted["foot_row_q"][2]),
            "slope": (np.polyfit(foot, height, 1)[0], wanted["height_vs_foot_row_line"][0]),
        }
        for what, (ours, target) in pairs.items():
            assert abs(ours / target - 1) < 0.3, f"{what} of {name}: {ours:.2f}, real {target:.2f}"


@pytest.mark.parametrize("size", [(64, 32), (256, 128), (200, 150), (1024, 512)])
def test_any_size_has_the_same_street(size):
    scene, reference = make_scene(3, "val", 1, *size), make_scene(3, "val", 1, 2 * size[0], 2 * size[1])
    assert scene.rgb.shape == (size[1], size[0], 3)
    assert scene.camera.height == reference.camera.height
    assert 2 * scene.camera.fx == pytest.approx(reference.camera.fx)
    agree = (scene.label_ids == reference.label_ids[::2, ::2]).mean()
    assert agree > 0.75


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--size", "512"], "WIDTHxHEIGHT"),
        (["--size", "40x20"], "64x32"),
        (["--train", "-1"], "-1"),
        (["--train", "0", "--val", "0"], "nothing to write"),
        (["--seed", "-3"], "seed"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_bad_arguments_give_one_line_and_status_2(arguments, complaint, tmp_path):
    assert complaint in refused(make_streets.main, "--out", tmp_path / "tree", *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_program_reports_counts_and_respects_what_is_there(tmp_path):
    out = tmp_path / "tree"
    arguments = ["--out", out, "--train", 2, "--val", 1, "--size", "128x64", "--num_workers"]
    first = run_here(make_streets.main, *arguments, 2)
    assert first.returncode == 0 and not first.stderr
    assert "train 2, val 1" in first.stdout and "car" in first.stdout
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert "nothing to do" in run_ok(make_streets.main, *arguments, 1)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert "other settings or data (seed; see" in refused(make_streets.main, *arguments, 1, "--seed", 5)
    (out / "mine.txt").write_text("kept")
    run_ok(make_streets.main, *arguments, 1, "--seed", 5, "--train", 1, "--overwrite")
    assert len(list(out.glob("leftImg8bit/train/*/*.png"))) == 1
    assert (out / "mine.txt").read_text() == "kept"
