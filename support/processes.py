"""Work over processes: the pool of every program. The training loop reads ahead with `loader/ahead.py`."""

import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import cv2

from support.errors import InputError
from support.launch import whole_number
from support.progress import progress_bar
from support.threads import cores

_THREADS = "OMP_NUM_THREADS"
_AHEAD = 4  # items handed out for each process before the first result is waited for
_ONE_SIGNAL = 1.0  # seconds; torchrun passes on to its processes what the terminal has sent to all of them
_REMEDY = "the same command with fewer --num_workers goes on from there"


def share_of_cores() -> int:
    """The cores of this process, one at least, where torchrun started several on this machine."""
    return max(1, cores() // max(1, whole_number("LOCAL_WORLD_SIZE", 1)))


class Pool:
    """Processes that are started with the first item; with fewer than two, everything happens here.

    They never see Ctrl-C, which is the main process's business, and end when it is killed.
    """

    def __init__(
        self, workers: int, prepare: Callable | None = None, arguments: tuple = (), remedy: str = _REMEDY
    ):
        """prepare(*arguments) is called first in each process. remedy: what to do if one was killed."""
        self.workers, self.remedy = workers, remedy
        self._setup = (prepare, arguments)
        self._executor: ProcessPoolExecutor | None = None
        self._ready = False

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def map(self, function: Callable, items: Iterable) -> Iterator:
        """function(item) in the order of the items, only a few of them ahead. InputError if one is killed."""
        if self.workers < 2:
            if not self._ready:
                _prepare(*self._setup)
                self._ready = True
            yield from map(function, items)
            return
        if self._executor is None:
            pickle.dumps(function)  # one that can't be sent to a process is an error now, later a hang
            # Spawned, not forked: a fork inherits cv2's thread pool without its threads and may hang.
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(self.workers, context, _start_process, self._setup)
        waiting: deque = deque()
        try:
            for item in items:
                with _starting_processes():
                    waiting.append(self._executor.submit(_by_value, function, item))
                if len(waiting) >= _AHEAD * self.workers:
                    yield pickle.loads(waiting.popleft().result())
            while waiting:
                yield pickle.loads(waiting.popleft().result())
        except BrokenProcessPool:
            raise InputError(
                f"a worker process was killed, perhaps for want of memory; {self.remedy}"
            ) from None

    def with_bar(self, title: str, function: Callable, items: Iterable) -> Iterator:
        """`map`, its progress shown on stderr."""
        items = list(items)
        return iter(progress_bar(self.map(function, items), title, len(items)))


class StopRequest:
    """Within the `with` block Ctrl-C and SIGTERM only ask the loop to end; a later one ends at once.

    number: of the signal that came, 0 before.
    """

    def __init__(self):
        self.number = 0
        self._since = 0.0

    def __enter__(self) -> "StopRequest":
        numbers = (signal.SIGINT, signal.SIGTERM)
        self._before = {number: signal.signal(number, self._ask) for number in numbers}
        return self

    def _ask(self, number, _frame) -> None:
        if not self.number:
            self.number, self._since = number, time.monotonic()
        elif time.monotonic() - self._since > _ONE_SIGNAL:
            signal.signal(number, self._before[number])
            signal.raise_signal(number)

    def __exit__(self, *_exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@contextmanager
def _starting_processes() -> Iterator[None]:
    """SIGINT waits; processes started meanwhile never get it, and their libraries have one thread each.

    The libraries read the number when they are imported, which is before `_start_process`.
    """
    before, threads = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}), os.environ.get(_THREADS)
    os.environ[_THREADS] = "1"
    try:
        yield
    finally:
        if threads is None:
            del os.environ[_THREADS]
        else:
            os.environ[_THREADS] = threads
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _by_value(function: Callable, item) -> bytes:
    """What a result is handed over as: torch would put each tensor into shared memory, a file kept open."""
    return pickle.dumps(function(item), pickle.HIGHEST_PROTOCOL)


def _start_process(*setup) -> None:
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _prepare(*setup)


def _leave_with_parent() -> None:
    """End this process when the main one has been killed; nobody else would."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _prepare(prepare: Callable | None, arguments: tuple) -> None:
    cv2.setNumThreads(1)
    if prepare:
        prepare(*arguments)
