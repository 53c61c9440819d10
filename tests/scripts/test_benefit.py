"""The measurement of benefit: tasks shared and resumed, data, statistics, a miniature of it all."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benefit import tasks
from benefit.arms import ARMS, Source, repainted_whole, trees_of
from benefit.live import LiveFrames
from benefit.options import parse, parser
from benefit.report import difference, rows_of, write_report
from benefit.sharing import work_off
from benefit.tasks import Case, open_folder, segmenter_of, tasks_of
from data.frame import list_frames
from scripts import benefit as program
from segment.samples import read_sample
from streets.scenes import write_streets
from support.checkpoints import find_checkpoint, load_checkpoint
from support.errors import InputError
from tests.equality import assert_same
from tests.programs import as_flags, run_here

ROOT = Path(__file__).parents[2]
SMALL = {
    "n": 3,
    "seeds": 1,
    "held_out": 2,
    "scene_size": "256x128",
    "size": "128x64",
    "window": "64x64",
    "start_scenes": 1,
    "start_iterations": 1,
    "copies": 1,
    "place_iterations": 1,
    "iterations": 2,
    "batch_size": 2,
    "device": "cpu",
}


def flags(out: Path, **more) -> list[str]:
    given = {"out": out, **SMALL, **more}
    return as_flags(given)


# ---- sharing ------------------------------------------------------------------------------------


WORKER = """
import sys, time
from functools import partial
from pathlib import Path
from benefit.sharing import BenefitTask, work_off

def note(name, folder):
    time.sleep(0.05)
    with (folder.parent / "done.txt").open("a") as file:
        file.write(name + chr(10))
    return {}

