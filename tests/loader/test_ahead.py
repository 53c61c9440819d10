"""Items made ahead: their order, and what becomes of a process that ends or fails."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from loader.ahead import made_ahead
from support.errors import InputError

ROOT = Path(__file__).parents[2]


def squared(number: int) -> torch.Tensor:
    return torch.full((300, 300), number * number)


def killed(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def left(number: int) -> int:
    return number if number < 3 else sys.exit(5)


def refused(number: int) -> int:
    if number == 3:
        raise InputError("a.png: is no image; copy it again")
    return number


def out_of_memory(number: int) -> int:
    if number == 3:
        raise MemoryError("of 9 GB\nand more")
    return number


def not_to_be_told(number: int):
    return number if number < 3 else (lambda: number)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_items_come_in_order_and_processes_go_with_who_reads_them(workers):
    items = made_ahead(squared, workers, prepare=lambda item: item + 1)
    for number, item in enumerate(itertools.islice(items, 20)):
        assert (item == number * number + 1).all() and not item.is_shared()
    items.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            killed,
            "a loader process was ended by SIGKILL, perhaps for want of memory; go on with",
        ),
        (left, "a loader process was ended by exit status 5; go on with --resume auto and fewer --num_wor"),
        (refused, "a.png: is no image; copy it again"),
        (out_of_memory, "a loader process failed (MemoryError: of 9 GB and more); --num_workers 0 shows"),
        (not_to_be_told, "a loader process failed ("),
    ],
)
def test_the_end_of_a_process_is_one_line_after_what_it_had_made(make, said, workers):
    start, items = time.monotonic(), made_ahead(make, workers)
    assert list(itertools.islice(items, 3)) == [0, 1, 2]
    with pytest.raises(InputError) as caught:
        next(items)
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)
    assert time.monotonic() - start < 30


def test_no_process_to_be_had_is_one_line(monkeypatch):
    def no_fork():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", no_fork)
    with pytest.raises(InputError, match=r"no loader process can be started .* fewer --num_workers"):
        next(made_ahead(squared, 2))


PARENT = """
import itertools, os
from loader.ahead import made_ahead
items = made_ahead(lambda number: bytes(10**6), 2)
next(items)
os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_processes_end_when_the_main_one_is_killed():
    line = [sys.executable, "-c", PARENT]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL  # its pipes are closed: no process holds them any more
