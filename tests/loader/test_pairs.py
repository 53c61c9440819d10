import itertools
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.instances import bounding_box, theta_of_box
from data.labels import TARGET_CLASSES
from loader import cache
from loader.cache import entry_path, prepare
from loader.pairs import Batch, SceneMaps, TrainingPairs, first_scenes, training_loader
from options import PRESETS, Options
from support.errors import InputError
from tests.miniature import frame_paths, write_miniature


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    write_miniature(root / "city", count=7, empty=2)
    return Options(**{**PRESETS["tiny"], "db_root": str(root / "city"), "cache_dir": str(root / "cache")})


@pytest.fixture(scope="module")
def maps(options):
    return prepare(options, "train", progress=False)


@pytest.fixture(scope="module")
def pairs(maps, options):
    return TrainingPairs(maps, options)


def tensors(item) -> list[torch.Tensor]:
    """All tensors of a Batch, in order."""
    scenes = [*vars(item.real).values(), *vars(item.cond).values()]
    return [*scenes, item.compact, item.theta]


def assert_same(found, wanted):
    for one, other in zip(tensors(found), tensors(wanted), strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def which_frame(maps, scene) -> tuple[int, bool]:
    """Index of the frame a scene of one shows, and whether it is mirrored."""
    big = scene.ids_big[0].numpy()
    for index in range(len(maps)):
        original = maps.load(index).ids_big
        if np.array_equal(original, big):
            return index, False
        if np.array_equal(original[:, ::-1], big):
            return index, True
    raise AssertionError("a frame of no file")


def test_shapes_and_types(pairs):
    item = pairs[0]
    found = {name: (t.dtype, tuple(t.shape)) for name, t in vars(item.real).items()}
    assert found == {
        "labels_small": (torch.uint8, (1, 32, 64)),
        "ids_small": (torch.int32, (1, 32, 64)),
        "labels_big": (torch.uint8, (1, 64, 128)),
        "ids_big": (torch.int32, (1, 64, 128)),
    }
    assert (item.compact.dtype, tuple(item.compact.shape)) == (torch.float32, (1, 1, 32, 32))
    assert item.compact.min() >= 0 and item.compact.max() == 1
    assert (item.theta.dtype, tuple(item.theta.shape)) == (torch.float32, (1, 6))
    assert all(t.is_contiguous() for t in tensors(item))


def test_counts(pairs, maps):
    assert (pairs.usable_count, pairs.instance_counts, len(maps)) == (5, {"person": 5}, 7)


@pytest.mark.parametrize("target_class", ["person", "car"])
def test_everything_is_flipped_together(maps, options, target_class):
    pairs = TrainingPairs(maps, replace(options, target_class=target_class))
    target = TARGET_CLASSES[target_class]
    flips = set()
    for position in range(24):
        item = pairs[position]
        index, flipped = which_frame(maps, item.real)
        flips.add((flipped, which_frame(maps, item.cond)[1]))
        for labels, ids in (
            (item.real.labels_small[0], item.real.ids_small[0]),
            (item.real.labels_big[0], item.real.ids_big[0]),
        ):
            assert ((labels == target.channel) == (ids == target.label_id * 1000)).all()
        small = maps.load(index).ids_small
        np.testing.assert_array_equal(item.real.ids_small[0], small[:, ::-1] if flipped else small)
        mask = item.real.ids_big[0].numpy() == target.label_id * 1000
        np.testing.assert_allclose(
            item.theta[0], theta_of_box(bounding_box(mask), 128, 64), rtol=1e-5, atol=1e-5
        )
        compact = maps.load(index).compact_of(target.label_id * 1000)
        np.testing.assert_array_equal(
            (item.compact[0, 0] * 255).round(), compact[:, ::-1] if flipped else compact
        )
    assert flips == set(itertools.product([False, True], repeat=2))


def test_each_epoch_walks_every_image_once(pairs, maps):
    shown = [which_frame(maps, pairs[p].real)[0] for p in range(15)]
    epochs = [shown[0:5], shown[5:10], shown[10:15]]
    assert [sorted(epoch) for epoch in epochs] == [[0, 1, 2, 3, 4]] * 3
    assert len({tuple(epoch) for epoch in epochs}) > 1
    cond = [which_frame(maps, pairs[p].cond)[0] for p in range(14)]
    assert sorted(cond[:7]) == sorted(cond[7:]) == list(range(7))
    assert cond[:7] != cond[7:] and cond[:5] != shown[:5]


def test_instances_are_drawn_evenly(options, maps):
    record = maps.records[0]
    two = [[0, 24000, *record.table[0][2:]], [0, 26000, *record.table[1][2:]]]  # two "persons"
    doubled = replace(maps, frames=maps.frames[:1], records=(replace(record, table=two),))
    pairs = TrainingPairs(doubled, options)
    assert pairs.instance_counts == {"person": 2}
    drawn = Counter(round(float(pairs[p].theta[0, 0]), 4) for p in range(60))
    assert len(drawn) == 2 and min(drawn.values()) > 15


def test_seed_and_position_decide(pairs, maps, options):
    assert_same(TrainingPairs(maps, options)[11], pairs[11])
    other = TrainingPairs(maps, replace(options, random_seed=5))
    assert any(not torch.equal(other[p].cond.ids_big, pairs[p].cond.ids_big) for p in range(5))


def test_any_number_of_workers_gives_the_same_samples(pairs):
    wanted = list(itertools.islice(training_loader(pairs, 2), 6))
    for workers in (1, 2):
        loader = training_loader(pairs, 2, num_workers=workers)
        for found, batch in zip(itertools.islice(loader, 6), wanted, strict=True):
            assert_same(found, batch)
    assert tuple(wanted[0].real.ids_big.shape) == (2, 64, 128)
    torch.testing.assert_close(wanted[2].theta, torch.cat([pairs[4].theta, pairs[5].theta]))


def test_starting_later_equals_skipping(pairs):
    skipped = itertools.islice(training_loader(pairs, 3), 4, 7)
    for found, wanted in zip(training_loader(pairs, 3, first_position=12), skipped, strict=False):
        assert_same(found, wanted)


def test_ranks_share_the_global_batch(pairs):
    whole = itertools.islice(training_loader(pairs, 4, first_position=3), 3)
    ranks = [training_loader(pairs, 2, first_position=3, rank=rank, world=2) for rank in (0, 1)]
    for wanted, low, high in zip(whole, *ranks, strict=False):
        for all_of_it, *parts in zip(tensors(wanted), tensors(low), tensors(high), strict=True):
            assert torch.equal(all_of_it, torch.cat(parts))


def test_loading_leaves_the_global_random_state_alone(pairs):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    next(iter(training_loader(pairs, 1)))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


def test_no_usable_instance_is_an_error(maps, options):
    with pytest.raises(InputError, match=r"none of 7 images .* bus \(area above 0\.5 %.*--target_class"):
        TrainingPairs(maps, replace(options, target_class="bus"))


def test_first_scenes_repeat_a_short_split(maps):
    scenes = first_scenes(maps, 9)
    assert isinstance(scenes, SceneMaps) and tuple(scenes.labels_big.shape) == (9, 64, 128)
    for column in range(9):
        np.testing.assert_array_equal(scenes.ids_big[column], maps.load(column % 7).ids_big)


def test_to_moves_everything(pairs):
    batch = pairs[0]
    moved = batch.to("cpu")
    assert isinstance(moved, Batch) and isinstance(moved.cond, SceneMaps)
    assert_same(moved, batch)
    assert all(tensor.is_meta for tensor in tensors(batch.to(torch.device("meta"), non_blocking=True)))
    assert_same(pickle.loads(pickle.dumps(batch)), batch)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a GPU")
def test_pinned_batches(pairs):
    batch = next(iter(training_loader(pairs, 2, pin_memory=True)))
    assert all(tensor.is_pinned() for tensor in tensors(batch))


def test_a_damaged_entry_is_mended_inside_a_loader_process(pairs, maps, capfd):
    wanted = list(itertools.islice(training_loader(pairs, 1), 5))
    for frame in maps.frames:
        entry_path(maps.folder, frame).write_bytes(b"half")
    for found, batch in zip(training_loader(pairs, 1, num_workers=1), wanted, strict=False):
        assert_same(found, batch)
    assert "making it again" in capfd.readouterr().err


def test_an_error_in_a_loader_process_stays_one_line(tmp_path, options):
    write_miniature(tmp_path / "city", count=1)
    own = replace(options, db_root=str(tmp_path / "city"), cache_dir=str(tmp_path / "cache"))
    maps = cache.prepare(own, "train", progress=False)
    label_path, _ = frame_paths(Path(own.db_root), 0)
    label_path.write_bytes(b"")
    entry_path(maps.folder, maps.frames[0]).unlink()
    pairs = TrainingPairs(maps, own)
    for workers in (0, 1):
        with pytest.raises(InputError) as caught:
            next(iter(training_loader(pairs, 1, num_workers=workers)))
        assert str(caught.value).startswith(f"{label_path}: truncated") and "\n" not in str(caught.value)
