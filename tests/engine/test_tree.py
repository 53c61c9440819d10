"""The engine on items without work: shards, going on, merging, what it costs."""

import json
import os
import random
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from engine.records import MANIFEST, WORK, Records, WorkItem
from engine.shards import Shard, shard_of_process
from engine.tree import opened
from support.errors import InputError
from support.files import at_work_in
from tests.engine.simulated import PROGRAM, STAGE, cost, make, run, work
from tests.equality import files_in

ARRAY = "SLURM_ARRAY_TASK_"


def make_items(root: Path, count: int = 9) -> list[WorkItem]:
    """Items with a source file each."""
    (root / "in").mkdir(exist_ok=True)
    paths = {f"item{number:03d}": root / "in" / f"{number}.txt" for number in range(count)}
    for path in paths.values():
        if not path.exists():
            path.write_text("source")
    return [WorkItem(key, {path.name: path}) for key, path in paths.items()]


# ---- shards -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        (None, {}, "1/1"),
        ("3/16", {}, "3/16"),
        (None, {"RANK": "1", "WORLD_SIZE": "4"}, "2/4"),
        (None, {f"{ARRAY}ID": "7", f"{ARRAY}COUNT": "4", f"{ARRAY}MIN": "5"}, "3/4"),
        (None, {f"{ARRAY}ID": "8", f"{ARRAY}COUNT": "3", f"{ARRAY}MIN": "4", f"{ARRAY}STEP": "2"}, "3/3"),
        ("1/2", {f"{ARRAY}ID": "7", f"{ARRAY}COUNT": "4", f"{ARRAY}MIN": "5"}, "1/2"),
        ("2/3", {"RANK": "1", "WORLD_SIZE": "2"}, "4/6"),  # torchrun on each of three machines
        (None, {f"{ARRAY}ID": "1", f"{ARRAY}COUNT": "2", "RANK": "0", "WORLD_SIZE": "2"}, "3/4"),
    ],
)
def test_the_shard_follows_from_flag_and_environment(given, environment, expected, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert str(shard_of_process(given and Shard.parse(given))) == expected


def test_an_array_with_gaps_is_refused(monkeypatch):
    for name, value in (("ID", "7"), ("COUNT", "3"), ("MIN", "1")):
        monkeypatch.setenv(ARRAY + name, value)
    with pytest.raises(InputError, match="numbers have gaps"):
        shard_of_process()


def test_shards_are_all_items_once():
    items = list(range(17))
    dealt = [Shard(number, 5).of(items) for number in range(1, 6)]
    assert sorted(item for one in dealt for item in one) == items and {len(one) for one in dealt} == {3, 4}


# ---- the same tree ------------------------------------------------------------------------------


def test_any_sharding_makes_the_same_tree(tmp_path):
    items = make_items(tmp_path)
    assert run(tmp_path / "one", items, files=True)
    merged = [run(tmp_path / "three", items, Shard(number, 3), files=True) for number in (2, 3, 1)]
    assert merged == [False, False, True]
    assert files_in(tmp_path / "three") == files_in(tmp_path / "one")
    assert set(files_in(tmp_path / "one")) == {
        MANIFEST,
        PROGRAM.summary,
        *(f"made/{one.key}" for one in items),
    }


def test_a_run_goes_on_with_other_shards(tmp_path):
    items = make_items(tmp_path)
    run(tmp_path / "one", items)
    assert not run(tmp_path / "out", items, Shard(1, 2))
    assert not run(tmp_path / "out", items, Shard(5, 16))  # what the first did isn't done again
    records = Records(tmp_path / "out", (STAGE,))
    assert sum(bool(records.get(item.key)) for item in items) == 5
    assert run(tmp_path / "out", items)
    assert files_in(tmp_path / "out") == files_in(tmp_path / "one")


def test_more_items_add_to_the_tree(tmp_path):
    items = make_items(tmp_path)
    run(tmp_path / "one", items, files=True)
    run(tmp_path / "out", items[3:5], files=True)
    changed = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "made").iterdir()}
    run(tmp_path / "out", items[:2], files=True)
    run(tmp_path / "out", items, files=True)
    assert files_in(tmp_path / "out") == files_in(tmp_path / "one")
    assert all(path.stat().st_mtime_ns == before for path, before in changed.items())


