import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from data.frame import Frame, list_frames
from data.instances import PLACE_GRID, compact_mask, resize_nearest, theta_of_box
from data.labels import CHANNEL_OF_ID
from loader import cache
from loader.cache import CLASS_NAMES, INDEX_NAME, entry_path, prepare
from options import PRESETS, Options
from streets.scenes import write_streets
from support.errors import InputError
from tests.miniature import frame_paths, miniature_maps, write_miniature, write_png


@pytest.fixture
def options(tmp_path):
    write_miniature(tmp_path / "city", count=4)
    return Options(
        **{**PRESETS["tiny"], "db_root": str(tmp_path / "city"), "cache_dir": str(tmp_path / "cache")}
    )


def ready(options, split="train"):
    return prepare(options, split, progress=False)


@pytest.fixture
def decoded(monkeypatch):
    """Names of the frames decoded since the test began."""
    names = []

    original = Frame.read_maps

    def spy(frame):
        names.append(frame.name[-13:-7])
        return original(frame)

    monkeypatch.setattr(Frame, "read_maps", spy)
    return names


def assert_same_maps(found, wanted):
    for name, array in wanted.arrays().items():
        np.testing.assert_array_equal(found.arrays()[name], array)
        assert found.arrays()[name].dtype == array.dtype


def change_frame(options, index):
    """Give frame `index` another street; its label map keeps its size in pixels, not its date."""
    labels, ids = miniature_maps(256, 128, np.random.default_rng([9, index]))
    for path, array in zip(frame_paths(Path(options.db_root), index), (labels, ids), strict=True):
        write_png(path, array)
        os.utime(path, ns=(1, 10**9 * index + 5))


# ---- what an entry holds ------------------------------------------------------------------------


def test_entries_hold_the_resized_maps_and_instances(options):
    maps = ready(options)
    frames = list_frames(options.db_root, "train")
    assert maps.frames == tuple(frames) and len(maps) == 4
    for index, frame in enumerate(frames):
        labels, ids = frame.read_maps()
        entry = maps.load(index)
        np.testing.assert_array_equal(entry.labels_small, resize_nearest(CHANNEL_OF_ID[labels], 64, 32))
        np.testing.assert_array_equal(entry.labels_big, resize_nearest(CHANNEL_OF_ID[labels], 128, 64))
        np.testing.assert_array_equal(entry.ids_small, resize_nearest(ids, 64, 32))
        np.testing.assert_array_equal(entry.ids_big, resize_nearest(ids, 128, 64))
        assert (entry.labels_big.dtype, entry.ids_big.dtype) == (np.uint8, np.uint16)
        for target, instance_id in (("person", 24000), ("car", 26000)):
            (one,) = maps.instances(index, target)
            assert one.instance_id == instance_id
            assert one.area == (entry.ids_big == instance_id).sum()
            np.testing.assert_array_equal(one.theta, theta_of_box(one.box, 128, 64))
            np.testing.assert_array_equal(
                entry.compact_of(instance_id), compact_mask(ids, instance_id, 32, 32)
            )
        assert not maps.instances(index, "bus")
        with pytest.raises(KeyError):
            entry.compact_of(7)


def test_groups_are_filtered_on_use_not_in_the_cache(options, decoded):
    label_path, instance_path = frame_paths(Path(options.db_root), 0)
    labels, ids = miniature_maps(256, 128, np.random.default_rng(0))
    ids[ids == 26000] = 26
    write_png(label_path, labels)
    write_png(instance_path, ids)
    assert [one.instance_id for one in ready(options).instances(0, "car")] == [26]
    decoded.clear()
    assert not ready(replace(options, group_instances=False)).instances(0, "car")
    assert not decoded


def test_other_sizes_and_places_have_other_entries(options, tmp_path):
    folders = {ready(options).folder, ready(replace(options, compact_sizex=64)).folder}
    shutil.copytree(options.db_root, tmp_path / "copy")
    folders.add(ready(replace(options, db_root=str(tmp_path / "copy"))).folder)
    write_miniature(tmp_path / "city", split="val", count=1)
    folders.add(ready(options, "val").folder)
    assert len(folders) == 4
    assert ready(replace(options, target_class="car", random_seed=3, gf_dim=8)).folder in folders


def test_working_maps_can_be_pickled(options):
    maps = ready(options)
    assert_same_maps(pickle.loads(pickle.dumps(maps)).load(1), maps.load(1))


# ---- what is made again, and what is not --------------------------------------------------------


def test_a_second_start_decodes_nothing(options, decoded, monkeypatch):
    first = ready(options)
    assert len(decoded) == 4
    decoded.clear()
    second = ready(options)
    assert second == first and not decoded
    monkeypatch.setattr(cache, "_read_record", lambda path: pytest.fail("the index should be enough"))
    ready(options)


def test_a_changed_source_is_read_again(options, decoded):
    ready(options)
    decoded.clear()
    change_frame(options, 2)
    maps = ready(options)
    assert decoded == ["000002"]
    _, ids = maps.frames[2].read_maps()
    np.testing.assert_array_equal(maps.load(2).ids_big, resize_nearest(ids, 128, 64))


