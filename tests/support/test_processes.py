"""Pools: what the processes of one are told before they import anything, and what can't be told."""

import os
import pickle

import pytest

from support.processes import Pool


def threads_of_libraries(_) -> str | None:
    return os.environ.get("OMP_NUM_THREADS")


@pytest.mark.parametrize("here", [None, "3"])
def test_libraries_of_a_worker_have_one_thread_and_those_here_as_many_as_before(here, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if here:
        monkeypatch.setenv("OMP_NUM_THREADS", here)
    with Pool(2) as pool:
        assert list(pool.map(threads_of_libraries, range(3))) == ["1"] * 3
    assert os.environ.get("OMP_NUM_THREADS") == here


def test_work_that_no_process_can_be_told_is_an_error_and_no_hang():
    with Pool(2) as pool, pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        next(pool.map(lambda item: item, range(20)))
