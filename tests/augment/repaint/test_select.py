"""Choosing instances, cutting crops, the options."""

import dataclasses
import json

import numpy as np
import pytest
import yaml

from augment.crops import Crop, context_crop
from augment.options import SynthOptions, as_yaml, from_saved, options_of
from augment.paint.blend import paste
from augment.repaint.select import balanced, candidates_of, choose, in_scope, source_frames
from data.writer import rasterise
from scripts.synth import run
from support.errors import InputError
from support.seeds import seed_of
from tests.mini_frames import CARAVAN_ID, HOLED_ID, MOTORCYCLE_ID, TINY_ID, TRAIN, mini_objects, write_mini
from tests.programs import run_ok


def options(**values) -> SynthOptions:
    return SynthOptions(**{"min_area": 1} | values)


def painted(*boxes: tuple[int, int, int, int, int], width: int = 100, height: int = 50) -> np.ndarray:
    """An instance map with rectangles of a value: (value, x0, y0, x1, y1), half-open."""
    ids = np.full((height, width), 7, np.uint16)
    for value, x0, y0, x1, y1 in boxes:
        ids[y0:y1, x0:x1] = value
    return ids


def ids_of(candidates) -> list[int]:
    return [one.instance_id for one in candidates]


# ---- policies and filters -----------------------------------------------------------------------


def test_candidates_are_single_instances_largest_first_ties_by_id():
    ids = painted(
        (26, 0, 0, 50, 50),  # a group
        (26001, 1, 1, 11, 11),
        (26000, 21, 1, 31, 11),
        (32000, 41, 1, 61, 11),  # a multiple of 256
        (24001, 1, 21, 4, 22),
    )
    found = candidates_of(ids, options())
    assert ids_of(found) == [32000, 26000, 26001, 24001]
    assert [one.area for one in found] == [200, 100, 100, 3]
    assert found[0].box == (41, 1, 61, 11) and found[0].class_name == "motorcycle"


def test_the_mini_frame_offers_what_it_should():
    _, ids = rasterise(mini_objects(0), 256, 128)
    everything = candidates_of(ids, options())
    assert {MOTORCYCLE_ID, CARAVAN_ID, HOLED_ID, TINY_ID} <= set(ids_of(everything))
    assert all(one.area == np.count_nonzero(ids == one.instance_id) for one in everything)
    by_default = candidates_of(ids, SynthOptions())  # 1/4000 of the frame: 8 pixels
    assert set(ids_of(everything)) - set(ids_of(by_default)) == {TINY_ID}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, [26000, 26001, 25000, 24000]),
        ({"min_area": 101}, [26000, 26001]),
        ({"min_side": 6}, [26000, 26001, 24000]),
        ({"truncated": False}, [26001, 25000]),
        ({"classes": "person,rider"}, [25000, 24000]),
    ],
)
def test_filters(values, expected):
    ids = painted(
        (26000, 0, 0, 20, 20), (26001, 30, 1, 50, 16), (25000, 60, 1, 80, 6), (24000, 90, 40, 100, 48)
    )
    assert ids_of(candidates_of(ids, options(**values))) == expected


def test_largest_and_largest_per_class():
    ids = painted(
        (26000, 1, 1, 21, 21), (26001, 30, 1, 48, 19), (26002, 50, 1, 66, 17), (24000, 70, 1, 75, 6)
    )
    found = candidates_of(ids, options())
    assert ids_of(choose(found, options(k=2))) == [26000, 26001]
    assert ids_of(choose(found, options(k=9))) == [24000, 26000, 26001, 26002]
    assert ids_of(choose(found, options(policy="largest_per_class", k=1))) == [24000, 26000]


