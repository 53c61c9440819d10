"""A map over processes with a progress bar, for work on a finished tree."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import cv2
from tqdm import tqdm

from support.errors import InputError


def cores() -> int:
    """The processor cores that this program may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def spreading(workers: int, title: str, unit: str) -> Iterator[Callable]:
    """A `map` of one function over items, with a bar on stderr; in this process for fewer than two workers.

    Raises InputError if a process is killed.
    """
    # Spawned, not forked: a fork inherits OpenCV's thread pool without its threads and may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start_process) if workers > 1 else None
    if pool is None:
        cv2.setNumThreads(1)

    def spread(function: Callable, items: Iterable) -> Iterator:
        items = list(items)
        results = map(function, items) if pool is None else pool.map(function, items)
        return iter(tqdm(results, title, len(items), unit=unit, disable=None))

    try:
        yield spread
    except BrokenProcessPool:
        raise InputError(
            "a worker process was killed, perhaps for want of memory; take fewer --num_workers"
        ) from None
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def _start_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's business
    cv2.setNumThreads(1)
