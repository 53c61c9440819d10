"""The COCO file of an augmented tree in the terms of the one that its pictures were annotated with."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from data.frame import list_frames
from data.images import read_label_map
from label.coco_like import _entries, picture_names
from label.labelling import label as label_pictures
from label.options import options_of
from scripts import insert
from tests.equality import tree_in
from tests.label.stand_in import StandIn
from tests.label.test_annotations import runs_of
from tests.mini_frames import write_mini
from tests.programs import refused, run_here, run_ok

HIDES = ("--no_gate", "--may_hide", "--per_image", 3, "--render", "overlay", "--num_workers", 1)


@pytest.fixture(scope="module")
def annotated(tmp_path_factory) -> Path:
    """Pictures with names of their own, a COCO file with ids and fields of its own, the tree of both.

    Persons are two categories; one annotation covers the left half of a picture, one has no class here.
    """
    root = tmp_path_factory.mktemp("annotated")
    write_mini(root / "source")
    images, annotations, triples = [], [], []
    for number, frame in enumerate(list_frames(root / "source", "train")):
        _, ids = frame.read_maps()
        name = f"cam {number % 2}/photo {number}.webp"
        path = root / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame.read_image()).save(path, lossless=True)
        images.append({"id": 500 + number, "file_name": f"old/place/{name}", "height": ids.shape[0]})
        images[-1] |= {"width": ids.shape[1], "weather": "fine"}
        png = root / "png" / f"{number}.png"
        png.parent.mkdir(exist_ok=True)
        Image.fromarray(frame.read_image()).save(png)
        triples.append((png, frame.label_path, frame.instance_path))
        for value in np.unique(ids[ids >= 1000]).tolist():
            if value // 1000 == 24:
                mask = {"size": list(ids.shape), "counts": runs_of(ids == value)}
                one = {"id": len(annotations) + 40, "image_id": 500 + number, "category_id": 91 + value % 2}
                annotations.append(one | {"segmentation": mask, "iscrowd": 0, "note": f"a{value}"})
        half = [[0, 0, ids.shape[1] / 2, 0, ids.shape[1] / 2, ids.shape[0], 0, ids.shape[0]]]
        one = {"id": len(annotations) + 40, "image_id": 500 + number, "category_id": 6, "segmentation": half}
        annotations.append(one)
    names = {91: "person", 92: "child", 6: "sunlit"}
    categories = [{"id": number, "name": name, "supercategory": "x"} for number, name in names.items()]
    content = {"info": {"year": 1}, "images": images, "annotations": annotations, "categories": categories}
    (root / "coco.json").write_text(json.dumps(content))
    (root / "map.yaml").write_text("child: person\nsunlit: void\n")
    options = {"pictures": str(root / "pictures"), "out": str(root / "tree"), "num_workers": 1}
    options |= {"annotations": str(root / "coco.json"), "mapping": str(root / "map.yaml")}
    assert label_pictures(options_of(options), StandIn.of(triples)) == 0
    return root


def flags(annotated: Path, checkpoint: Path, out: Path, *more) -> list:
    source = ("--checkpoint", checkpoint, "--db_root", annotated / "tree", "--out", out)
    return [*source, "--coco_like", annotated / "coco.json", *HIDES, *more]


def test_ids_names_and_what_nothing_hides_stay_and_new_objects_are_added(annotated, checkpoint, tmp_path):
    out = tmp_path / "out"
    printed = run_ok(insert.main, *flags(annotated, checkpoint, out))
    path = out / "annotations/coco.json"
    assert str(path) in printed
    before, after = json.loads((annotated / "coco.json").read_text()), json.loads(path.read_text())
    assert after["images"] == before["images"] and after["categories"] == before["categories"]
    assert after["info"] == before["info"]
    official, old = COCO(str(path)), {one["id"]: one for one in before["annotations"]}
    picture_of = {entry["id"]: out / "images" / entry["file_name"] for entry in after["images"]}
    same = changed = gone = added = 0
    names = picture_names(annotated / "tree")
    frames = {names[f"train/{frame.key}"]: frame for frame in list_frames(out, "train")}
    for entry in after["images"]:
        frame = frames[entry["file_name"].removeprefix("old/place/")]
        new = read_label_map(out / frame.place("inserted", ".png"))
        assert picture_of[entry["id"]].is_symlink()
        assert picture_of[entry["id"]].read_bytes() == frame.image_path.read_bytes()
        assert np.array(Image.open(picture_of[entry["id"]])).shape == (*new.shape, 3)
        theirs = [one for one in old.values() if one["image_id"] == entry["id"]]
        for one in theirs:
            mask = COCO.annToMask(official, one).astype(bool)
            now = official.anns.get(one["id"])
            if not (mask & (new > 0)).any():
                assert now == one
                same += 1
            elif now is None:
                assert not (mask & (new == 0)).any()
                gone += 1
            else:
                assert np.array_equal(official.annToMask(now).astype(bool), mask & (new == 0))
                assert {**now, "segmentation": 0, "area": 0, "bbox": 0} == {
                    **one,
                    "segmentation": 0,
                    "area": 0,
                    "bbox": 0,
                }
                assert now["area"] == np.count_nonzero(mask & (new == 0))
                changed += 1
        mine = [one for one in official.imgToAnns[entry["id"]] if one["id"] not in old]
        assert {one["category_id"] for one in mine} <= {91} and all(
            one["source"] == "inserted" for one in mine
        )
        union = np.zeros(new.shape, bool)
        for one in mine:
            mask = official.annToMask(one).astype(bool)
            assert not (union & mask).any()
            union |= mask
            added += 1
        assert np.array_equal(union, new > 0)
    assert same and changed and added, (same, changed, gone, added)
    assert len({one["id"] for one in after["annotations"]}) == len(after["annotations"])
    whole = tree_in(out)
    run_ok(insert.main, *flags(annotated, checkpoint, out))
    assert tree_in(out) == whole


def test_without_such_a_category_new_objects_are_named_and_left_out(annotated, checkpoint, tmp_path):
    content = json.loads((annotated / "coco.json").read_text())
    content["categories"] = [{"id": 4, "name": "car"}]
    content["annotations"], content["images"] = [], content["images"][:2]
    (tmp_path / "cars.json").write_text(json.dumps(content))
    more = ("--coco_like", tmp_path / "cars.json", "--scenes", 3)
    done = run_here(insert.main, *flags(annotated, checkpoint, tmp_path / "out", *more))
    assert done.returncode == 0, done.stderr
    assert (
        "left out: inserted objects without a category in" in done.stderr
        and "cars.json: person" in done.stderr
    )
    assert "left out: 1 images of" in done.stderr
    after = json.loads((tmp_path / "out/annotations/cars.json").read_text())
    assert after["annotations"] == [] and len(after["images"]) == 2


def test_images_of_any_tree_are_known_by_their_files(checkpoint, tmp_path):
    write_mini(tmp_path / "in")
    frame = list_frames(tmp_path / "in", "train")[1]
    entry = {"id": "x", "file_name": f"some/where/{frame.city}/{frame.image_path.name}"}
    content = {"images": [entry], "annotations": [], "categories": [{"id": 3, "name": "Person"}]}
    (tmp_path / "mine.json").write_text(json.dumps(content))
    given = ("--checkpoint", checkpoint, "--db_root", tmp_path / "in", "--out", tmp_path / "out")
    run_ok(insert.main, *given, "--coco_like", tmp_path / "mine.json", *HIDES)
    after = json.loads((tmp_path / "out/annotations/mine.json").read_text())
    assert after["images"] == [entry] and {one["image_id"] for one in after["annotations"]} == {"x"}


@pytest.mark.parametrize(
    ("listed", "name"),
    (
        ("2024-05-01T12:30:05.jpg", "2024-05-01T12:30:05.jpg"),
        ("a:b.jpg", "cam/a:b.jpg"),
        ("C:\\photos\\cam\\a.jpg", "cam/a.jpg"),
        ("https://example.org/cam/a.jpg", "cam/a.jpg"),
    ),
)
def test_a_picture_is_known_by_a_name_with_a_colon_too(listed, name):
    entry = {"id": 1, "file_name": listed}
    assert _entries(Path("mine.json"), [entry], [name]) == [entry]


@pytest.mark.parametrize(
    ("images", "more", "says"),
    (
        ([{"id": 1, "file_name": "elsewhere.png"}], (), "lists none of the images of"),
        ([{"id": n, "file_name": f"{n}/photo 0.webp"} for n in range(2)], (), "lists none of"),
        (
            [{"id": n, "file_name": f"{'x/' * n}cam 0/photo 0.webp"} for n in range(2)],
            (),
            "can't tell cam 0/photo",
        ),
        (None, (), "has no list “images”"),
        ([{"id": 1, "file_name": "photo 0.webp"}], ("--raw", "symlink"), "without --raw"),
    ),
)
def test_a_file_that_does_not_belong_there_is_one_line(images, more, says, annotated, checkpoint, tmp_path):
    content = {"images": images, "annotations": [], "categories": [{"id": 3, "name": "person"}]}
    (tmp_path / "mine.json").write_text(json.dumps(content))
    given = flags(annotated, checkpoint, tmp_path / "out", "--coco_like", tmp_path / "mine.json", *more)
    assert says in refused(insert.main, *given, keeps=tmp_path)
