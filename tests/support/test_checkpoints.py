"""Checkpoints: what is never written, and what a full disk leaves."""

import resource

import pytest
import torch

from support.checkpoints import list_checkpoints, save_checkpoint
from support.errors import InputError


def state(iteration: int) -> dict:
    return {
        "iteration": iteration,
        "samples_seen": 2 * iteration,
        "options": {"learning_rate": 0.1},
        "networks": {"weight": torch.ones(3), "count": torch.ones(2, dtype=torch.int64)},
        "averages": {"weight": torch.ones(3)},
        "optimisers": {"g": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}},
        "window": {"g_total": 1.0, "count": 3},
    }


def spoil(tensor: torch.Tensor, value: float) -> None:
    tensor[1] = value


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda it: spoil(it["networks"]["weight"], float("nan")), "networks/weight"),
        (lambda it: spoil(it["averages"]["weight"], float("inf")), "averages/weight"),
        (
            lambda it: spoil(it["optimisers"]["g"]["state"][0]["exp_avg"], float("-inf")),
            "optimisers/g/state/0/exp_avg",
        ),
        (lambda it: it["window"].update(g_total=float("nan")), "window/g_total"),
    ],
)
def test_a_state_with_a_number_that_is_not_finite_is_never_written(tmp_path, change, name):
    spoilt = state(150)
    change(spoilt)
    with pytest.raises(InputError, match=f"^{name} is not finite at iteration 150; no state is saved yet"):
        save_checkpoint(tmp_path / "new", spoilt, 3)
    good = save_checkpoint(tmp_path, state(100), 3)
    with pytest.raises(InputError, match=f"{name} .* 150; the last good state is {good}: resume from it"):
        save_checkpoint(tmp_path, spoilt, 3)
    assert list_checkpoints(tmp_path) == [good] and not (tmp_path / "new").exists()


@pytest.fixture
def small_disk():
    """No file can become larger than 1500 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_line_and_leaves_the_earlier_state(tmp_path, small_disk):
    with pytest.raises(
        InputError, match=r"state-00000001.pt: can't be saved, perhaps for want of space .*; free"
    ) as caught:
        save_checkpoint(tmp_path, state(1), 3)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())
