"""Annotated things: masks as pycocotools draw them, and what is refused or left out."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from label.annotations import Annotations, Thing, coco_thing, read_annotations, run_lengths
from label.pictures import find_pictures
from support.errors import InputError

HEIGHT, WIDTH = 40, 60
SQUARE = [10.0, 10, 30, 10, 30, 20, 10, 20]


def write_pictures(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(root / name)


def runs_of(mask: np.ndarray) -> list[int]:
    """Its run lengths, column by column, from 0 on."""
    flat = mask.T.ravel().astype(int)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    return np.diff(np.concatenate([[0], edges])).tolist()


def coco(**changes) -> dict:
    """Two pictures, two categories, a polygon and two run-length codes, one of a crowd."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[5:15, 40:50] = True
    packed = {"size": [HEIGHT, WIDTH], "counts": runs_of(mask)}
    annotations = [
        {"id": 7, "image_id": 31, "category_id": 4, "segmentation": [SQUARE], "bbox": [10, 10, 20, 10]},
        {"id": 8, "image_id": 31, "category_id": 9, "segmentation": packed, "iscrowd": 1},
        {"id": 9, "image_id": 32, "category_id": 9, "segmentation": packed, "iscrowd": 0},
    ]
    images = [
        {"id": number, "file_name": f"sub/{name}.jpg", "width": WIDTH, "height": HEIGHT}
        for number, name in ((31, "a"), (32, "b"))
    ]
    categories = [{"id": 4, "name": "person"}, {"id": 9, "name": "car"}]
    return {"images": images, "annotations": annotations, "categories": categories} | changes


def read(tmp_path: Path, content: object, *names: str) -> Annotations:
    write_pictures(tmp_path / "in", *(names or ("a.jpg", "b.jpg")))
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(content))
    pictures = find_pictures(tmp_path / "in", tmp_path / "out", "train")
    return read_annotations(path, tmp_path / "in", pictures)


def test_masks_are_those_of_pycocotools(tmp_path):
    polygons = [SQUARE, [5.5, 30.2, 20.7, 38.9, 2.1, 39.5]]
    beyond = [[-20.0, -5, 30, 8, 70, 50, 3, 60]]
    content = coco()
    for segmentation in (polygons, beyond):
        entry = {"id": len(content["annotations"]) + 7, "image_id": 31, "category_id": 4}
        content["annotations"].append(entry | {"segmentation": segmentation})
    found = read(tmp_path, content)
    assert found.categories == ["person", "car"]
    assert found.of_picture["a.jpg"].size == (WIDTH, HEIGHT)
    official = COCO(str(tmp_path / "coco.json"))
    compared = 0
    for annotated in found.of_picture.values():
        for thing in annotated.things:
            entry = official.anns[thing.number]
            assert np.array_equal(thing.drawn(HEIGHT, WIDTH), official.annToMask(entry).astype(bool))
            assert thing.crowd == bool(entry.get("iscrowd"))
            assert found.categories[thing.category] == official.cats[entry["category_id"]]["name"]
            compared += 1
    assert compared == 5


def test_compressed_codes_are_read_and_damaged_ones_are_a_value_error():
    from pycocotools import mask as rle

    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[3:9, 4:33] = 1
    code = rle.encode(mask)
    packed = {"size": code["size"], "counts": code["counts"].decode()}
    assert np.array_equal(Thing(1, 0, False, packed).drawn(HEIGHT, WIDTH), mask.astype(bool))
    with pytest.raises(ValueError, match="annotation 1 is made for"):
        Thing(1, 0, False, packed | {"size": [WIDTH, HEIGHT]}).drawn(HEIGHT, WIDTH)
    for counts in (packed["counts"] + "zz~", packed["counts"][:5], "1", "", [3, 4]):
        with pytest.raises(ValueError, match="annotation 5 doesn't fill"):
            Thing(5, 0, False, {"size": [HEIGHT, WIDTH], "counts": counts}).drawn(HEIGHT, WIDTH)


def test_the_runs_of_a_compressed_code_are_those_of_the_mask():
    from pycocotools import mask as rle

    rng = np.random.default_rng(0)
    for share in np.linspace(0, 1, 20):
        mask = np.asfortranarray(rng.random(rng.integers(1, 90, 2)) < share, np.uint8)
        assert run_lengths(rle.encode(mask)["counts"].decode()) == runs_of(mask.astype(bool))