def test_class_balanced_evens_the_classes_out():
    found = {f"ash/000000/{n:06d}": [26000, 26001, 26002, 26003, 24000, 24001] for n in range(20)}
    found["ash/000000/000003"] = [26000, 31000]  # the only train
    wanted = options(policy="class_balanced", k=2, seed=5)
    chosen = balanced(found, wanted)
    labels = [value // 1000 for values in chosen.values() for value in values]
    assert len(labels) == 40 and labels.count(31) == 1
    assert {labels.count(24), labels.count(26)} == {19, 20}
    assert all(set(values) <= set(found[key]) for key, values in chosen.items())
    assert balanced(found, wanted) == chosen
    assert balanced(found, dataclasses.replace(wanted, seed=6)) != chosen
    everything = balanced(found, dataclasses.replace(wanted, k=100))
    assert everything == {key: sorted(values) for key, values in found.items()}


# ---- frames -------------------------------------------------------------------------------------


def test_frames_are_listed_with_legal_names_of_their_own(tmp_path):
    write_mini(tmp_path)
    sources = source_frames(tmp_path, "train")
    assert [one.frame.name for one in sources] == sorted(TRAIN)
    names = {one.synthetic_frame(number).name for one in sources for number in range(2)}
    assert names == {
        f"{city}_{sequence:06d}_{frame:06d}"
        for city in ("ashsyn", "elmparksyn")
        for sequence in range(2)
        for frame in range(2)
    }
    assert [one.frame.key for one in in_scope(sources, "elm-park/1", None)] == ["elm-park/000001/000019"]
    assert len(in_scope(sources, "ash", 1)) == 1
    for only in ("elm", "ash/000007", "1"):
        with pytest.raises(InputError, match="no such frames"):
            in_scope(sources, only, None)
    (tmp_path / "gtFine" / "train" / "ash").rename(tmp_path / "gtFine" / "train" / "elm")
    with pytest.raises(InputError, match="not named CITY"):
        source_frames(tmp_path, "train")


def test_synthetic_frames_as_input_are_refused(tmp_path):
    write_mini(tmp_path)
    folder = tmp_path / "gtFine" / "train"
    (folder / "ashsyn").mkdir()
    for path in (folder / "ash").iterdir():
        (folder / "ashsyn" / path.name.replace("ash_", "ashsyn_")).write_bytes(path.read_bytes())
    with pytest.raises(InputError, match="synthetic frames of ash would have this name"):
        source_frames(tmp_path, "train")


# ---- crops --------------------------------------------------------------------------------------

BOXES = [
    (40, 20, 60, 30),
    (0, 0, 20, 10),  # each corner
    (80, 0, 100, 10),
    (0, 40, 20, 50),
    (80, 40, 100, 50),
    (40, 0, 50, 20),  # each border
    (40, 30, 50, 50),
    (0, 20, 10, 30),
    (90, 20, 100, 30),
    (40, 0, 50, 50),  # as high as the frame
    (20, 10, 90, 30),  # wider than the frame is high
    (0, 0, 100, 50),
    (50, 25, 51, 26),
]


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("margin", [0, 0.25, 2])
def test_crop_and_paste_of_an_unchanged_crop_is_lossless(box, margin):
    frame = np.random.default_rng(3).integers(0, 256, (50, 100, 3), np.uint8)
    crop = context_crop(box, (100, 50), margin)
    patch = crop.cut(frame)
    side = patch.shape[0]
    assert patch.shape == (side, side, 3) and crop.size == (side, side)
    assert side >= max(box[2] - box[0], box[3] - box[1])
    x0, y0, x1, y1 = crop.box
    assert 0 <= x0 <= box[0] and box[2] <= x1 <= 100
    assert 0 <= y0 <= box[1] and box[3] <= y1 <= 50
    assert np.array_equal(crop.back(patch), frame[y0:y1, x0:x1])
    mask = np.ones((y1 - y0, x1 - x0), bool)
    assert np.array_equal(paste(frame, crop.back(patch), mask, crop.box, 0), frame)
    new = 255 - patch
    pasted = paste(frame, crop.back(new), mask, crop.box, 0)
    assert np.array_equal(pasted[y0:y1, x0:x1], 255 - frame[y0:y1, x0:x1])
    pasted[y0:y1, x0:x1] = frame[y0:y1, x0:x1]
    assert np.array_equal(pasted, frame)


def test_crop_has_its_margin_and_is_padded_only_where_the_frame_is_too_small():
    assert context_crop((40, 20, 60, 30), (100, 50)) == Crop(35, 10, 30, 30)
    assert context_crop((80, 40, 100, 50), (100, 50)) == Crop(70, 20, 30, 30)  # shifted inside
    assert context_crop((30, 5, 75, 45), (100, 50)).size == (50, 50)  # less margin, no padding
    # a tiny object gets context
    assert context_crop((40, 20, 42, 23), (100, 50), min_side=24).size == (24, 24)
    assert context_crop((40, 20, 42, 23), (100, 50), min_side=128) == Crop(16, 0, 50, 50)  # less room
    wide = context_crop((20, 10, 90, 30), (100, 50))
    assert wide == Crop(20, 0, 70, 50, (0, 10, 0, 10))
    mask = np.ones((50, 100), bool)
    assert wide.cut(mask).all()
    assert np.count_nonzero(wide.cut(mask, mirror=False)) == 70 * 50
    with pytest.raises(ValueError, match="does not fit"):
        wide.back(np.zeros((50, 70, 3), np.uint8))


# ---- options ------------------------------------------------------------------------------------


def test_flags_win_over_yaml_and_yaml_over_defaults(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("select: {k: 7, margin: 1}\nbackend: {name: recolor, strength: 2}\n")
    given = options_of({"config": str(path), "k": 2})
    assert (given.k, given.margin, given.samples) == (2, 1.0, 2)
    assert (given.backend, given.backend_settings) == ("recolor", {"strength": 2})
    path.write_text(as_yaml(given))
    assert options_of({"config": str(path)}) == given
    assert from_saved(json.loads(json.dumps(dataclasses.asdict(given))), "synth.json") == given


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("selection: {k: 1}", "unknown section 'selection'"),
        ("select: {kk: 1}", "unknown setting 'kk'"),
        ("select: {k: three}", "k must be of type int"),
        ("select: [k]", "must hold 'name: value'"),
        ("select: {policy: best}", "policy 'best' is unknown: choose largest,"),
        ("select: {classes: house}", "'house' has no instances"),
        ("select: {margin: -1}", "margin must be at least 0"),
        ("data: {scene_size: big}", "WIDTHxHEIGHT"),
        ("[1]", "must hold sections"),
        ("a: [", "can't be read as YAML"),
    ],
)
def test_a_bad_yaml_is_named_in_one_line(tmp_path, text, complaint):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=complaint) as error:
        options_of({"config": str(path)})
    assert "\n" not in str(error.value)


def test_print_config_explains_every_option():
    printed = run_ok(run.main, "--print_config", "--k", 5)
    content = yaml.safe_load(printed)
    assert content["select"]["k"] == 5
    names = {item.name for item in dataclasses.fields(SynthOptions)} - {"backend", "backend_settings"}
    assert {name for section in content.values() for name in section} == names | {"name"}
    assert printed.count("  # ") >= len(names)


# ---- seeds --------------------------------------------------------------------------------------


def test_seeds_follow_from_run_stage_key_and_sample():
    assert seed_of(0, "generate", "ash/000000/000019/26000", 1) == 16302530138248086650
    seeds = {
        seed_of(*one) for one in [(0, "a", "k", 0), (1, "a", "k", 0), (0, "b", "k", 0), (0, "a", "k", 1)]
    }
    assert len(seeds) == 4 and all(0 <= seed < 2**64 for seed in seeds)