def test_added_and_removed_frames(options, decoded):
    ready(options)
    decoded.clear()
    write_miniature(Path(options.db_root), count=5)
    for path in frame_paths(Path(options.db_root), 0):
        path.unlink()
    maps = ready(options)
    assert [frame.name[-13:-7] for frame in maps.frames] == ["000001", "000002", "000003", "000004"]


def test_a_pass_may_begin_anywhere_and_skips_what_another_has_made(options, decoded):
    begun = prepare(options, "train", progress=False, begin=0.5)
    assert decoded == ["000002", "000003", "000000", "000001"]
    decoded.clear()
    (begun.folder / INDEX_NAME).unlink()
    assert ready(options) == begun and not decoded


def test_places_alone_have_entries_of_their_own_with_small_instances(tmp_path):
    write_streets(tmp_path / "tree", 3, 0, (256, 128), 5)
    sizes = PRESETS["tiny"] | {"db_root": str(tmp_path / "tree"), "cache_dir": str(tmp_path / "cache")}
    joint = Options(**sizes, where="distribution")
    alone = replace(joint, what="none", target_class="all")
    found, places = ready(joint), ready(alone)
    assert found.folder != places.folder and ready(joint) == found and ready(alone) == places
    assert found.measured == (128, 64) and places.measured == PLACE_GRID
    smallest = 1.0
    for index in range(3):
        content = places.load(index)
        boxes = {one: content.box_of(one) for one in content.compact_ids.tolist()}
        for name in CLASS_NAMES:
            for one in places.instances(index, name):
                x0, y0, x1, y1 = one.box
                box = np.array([x0, y0, x1 + 1, y1 + 1]) / [4096, 2048, 4096, 2048]
                np.testing.assert_allclose(boxes.pop(one.instance_id), box, atol=1e-6)
                smallest = min(smallest, box[3] - box[1])
        assert not boxes
    assert 1 / 32 <= smallest < 1 / 20
    assert sum(len(places.instances(i, "person")) for i in range(3)) > sum(
        len(found.instances(i, "person")) for i in range(3)
    )


def test_an_interrupted_pass_goes_on(options, decoded, monkeypatch):
    make = cache._make_entry

    def stop_at_the_third(frame, *rest):
        if frame.name.endswith("000002_000019"):
            raise KeyboardInterrupt
        return make(frame, *rest)

    monkeypatch.setattr(cache, "_make_entry", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        ready(options)
    assert decoded == ["000000", "000001"]
    monkeypatch.setattr(cache, "_make_entry", make)
    assert len(ready(options)) == 4
    assert decoded == ["000000", "000001", "000002", "000003"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: '{"checksum": 0, "frames": {}}',
        lambda text: text.replace("24000", "24001"),
        lambda text: text.replace("stamp", "stomp"),
    ],
)
def test_a_damaged_index_is_made_again_without_decoding(options, decoded, capsys, damage):
    first = ready(options)
    index = first.folder / INDEX_NAME
    good = index.read_text()
    decoded.clear()
    index.write_text(damage(good))
    assert ready(options) == first and not decoded
    assert index.read_text() == good
    assert "damaged" in capsys.readouterr().err


def test_a_missing_index_is_no_damage(options, decoded, capsys):
    first = ready(options)
    decoded.clear()
    (first.folder / INDEX_NAME).unlink()
    assert ready(options) == first and not decoded
    assert not capsys.readouterr().err


@pytest.mark.slow
def test_damage_anywhere_in_an_entry_is_noticed_and_mended(options, capsys):
    maps = ready(options)
    wanted, path = maps.load(1), entry_path(maps.folder, maps.frames[1])
    good = path.read_bytes()
    mended = 0
    for position in range(0, len(good), 7):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x55]) + good[position + 1 :])
        assert_same_maps(maps.load(1), wanted)
        mended += len(capsys.readouterr().err.splitlines())
    assert mended > len(good) // 7 / 2  # the others hit a date or another field that nobody reads
    for length in (0, 10, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:length])
        assert_same_maps(maps.load(1), wanted)
        message = capsys.readouterr().err
        assert path.name in message and message.count("\n") == 1
        assert path.stat().st_size > len(good) // 2
    path.unlink()
    assert_same_maps(maps.load(1), wanted)


def test_a_missing_or_damaged_entry_is_made_again_at_the_start(options, decoded):
    maps = ready(options)
    decoded.clear()
    entry_path(maps.folder, maps.frames[3]).unlink()
    assert ready(options) == maps and decoded == ["000003"]
    (maps.folder / INDEX_NAME).unlink()
    entry_path(maps.folder, maps.frames[0]).write_bytes(b"half")
    assert ready(options) == maps and decoded == ["000003", "000000"]


