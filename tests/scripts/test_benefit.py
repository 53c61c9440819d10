"""The measurement of benefit: tasks shared and resumed, data, statistics, a miniature of it all."""

import json
from pathlib import Path
from urllib.parse import quote

import pytest
import torch
from PIL import Image

from benefit import tasks
from benefit.arms import ARMS
from benefit.options import parse
from benefit.report import write_report
from benefit.sharing import work_off
from benefit.tasks import Case, open_folder, segmenter_of, tasks_of
from scripts import benefit as program
from segment.models import build
from support.checkpoints import find_checkpoint, load_checkpoint
from support.errors import InputError
from tests.equality import assert_same
from tests.programs import as_flags, refused, run_here, run_ok
from tests.town import write_checkpoint, write_places_checkpoint, write_town

ROOT = Path(__file__).parents[2]
SCENES = {"n": 3, "seeds": 1, "held_out": 2, "scene_size": "256x128", "size": "128x64", "window": "64x64"}
LITTLE = {"start_scenes": 1, "start_iterations": 1, "copies": 1, "place_iterations": 1, "iterations": 2}


def flags(out: Path | str, **more) -> list[str]:
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


def test_changed_arms_have_data_of_their_own_unless_they_differ_in_their_share_alone(tmp_path):
    few, large = "cutout+share=0.25", "cutout+share=0.25+height=0.1-1+no_overlap"
    away = f"cutout+cutouts={tmp_path}/own"
    (tmp_path / "own/person").mkdir(parents=True)
    image = Image.new("RGBA", (20, 40))
    image.paste("red", (5, 5, 15, 35))
    image.save(tmp_path / "own/person/red.png")
    options = parse(flags(tmp_path, arms=["real", "cutout", few, large, away], places="builtin:person"))
    names = {task.name.removeprefix("n003_seed0/"): task for task in tasks_of(options)}
    data, own = {name for name in names if name.startswith("data")}, "data/cutout+height=0.1-1+no_overlap"
    assert data == {"data/cutout", own, f"data/cutout+cutouts={quote(f'{tmp_path}/own', '')}"}
    assert "n003_seed0/data/cutout" in names[f"arms/{few}"].needs
    assert f"n003_seed0/{own}" in names[f"arms/{large}"].needs
    assert names[own].work.keywords["source"].flags == {"height": "0.1-1", "no_overlap": None}
    for name in data:
        (tmp_path / f"n003_seed0/{name}/tree0").mkdir(parents=True)
    shares = [segmenter_of(options, Case(3, 0), arm, "held_out").share for arm in options.arms]
    assert shares == [(1.0,), (0.5, 0.5), (0.75, 0.25), (0.75, 0.25), (0.5, 0.5)]


def test_a_model_of_places_is_trained_only_where_an_arm_wants_one_that_is_not_known(tmp_path):
    def trained(**given) -> set[str]:
        arms = given.pop("arms", ["real", "cutout", "cutout-all", "on-the-fly"])
        names = {task.name for task in tasks_of(parse(flags(tmp_path, arms=arms, **given)))}
        return {name.split("/")[1] for name in names if "placement" in name}

    assert trained(arms=["real", "prior", "cutout-all"]) == set()

    assert trained() == {"placement"} and trained(places="builtin:person") == set()


