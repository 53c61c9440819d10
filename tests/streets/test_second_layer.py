"""Leaving instances out of the built-in scenes: exactness, pairs, the files of a tree."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import streets.scenes
from data.erasures import erase_exactly
from data.frame import list_frames
from data.labels import TARGET_CLASSES
from data.writer import instance_values, topmost
from scripts import make_streets
from streets.layout import Population
from streets.scenery import Thing
from streets.scenes import SETTINGS_FILE, StreetScene, make_scene, to_pixels, write_streets
from streets.second_layer import two_topmost
from tests.equality import tree_in
from tests.programs import refused, run_ok

WIDTH, HEIGHT = 320, 160


class Street:
    """A scene of the generator, and the same without chosen things of its street: no erasure is involved.

    The street is populated once, to save time; what follows in the generator's random numbers stays the same.
    """

    def __init__(self, key: tuple, monkeypatch):
        self.key, self.populate = key, streets.scenes.populate
        monkeypatch.setattr(streets.scenes, "populate", self.once_populated)
        monkeypatch.setattr(streets.scenes, "_paint", lambda *_: np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        self.town, self.left_out = None, []
        self.scene = make_scene(*key, WIDTH, HEIGHT, erased=True)

    def once_populated(self, rng: np.random.Generator, *arguments, **flags) -> Population:
        if self.town is None:
            self.town, self.state = self.populate(rng, *arguments, **flags), rng.bit_generator.state
        rng.bit_generator.state = self.state
        things = [thing for thing in self.town.things if not any(thing is one for one in self.left_out)]
        return dataclasses.replace(self.town, things=things)

    def things_of(self, removed: tuple[int, ...]) -> list[Thing]:
        """What these instances are, and whoever is a pair with them."""
        polygons = [
            (one.label, one.polygon.tobytes())
            for value, one in zip(instance_values(self.scene.objects), self.scene.objects, strict=True)
            if value in removed
        ]
        found = []
        for thing in self.town.things:
            polygon = to_pixels(thing.shape.outline, WIDTH, HEIGHT)
            if polygon is not None and (thing.label, polygon.tobytes()) in polygons:
                found.append(thing)
        assert len(found) == len(removed)
        pairs = {thing.pair for thing in found} - {0}
        return found + [thing for thing in self.town.things if thing.pair in pairs]

    def without(self, removed: tuple[int, ...]) -> StreetScene:
        self.left_out = self.things_of(removed)
        return make_scene(*self.key, WIDTH, HEIGHT)


def same_but_for_numbers(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two instance maps (H,W) show the same things, whatever numbers they have within a class."""
    pairs = np.unique(np.stack([first, second]).reshape(2, -1), axis=1).astype(int)
    alike = (pairs[0] // 1000 == pairs[1] // 1000).all() and (pairs[0] == pairs[1])[pairs[0] < 1000].all()
    return bool(alike) and all(len(np.unique(ids)) == pairs.shape[1] for ids in pairs)


@pytest.mark.parametrize("key", [(0, "train", 3), (0, "train", 8), (1, "val", 0), (5, "val", 2)])
def test_the_maps_are_those_of_a_scene_made_without_the_instance(key, monkeypatch):
    street = Street(key, monkeypatch)
    scene = street.scene
    values = instance_values(scene.objects)
    for erasure in scene.erasures:
        labels, ids = erase_exactly(scene.label_ids, scene.instance_ids, erasure)
        without = street.without(erasure.removed)
        assert np.array_equal(labels, without.label_ids)
        assert same_but_for_numbers(ids, without.instance_ids)
        changed = ids != scene.instance_ids
        assert np.isin(scene.instance_ids[changed], erasure.removed).all() and changed.any()
        for number in erasure.revealed - set(values.tolist()):
            assert number % 1000 >= np.count_nonzero(values // 1000 == number // 1000)
    removed = [one for erasure in scene.erasures for one in erasure.removed]
    assert sorted(removed) == np.unique(scene.instance_ids[scene.instance_ids >= 1000]).tolist()


def test_something_appears_from_behind_and_pairs_go_together():
    appeared, pairs, conflicts = 0, 0, 0
    for index in range(12):
        scene = make_scene(0, "train", index, WIDTH, HEIGHT, erased=True)
        present = set(np.unique(scene.instance_ids).tolist())
        appeared += sum(len(erasure.revealed - present) for erasure in scene.erasures)
        conflicts += sum(not one.fits(other) for one in scene.erasures for other in scene.erasures)
        for erasure in scene.erasures:
            classes = {one // 1000 for one in erasure.removed}
            pairs += len(erasure.removed) > 1
            assert len(erasure.removed) == 1 or (25 in classes and classes & {32, 33})
            assert classes <= {target.label_id for target in TARGET_CLASSES.values()}
    assert appeared and pairs and conflicts


def test_erasing_several_that_fit_is_a_scene_made_without_them(monkeypatch):
    street = Street((0, "train", 8), monkeypatch)
    chosen = []
    for erasure in street.scene.erasures:
        if all(erasure.fits(other) for other in chosen):
            chosen.append(erasure)
    assert len(street.scene.erasures) > len(chosen) > 3
    maps = street.scene.label_ids, street.scene.instance_ids
    for erasure in chosen:
        maps = erase_exactly(*maps, erasure)
    without = street.without(tuple(one for erasure in chosen for one in erasure.removed))
    assert np.array_equal(maps[0], without.label_ids)
    assert same_but_for_numbers(maps[1], without.instance_ids)


def test_the_first_layer_is_topmost():
    scene = make_scene(2, "train", 1, WIDTH, HEIGHT)
    top, beneath = two_topmost(scene.objects, [0] * len(scene.objects), WIDTH, HEIGHT)
    assert np.array_equal(top, topmost(scene.objects, WIDTH, HEIGHT))
    assert (beneath[np.array([one.is_instance for one in scene.objects])[top]] >= 0).all()


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("streets") / "tree"
    write_streets(out, 3, 2, (256, 128), 7, erased=True)
    return out


@pytest.mark.slow
def test_a_tree_holds_a_file_a_frame_and_the_same_other_files(tree, tmp_path):
    write_streets(tmp_path / "plain", 3, 2, (256, 128), 7)
    write_streets(tmp_path / "two", 3, 2, (256, 128), 7, workers=2, erased=True)
    files, plain = (tree_in(root, SETTINGS_FILE) for root in (tree, tmp_path / "plain"))
    assert tree_in(tmp_path / "two", SETTINGS_FILE) == files
    more = {name: files[name] for name in files.keys() - plain}
    assert {name: files[name] for name in plain} == plain
    assert len(more) == 5 and all(name.startswith("erased/") for name in more)
    for split in ("train", "val"):
        for frame in list_frames(tree, split):
            erasures = frame.read_erasures()
            labels, ids = frame.read_maps()
            assert set(erasures) == set(np.unique(ids[ids >= 1000]).tolist())
            for one, erasure in erasures.items():
                new_labels, new_ids = erase_exactly(labels, ids, erasure)
                assert not (new_ids == one).any()
                assert np.array_equal(new_labels, np.where(new_ids < 1000, new_ids, new_ids // 1000))
    assert list_frames(tmp_path / "plain", "val")[0].read_erasures() == {}


def test_the_program_knows_a_tree_with_erasures_from_one_without(tmp_path):
    out = tmp_path / "tree"
    arguments = ("--out", out, "--train", 1, "--val", 1, "--size", "128x64", "--num_workers", 1)
    run_ok(make_streets.main, *arguments, "--erased")
    assert len(list(out.glob("erased/*/*/*_erased.npz"))) == 2
    assert "nothing to do" in run_ok(make_streets.main, *arguments, "--erased")
    refused(make_streets.main, *arguments)
    run_ok(make_streets.main, *arguments, "--overwrite")
    assert not list(out.glob("erased/*/*/*"))
