"""The processes of a run: each keeps a `Worker`; results come in the order of the jobs, a few jobs ahead."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import cv2

from augment.options import WITH_WEIGHTS, SynthOptions
from augment.repaint.select import Source
from augment.repaint.stages import Job, Worker
from support.errors import InputError

_AHEAD = 4  # jobs handed out for each process before the first result is waited for

_worker: Worker | None = None


class Pool:
    """Processes for a run, started with the first job; with fewer than two, everything happens here."""

    def __init__(self, workers: int, out: Path, root: Path, options: SynthOptions):
        """root: of the input."""
        self.workers, self.setup = workers, (Path(out), Path(root), options)
        self.executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_) -> None:
        if self.executor is not None:
            self.executor.shutdown(cancel_futures=True)

    def map(self, function: Callable, items: Iterable) -> Iterator:
        """function(item) in the order of the items, only a few of them at a time. InputError if one dies."""
        if self.workers < 2:
            _start(*self.setup)
            yield from map(function, items)
            return
        if self.executor is None:
            # Spawned, not forked: a fork inherits cv2's thread pool without its threads and may hang.
            context = multiprocessing.get_context("spawn")
            self.executor = ProcessPoolExecutor(self.workers, context, _start_process, self.setup)
        waiting: deque = deque()
        try:
            for item in items:
                with _uninterrupted():  # so that new processes never see Ctrl-C: it is not their business
                    waiting.append(self.executor.submit(function, item))
                if len(waiting) >= _AHEAD * self.workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise InputError(
                "a worker process was killed, perhaps for want of memory; the same command with fewer"
                " --num_workers goes on from there"
            ) from None


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """SIGINT waits, and is blocked for good in processes that are started meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_with_parent() -> None:
    """End this process when the main one has been killed; nobody else would."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _start_process(out: Path, root: Path, options: SynthOptions) -> None:
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = "1"  # for libraries still to be imported
    _start(out, root, options)


def _start(out: Path, root: Path, options: SynthOptions) -> None:
    global _worker
    cv2.setNumThreads(1)
    if "torch" in sys.modules and options.backend not in WITH_WEIGHTS:
        sys.modules["torch"].set_num_threads(1)
    _worker = Worker(out, root, options)


def work(job: Job) -> list[dict]:
    """`Worker.run` in a process of a Pool."""
    return _worker.run(job)


def survey(source: Source) -> list[int]:
    """`Worker.survey` in a process of a Pool."""
    return _worker.survey(source)
