"""scripts.convert on a miniature of each data set: exact maps, readers, bad input, going on."""

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from cityscapesscripts.helpers.labels import name2label
from kitti360scripts.evaluation.semantic_2d.instances2dict import instances2dict
from PIL import Image
from torchvision.datasets import Cityscapes

from convert.formats import FORMATS
from convert.mapping import mapping_of
from data.images import is_plain_png
from scripts import convert
from scripts.synth import validate
from tests.convert import miniatures
from tests.equality import files_in
from tests.miniature import litter
from tests.official import official_maps
from tests.programs import as_flags, refused, run_here


def flags(format_name: str, root: Path, out: Path) -> list[str]:
    return as_flags({"from": format_name.split()[0], "root": root, "out": out, "num_workers": 1})


def run(format_name: str, root: Path, out: Path, *more):
    return run_here(convert.main, *flags(format_name, root, out), *more)


@pytest.fixture(scope="module", params=miniatures.WRITERS)
def converted(request, tmp_path_factory):
    """Name of the format, the miniature's folder, the tree's, and how the program ended."""
    folder = tmp_path_factory.mktemp("convert")
    miniatures.WRITERS[request.param](folder / "source")
    litter(folder / "source")
    source, out = folder / "source", folder / "tree"
    return request.param, source, out, run(request.param, source, out)


def expected(format_name: str) -> tuple[np.ndarray, np.ndarray]:
    """Cityscapes label ids of the scene, and a number for each single instance, 0 elsewhere."""
    names = {"pole": "wall"} if format_name == "coco_panoptic" else {}
    labels = miniatures.encode(
        miniatures.scene(), lambda segment: name2label[names.get(segment.label, segment.label)].id
    )
    numbers = np.zeros_like(labels)
    for place, segment in enumerate(miniatures.scene(), 1):
        # Vistas v1.2 knows no crowds
        if segment.number is not None or (format_name == "mapillary v1.2" and segment.label == "car"):
            numbers[segment.mask] = place
    return labels, numbers