def test_what_has_no_counterpart_is_named_and_left_out(tmp_path):
    content = coco()
    content["annotations"][2]["image_id"] = 99
    found = read(tmp_path, content, "a.jpg", "c.jpg")
    assert list(found.of_picture) == ["a.jpg"]
    said = "\n".join(found.left_out)
    assert "annotations of no listed image, left out, of the ids 99" in said
    assert "1 pictures that aren't in" in said and "sub/b.jpg" in said
    assert "doesn't list 1 pictures, which are left out: c.jpg" in said


def change(place: str, number: int, **fields) -> dict:
    """The file with other fields in an entry; a field of ... is taken away."""
    content = coco()
    entry = content[place][number] | fields
    content[place][number] = {name: value for name, value in entry.items() if value is not ...}
    return content


@pytest.mark.parametrize(
    ("content", "says"),
    (
        (change("annotations", 0, segmentation=...), "annotation 7 of image 31 has a box and no mask; a box"),
        (change("annotations", 0, segmentation=[]), "has a box and no mask"),
        (change("annotations", 0, segmentation=[[1, 2, 3, 4]]), "neither polygons of at least three points"),
        (change("annotations", 0, segmentation=[SQUARE[:-1]]), "neither polygons"),
        (change("annotations", 0, segmentation=[[*SQUARE[:-1], 1e9]]), "neither polygons"),
        (change("annotations", 0, segmentation=[[*SQUARE[:-1], float("nan")]]), "neither polygons"),
        (change("annotations", 0, segmentation={"size": [40], "counts": "x"}), "nor a run-length code"),
        (change("annotations", 0, segmentation={"size": [40, 60], "counts": [1, -1]}), "nor a run-length"),
        (change("annotations", 0, category_id=5), "has category 5, which is not listed"),
        (change("annotations", 0, image_id=...), "number 1 of “annotations” has no image_id"),
        (change("images", 1, file_name=3), "number 2 of “images” has no file_name"),
        (change("images", 1, file_name="a.jpg"), "are both about a.jpg"),
        (change("images", 1, id=31), "id 31 stands more than once in “images”"),
        (change("categories", 1, id=4), "id 4 stands more than once in “categories”"),
        (change("images", 1, width="60"), "number 2 of “images”: width is no number"),
        (change("categories", 0, name=...), "number 1 of “categories” has no name"),
        (coco(categories=[]), "has no list “categories”"),
        (coco(annotations=None), "has no list “annotations”"),
        (coco(images=[]), "is about none of the pictures"),
        ([], "holds no JSON object"),
    ),
)
def test_a_file_that_can_not_be_meant_is_one_line(content, says, tmp_path):
    with pytest.raises(InputError) as caught:
        read(tmp_path, content)
    assert says in str(caught.value) and "\n" not in str(caught.value)


# ---- YOLO ---------------------------------------------------------------------------------------


def write_yolo(root: Path, **texts: str) -> None:
    """texts: by the place below labels/, with __ for /."""
    (root / "labels").mkdir(parents=True)
    (root / "data.yaml").write_text("names:\n  0: person\n  1: car\n")
    for name, text in texts.items():
        path = root / "labels" / f"{name.replace('__', '/')}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def read_yolo(tmp_path: Path, *names: str) -> Annotations:
    write_pictures(tmp_path / "in", *names)
    pictures = find_pictures(tmp_path / "in", tmp_path / "out", "train")
    return read_annotations(tmp_path / "yolo", tmp_path / "in", pictures)


def test_yolo_s_polygons_are_fractions_of_the_picture(tmp_path):
    write_yolo(
        tmp_path / "yolo",
        train__a="1 0.25 0.25 0.5 0.25 0.5 0.5 0.25 0.5\n\n0 -0.1 0 0.1 0 0.1 1 -0.1 1\n",
        val__a="0 0 0 1 0 1 1",
        val__gone="0 0 0 1 0 1 1",
    )
    found = read_yolo(tmp_path, "train/a.png", "val/a.png", "val/b.png")
    assert found.categories == ["person", "car"]
    things = found.of_picture["train/a.png"].things
    wanted = np.zeros((HEIGHT, WIDTH), bool)
    wanted[10:20, 15:30] = True
    assert [(thing.number, thing.category) for thing in things] == [(1, 1), (3, 0)]
    assert np.array_equal(things[0].drawn(HEIGHT, WIDTH), wanted)
    assert np.array_equal(things[1].drawn(HEIGHT, WIDTH).any(0), np.arange(WIDTH) < 6)
    assert len(found.of_picture["val/a.png"].things) == 1 and found.of_picture["val/b.png"].things == ()
    (line,) = found.left_out
    assert "1 files of pictures that aren't in" in line and "labels/val/gone.txt" in line


