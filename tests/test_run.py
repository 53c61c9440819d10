"""run.py: the frame of a training run around a loop that counts. Resume, stop, failure, what is kept."""

import os
import signal

import pytest
import torch

from run import CHECKPOINTS, Run, find_state
from support.checkpoints import list_checkpoints, load_checkpoint
from support.errors import InputError, Stopped
from support.launch import Ranks
from tests.equality import stats


def train(folder, iterations=6, resume="", *, losses=range, at=None, keep=9):
    """A run that sees two samples an iteration, logs all of them, and saves each second one.

    losses: the loss of each iteration, from a number; at: (iteration, what to do with the run then).
    """
    found = find_state(folder, resume, "--out")
    run = Run(folder, "--out", "seed: 1\n", ("loss",), iterations, Ranks(), found and found[1])

    def save():
        return run.save(keep, {}, {"weight": torch.ones(1)}, {})

    with run:
        while run.goes_on():
            if at and run.iteration == at[0]:
                at[1](run)
            run.count({"loss": torch.tensor(float(losses(iterations)[run.iteration]))}, 2)
            if run.iteration % 3 == 0:
                run.log_losses(0, torch.device("cpu"))
            if run.iteration % 2 == 0:
                save()
    run.end(save())


def saved(folder) -> list[int]:
    return [int(path.stem.removeprefix("state-")) for path in list_checkpoints(folder / CHECKPOINTS)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_same_command_goes_on_to_the_same_end(tmp_path, capsys, number):
    train(tmp_path / "straight")
    with pytest.raises(Stopped) as stopped:
        train(tmp_path / "out", at=(3, lambda _: os.kill(os.getpid(), number)))
    assert stopped.value.number == number and saved(tmp_path / "out") == [2, 4]
    assert f"stopped by {number.name} at iteration 4, saved " in capsys.readouterr().out
    train(tmp_path / "out", resume="auto")
    assert stats(tmp_path / "out") == stats(tmp_path / "straight") and saved(tmp_path / "out") == [2, 4, 6]
    first, second = (
        load_checkpoint(list_checkpoints(tmp_path / x / CHECKPOINTS)[-1]) for x in ("out", "straight")
    )
    assert first["samples_seen"] == second["samples_seen"] == 12 and first["window"] == second["window"]
    assert (tmp_path / "out/options.yaml").read_text() == "seed: 1\n"


def test_a_failure_saves_what_there_is_and_is_raised(tmp_path, capsys):
    def fail(run):
        run.failure = InputError("no more batches")

    with pytest.raises(InputError, match=r"^no more batches$"):
        train(tmp_path, at=(2, fail))
    assert saved(tmp_path) == [2, 3] and "stopped by a failure at iteration 3" in capsys.readouterr().out


def test_a_loss_that_is_not_finite_ends_the_run_with_the_good_state_named(tmp_path, capsys):
    with pytest.raises(
        InputError, match=r"loss is not finite at iteration 6; the last good state is .*0004.pt"
    ):
        train(tmp_path, losses=lambda count: [0.0] * 4 + [float("nan")] * 2)
    assert saved(tmp_path) == [2, 4] and "stopped: the loss is not finite" in capsys.readouterr().out


def test_going_on_from_a_given_file_drops_the_rows_that_came_later_and_sets_later_states_aside(tmp_path):
    train(tmp_path, 7)
    train(tmp_path, 5, resume=tmp_path / CHECKPOINTS / "state-00000002.pt")
    assert [row["iter"] for row in stats(tmp_path)] == [3]
    assert saved(tmp_path) == [2, 4, 5]  # what --resume auto may take
    kept = sorted(path.name for path in (tmp_path / CHECKPOINTS).glob("earlier-run-*"))
    assert kept == [f"earlier-run-{iteration:08d}.pt" for iteration in (4, 6, 7)]


def test_old_checkpoints_go(tmp_path):
    train(tmp_path, 7, keep=2)
    assert saved(tmp_path) == [6, 7]


def test_a_run_that_is_longer_than_asked_for_already_is_finished(tmp_path, capsys):
    train(tmp_path, 2)
    train(tmp_path, 1, resume="auto")
    assert "finished 2 iterations" in capsys.readouterr().out and saved(tmp_path) == [2]


def test_what_is_there_is_never_written_over_and_bad_states_are_one_line(tmp_path):
    train(tmp_path / "new", 3, resume="auto")  # nothing to go on from
    rows = (tmp_path / "new/stats.jsonl").read_bytes()
    with pytest.raises(InputError, match="already holds a run: give --resume auto to go on with it"):
        train(tmp_path / "new")
    assert (tmp_path / "new/stats.jsonl").read_bytes() == rows
    path = list_checkpoints(tmp_path / "new" / CHECKPOINTS)[-1]
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="not a readable checkpoint"):
        train(tmp_path / "new", resume="auto")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--out .*/file: can't be written \(.*\); choose another"):
        train(tmp_path / "file")
