"""scripts.label: whole trees of pictures, exact where the segmenter's answer is known."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import Cityscapes

from convert.formats import FORMATS
from data.frame import list_frames
from data.labels import LABEL_OF_VALUE
from label.labelling import label as label_pictures
from label.options import options_of
from scripts import convert, label
from scripts.synth import validate
from tests.equality import tree_in
from tests.label.stand_in import StandIn
from tests.label.test_annotations import runs_of
from tests.label.tiny_models import NAMES, build, save, says_everywhere
from tests.mini_frames import write_mini
from tests.official import official_maps
from tests.programs import refused, run_here, run_ok

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "cityscapes_sample"
ROAD, CAR, PERSON = 7, 26, 24


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A segmenter that says road everywhere."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("model") / "road"
    return save("mask2former", folder, says_everywhere(build("mask2former"), NAMES.index("road")))


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Three pictures of different sizes and formats, and of two the same name."""
    root = tmp_path / "in"
    for name, size in (("day/x.jpg", (60, 90)), ("night/x.png", (80, 64)), ("y.webp", (40, 120))):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(*size)).save(root / name)
    return root


def maps(root: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Label and instance map of a frame."""
    found = [
        cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        for ending in ("labelIds", "instanceIds")
        for path in root.glob(f"gtFine/*/*/{name}_gtFine_{ending}.png")
    ]
    assert len(found) == 2
    return tuple(found)


def manifest(root: Path) -> dict[str, dict]:
    """The lines by the names of pictures."""
    lines = map(json.loads, (root / "manifest.jsonl").read_text().splitlines())
    return {line["picture"]: line for line in lines}


def flags(pictures: Path, out: Path, model: Path, *more) -> list:
    return ["--pictures", pictures, "--out", out, "--model", model, "--num_workers", 1, *more]


# ---- pictures alone -----------------------------------------------------------------------------


def test_pictures_become_a_tree_that_others_read(pictures, model, tmp_path):
    out = tmp_path / "out"
    printed = run_ok(label.main, *flags(pictures, out, model))
    assert "road" in printed and "instances: panoptic" in printed and "3 of 3 pictures" in printed
    shapes = {}
    for frame in list_frames(out, "train"):
        label_ids, instance_ids = frame.read_maps()
        assert (label_ids == ROAD).all() and (instance_ids == ROAD).all()
        shapes[frame.name] = frame.read_image(label_ids.shape).shape[:2]
    assert shapes == {
        "pictures_000000_000000": (60, 90),
        "pictures_000000_000001": (80, 64),
        "pictures_000000_000002": (40, 120),
    }
    assert [line["instances"] for line in manifest(out).values()] == ["panoptic"] * 3
    assert list(manifest(out)) == ["day/x.jpg", "night/x.png", "y.webp"]
    assert len(Cityscapes(str(out), "train", target_type=["instance", "semantic"])) == 3
    run_ok(validate.main, out)
    before = tree_in(out)
    run_ok(label.main, *flags(pictures, out, model))
    assert tree_in(out) == before


def test_another_folder_may_become_another_split_of_the_tree(pictures, model, tmp_path):
    run_ok(label.main, *flags(pictures / "day", tmp_path / "out", model))
    before = {path: path.read_bytes() for path in tmp_path.glob("out/*/train/*/*")}
    run_ok(label.main, *flags(pictures / "night", tmp_path / "out", model, "--split", "val"))
    assert all(path.read_bytes() == content for path, content in before.items()) and len(before) == 5
    for split, shape in (("train", (60, 90)), ("val", (80, 64))):
        (frame,) = list_frames(tmp_path / "out", split)
        assert frame.read_maps()[0].shape == shape
    assert list(manifest(tmp_path / "out")) == ["x.jpg", "x.png"]


def test_a_semantic_output_is_told_so(pictures, model, tmp_path):
    printed = run_ok(label.main, *flags(pictures, tmp_path / "out", model, "--semantic"))
    assert "instances: connected pieces" in printed
    assert {line["instances"] for line in manifest(tmp_path / "out").values()} == {"connected pieces"}
    assert (
        json.loads((tmp_path / "out/label.json").read_text())["settings"]["instances"] == "connected pieces"
    )


def test_a_bad_picture_fails_alone_and_is_added_once_it_is_whole(pictures, model, tmp_path):
    out, bad = tmp_path / "out", pictures / "day/x.jpg"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:-500])
    done = run_here(label.main, *flags(pictures, out, model))
    assert done.returncode == 1 and f"{bad}: truncated or damaged" in done.stderr
    assert "2 of 3 pictures" in done.stdout and not list(out.rglob("pictures_000000_000000*"))
    bad.write_bytes(whole)
    assert "holds 2 of 3 pictures already" in run_ok(label.main, *flags(pictures, out, model))
    run_ok(label.main, *flags(pictures, tmp_path / "at_once", model))
    assert tree_in(out, "manifest.jsonl") == tree_in(tmp_path / "at_once", "manifest.jsonl")


def test_camera_and_own_vehicle(pictures, model, tmp_path):
    out, ego = tmp_path / "out", np.zeros((60, 90), np.uint8)
    ego[50:] = 255
    Image.fromarray(ego).save(tmp_path / "ego.png")
    (pictures / "y.webp").unlink()
    more = ("--ego", tmp_path / "ego.png", "--camera", 90, "--camera_height", 1.5, "--camera_pitch", 2)
    done = run_here(label.main, *flags(pictures, out, model, *more))
    assert done.returncode == 1 and "has 64x80 pixels, but --ego 90x60" in done.stderr
    label_ids, instance_ids = maps(out, "pictures_000000_000000")
    assert (label_ids[:50] == ROAD).all() and (label_ids[50:] == 1).all() and (instance_ids[50:] == 1).all()
    (frame,) = list_frames(out, "train")
    camera = frame.read_camera()
    assert camera.fx == camera.fy == pytest.approx(45) and (camera.u0, camera.v0) == (45, 30)
    assert camera.height == 1.5 and camera.pitch == pytest.approx(np.radians(2))


NO_SAMPLE = pytest.mark.skipif(not SAMPLE.exists(), reason="the Cityscapes sample is not here")


@pytest.mark.parametrize("drawn", [True, pytest.param(False, marks=NO_SAMPLE)])
def test_with_the_ground_truth_for_the_model_s_output_the_maps_are_those_of_the_tree(drawn, tmp_path):
    """All labels to the pixel; the same instances, which are numbered anew; its polygons draw them again."""
    if drawn:
        write_mini(tmp_path / "source")
    frames = list_frames(tmp_path / "source" if drawn else SAMPLE, "train")[:3]
    for frame in frames:
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / frame.image_path.name).symlink_to(frame.image_path)
    model = StandIn.of([(frame.image_path, frame.label_path, frame.instance_path) for frame in frames])
    out = tmp_path / "out"
    options = {"pictures": str(tmp_path / "in"), "out": str(out), "num_workers": 1}
    assert label_pictures(options_of(options), model) == 0
    for frame, made in zip(frames, list_frames(out, "train"), strict=True):
        assert made.name == frame.name
        assert made.image_path.read_bytes() == frame.image_path.read_bytes()
        (label_ids, instance_ids), (new_labels, new_ids) = frame.read_maps(), made.read_maps()
        assert np.array_equal(new_labels, label_ids)
        assert np.array_equal(new_ids < 1000, instance_ids < 1000)
        pairs = np.unique(np.stack([instance_ids.ravel(), new_ids.ravel()]), axis=1)
        assert pairs.shape[1] == len(np.unique(instance_ids)) == len(np.unique(new_ids))
        assert np.array_equal(LABEL_OF_VALUE[pairs[0]], LABEL_OF_VALUE[pairs[1]])
        assert (
            official_maps(made.annotation_path("_polygons.json").read_text())[1] == new_ids
        ).mean() > 0.999


# ---- annotated things ---------------------------------------------------------------------------


def write_coco(path: Path) -> None:
    """A person and a car that cover each other in one picture, a crowd, a sign, and one outside."""
    crowd = np.zeros((60, 90), bool)
    crowd[40:50, 70:80] = True
    shapes = {
        11: (3, [[10, 10, 50, 10, 50, 40, 10, 40]]),
        12: (5, [[20, 15, 30, 15, 30, 45, 20, 45]]),
        13: (5, {"size": [60, 90], "counts": runs_of(crowd)}),
        14: (5, [[200, 200, 220, 200, 220, 220]]),
        15: (8, [[60, 0, 70, 0, 70, 10, 60, 10]]),
    }
    entries = [
        {"id": number, "image_id": 2, "category_id": category, "segmentation": mask, "iscrowd": number == 13}
        for number, (category, mask) in shapes.items()
    ]
    names = {3: "auto", 5: "person", 8: "stop sign"}
    content = {
        "images": [{"id": 2, "file_name": "day/x.jpg", "width": 90, "height": 60}],
        "annotations": entries,
        "categories": [{"id": number, "name": name} for number, name in names.items()],
    }
    path.write_text(json.dumps(content))


def test_annotated_things_lie_above_the_model_s_stuff(pictures, model, tmp_path):
    write_coco(tmp_path / "coco.json")
    (tmp_path / "map.yaml").write_text("auto: car\n")
    given = ("--annotations", tmp_path / "coco.json")
    line = refused(label.main, *flags(pictures, tmp_path / "out", model, *given), keeps=tmp_path)
    assert "categories without a Cityscapes label: auto; give them in --mapping" in line
    more = (*given, "--mapping", tmp_path / "map.yaml")
    done = run_here(label.main, *flags(pictures, tmp_path / "out", model, *more))
    assert done.returncode == 0 and "and those annotated" in done.stdout
    assert "doesn't list 2 pictures, which are left out: night/x.png; y.webp" in done.stderr
    label_ids, ids = maps(tmp_path / "out", "pictures_000000_000000")
    wanted = np.full((60, 90), ROAD)
    wanted[10:40, 10:50], wanted[15:45, 20:30] = CAR, PERSON
    wanted[40:50, 70:80], wanted[0:10, 60:70] = PERSON, 20
    assert np.array_equal(label_ids, wanted)
    assert ids[12, 12] == 26000 and ids[20, 25] == 24000 and ids[45, 75] == PERSON
    assert list(manifest(tmp_path / "out")) == ["day/x.jpg"]


def test_yolo_s_folder_with_its_pictures_is_taken(model, tmp_path):
    """As it is usually laid out: images/train beside labels/train; a note turns one picture."""
    root = tmp_path / "yolo"
    for name in ("images/train/a.jpg", "images/train/b.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        note = Image.Exif()
        note[0x0112] = 6 if name.endswith("a.jpg") else 1
        Image.fromarray(noise(60, 90)).save(root / name, exif=note)
    (root / "labels/train").mkdir(parents=True)
    (root / "labels/train/a.txt").write_text("1 0 0 0.5 0 0.5 0.5 0 0.5\n0 0.5 0.5 1 0.5 1 1 0.5 1\n")
    (root / "data.yaml").write_text("path: ..\nnames: [pedestrian, car]\n")
    (tmp_path / "map.yaml").write_text("pedestrian: person\n")
    more = ("--annotations", root, "--mapping", tmp_path / "map.yaml")
    printed = run_ok(label.main, *flags(root / "images/train", tmp_path / "out", model, *more))
    assert "pedestrian (annotated)" in printed and "2 of 2 pictures" in printed
    label_ids, ids = maps(tmp_path / "out", "pictures_000000_000000")
    wanted = np.full((90, 60), ROAD)
    wanted[:45, :30], wanted[45:, 30:] = CAR, PERSON
    assert np.array_equal(label_ids, wanted) and ids[0, 0] == 26000 and ids[89, 59] == 24000
    assert (maps(tmp_path / "out", "pictures_000000_000001")[0] == ROAD).all()


def test_an_annotation_of_another_size_fails_its_picture_alone(pictures, model, tmp_path):
    write_coco(tmp_path / "coco.json")
    content = json.loads((tmp_path / "coco.json").read_text())
    content["categories"][0]["name"] = "car"
    content["images"][0] |= {"width": 60, "height": 90}
    content["images"].append({"id": 3, "file_name": "y.webp"})
    (tmp_path / "coco.json").write_text(json.dumps(content))
    more = ("--annotations", tmp_path / "coco.json")
    done = run_here(label.main, *flags(pictures, tmp_path / "out", model, *more))
    assert (
        done.returncode == 1
        and "x.jpg: has 90x60 pixels upright, but its annotation says 60x90" in done.stderr
    )
    assert "1 of 2 pictures" in done.stdout and len(list_frames(tmp_path / "out", "train")) == 1


def test_classes_that_are_annotated_are_not_taken_from_the_model(tmp_path):
    """Somebody annotated one of the cars: what else is a thing is the model's, no other car is."""
    write_mini(tmp_path / "source")
    frame = list_frames(tmp_path / "source", "train")[0]
    labels, ids = frame.read_maps()
    cars = [value for value in np.unique(ids).tolist() if value // 1000 == CAR]
    others = [value for value in np.unique(ids).tolist() if value >= 1000 and value // 1000 != CAR]
    assert cars and others
    folder, name = frame.image_path.parent, frame.image_path.name
    mask = ids == cars[0]
    entry = {"id": "mine", "image_id": 1, "category_id": 77, "iscrowd": 0}
    entry["segmentation"] = {"size": list(mask.shape), "counts": runs_of(mask)}
    content = {
        "images": [{"id": 1, "file_name": name}],
        "annotations": [entry],
        "categories": [{"id": 77, "name": "car"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    model = StandIn.of([(frame.image_path, frame.label_path, frame.instance_path)])
    options = {"pictures": str(folder), "out": str(tmp_path / "out"), "num_workers": 1}
    options |= {"annotations": str(tmp_path / "coco.json")}
    assert label_pictures(options_of(options), model) == 0
    (made,) = list_frames(tmp_path / "out", "train")
    new_labels, new_ids = made.read_maps()
    hidden = (labels == CAR) & ~mask
    assert np.array_equal(new_labels, np.where(hidden, ROAD, labels))
    assert np.unique(new_ids[mask]).tolist() == [26000] and (new_ids[~mask] // 1000 != CAR).all()


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "says"),
    (
        (("--pictures", "none"), "none: no such folder; it should hold pictures"),
        (("--pictures", "empty"), "holds no .jpg"),
        (("--out", "in/tree"), "inside the pictures"),
        (("--out", "used"), "is not empty"),
        (("--annotations", "none.json"), "none.json: is not there"),
        (("--annotations", "boxes.json"), "annotation 1 of image 1 has a box and no mask"),
        (("--annotations", "empty"), "0 YAML files there have"),
        (("--mapping", "none.yaml"), "none.yaml: can't be read"),
        (("--mapping", "wrong.yaml"), "'tree' is no Cityscapes label"),
        (("--mapping", "roadless.yaml"), "has no class for road, only road; sidewalk"),
        (("--ego", "none.png"), "none.png: can't be read"),
        (("--camera", "90"), "--camera needs --camera_height"),
        (("--camera_height", "2"), "belong to --camera"),
        (("--camera", "400", "--camera_height", "2"), "camera must be at least 1 and at most 170"),
        (("--model", "none/of/these"), "no such folder"),
        (("--model", "some/one", "--offline"), "or give a model's folder as --model"),
        (("--split", "../x"), "is no name of a folder"),
    ),
)
def test_bad_input_is_one_line_and_nothing_written(more, says, pictures, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "used").mkdir()
    (tmp_path / "used/notes.txt").write_text("mine")
    (tmp_path / "wrong.yaml").write_text("vegetation: tree\n")
    (tmp_path / "roadless.yaml").write_text("road: void\n")
    boxes = {
        "images": [{"id": 1, "file_name": "y.webp"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": 1, "name": "car"}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    assert says in refused(label.main, *flags(pictures, tmp_path / "out", model), *more, keeps=tmp_path)


def test_a_tree_is_not_mixed_with_other_pictures(pictures, model, tmp_path):
    run_ok(label.main, *flags(pictures, tmp_path / "out", model))
    Image.fromarray(noise(20, 20)).save(pictures / "a.png")
    assert "choose another --out" in refused(label.main, *flags(pictures, tmp_path / "out", model))


@pytest.mark.parametrize("name", ("coco", "yolo"))
def test_convert_says_that_stuff_is_missing(name, tmp_path):
    assert name not in FORMATS
    line = refused(
        convert.main, "--from", name, "--root", tmp_path, "--out", tmp_path / "out", keeps=tmp_path
    )
    assert "no road" in line and "scripts.label --pictures" in line and "--annotations" in line