def test_of_two_that_end_at_the_same_time_one_merges(tmp_path, capsys):
    """Each sees the other at its place at first; the later one to leave it merges."""
    items = make_items(tmp_path)
    with (
        opened(PROGRAM, tmp_path / "out", {}, Shard(1, 2)) as first,
        opened(PROGRAM, tmp_path / "out", {}, Shard(2, 2)) as second,
        second.pool(partial(partial, make, files=False), 1) as pool,
    ):
        second.make(second.to_do(items), pool, "")
        assert not work(first, items)  # everything is made, but the second is still there
        assert "another shard is still there, which merges them" in capsys.readouterr().out
        assert work(second, items)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {MANIFEST, PROGRAM.summary}


def test_two_that_make_the_same_items_make_the_same_tree(tmp_path):
    items = make_items(tmp_path)
    run(tmp_path / "one", items, files=True)
    with (
        opened(PROGRAM, tmp_path / "out", {}, Shard(1, 2)) as first,
        opened(PROGRAM, tmp_path / "out", {}, Shard(1, 2)) as second,
    ):
        assert not work(first, items, files=True)
        assert not run(tmp_path / "out", items, Shard(2, 2), files=True)
        assert second.to_do(items) == Shard(1, 2).of(items)  # as it was when this one was opened
        assert work(second, items, files=True)
    assert files_in(tmp_path / "out") == files_in(tmp_path / "one")


def test_one_that_works_alone_and_shards_keep_each_other_away(tmp_path):
    items = make_items(tmp_path)
    settings = {"program": PROGRAM, "out": tmp_path / "out", "settings": {}}
    for there, others in ((Shard(1, 2), [Shard()]), (Shard(), [Shard(), Shard(1, 2)])):
        with opened(**settings, shard=there):
            for shard in others:
                with (
                    pytest.raises(InputError, match="another process is at work there"),
                    opened(**settings, shard=shard, overwrite=shard.count == 1),
                ):
                    pass
    assert not run(tmp_path / "out", items, Shard(2, 2))
    with (
        pytest.raises(InputError, match="other settings or data"),
        opened(PROGRAM, tmp_path / "out", {"seed": 1}, Shard(2, 2)),
    ):
        pass
    with (
        pytest.raises(InputError, match="for a single process"),
        opened(PROGRAM, tmp_path / "out", {}, Shard(2, 2), overwrite=True),
    ):
        pass  # fmt: skip


def test_merging_by_hand_says_whose_items_are_missing_or_does_what_a_lost_process_did_not(tmp_path, capsys):
    items, out = make_items(tmp_path), tmp_path / "out"
    run(tmp_path / "one", items, files=True)
    run(out, items, Shard(1, 3), files=True)
    capsys.readouterr()
    with opened(PROGRAM, out, {}, Shard()) as tree:
        assert not tree.merge(items)
    printed = capsys.readouterr().out
    assert "6 of 9 items are not finished, of shards 2/3, 3/3;" in printed and printed.count("\n") == 1
    with at_work_in(out, alone=False):  # still there, and then it is lost
        assert not run(out, items, Shard(2, 3), files=True) and not run(out, items, Shard(3, 3), files=True)
    with opened(PROGRAM, out, {}, Shard()) as tree:
        assert tree.merge(items)
        tree.write_summary({"state": "complete"})
    assert files_in(out) == files_in(tmp_path / "one")


# ---- going on -----------------------------------------------------------------------------------


def test_a_record_cut_short_does_not_count_and_a_damaged_line_is_named(tmp_path):
    items, out = make_items(tmp_path), tmp_path / "out"
    run(tmp_path / "one", items)
    run(out, items, Shard(1, 2))
    (path,) = (out / WORK).glob("*.jsonl")
    path.write_bytes(path.read_bytes()[:-30])
    records = Records(out, (STAGE,))
    assert sum(bool(records.get(item.key)) for item in items) == 4
    run(out, items[:1], Shard(2, 2))  # of the same process: its first record is lost with what was cut short
    run(out, items)
    assert files_in(out) == files_in(tmp_path / "one")
    with (out / MANIFEST).open("a") as file:
        file.write("rubbish\n")
    with pytest.raises(InputError, match=rf"{MANIFEST}, line 19: damaged; remove that line"):
        run(out, items)


