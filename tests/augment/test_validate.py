"""augment/validate.py and its program: sound trees pass, and each broken rule is found and named."""

import json
import shutil
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from augment.tree_extras import add_raw, add_train_ids, export_coco
from augment.validate import RULES, validate_tree
from data.writer import encode_png
from scripts.synth import validate
from support.errors import InputError
from tests.mini_frames import add_crops
from tests.miniature import write_miniature
from tests.programs import refused, run_here, run_ok

CROP = "gtFine/train/ashsyn/ashsyn_000000_000000_gtFine"  # of the two-part car
RAW = "gtFine/train/ash/ash_000000_000019_gtFine"
IMAGE = "leftImg8bit/train/ashsyn/ashsyn_000000_000000_leftImg8bit.png"
COCO_FILE = "annotations/instancesonly_filtered_gtFine_train.json"


@pytest.fixture(scope="module", params=["raster", "polygon"])
def sound(request, mini, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param)
    add_crops(mini, out, request.param)
    add_raw(mini, out, ["train", "val"], "copy")
    export_coco(out, ["train", "val"])
    return out


@pytest.fixture
def tree(sound, tmp_path):
    """A tree to break, with the ground truth of both modes in turn."""
    return Path(shutil.copytree(sound, tmp_path / "tree"))


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def edit_json(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_map(path: Path, change) -> None:
    image = read(path).copy()
    change(image)
    cv2.imwrite(str(path), image)


def rules_of(root: Path, **options) -> dict[str, str]:
    """Broken rules, and the first finding of each."""
    found: dict[str, str] = {}
    for finding in validate_tree(root, **options):
        assert finding.rule in RULES and "\n" not in str(finding)
        found.setdefault(finding.rule, f"{finding.path}: {finding.text}")
    return found


def test_sound_trees_have_no_findings(sound, mini):
    assert validate_tree(sound, verify=True) == []
    assert validate_tree(mini) == []  # with objects marked deleted, as official data have them


def test_a_part_of_the_data_set_is_sound_too(tmp_path):
    """Label maps without images, colour or polygons; and images without ground truth."""
    write_miniature(tmp_path, "val", 2)
    (tmp_path / "leftImg8bit" / "test" / "oslo").mkdir(parents=True)
    image = tmp_path / "leftImg8bit" / "test" / "oslo" / "oslo_000000_000019_leftImg8bit.png"
    image.write_bytes(encode_png(np.zeros((8, 16, 3), np.uint8)))
    assert validate_tree(tmp_path) == []
    with pytest.raises(InputError, match="holds neither leftImg8bit/ nor gtFine/"):
        validate_tree(tmp_path / "gtFine")


@pytest.mark.parametrize("ending", ["_labelIds.png", "_instanceIds.png", "_color.png", "_polygons.json"])
def test_each_of_the_four_files_is_missed(tree, ending):
    (tree / (CROP + ending)).unlink()
    found = rules_of(tree)
    assert found.keys() - {"manifest"} == {"files"}
    assert found["files"] == f"{CROP.removesuffix('_gtFine')}: lacks ashsyn_000000_000000_gtFine{ending}"


def test_images_and_crops_of_panoramas_are_missed(tree):
    (tree / IMAGE).unlink()
    found = [str(one) for one in validate_tree(tree) if one.rule == "files"]
    assert len(found) == 2 and "has no image" in found[0] and "the crop of this panorama" in found[1]


def test_illegal_names_and_places_are_named(tree):
    shutil.copytree(tree / "panorama/train/ashsyn", tree / "leftImg8bit/train/ash_panorama")
    shutil.copytree(tree / "leftImg8bit/train/ashsyn", tree / "leftImg8bit/train/ash_syn")
    (tree / "leftImg8bit/train/ash/notes.txt").write_text("")
    (tree / "gtFine/train/list.txt").write_text("")
    found = [(one.rule, one.path) for one in validate_tree(tree)]
    assert sorted(found) == [
        ("layout", "gtFine/train/list.txt"),
        ("layout", "leftImg8bit/train/ash_panorama"),
        ("name", "leftImg8bit/train/ash/notes.txt"),
        ("name", "leftImg8bit/train/ash_syn"),
    ]


def test_damaged_files_and_wrong_kinds_of_image_are_named(tree):
    whole = (tree / IMAGE).read_bytes()
    (tree / IMAGE).write_bytes(whole[:-20])
    (tree / f"{CROP}_polygons.json").write_text("{")
    path = tree / f"{RAW}_instanceIds.png"
    cv2.imwrite(str(path), read(path).astype(np.uint8))
    found = [one for one in validate_tree(tree) if one.rule in ("damaged", "mode")]
    assert [(one.rule, one.path) for one in found] == [
        ("mode", f"{RAW}_instanceIds.png"),
        ("damaged", IMAGE),
        ("damaged", f"{CROP}_polygons.json"),
    ]
    assert found[0].text == "must be 16-bit grey, but is 8-bit grey"


def test_sizes_that_differ_are_named(tree):
    (tree / IMAGE).write_bytes(encode_png(np.zeros((100, 200, 3), np.uint8)))
    assert rules_of(tree)["size"] == f"{IMAGE}: is 200x100, but instanceIds 256x128 pixels"


def test_maps_that_disagree_are_named_with_the_first_pixel(tree):
    def relabel(labels):
        labels[3, 5] = 20

    edit_map(tree / f"{CROP}_labelIds.png", relabel)
    found = rules_of(tree)
    was = read(tree / f"{CROP}_instanceIds.png")[3, 5]
    assert (
        found["labels"] == f"{CROP}_labelIds.png: differs from instanceIds in 1 pixels: 20 for {was} at 5,3"
    )
    assert found["colour"].startswith(f"{CROP}_color.png: wrong in 1 pixels")
    assert "outline" not in found


def test_wrong_train_ids_are_found(tree):
    assert add_train_ids(tree) == 0 and validate_tree(tree) == []

    def retrain(train_ids):
        train_ids[3, 5] = 200

    edit_map(tree / f"{CROP}_labelTrainIds.png", retrain)
    edit_map(tree / f"{RAW}_labelTrainIds.png", retrain)  # official ones may be drawn anew
    found = validate_tree(tree)
    assert [str(one) for one in found] == [
        f"train_ids  {CROP}_labelTrainIds.png: not the train ids of labelIds in 1 pixels"
    ]
    assert add_train_ids(tree) == 0 and validate_tree(tree) == []


def test_values_of_no_label_and_instances_of_stuff_are_named(tree):
    def spoil(ids):
        ids[0, :3] = (34, 7001, 34001)

    edit_map(tree / f"{CROP}_instanceIds.png", spoil)
    assert "holds 34, 7001, 34001: neither" in rules_of(tree)["value"]


def test_transparent_colour_is_found(tree):
    def clear(colour):
        colour[..., 3] = 0

    edit_map(tree / f"{RAW}_color.png", clear)
    assert "wrong in 32768 pixels" in rules_of(tree)["colour"]


@pytest.mark.parametrize(
    ("rule", "text", "change"),
    [
        ("deleted", "1 objects have the key", lambda c: c["objects"][0].update(deleted=0)),
        ("label", "object 0: 'ufo' is not a Cityscapes label", lambda c: c["objects"][0].update(label="ufo")),
        ("polygon", "fewer than 3 points", lambda c: c["objects"][0].update(polygon=[[1, 1], [2, 2]])),
        ("damaged", "not a file of polygons", lambda c: c.pop("imgWidth")),
        ("size", "is 512x128", lambda c: c.update(imgWidth=512)),
    ],
)
def test_faults_of_polygon_files_are_named(tree, rule, text, change):
    edit_json(tree / f"{CROP}_polygons.json", change)
    assert text in rules_of(tree)[rule]


def _without_car(content):
    content["objects"] = [one for one in content["objects"] if one["label"] != "car"]


def _shifted_car(content):
    for one in content["objects"]:
        if one["label"] == "car":
            one["polygon"] = [[x + 12, y] for x, y in one["polygon"]]


def _pole_below(content):
    content["objects"].sort(key=lambda one: one["label"] != "pole")


def _second_car(content):
    x, y = 100, 100
    content["objects"].append({"label": "car", "polygon": [[x, y], [x + 40, y], [x + 40, y + 20]]})


def _stuff_only_gone(content):
    content["objects"] = [one for one in content["objects"] if one["label"] != "road"]


@pytest.mark.parametrize("change", [_without_car, _shifted_car, _pole_below, _second_car, _stuff_only_gone])
@pytest.mark.parametrize("stem", [CROP, RAW])
def test_outlines_that_do_not_draw_the_maps_are_found(tree, stem, change):
    edit_json(tree / f"{stem}_polygons.json", change)
    assert rules_of(tree)["outline"].startswith(f"{stem}_polygons.json: ")


def test_polygon_files_without_groups_and_stuff_are_found(tree):
    """As the published conversion wrote them, from the contours of instances alone."""
    path = tree / f"{RAW}_instanceIds.png"
    ids = read(path)
    objects = []
    for value in np.unique(ids[ids >= 24000]).tolist():
        contours = cv2.findContours(
            (ids == value).view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
        )[-2]
        points = np.concatenate(contours)[:, 0].tolist()
        if len(points) > 2:
            label = {24: "person", 26: "car", 29: "caravan", 32: "motorcycle", 33: "bicycle"}[value // 1000]
            objects.append({"label": label, "polygon": points})
    edit_json(tree / f"{RAW}_polygons.json", lambda content: content.update(objects=objects))
    found = [one.text for one in validate_tree(tree) if one.rule == "outline"]
    assert any(text.startswith("person (24)") for text in found)
    assert any(text.startswith("road (7)") for text in found)


def test_the_manifest_is_compared_with_the_files(tree):
    (tree / IMAGE).write_bytes(encode_png(np.zeros((128, 256, 3), np.uint8)))
    assert rules_of(tree) == {}
    assert rules_of(tree, verify=True) == {"manifest": f"{IMAGE}: has changed since it was written"}
    panorama = "panorama/train/ashsyn/ashsyn_000000_000001_leftImg8bit.png"
    (tree / panorama).unlink()
    assert rules_of(tree) == {"manifest": f"{panorama}: listed in the manifest, but not there"}
    with (tree / "manifest.jsonl").open("a") as file:
        file.write('{"stage": "integ')  # cut short: no finding
    assert rules_of(tree).keys() == {"manifest"}
    with (tree / "manifest.jsonl").open("a") as file:
        file.write("\n{}\n")
    assert "line 9: damaged" in rules_of(tree)["manifest"]


def _set(key, value):
    def change(content):
        content["annotations"][1][key] = value

    return change


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("annotation ids do not count from 1", _set("id", 0)),
        ("has the key 'ignore'", _set("ignore", 0)),
        ("has a wrong category", _set("category_id", 8)),
        ("is of no image", _set("image_id", 99)),
        ("area 7, not", _set("area", 7)),
        ("is not that of its mask", _set("bbox", [0, 0, 5, 5])),
        ("lacks iscrowd", lambda c: c["annotations"][1].pop("iscrowd")),
        ("is not there, or twice", lambda c: c["annotations"].append(c["annotations"][0])),
        ("the COCO file lacks", lambda c: c["annotations"].pop()),
        ("its categories are not", lambda c: c["categories"].reverse()),
        ("1 frames of the split are not in it", lambda c: c["images"].pop()),
        ("image ids occur twice", lambda c: c["images"].append(c["images"][0])),
        ("says 99x128 pixels", lambda c: c["images"][0].update(width=99)),
        ("not a COCO file", lambda c: c.pop("images")),
    ],
)
def test_faults_of_coco_files_are_named(tree, text, change):
    edit_json(tree / COCO_FILE, change)
    findings = [str(one) for one in validate_tree(tree)]
    assert any(text in finding for finding in findings)
    assert all(finding.startswith("coco ") for finding in findings)