def test_an_entry_of_another_source_is_not_used(options, capsys):
    maps = ready(options)
    shutil.copy(entry_path(maps.folder, maps.frames[0]), entry_path(maps.folder, maps.frames[1]))
    _, ids = maps.frames[1].read_maps()
    os.utime(maps.frames[0].label_path, ns=(1, 1))
    np.testing.assert_array_equal(maps.load(1).ids_big, resize_nearest(ids, 128, 64))
    assert "other source files" in capsys.readouterr().err


def test_a_source_that_changes_under_a_run_stops_it(options):
    maps = ready(options)
    change_frame(options, 1)
    entry_path(maps.folder, maps.frames[1]).unlink()
    with pytest.raises(InputError, match=r"000001_000019_gtFine_labelIds\.png: has changed.*start again"):
        maps.load(1)


# ---- bad files ----------------------------------------------------------------------------------


def test_all_bad_files_are_named_at_once(options, capsys):
    paths = [frame_paths(Path(options.db_root), index) for index in range(4)]
    paths[0][0].write_bytes(paths[0][0].read_bytes()[:-20])
    write_png(paths[2][1], np.zeros((64, 64), np.uint16))
    with pytest.raises(InputError) as caught:
        ready(options)
    message = str(caught.value)
    assert "\n" not in message and "2 of 4" in message and "--skip_bad_files" in message
    assert f"{paths[0][0]}: truncated" in message and f"{paths[2][0]}: has 256x128 pixels" in message

    maps = ready(replace(options, skip_bad_files=True))
    assert [frame.name[-13:-7] for frame in maps.frames] == ["000001", "000003"]
    assert maps.instances(1, "person") and maps.load(1).labels_big.shape == (64, 128)
    warning = capsys.readouterr().err
    assert "2 of 4" in warning and warning.count("\n") == 1


def test_good_entries_are_kept_when_others_are_bad(options, decoded):
    label_path, _ = frame_paths(Path(options.db_root), 1)
    good = label_path.read_bytes()
    label_path.write_bytes(b"")
    with pytest.raises(InputError):
        ready(options)
    decoded.clear()
    label_path.write_bytes(good)
    assert len(ready(options)) == 4 and decoded == ["000001"]


def test_long_lists_of_bad_files_are_cut(options):
    write_miniature(Path(options.db_root), count=25, width=64, height=32)
    for index in range(25):
        frame_paths(Path(options.db_root), index)[0].write_bytes(b"")
    with pytest.raises(InputError, match=r"25 of 25 .*; and 5 more"):
        ready(options)
    with pytest.raises(InputError, match="No frame is left; set --db_root"):
        ready(replace(options, skip_bad_files=True))


def test_a_folder_that_cannot_be_written_is_named(options, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/cache/train-.*can't be written.*--cache_dir"):
        ready(replace(options, cache_dir=str(tmp_path / "file" / "cache")))


# ---- several processes --------------------------------------------------------------------------


@pytest.fixture
def two_processes(monkeypatch):
    """Two processes fill the cache, however few frames there are."""
    monkeypatch.setattr(cache, "cores", lambda: 2)
    monkeypatch.setattr(cache, "FRAMES_WORTH_A_PROCESS", 1)


def test_a_pool_of_processes_makes_the_same_entries(options, two_processes, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("support.progress.SECONDS", 0)
    frame_paths(Path(options.db_root), 3)[0].write_bytes(b"")
    alone = replace(options, skip_bad_files=True)
    pool = replace(alone, num_workers=2, cache_dir=str(tmp_path / "other"))
    first, second = prepare(alone, "train", progress=False), prepare(pool, "train", progress=True)
    assert first.records == second.records and len(first) == 3
    assert "4 of 4 frames" in capsys.readouterr().err
    for index in range(3):
        assert_same_maps(first.load(index), second.load(index))
    with pytest.raises(InputError, match="can't be written"):
        ready(replace(pool, cache_dir=str(Path(options.db_root) / "gtFine/train/littleton/x" / ("y" * 300))))


def _die(*_, **__):
    os._exit(9)


def test_a_killed_process_is_reported_in_one_line(options, two_processes, monkeypatch):
    monkeypatch.setattr(cache, "_scan", _die)
    with pytest.raises(InputError, match=r"was killed.*--num_workers 0"):
        ready(replace(options, num_workers=1))


BUILD = """
import json, sys
from loader.cache import prepare
from options import Options
maps = prepare(Options(**json.loads(sys.argv[1])), "train", progress=False)
assert all(maps.load(index).labels_big.shape == (64, 128) for index in range(len(maps)))
print(len(maps))
"""


@pytest.mark.slow
def test_two_runs_may_build_at_once(options):
    write_miniature(Path(options.db_root), count=40)
    command = [sys.executable, "-c", BUILD, json.dumps(asdict(options))]
    root = Path(__file__).parents[2]
    runs = [subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in "ab"]
    for run in runs:
        output, errors = run.communicate(timeout=60)
        assert (output.strip(), errors) == (b"40", b"")
    maps = ready(options)
    assert sorted(path.name for path in maps.folder.iterdir()) == sorted(
        [INDEX_NAME, *(f"{frame.name}.npz" for frame in maps.frames)]
    )