@pytest.mark.slow
def test_a_miniature_from_start_to_end_with_a_stop_on_the_way(tmp_path, monkeypatch):
    changed = "cutout+share=0.25+per_image=1+no_gate"
    wanted = [*ARMS, changed]
    arguments = flags(tmp_path / "out", arms=wanted)
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
    assert len(calls) == len(wanted) + 2 and len(set(calls)) == len(wanted) + 1  # the start; one was stopped

    content = json.loads((tmp_path / "out/benefit.json").read_text())
    arms = [row["arm"] for row in content["held_out"]]
    assert sorted(arms) == sorted(wanted) and arms[arms.index("cutout") + 1] == changed
    assert all(row["mean"]["mean"] is not None for row in content["held_out"])
    cost = {row["arm"]: row for row in content["cost"]}
    assert cost["copy-paste"]["objects"] > 0 and cost["real"]["data"] == 0 < cost["inserted"]["placement"]
    table = (tmp_path / "out/benefit.md").read_text()
    assert all(f"| 3 | {arm} | 1 |" in table for arm in arms)
    assert all(f"| {arm} | {ARMS[arm].meaning} |" in table for arm in ARMS)
    assert f"| {ARMS['cutout'].meaning} | from cutout in share=0.25, per_image=1, no_gate |" in table
    made = tmp_path / "out/n003_seed0/data/cutout+per_image=1+no_gate/tree0/insert.json"
    asked = json.loads(made.read_text())["settings"]
    assert asked["per_image"] == [1, 1] and not asked["gates"]["rules"]
    assert (tmp_path / "out/benefit_held_out.png").stat().st_size > 1000

    run_ok(program.main, *flags(tmp_path / "out"), "--report")  # arms that are not asked for are in it, too
    content = json.loads((tmp_path / "out/benefit.json").read_text())
    assert sorted(row["arm"] for row in content["held_out"]) == sorted(wanted)

    final, real_measure, measured = parse([*arguments, "--final"]), tasks.measure, []

    def noted_measure(model, settings, *given):
        measured.append((settings.out, model.state_dict()))
        return real_measure(model, settings, *given)

    monkeypatch.setattr(tasks, "measure", noted_measure)
    work_off(tmp_path / "out", tasks_of(final), lambda name, result: None)
    assert len(calls) == len(wanted) + 2 and "Second held-out scenes" in write_report(final, tmp_path / "out")
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


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A tree of three scenes and two held out, one of these without images, models of places, a bad one."""
    root = tmp_path_factory.mktemp("inputs")
    write_town(root / "tree", 3)
    write_town(root / "tree", 2, "val")
    (root / "bare").mkdir()
    (root / "bare/gtFine").symlink_to(root / "tree/gtFine")
    persons = write_checkpoint(root / "persons")
    (root / "cut.pt").write_bytes(persons.read_bytes()[:-1000])
    write_places_checkpoint(root / "cars", "car,bus")
    write_places_checkpoint(root / "both")
    torch.save(build("maskrcnn_small_fpn", "none").state_dict(), root / "small.pt")
    return root


TREE = {"db_root": "tree"}
SHAPES = ["real", "cutout", "inserted"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"out": ""}, "is not empty and holds no measurement"),
        ({"out": "tree"}, "is not empty and holds no measurement"),
        ({"out": "cut.pt"}, "--out cut.pt: can't be used"),
        ({"db_root": "nowhere"}, "--db_root nowhere: has no folder gtFine/train"),
        ({"db_root": "persons"}, "--db_root persons: has no folder gtFine/train"),
        ({"db_root": "bare"}, "3 of 3 frames have no image in leftImg8bit/train"),
        (TREE | {"n": 4}, "--n 4: there are 3 scenes in tree, train; ask for fewer"),
        (TREE | {"held_out": 3}, "--held_out 3: there are 2 scenes in tree, val; ask for fewer"),
        (TREE | {"final": []}, "name the second held-out scenes with --final_root or --final_cities"),
        (TREE | {"final_root": "nowhere"}, "--final_root nowhere: has no folder gtFine/val"),
        (TREE | {"final_root": "./tree"}, "is --db_root, whose val split is measured on before"),
        (TREE | {"final_root": "tree", "final_cities": "town"}, "give one of them"),
        (TREE | {"final_cities": "paris"}, "has no city paris, only town"),
        (TREE | {"final_cities": "town", "final": []}, "leave a city out of --final_cities"),
        ({"camera": "cityscapes"}, "give --db_root"),
        ({"n": 1}, "--n: at least 2 scenes"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"arms": ["real", "magic"]}, "'magic' is no arm: choose from real, "),
        ({"arms": "real+share=0.2"}, "real+share=0.2: 'share' can't be changed in real"),
        ({"arms": "cutout+share=1"}, "cutout+share=1: share must be above 0 and below 1"),
        ({"arms": "prior+max_overlap=0"}, "prior+max_overlap=0: 'max_overlap' can't be changed in prior"),
        ({"arms": "cutout+seed=3"}, "cutout+seed=3: 'seed' can't be changed in cutout"),
        ({"arms": "cutout+height=x"}, "cutout+height=x: argument --height: 'x' is no range such as 5-30"),
        ({"arms": "cutout+magic=1"}, "cutout+magic=1: unrecognized arguments: --magic 1"),
        (
            {"arms": "cutout+classes=car", "places": "persons"},
            "--arms cutout+classes=car: --classes car: no ch",
        ),
        (
            {"arms": "cutout+cutouts=nowhere"},
            "--arms cutout+cutouts=nowhere: --cutouts nowhere: no such fold",
        ),
        ({"arms": "cutout+temperature=11", "places": "both"}, "--temperature must be above 0 and at most 10"),
        ({"arms": f"cutout+cutouts={80 * 'a/'}"}, "is too long for the name of a folder"),
        ({"per_image": "3-1"}, "no range such as 1-3"),
        ({"share": 1}, "share must be above 0 and below 1"),
        ({"scene_size": "8x8"}, "at least 64x32 pixels"),
        ({"places": "nowhere"}, "nowhere: no checkpoint"),
        ({"places": "cut.pt"}, "cut.pt: not a readable checkpoint"),
        ({"places": "cars"}, "--places cars: has places of car, bus, not of persons"),
        ({"places": "both", "arms": SHAPES}, "draws no shapes; give another, or leave inserted out of"),
        ({"place_preset": "places", "arms": SHAPES}, "--place_preset places: knows places alone"),
        ({"place_preset": "huge"}, "choose from 'paper', 'demo'"),
        ({"places_all": "nowhere"}, "nowhere: no checkpoint"),
        ({"places_all": ""}, "--places_all: name a checkpoint, or leave cutout-all out"),
        ({"places_all": "persons"}, "--places_all persons: has places of person alone; give a model of all"),
        ({"start": "nowhere"}, "--start nowhere: no such file"),
        ({"start": "cut.pt"}, "cut.pt: can't be read as weights"),
        ({"start": "persons"}, "holds no weights of a Mask R-CNN"),
        ({"start": "small.pt", "arch": "maskrcnn_mobilenet_v3_fpn"}, "holds weights of another arch than"),
        ({"start": "coco"}, "--start coco: there are none for maskrcnn_small_fpn"),
        ({"start_iterations": -1}, "start_iterations must be at least 0"),
        ({"learning_rate": "nan"}, "learning_rate must be a finite number"),
        ({"device": "abacus"}, "abacus"),
    ],
)
def test_bad_input_is_one_line_status_2_and_nothing_written(inputs, change, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in inputs.iterdir():
        Path(path.name).symlink_to(path)
    assert words in refused(program.main, *flags(**{"out": "out"} | change), keeps=tmp_path)