def test_masks_that_are_not_exact_and_crowds_that_are_none_are_found(tree):
    def change(content):
        first, second = (one for one in content["annotations"][1:3])
        first["segmentation"], second["segmentation"] = second["segmentation"], first["segmentation"]

    edit_json(tree / COCO_FILE, change)
    assert "its mask is not that of" in rules_of(tree)["coco"]


@pytest.mark.slow
def test_the_program_lists_findings_counts_them_and_tells_by_its_status(tree):
    run = partial(run_here, validate.main)
    sound = run(tree, "--num_workers", 2)
    assert (sound.returncode, sound.stdout) == (0, "14 frames checked: no findings\n") and not sound.stderr
    (tree / f"{CROP}_color.png").unlink()
    broken = run(tree, "--num_workers", 1)
    assert broken.returncode == 1
    *lines, summary = broken.stdout.splitlines()
    assert len(lines) == 2 and lines[0].split()[0] == "files" and CROP.removesuffix("_gtFine") in lines[0]
    assert summary == "14 frames checked: files 1, manifest 1"
    for flags in ((), (tree / "nowhere",), (tree, "--unknown")):
        refused(validate.main, *flags)
    assert [line.split()[0] for line in run_ok(validate.main, "--rules").splitlines()] == list(RULES)


def test_findings_are_the_same_for_any_order_of_work(tree):
    (tree / f"{CROP}_color.png").unlink()
    edit_json(tree / f"{RAW}_polygons.json", _without_car)
    assert validate_tree(tree) == validate_tree(tree, lambda function, items: list(map(function, items)))