def test_an_item_that_fails_is_tried_again_and_forgotten_with_a_smaller_scope(tmp_path):
    good, bad = make_items(tmp_path, 2)
    out, failing = tmp_path / "out", replace(bad, task=False)
    assert run(out, [good, failing], files=True)
    lines = Records(out, (STAGE,)).get(bad.key)
    assert [line["status"] for line in lines] == ["failed"] and lines[0]["reason"] == "can't be made"
    assert not (out / "made" / bad.key).exists()
    with opened(PROGRAM, out, {}, Shard()) as tree:
        assert tree.to_do([good, failing]) == [failing]
    run(out, [good, bad], files=True)
    run(out, [good, replace(failing, params="more")], files=True)  # what was made of it before is gone
    assert not (out / "made" / bad.key).exists()
    run(out, [replace(good, params="more")], files=True)
    run(tmp_path / "one", [replace(good, params="more")], files=True)
    assert files_in(out) == files_in(tmp_path / "one")


def test_changed_sources_and_lost_files_are_made_again_and_named(tmp_path, capsys):
    items, out = make_items(tmp_path), tmp_path / "out"
    run(out, items, files=True)
    before = files_in(out)
    os.utime(items[2].sources["2.txt"], ns=(1, 1))  # of the same size
    items[3].sources["3.txt"].write_text("another")
    items[4].sources["4.txt"].unlink()
    (out / "made" / items[5].key).unlink()
    with opened(PROGRAM, out, {}, Shard()) as tree:
        assert tree.to_do(items) == items[2:6]
        assert "is made again: 2.txt; 3.txt; 4.txt" in capsys.readouterr().err
        work(tree, items, files=True)
    after = files_in(out)
    assert before.keys() == after.keys()
    assert {name for name in after if before[name] != after[name]} == {MANIFEST}


def test_files_that_are_not_made_any_more_are_removed(tmp_path):
    (item,), out = make_items(tmp_path, 1), tmp_path / "out"
    run(out, [item], files=True)
    item.sources["0.txt"].unlink()
    run(out, [item])
    assert set(files_in(out)) == {MANIFEST, PROGRAM.summary}


def test_a_run_that_fails_before_anything_was_made_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="no weights"), opened(PROGRAM, tmp_path / "out", {}, Shard()):
        raise InputError("no weights")
    assert not list((tmp_path / "out").iterdir())
    run(tmp_path / "out", make_items(tmp_path))
    with pytest.raises(InputError, match="no weights"), opened(PROGRAM, tmp_path / "out", {}, Shard()):
        raise InputError("no weights")
    assert (tmp_path / "out" / MANIFEST).exists()


@pytest.mark.slow
def test_a_run_killed_at_any_moment_goes_on_to_the_same_tree(tmp_path):
    items = make_items(tmp_path, 200)
    started = time.perf_counter()
    run(tmp_path / "one", items, files=True)
    whole = time.perf_counter() - started
    out, rng, killed = tmp_path / "out", random.Random(0), 0
    for _ in range(40):
        process = os.fork()
        if not process:
            run(out, items, files=True)
            os._exit(0)
        time.sleep(rng.uniform(0, whole / 10))
        os.kill(process, signal.SIGKILL)
        killed += os.waitpid(process, 0)[1] == signal.SIGKILL
        if (out / WORK).is_dir() and (out / "made").is_dir():
            (out / "made" / f".x.{killed}.tmp").touch()
    run(out, items, files=True)
    assert killed >= 12
    assert files_in(out) == files_in(tmp_path / "one") and not (out / WORK).exists()


# ---- what it costs ------------------------------------------------------------------------------


@pytest.mark.slow
def test_100000_items_cost_less_than_a_millisecond_each_and_little_memory(tmp_path):
    milliseconds, memory = cost(tmp_path / "out", 100_000)
    assert milliseconds < 1 and memory < 100  # MB


def test_the_manifest_has_one_format(tmp_path):
    run(tmp_path / "out", make_items(tmp_path, 1))
    part, own = (json.loads(text) for text in (tmp_path / "out" / MANIFEST).read_text().splitlines())
    common = {"schema", "program", "run_id", "config_hash", "code_version", "stage", "key", "status"}
    assert part.keys() == common | {"box", "seed", "prompt"}
    assert own.keys() == common | {"outputs", "sources", "asked"}
    assert (own["program"], own["stage"], own["key"]) == (PROGRAM.name, STAGE, "item000")