names = [f"task{number}" for number in range(8)]
work = [BenefitTask(name, ("first",), partial(note, name)) for name in names]
first = BenefitTask("first", (), partial(note, "first"))
work_off(Path(sys.argv[1]), [*work, first], lambda name, result: None)
"""


@pytest.mark.slow
def test_processes_share_the_tasks_and_do_each_once_after_what_it_needs(tmp_path):
    processes = [subprocess.Popen([sys.executable, "-c", WORKER, tmp_path], cwd=ROOT) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    done = (tmp_path / "done.txt").read_text().split()
    assert done[0] == "first" and sorted(done[1:]) == [f"task{number}" for number in range(8)]


# ---- arms ---------------------------------------------------------------------------------------


def test_whole_repainted_frames_show_the_raw_annotation_and_new_pixels_only_in_one_instance(tmp_path):
    write_streets(tmp_path / "tree", 2, 0, (256, 128), seed=1)
    source = Source(tmp_path / "tree", tmp_path / "none", 0, 1, "1", "cpu")
    found = repainted_whole(tmp_path / "out", source)
    (tree,) = trees_of(tmp_path / "out")
    frames = list_frames(tree, "train")
    assert len(frames) == found["frames"] >= 2
    shape = (128, 256)
    raws = [(frame.read_maps(), frame.read_image(shape)) for frame in list_frames(tmp_path / "tree", "train")]
    for frame in frames:
        (labels, ids), image = frame.read_maps(), frame.read_image(shape)
        ((_, raw),) = [one for one in raws if all(map(np.array_equal, one[0], (labels, ids)))]
        changed = np.unique(ids[(image != raw).any(2)])
        assert len(changed) == 1 and changed[0] >= 24000


def test_an_arm_learns_as_long_as_another_and_half_from_made_data(tmp_path):
    options = parse(flags(tmp_path, arms=["real", "all"]))
    for recipe, count in (("inserted", 2), ("repainted", 1)):
        for copy in range(count):
            (tmp_path / f"n003_seed0/data/{recipe}/tree{copy}").mkdir(parents=True)
    real, both = (segmenter_of(options, Case(3, 0), arm, "held_out") for arm in ("real", "all"))
    assert real.share == (1.0,) and both.share == (0.5, 0.125, 0.125, 0.25)
    assert real.data == both.data[:1] and real.iterations == both.iterations and real.val == both.val
    assert "/final/" not in str([task.name for task in tasks_of(options)])


@pytest.mark.parametrize("render", ("swap", "cutout"))
def test_live_frames_get_new_persons_that_follow_from_torchs_generator(tmp_path, render):
    write_streets(tmp_path / "tree", 3, 0, (512, 256), seed=1)
    bank = tmp_path / "bank.npz"
    live = LiveFrames(tmp_path / "tree", "train", "builtin:person", render, bank, (3, 3), 0, (512, 256))
    plain = read_sample(live.frames[0], (512, 256))
    samples = []
    for seed in (0, 0, 1, 2, 3):
        torch.manual_seed(seed)
        samples.append(live[0])
    assert torch.equal(samples[0].image, samples[1].image) and torch.equal(samples[0].boxes, samples[1].boxes)
    grown = [sample for sample in samples if len(sample.labels) > len(plain.labels)]
    assert grown and all(not torch.equal(sample.image, plain.image) for sample in grown)
    assert len({len(sample.labels) for sample in samples} | {len(plain.labels)}) > 1


# ---- statistics ---------------------------------------------------------------------------------


def test_differences_are_paired_by_seed_with_students_interval():
    found = difference([(0.31, 0.3), (0.42, 0.4), (0.13, 0.1)])
    assert found["mean"] == pytest.approx(0.02)
    assert found["half_width"] == pytest.approx(4.303 * 0.01 / np.sqrt(3), rel=1e-3) and found["pairs"] == 3
    assert difference([(0.3, 0.2)])["half_width"] is None and difference([]) is None


def test_a_seed_that_real_lacks_is_not_compared(tmp_path):
    values = {("real", 0): 0.2, ("all", 0): 0.3, ("all", 1): 0.9}

    def result_of(case, arm):
        ap = values.get((arm, case.seed))
        return ap and {"coco": {"AP": ap, "classes": {"person": {"AP": ap}}}}

    rows = rows_of(parse(flags(tmp_path, seeds=2, arms=["real", "all"])), result_of)
    assert [row["person"]["mean"] for row in rows] == pytest.approx([0.2, 0.6])
    assert rows[1]["person"]["to_real"]["mean"] == pytest.approx(0.1)
    assert rows[0]["person"]["to_real"] is None


# ---- all of it ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_miniature_from_start_to_end_with_a_stop_on_the_way(tmp_path, monkeypatch):
    arguments = flags(tmp_path / "out")
    real_learn, calls = tasks.learn, []

    def stopped_learn(*given):
        calls.append(given[0].out)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real_learn(*given)

    monkeypatch.setattr(tasks, "learn", stopped_learn)
    assert run_here(program.main, *arguments).returncode == 130
    results = sorted((tmp_path / "out").rglob("result.json"))
    stamps = [path.stat().st_mtime_ns for path in results]
    assert len([path for path in results if "arms" in str(path)]) == 2
    done = run_here(program.main, *arguments)
    assert done.returncode == 0, done.stderr
    assert [path.stat().st_mtime_ns for path in results] == stamps
    assert len(calls) == len(ARMS) + 2 and len(set(calls)) == len(ARMS) + 1  # the start; one was stopped

    content = json.loads((tmp_path / "out/benefit.json").read_text())
    arms = [row["arm"] for row in content["held_out"]]
    assert arms == list(ARMS)
    assert all(row["mean"]["mean"] is not None for row in content["held_out"])
    cost = {row["arm"]: row for row in content["cost"]}
    assert cost["copy-paste"]["objects"] > 0 and cost["real"]["data"] == 0 < cost["inserted"]["placement"]
    table = (tmp_path / "out/benefit.md").read_text()
    assert all(f"| 3 | {arm} | 1 |" in table and f"| {ARMS[arm].meaning} |" in table for arm in arms)
    assert (tmp_path / "out/benefit_held_out.png").stat().st_size > 1000

    final, real_measure, measured = parse([*arguments, "--final"]), tasks.measure, []

    def noted_measure(model, settings, *given):
        measured.append((settings.out, model.state_dict()))
        return real_measure(model, settings, *given)

    monkeypatch.setattr(tasks, "measure", noted_measure)
    work_off(tmp_path / "out", tasks_of(final), lambda name, result: None)
    assert len(calls) == len(ARMS) + 2 and "Second held-out scenes" in write_report(final, tmp_path / "out")
    assert len(measured) == len(arms)
    for run, networks in measured:  # what is measured last is what each arm has learnt
        assert_same(networks, load_checkpoint(find_checkpoint(run))["networks"])
    other = run_here(program.main, *flags(tmp_path / "out", iterations=3))
    assert other.returncode == 2 and "with iterations 2, this one has 3" in other.stderr


def test_a_folder_whose_arms_meant_something_else_is_refused(tmp_path):
    options = parse(flags(tmp_path))
    open_folder(options)
    settings = json.loads((tmp_path / "settings.json").read_text())
    earlier = {name: value for name, value in settings.items() if name != "arms_version"}
    (tmp_path / "settings.json").write_text(json.dumps(earlier))
    with pytest.raises(InputError, match="holds a measurement with arms_version None, this one has"):
        open_folder(options)


def test_help_names_every_arm_and_the_factor_in_which_it_differs():
    shown = parser().format_help()
    assert all(f"  {name}: {arm.meaning}" in shown and arm.differs in shown for name, arm in ARMS.items())
    assert all(arm.differs for name, arm in ARMS.items() if name != "real")
