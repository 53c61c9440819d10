"""Scenes of any Cityscapes tree for a measurement: which are drawn, what is written."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benefit.scenes import TreeScenes
from data.frame import Frame, list_frames
from data.instances import resize_nearest
from streets.scenes import write_streets
from support.errors import InputError

SIZE = (256, 128)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """Six scenes to learn from, of two cities, and three to be measured on."""
    root = tmp_path_factory.mktemp("tree")
    write_streets(root, 6, 3, SIZE, seed=1)
    for frame in list_frames(root, "train")[:2]:
        for kind in ("gtFine", "leftImg8bit", "camera"):
            for path in sorted((root / kind / "train" / frame.city).glob(f"{frame.name}_*")):
                new = root / kind / "train/faraway" / path.name.replace(frame.city, "faraway", 1)
                new.parent.mkdir(parents=True, exist_ok=True)
                path.rename(new)
    return root


def names(root: Path, split: str) -> set[str]:
    return {frame.name for frame in list_frames(root, split)}


def contents(frame: Frame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels, ids = frame.read_maps()
    return labels, ids, frame.read_image(labels.shape)


def test_fewer_scenes_of_a_seed_are_the_first_of_more_and_sets_do_not_overlap(tree, tmp_path):
    scenes = TreeScenes(str(tree), "", ("faraway",), "auto", SIZE)
    scenes.check(4, 3, final=False)
    with pytest.raises(InputError, match="--n 5: there are 4 scenes"):
        scenes.check(5, 3, final=False)
    for folder, n, seed in (("few", 2, 0), ("more", 4, 0), ("other", 2, 1)):
        found = scenes.training(tmp_path / folder, n, seed)
        assert found["scenes"] == n and found["instances"]["car"] > 0
    few, more, other = (names(tmp_path / folder / "tree", "train") for folder in ("few", "more", "other"))
    assert few < more and len(more) == 4 and few != other
    scenes.held_out(tmp_path / "held", 3)
    scenes.final(tmp_path / "final", 2)
    held, final = (names(tmp_path / folder / "tree", "val") for folder in ("held", "final"))
    assert len(held) == 3 and {name.split("_")[0] for name in final} == {"faraway"}
    assert more.isdisjoint(held) and more.isdisjoint(final)


def test_scenes_of_the_wanted_size_are_copied_and_others_reduced(tree, tmp_path):
    own, half = TreeScenes(str(tree), "", (), "auto", SIZE), TreeScenes(str(tree), "", (), "auto", (128, 64))
    own.held_out(tmp_path / "own", 1)
    half.held_out(tmp_path / "half", 1)
    (copied,), (reduced,) = (list_frames(tmp_path / name / "tree", "val") for name in ("own", "half"))
    source = replace(copied, root=tree)
    assert all(map(np.array_equal, contents(copied), contents(source)))
    assert copied.read_polygons((128, 256)) is not None and reduced.read_polygons((64, 128)) is None
    labels, ids, rgb = contents(reduced)
    assert np.array_equal(labels, resize_nearest(source.read_maps()[0], 128, 64))
    assert np.array_equal(ids, resize_nearest(source.read_maps()[1], 128, 64))
    averaged = source.read_image().reshape(64, 2, 128, 2, 3).mean((1, 3))
    assert np.abs(rgb - averaged).max() <= 1
    camera, smaller = source.read_camera(), reduced.read_camera()
    assert smaller.horizon == pytest.approx(camera.horizon / 2) and smaller.fx == pytest.approx(camera.fx / 2)


def test_an_image_of_another_size_than_its_maps_is_refused(tree, tmp_path):
    scenes = TreeScenes(str(tree), "", (), "auto", SIZE)
    frame = list_frames(tree, "val")[0]
    other = tmp_path / "small"
    TreeScenes(str(tree), "", (), "auto", (128, 64)).held_out(other, 3)
    small = (other / "tree" / f"leftImg8bit/val/{frame.city}/{frame.name}_leftImg8bit.png").read_bytes()
    original = frame.image_path.read_bytes()
    frame.image_path.write_bytes(small)
    try:
        with pytest.raises(InputError, match="128x64"):
            scenes.held_out(tmp_path / "held", 3)
    finally:
        frame.image_path.write_bytes(original)
