"""The measurement of benefit: tasks shared and resumed, data, statistics, a miniature of it all."""

import json
from pathlib import Path

import pytest

from benefit import tasks
from benefit.arms import ARMS
from benefit.options import parse
from benefit.report import write_report
from benefit.sharing import work_off
from benefit.tasks import Case, open_folder, segmenter_of, tasks_of
from scripts import benefit as program
from support.checkpoints import find_checkpoint, load_checkpoint
from support.errors import InputError
from tests.equality import assert_same
from tests.programs import as_flags, run_here

ROOT = Path(__file__).parents[2]
SCENES = {"n": 3, "seeds": 1, "held_out": 2, "scene_size": "256x128", "size": "128x64", "window": "64x64"}
LITTLE = {"start_scenes": 1, "start_iterations": 1, "copies": 1, "place_iterations": 1, "iterations": 2}


def flags(out: Path, **more) -> list[str]:
    return as_flags({"out": out, **SCENES, **LITTLE, "batch_size": 2, "device": "cpu", **more})


def test_an_arm_learns_as_long_as_another_and_half_from_made_data(tmp_path):
    options = parse(flags(tmp_path, arms=["real", "all"]))
    for recipe, count in (("inserted", 2), ("repainted", 1)):
        for copy in range(count):
            (tmp_path / f"n003_seed0/data/{recipe}/tree{copy}").mkdir(parents=True)
    real, both = (segmenter_of(options, Case(3, 0), arm, "held_out") for arm in ("real", "all"))
    assert real.share == (1.0,) and both.share == (0.5, 0.125, 0.125, 0.25)
    assert real.data == both.data[:1] and real.iterations == both.iterations and real.val == both.val
    assert "/final/" not in str([task.name for task in tasks_of(options)])


def test_a_model_of_places_is_trained_only_where_an_arm_wants_one_that_is_not_known(tmp_path):
    def trained(**given) -> set[str]:
        arms = given.pop("arms", ["real", "cutout", "cutout-all", "on-the-fly"])
        names = {task.name for task in tasks_of(parse(flags(tmp_path, arms=arms, **given)))}
        return {name.split("/")[1] for name in names if "placement" in name}

    assert trained(arms=["real", "prior", "cutout-all"]) == set()

    assert trained() == {"placement"} and trained(places="builtin:person") == set()


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