def test_maps_are_the_source_to_the_pixel(converted):
    format_name, _, out, done = converted
    assert done.returncode == 0, done.stderr
    labels, numbers = expected(format_name)
    found = sorted((out / "gtFine").glob("*/*/*_labelIds.png"))
    assert len(found) == 3
    for path in found:
        assert np.array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), labels)
        ids = cv2.imread(str(path).replace("labelIds", "instanceIds"), cv2.IMREAD_UNCHANGED).astype(int)
        assert np.array_equal(np.where(ids < 1000, ids, ids // 1000), labels)
        assert np.array_equal(ids >= 1000, numbers > 0)
        pairs = np.unique([ids[numbers > 0], numbers[numbers > 0]], axis=1)
        assert pairs.shape[1] == len(set(pairs[0])) == len(set(pairs[1]))  # one value for one instance


def test_polygons_are_drawn_to_the_same_maps_by_the_official_tools(converted):
    for path in (converted[2] / "gtFine").glob("*/*/*_polygons.json"):
        for ending, official in zip(
            ("labelIds", "instanceIds"), official_maps(path.read_text()), strict=True
        ):
            ours = cv2.imread(str(path).replace("polygons.json", f"{ending}.png"), cv2.IMREAD_UNCHANGED)
            assert np.mean(official != ours) < 0.002  # a line to the person behind the bicycle


def test_readers_accept_the_tree(converted):
    _, _, out, _ = converted
    checked = run_here(validate.main, out, "--verify", "--num_workers", 1)
    assert checked.returncode == 0, checked.stdout
    read = Cityscapes(str(out), "train", target_type=["instance", "semantic", "polygon"])
    image, (instance, semantic, polygons) = read[0]
    assert len(read) == 2 and image.size == instance.size == semantic.size == (96, 64)
    assert polygons["imgWidth"] == 96
    assert len(Cityscapes(str(out), "val", target_type="semantic")) == 1


def test_manifest_and_report_tell_what_became_of_what(converted):
    format_name, source, out, done = converted
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    for line in lines:
        image = next(path for path in line["outputs"] if path.startswith("leftImg8bit"))
        ours, theirs = cv2.imread(str(out / image)), cv2.imread(str(source / line["picture"]))
        assert np.array_equal(ours, theirs)
        assert all((source / path).is_file() for path in line["annotations"])
    rows = json.loads((out / "convert.json").read_text())["categories"]
    people = next(row for row in rows.values() if row["label"] == "person")
    assert (people["fate"], people["segments"], people["single"]) == ("mapped", 9, 9)
    assert people["pixels"] == 3 * sum(s.mask.sum() for s in miniatures.scene() if s.label == "person")
    assert all(name in done.stdout for name in rows)


def test_what_an_image_holds_decides_and_no_note_on_orientation_is_passed_on(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    miniatures.coco_panoptic(source)
    folder, image, note = source / "train2017", Image.fromarray(miniatures.image()), Image.Exif()
    note[0x0112] = 3
    image.save(folder / "000000000009.jpg", "PNG", exif=note)
    (folder / "000000000025.jpg").rename(folder / "000000000025.JPG")
    image.save(source / "val2017/000000000139.jpg", "WEBP")
    done = run("coco_panoptic", source, out, "--link")
    assert done.returncode == 1 and "000000000139.jpg: a WebP, but an image is a PNG or JPEG" in done.stderr
    made = sorted(out.glob("leftImg8bit/*/*/*"))
    assert len(made) == 2 and not any(path.is_symlink() for path in made)
    assert all(is_plain_png(path.read_bytes()) for path in made)
    assert np.array_equal(cv2.imread(str(made[0]))[..., ::-1], miniatures.image())


def test_names_say_where_a_frame_comes_from(tmp_path):
    miniatures.acdc(tmp_path / "acdc")
    miniatures.kitti360(tmp_path / "kitti")
    run("acdc", tmp_path / "acdc", tmp_path / "a", "--split", "train")
    run("kitti360", tmp_path / "kitti", tmp_path / "k", "--link")
    found = {path.name for path in tmp_path.glob("[ak]/leftImg8bit/*/*/*")}
    assert found == {
        "fog_000475_000041_leftImg8bit.png",
        "night_010376_000054_leftImg8bit.png",
        "kitti360_000000_000250_leftImg8bit.png",
        "kitti360_000000_000251_leftImg8bit.png",
        "kitti360_000002_004711_leftImg8bit.png",
    }
    assert all(path.is_symlink() for path in (tmp_path / "k").glob("leftImg8bit/*/*/*"))
    assert not any(path.is_symlink() for path in (tmp_path / "a").glob("leftImg8bit/*/*/*"))


def test_the_authors_tool_finds_the_same_instances_in_kitti360(tmp_path):
    miniatures.kitti360(tmp_path)
    maps = tmp_path / "data_2d_semantics/train" / miniatures.KITTI_VAL / "image_00"
    name = "0000004711.png"
    files = str(maps / "instance" / name), str(maps / "confidence" / name)
    (found,) = instances2dict([files]).values()
    areas = sorted(s.mask.sum() for s in miniatures.scene() if s.label == "person")
    assert sorted(one["pixelCount"] for one in found["person"]) == areas
    assert [one["instID"] for one in found["bicycle"]] == [33001]


# ---- tables -------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_name", FORMATS)
def test_the_table_of_a_format_is_shown_and_legal(format_name):
    shown = run_here(convert.main, "--from", format_name, "--show_mapping")
    assert shown.returncode == 0
    table = dict(line.split(": ") for line in shown.stdout.splitlines())
    assert table == mapping_of(format_name, None)
    assert {"person", "car", "road", "sky"} <= set(table.values())


def test_a_mapping_of_ones_own_replaces_lines_and_merges(tmp_path):
    miniatures.bdd100k(tmp_path / "source")
    (tmp_path / "own.yaml").write_text("vegetation: building\nperson: void\nbicycle: static\n")
    done = run("bdd100k", tmp_path / "source", tmp_path / "out", "--mapping", tmp_path / "own.yaml")
    rows = json.loads((tmp_path / "out/convert.json").read_text())["categories"]
    assert done.returncode == 0
    assert rows["vegetation"]["fate"] == rows["building"]["fate"] == "merged"
    assert rows["person"]["fate"] == "dropped"
    (path, *_) = (tmp_path / "out").glob("gtFine/*/*/*instanceIds.png")
    assert set(np.unique(cv2.imread(str(path), -1))) == {0, 4, 7, 11, 17, 23, 26}


def test_categories_that_no_table_knows_are_listed(tmp_path):
    miniatures.coco_panoptic(tmp_path / "source")
    for path in tmp_path.glob("source/annotations/*.json"):
        path.write_text(path.read_text().replace('"tree-merged"', '"palm"').replace('"car"', '"kart"'))
    done = run("coco_panoptic", tmp_path / "source", tmp_path / "out")
    assert done.returncode == 2 and "kart, palm" in done.stderr and not (tmp_path / "out").exists()
    (tmp_path / "own.yaml").write_text("palm: vegetation\nkart: car\n")
    own = ("--mapping", tmp_path / "own.yaml")
    assert run("coco_panoptic", tmp_path / "source", tmp_path / "out", *own).returncode == 0


# ---- COCO panoptic of other tools ---------------------------------------------------------------


def _each(kind: str, change):
    return lambda content: [change(entry) for entry in content[kind]]


def _segments(change):
    return lambda content: [change(one) for entry in content["annotations"] for one in entry["segments_info"]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_each("images", lambda one: one.update(file_name="D:\\coco\\train2017\\" + one["file_name"])), ""),
        (_each("images", lambda one: one.update(file_name="/data/coco/images/" + one["file_name"])), ""),
        (_each("annotations", lambda one: one.update(file_name=".\\" + one["file_name"])), ""),
        (_each("annotations", lambda one: one.update(image_id=str(one["image_id"]))), ""),
        (_each("categories", lambda one: one.update(id=str(one["id"]), isthing=str(one["isthing"]))), ""),
        (_segments(lambda one: one.update(id=str(one["id"]), category_id=str(one["category_id"]))), ""),
        (_each("categories", lambda one: one.pop("isthing")), ""),
        (lambda content: content["categories"].append(dict(content["categories"][0])), ""),
        (
            _each(
                "annotations",
                lambda one: one["segments_info"].append({"id": 5, "category_id": 1, "iscrowd": 0, "area": 0}),
            ),
            "",
        ),
        (
            lambda content: content["annotations"].append(
                {"image_id": 424242, "file_name": "x.png", "segments_info": []}
            ),
            "1 annotations of no listed image, left out: x.png",
        ),
        (
            lambda content: content["images"].append({"id": 777, "file_name": "777.jpg"}),
            "1 images without annotation, left out: 777.jpg",
        ),
        (
            lambda content: content["annotations"].append(dict(content["annotations"][0])),
            "1 second annotations of an image",
        ),
        (
            lambda content: content["annotations"].append({"segments_info": []}),
            "1 entries without image_id or file_name, left out: number",
        ),
    ],
)
def test_lists_of_other_tools_are_taken_or_what_is_left_out_is_named(change, says, tmp_path):
    miniatures.coco_panoptic(tmp_path / "source")
    for path in tmp_path.glob("source/annotations/*.json"):
        content = json.loads(path.read_text())
        change(content)
        path.write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
    done = run("coco_panoptic", tmp_path / "source", tmp_path / "out", "--split", "train")
    assert done.returncode == 0, done.stderr
    assert says in done.stderr and done.stderr.count("warning") == 2 * bool(says)
    labels, numbers = expected("coco_panoptic")
    found = sorted((tmp_path / "out/gtFine").glob("train/*/*_instanceIds.png"))
    assert len(found) == 2
    for path in found:
        ids = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(np.where(ids < 1000, ids, ids // 1000), labels)
        assert np.array_equal(ids >= 1000, numbers > 0)


def test_a_frame_whose_entry_makes_no_sense_fails_alone(tmp_path):
    miniatures.coco_panoptic(tmp_path / "source")
    for other in tmp_path.glob("source/annotations/*/*.png"):
        Image.open(other).convert("RGBA").save(other)  # as other tools write them
    path = tmp_path / "source/annotations/panoptic_train2017.json"
    content = json.loads(path.read_text())
    del content["annotations"][0]["segments_info"][0]["category_id"]
    path.write_text(json.dumps(content))
    done = run("coco_panoptic", tmp_path / "source", tmp_path / "out")
    assert done.returncode == 1 and "2 of 3 images" in done.stdout
    assert "000000000009.png: its entry in panoptic_train2017.json can't be read" in done.stderr


@pytest.mark.parametrize(
    ("format_name", "folder", "images"),  # what wasn't unpacked, and how many images there are without
    (
        ("coco_panoptic", "annotations/panoptic_train2017", 1),
        ("coco_panoptic", "val2017", 2),
        ("mapillary v2.0", "validation/v2.0", 2),
    ),
)
def test_a_split_that_was_not_unpacked_is_left_out_and_named(format_name, folder, images, tmp_path):
    miniatures.WRITERS[format_name](tmp_path / "source")
    shutil.rmtree(tmp_path / "source" / folder)
    done = run(format_name, tmp_path / "source", tmp_path / "out")
    assert done.returncode == 0 and f"{images} of {images} images" in done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("warning") and folder.split("/")[-1] in line and line.endswith("is left out")


def test_a_folder_that_can_not_be_read_is_not_taken_for_empty(tmp_path, monkeypatch):
    miniatures.kitti360(tmp_path / "source")
    closed = next((tmp_path / "source/data_2d_semantics/train").glob("*0000_sync"))
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed and access(path, mode))
    line = flags("kitti360", tmp_path / "source", tmp_path / "out")
    assert f"{closed}: can't be read (Permission denied)" in refused(convert.main, *line, keeps=tmp_path)


# ---- bad input ----------------------------------------------------------------------------------


LISTS = {  # of the images of a data set
    "mapillary v2.0": "config_v2.0.json",
    "coco_panoptic": "annotations/panoptic_val2017.json",
    "acdc": "gt_panoptic/train_gt_panoptic.json",
}
BROKEN = ('{"labels": [{"na', "[]", '{"annotations": []}', '{"labels": [1]}')


@pytest.mark.parametrize(
    ("format_name", "spoil", "more", "says"),  # spoil: what is done to the data set
    (
        *((name, lambda root: shutil.rmtree(root), (), "source") for name in FORMATS),
        *((name, lambda root: (shutil.rmtree(root), root.mkdir()), (), "source") for name in FORMATS),
        *(
            (name, lambda root, path=path, text=text: (root / path).write_text(text), (), path)
            for name, path in LISTS.items()
            for text in BROKEN
        ),
        ("idd", None, ("--split", "test"), "only train, val"),
        ("idd", None, ("--mapping", "none.yaml"), "none.yaml: can't be read"),
        ("idd", None, ("--mapping", "wrong.yaml"), "'tree' is no Cityscapes label"),
        ("idd", None, ("--out", "source/tree"), "inside the data set"),
        ("idd", None, ("--out", "used"), "is not empty"),
    ),
)
def test_bad_input_is_one_line_and_nothing_written(format_name, spoil, more, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    miniatures.WRITERS.get(format_name, miniatures.idd)(tmp_path / "source")
    (tmp_path / "wrong.yaml").write_text("vegetation: tree\n")
    (tmp_path / "used").mkdir()
    (tmp_path / "used/notes.txt").write_text("mine")
    if spoil:
        spoil(tmp_path / "source")
    line = flags(format_name, Path("source"), Path("out"))
    assert says in refused(convert.main, *line, *more, keeps=tmp_path)


def test_a_bad_item_fails_alone_and_the_same_command_goes_on(tmp_path):
    root, out = tmp_path / "source", tmp_path / "out"
    miniatures.acdc(root)
    bad = root / "gt/fog/train/GOPR0475/GOPR0475_frame_000041_gt_labelIds.png"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:-30])
    done = run("acdc", root, out)
    assert done.returncode == 1 and f"{bad}: truncated or damaged" in done.stderr
    assert not any("fog" in name for name in files_in(out)) and len(list(out.glob("gtFine/*/*/*"))) == 8
    before = {path: path.stat().st_mtime_ns for path in out.glob("gtFine/*/*/*")}
    bad.write_bytes(whole)
    done = run("acdc", root, out)
    assert done.returncode == 0 and "holds 2 of 3 images already" in done.stdout
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    assert run("acdc", root, tmp_path / "at_once").returncode == 0
    one, other = files_in(out), files_in(tmp_path / "at_once")
    del one["manifest.jsonl"], other["manifest.jsonl"]  # the times of the sources differ
    assert one == other
    again = run("acdc", root, out, "--link")
    assert again.returncode == 2 and "other settings or data (link; see" in again.stderr


MASKS, IMAGES = "labels/pan_seg/bitmasks/val/*", "images/10k/val/*"


def edited(change):
    def edit(path: Path) -> None:
        mask = cv2.cvtColor(cv2.imread(str(path), -1), cv2.COLOR_BGRA2RGBA)
        miniatures.save(path, np.ascontiguousarray(change(mask)))

    return edit


def of_no_category(mask: np.ndarray) -> np.ndarray:
    mask[0, 0, 0] = 41
    return mask


@pytest.mark.parametrize(
    ("file", "damage", "says"),
    (
        (IMAGES, Path.unlink, "is not there"),
        (IMAGES, lambda path: path.write_bytes(path.read_bytes()[:-200]), "truncated or damaged"),
        (MASKS, edited(of_no_category), "no category of the data set: 41"),
        (MASKS, edited(lambda mask: mask[:, :40]), "but its annotation 40x64"),
        (MASKS, edited(lambda mask: mask[..., 0]), "four channels"),
    ),
)
def test_what_can_be_wrong_with_an_item_is_named(file, damage, says, tmp_path):
    miniatures.bdd100k(tmp_path / "source")
    damage(next(tmp_path.joinpath("source").glob(file)))
    done = run("bdd100k", tmp_path / "source", tmp_path / "out")
    assert done.returncode == 1 and says in done.stderr and "1 failed" in done.stderr
    assert {path.parent.name for path in tmp_path.glob("out/gtFine/*/*")} == {"train"}


def test_a_tree_is_not_mixed_with_other_images(tmp_path):
    root, out = tmp_path / "source", tmp_path / "out"
    miniatures.bdd100k(root)
    assert run("bdd100k", root, out).returncode == 0
    min(root.glob("labels/pan_seg/bitmasks/train/*")).unlink()
    before = files_in(out)
    done = run("bdd100k", root, out)
    assert done.returncode == 2 and "choose another --out" in done.stderr and files_in(out) == before
