"""Choosing frames and instances."""

import dataclasses

import numpy as np
import pytest

from augment.options import SynthOptions
from augment.repaint.select import balanced, candidates_of, choose, in_scope, source_frames
from data.writer import rasterise
from support.errors import InputError
from tests.mini_frames import CARAVAN_ID, HOLED_ID, MOTORCYCLE_ID, TINY_ID, TRAIN, mini_objects, write_mini


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
    for only in ("elm-park/1", "/elm-park/1/"):
        assert [one.frame.key for one in in_scope(sources, only, None)] == ["elm-park/000001/000019"]
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
