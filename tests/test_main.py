"""Training from the command line: run folder, exact resume, signals, determinism, options."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import main
import training
from data.drawing import OUTLINE
from data.labels import CHANNEL_COLOURS, NUM_CHANNELS, TARGET_CLASSES
from loader.cache import prepare
from loader.pairs import TrainingPairs
from main import grid_cell
from model import WhereWhat
from options import PRESETS, Options, parse, write_yaml
from support.checkpoints import list_checkpoints, load_checkpoint
from support.errors import InputError
from tests.equality import assert_same, stats
from tests.miniature import frame_paths
from tests.programs import run_here
from tests.trainings import ROOT, command, flags, run, weights_and_optimisers

# ---- what a run leaves behind -------------------------------------------------------------------


@pytest.mark.slow
def test_run_folder(streets, tmp_path):
    done = command(flags(streets, tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert "finished 4 iterations" in done.stdout
    folder = tmp_path / "run"
    names = {path.name for path in folder.iterdir() if not path.name.startswith("events")}
    assert names == {"options.yaml", "log.txt", "stats.jsonl", "samples", "checkpoints"}
    saved = sorted(path.name for path in (folder / "samples").iterdir())
    assert saved == ["epoch_00_iter_0001.png", "epoch_00_iter_0002.png", "epoch_00_iter_0004.png"]
    assert [r["iter"] for r in stats(folder)] == [1, 2, 3, 4]
    rows = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    assert set(rows[0]) == {
        "epoch",
        "iter",
        *WhereWhat(Options(**PRESETS["tiny"])).loss_names,
        "seconds_per_iter",
        "peak_memory_mb",
    }
    states = [path.name for path in list_checkpoints(folder / "checkpoints")]
    assert states == ["state-00000000.pt", "state-00000002.pt", "state-00000004.pt"]
    state = torch.load(folder / "checkpoints" / states[-1], weights_only=True)
    assert type(state) is dict and state["iteration"] == 4
    replayed, _ = parse(["--config", str(folder / "options.yaml")])
    assert write_yaml(replayed) == (folder / "options.yaml").read_text()


def test_tensorboard_holds_every_loss_and_the_grids(streets, tmp_path):
    run(streets, tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert {f"loss/{name}" for name in WhereWhat(Options(**PRESETS["tiny"])).loss_names} <= set(
        events.Tags()["scalars"]
    )
    assert [image.step for image in events.Images("samples")] == [1, 2, 4]


def test_sample_grid_layout(streets, tmp_path):
    """4 rows x 6 columns, the big size three times, 3-pixel green gaps, official colours, scenes on top."""
    run(streets, tmp_path / "run", max_iters=1)
    image = cv2.imread(str(tmp_path / "run" / "samples" / "epoch_00_iter_0001.png"))[:, :, ::-1]
    assert image.shape == (4 * 192 + 3 * 3, 6 * 384 + 5 * 3, 3)
    assert (image[192:195] == (0, 255, 0)).all() and (image[:, 384:387] == (0, 255, 0)).all()
    colours = {tuple(colour) for colour in CHANNEL_COLOURS.tolist()} | {(0, 255, 0), OUTLINE}
    assert {tuple(colour) for colour in image.reshape(-1, 3).tolist()} <= colours
    top = image[:192, :384]
    labels = cv2.imread(str(frame_paths(streets / "set", 0, "val")[0]), cv2.IMREAD_UNCHANGED)
    sky = tuple(CHANNEL_COLOURS[19].tolist())
    assert tuple(top[0, 0].tolist()) == sky and labels[0, 0] == 23


def test_a_grid_of_places_shows_each_class_in_its_column(streets, tmp_path):
    places = {"where": "distribution", "what": "none", "target_class": "person,car"}
    run(streets, tmp_path / "run", max_iters=1, **places)
    image = cv2.imread(str(tmp_path / "run" / "samples" / "epoch_00_iter_0001.png"))[:, :, ::-1]
    for column in range(6):
        cell = image[195 : 195 + 192, 387 * column : 387 * column + 384]
        new = (cell != image[:192, 387 * column : 387 * column + 384]).any(2)
        shown = {tuple(colour) for colour in cell[new].tolist()} - {OUTLINE}
        wanted = TARGET_CLASSES[("person", "car")[column % 2]]
        assert shown <= {tuple(CHANNEL_COLOURS[wanted.channel].tolist())} and new.any()


def test_a_narrow_cell_is_enlarged_and_the_new_object_outlined():
    scene = np.full((64, 128), 19, np.uint8)
    labels = scene.copy()
    labels[20:30, 40:45] = 24
    cell = grid_cell(labels, scene)
    assert cell.shape == (192, 384, 3)
    assert (cell[60:90, 120:135] == CHANNEL_COLOURS[24]).all()  # the line is around it, not on it
    line = (cell == OUTLINE).all(2)
    assert line[59, 119:136].all() and line[59:91, 135].all()
    assert np.count_nonzero(line) == 2 * (30 + 15) + 4
    assert (grid_cell(scene, scene) == CHANNEL_COLOURS[19]).all()


def test_a_cell_of_the_published_size_is_as_published():
    labels = np.arange(512 * 1024, dtype=np.int64).reshape(512, 1024) % NUM_CHANNELS
    cell = grid_cell(labels.astype(np.uint8), np.zeros((512, 1024), np.uint8))
    assert np.array_equal(cell, CHANNEL_COLOURS[labels])


def test_grids_disturb_nothing(streets, tmp_path):
    """A run with and without sample grids gives the same weights, and the same random numbers after."""
    with_grids = run(streets, tmp_path / "with", sample_every=1)
    numbers = torch.rand(3)
    without = run(streets, tmp_path / "without", sample_every=0)
    assert not list((tmp_path / "without" / "samples").iterdir())
    assert_same(weights_and_optimisers(with_grids), weights_and_optimisers(without))
    assert torch.equal(numbers, torch.rand(3))


def test_dry_run_prints_and_leaves_nothing(streets, tmp_path):
    done = run_here(main.main, *flags(streets, tmp_path / "run"), "--dry_run")
    assert done.returncode == 0, done.stderr
    assert "image_sizex_small: 64" in done.stdout
    assert "where_encoder " in done.stdout and "5 usable instances of class person" in done.stdout
    assert not (tmp_path / "run").exists()


# ---- exactness ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        {"where": "published"},
        {"where": "distribution"},
        {"where": "distribution", "what": "none", "target_class": "person,car"},
    ],
    ids=lambda kind: kind.get("target_class", kind["where"]),
)
def test_resume_is_exact(streets, tmp_path, kind):
    """20 iterations straight, and 10 + resume + 10: same weights, optimisers and stats to the last bit."""
    often = {"log_every": 3, "save_every": 5, "batch_size": 2, "average_decay": 0.9, **kind}
    straight = run(streets, tmp_path / "straight", max_iters=20, **often)
    run(streets, tmp_path / "halves", max_iters=10, **often)
    halves = run(streets, tmp_path / "halves", max_iters=20, resume="auto", **often)
    assert_same(weights_and_optimisers(straight), weights_and_optimisers(halves))
    assert straight["window"] == halves["window"]
    assert stats(tmp_path / "straight") == stats(tmp_path / "halves")


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
def test_number_of_loader_processes_changes_nothing(streets, tmp_path, num_workers):
    alone = run(streets, tmp_path / "alone", max_iters=6, batch_size=2)
    helped = run(streets, tmp_path / "helped", max_iters=6, batch_size=2, num_workers=num_workers)
    assert_same(weights_and_optimisers(alone), weights_and_optimisers(helped))


def test_seed_decides(streets, tmp_path):
    one, two, other = (
        run(streets, tmp_path / name, random_seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert_same(weights_and_optimisers(one), weights_and_optimisers(two))
    key = "what_encoder.first.weight"
    assert not torch.equal(one["networks"][key], other["networks"][key])


# ---- interruptions ------------------------------------------------------------------------------


@pytest.mark.slow
def test_signal_saves_and_exits_cleanly(streets, tmp_path):
    number = signal.SIGTERM
    arguments = flags(
        streets, tmp_path / "run", max_iters=100000, save_every=100000, sample_every=0, num_workers=1
    )
    process = subprocess.Popen(
        [sys.executable, "main.py", *arguments], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    wait_for_rows(tmp_path / "run", process, 3)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number and "Traceback" not in err
    assert f"stopped by {number.name}" in out
    assert out.endswith("stopped; the same command with --resume auto goes on from there\n")
    state = load_checkpoint(list_checkpoints(tmp_path / "run" / "checkpoints")[-1])
    assert state["iteration"] >= 3
    # and it goes on from there
    assert run(streets, tmp_path / "run", max_iters=state["iteration"] + 1, resume="auto")


def wait_for_rows(run_dir: Path, process: subprocess.Popen, count: int) -> None:
    deadline = time.monotonic() + 120
    path = run_dir / "stats.jsonl"
    while not path.exists() or path.read_text().count("\n") < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_kill_leaves_good_checkpoints_and_an_exact_resume(streets, tmp_path):
    options = {"max_iters": 12, "save_every": 1, "sample_every": 0}
    process = subprocess.Popen(
        [sys.executable, "main.py", *flags(streets, tmp_path / "killed", **options | {"max_iters": 100000})],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
    )  # fmt: skip
    wait_for_rows(tmp_path / "killed", process, 4)
    process.kill()
    process.wait()
    newest = list_checkpoints(tmp_path / "killed" / "checkpoints")[-1]
    last = load_checkpoint(newest)["iteration"] + 6
    killed = run(streets, tmp_path / "killed", **options | {"max_iters": last, "resume": "auto"})
    straight = run(streets, tmp_path / "straight", **options | {"max_iters": last})
    assert_same(weights_and_optimisers(killed), weights_and_optimisers(straight))
    assert stats(tmp_path / "killed") == stats(tmp_path / "straight")


def test_a_loader_that_fails_ends_the_run_with_its_state_saved(streets, tmp_path, monkeypatch):
    batches = list(itertools.islice(main.training_loader(pairs_of(streets, tmp_path), 1), 3))

    def failing(*_, **__):
        yield from batches
        raise InputError("a loader process was ended by SIGKILL")

    monkeypatch.setattr(main, "training_loader", failing)
    with pytest.raises(InputError, match="ended by SIGKILL"):
        run(streets, tmp_path / "run", save_every=100)
    assert load_checkpoint(list_checkpoints(tmp_path / "run" / "checkpoints")[-1])["iteration"] == 3


def pairs_of(streets, tmp_path) -> TrainingPairs:
    options, _ = parse(flags(streets, tmp_path))
    return TrainingPairs(prepare(options, "train", progress=False), options)


def test_weights_that_are_not_finite_are_not_saved_though_no_loss_was_looked_at(
    streets, tmp_path, monkeypatch
):
    """As on a GPU, where losses are looked at when logging only."""
    step = training.train_step

    def spoiling(model, optimisers, batch, noise, *, check):
        losses = step(model, optimisers, batch, noise)
        if len(list_checkpoints(tmp_path / "run" / "checkpoints")) == 2:
            next(model.parameters()).data.fill_(float("nan"))
        return losses

    monkeypatch.setattr(main, "train_step", spoiling)
    with pytest.raises(
        InputError, match=r"not finite at iteration 4; the last good state is .*00000002.pt: res"
    ):
        run(streets, tmp_path / "run", log_every=100, sample_every=0)
    names = [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")]
    assert names == ["state-00000000.pt", "state-00000002.pt"]


def test_failing_save_leaves_the_earlier_checkpoint(streets, tmp_path, monkeypatch):
    run(streets, tmp_path / "run", max_iters=2)
    before = {p.name: p.read_bytes() for p in list_checkpoints(tmp_path / "run" / "checkpoints")}

    def half_a_file(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half_a_file)
    with pytest.raises(InputError, match="No space left"):
        run(streets, tmp_path / "run", max_iters=4, resume="auto")
    after = {p.name: p.read_bytes() for p in (tmp_path / "run" / "checkpoints").iterdir()}
    assert after == before


def test_non_finite_loss_stops_after_saving_the_last_good_state(streets, tmp_path, monkeypatch):
    original = WhereWhat.d_losses

    def poisoned(model, views, paths):
        losses = original(model, views, paths)
        poisoned.calls += 1
        return losses | ({"d_obj": losses["d_obj"] * float("nan")} if poisoned.calls == 3 else {})

    poisoned.calls = 0
    monkeypatch.setattr(WhereWhat, "d_losses", poisoned)
    with pytest.raises(
        InputError, match=r"d_obj turned nan at iteration 3; the last good state is .*00000002"
    ):
        run(streets, tmp_path / "run", save_every=100)
    state = load_checkpoint(tmp_path / "run" / "checkpoints" / "state-00000002.pt")
    good = run(streets, tmp_path / "good", max_iters=2)
    assert_same(weights_and_optimisers(state), weights_and_optimisers(good))


# ---- options ------------------------------------------------------------------------------------


def test_flags_win_over_config_and_config_over_preset(tmp_path):
    (tmp_path / "saved.yaml").write_text("batch_size: 7\nlearning_rate: 1e-3\n")
    config = ["--preset", "tiny", "--config", str(tmp_path / "saved.yaml"), "--epoch", "3"]
    options, dry_run = parse([*config, "--batch_size", "9"])
    assert (options.batch_size, options.learning_rate, options.epoch, options.gf_dim) == (9, 1e-3, 3, 4)
    assert not dry_run


def test_paper_is_the_default():
    assert parse([])[0] == Options() == parse(["--preset", "paper"])[0]
    assert PRESETS["paper"] == {}


def test_help_names_every_option():
    done = run_here(main.main, "--help")
    assert done.returncode == 0
    for name in Options.__dataclass_fields__:
        assert f"--{name}" in done.stdout
