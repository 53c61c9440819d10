"""Pools: what the processes of one are told before they import anything, and what can't be told."""

import os
import pickle
import signal

import pytest
import torch

import support.processes
from support.processes import Pool, StopRequest


def threads_of_libraries(_) -> str | None:
    return os.environ.get("OMP_NUM_THREADS")


@pytest.mark.slow
@pytest.mark.parametrize("here", [None, "3"])
def test_libraries_of_a_worker_have_one_thread_and_those_here_as_many_as_before(here, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if here:
        monkeypatch.setenv("OMP_NUM_THREADS", here)
    with Pool(2) as pool:
        assert list(pool.map(threads_of_libraries, range(3))) == ["1"] * 3
    assert os.environ.get("OMP_NUM_THREADS") == here


def ones(size: int) -> torch.Tensor:
    return torch.ones(size)


@pytest.mark.slow
def test_results_are_handed_over_without_shared_memory():
    """Each tensor there would be a file that stays open, on a disk that is small in containers."""
    with Pool(2) as pool:
        assert [item.is_shared() for item in pool.map(ones, range(3))] == [False] * 3


def test_work_that_no_process_can_be_told_is_an_error_and_no_hang():
    with Pool(2) as pool, pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        next(pool.map(lambda item: item, range(20)))


def test_a_second_signal_ends_at_once_unless_it_is_the_same_passed_on(monkeypatch):
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert stop.number == signal.SIGINT
        monkeypatch.setattr(support.processes, "_ONE_SIGNAL", -1)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