TRIANGLE = "0 0 0 1 0 1 1"


@pytest.mark.parametrize(
    ("texts", "given", "names", "annotated"),  # given: --pictures; names: of the pictures below it
    (
        # The usual two layouts, with a background picture whose name another folder's file has.
        (("labels/s2/1", "labels/s1/2"), "images/s1", ("1", "2"), "2"),
        (("labels/s2/1", "labels/s1/2"), "images", ("s1/1", "s1/2", "s2/1"), "s1/2 s2/1"),
        (("train/labels/1", "valid/labels/1"), ".", ("train/images/1", "valid/images/1"), "all"),
        (("train/labels/1", "valid/labels/1"), "train/images", ("1",), "all"),
        (("train/labels/2", "valid/labels/1"), "train/images", ("1", "2"), "2"),
        (("labels/1",), "images/s1", ("1", "2"), "1"),  # no folders among the texts
        (("labels/train/1",), "../photos", ("1", "2"), "1"),  # none among the pictures, which lie elsewhere
    ),
)
def test_a_text_of_another_folder_is_of_another_picture(texts, given, names, annotated, tmp_path):
    root = tmp_path / "yolo"
    write_pictures(root / given, *(f"{name}.png" for name in names))
    for text in texts:
        (root / text).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{text}.txt").write_text(TRIANGLE)
    (root / "data.yaml").write_text("names: [person]\n")
    pictures = find_pictures(root / given, tmp_path / "out", "train")
    found = read_annotations(root, root / given, pictures).of_picture
    with_things = {name.removesuffix(".png") for name, one in found.items() if one.things}
    assert with_things == set(names if annotated == "all" else annotated.split())


@pytest.mark.parametrize(
    ("written", "crowd"), ((1, True), ("1", True), ("0", False), (0, False), (None, False))
)
def test_a_crowd_may_be_written_as_text(written, crowd):
    entry = {"image_id": 1, "category_id": 3, "segmentation": [[0, 0, 1, 0, 1, 1]], "iscrowd": written}
    assert coco_thing(Path("mine.json"), entry, {3: 0}).crowd is crowd


@pytest.mark.parametrize(
    ("texts", "says"),
    (
        ({"a": "0 0.5 0.5 0.2 0.2"}, "line 1: has a box and no mask; a box doesn't say"),
        ({"a": "\n2 0 0 1 0 1 1"}, "line 2: there is no category 2"),
        ({"a": "0 0 0 1 0"}, "has a box"),
        ({"a": "0 0 0 1 0 1"}, "is no polygon of at least three points"),
        ({"a": "0 0 0 1 0 1 nan"}, "is no polygon"),
        ({"a": "0 0 0 1 0 1 x"}, "is no list of numbers"),
        ({"b": ""}, "holds no text file called as a picture"),
        ({"p__a": "", "q__a": ""}, "may both be about a.png"),
    ),
)
def test_yolo_s_that_can_not_be_meant_is_one_line(texts, says, tmp_path):
    write_yolo(tmp_path / "yolo", **texts)
    with pytest.raises(InputError) as caught:
        read_yolo(tmp_path, "a.png")
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_yolo_needs_one_list_of_names_and_a_file_is_of_one_picture(tmp_path):
    write_yolo(tmp_path / "yolo", a="0 0 0 1 0 1 1")
    with pytest.raises(InputError, match=r"labels/a.txt is the file of both a.png and a.webp"):
        read_yolo(tmp_path, "a.png", "a.webp")
    (tmp_path / "in/a.webp").unlink()
    (tmp_path / "yolo/data.yaml").write_text("nc: 2\n")
    with pytest.raises(InputError, match="0 YAML files there have “names”"):
        read_yolo(tmp_path, "a.png")
