"""Batches made ahead by processes of their own, in order, without anything that is shared but pipes.

Each process writes what it makes into a pipe; a thread here reads the pipes in turn. So nothing depends on
the size of /dev/shm or on the length of a path to a socket, and a process that dies shows at once as the end
of its pipe.
"""

import itertools
import multiprocessing
import pickle
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import TypeVar

import torch

from support.errors import InputError

T = TypeVar("T")
AHEAD = 4  # items read ahead for each process
_REMEDY = "go on with --resume auto and fewer --num_workers (0: no processes)"


def made_ahead(
    make: Callable[[int], T], workers: int, prepare: Callable[[T], T] | None = None
) -> Iterator[T]:
    """make(0), make(1), ... without end, each made in one of so many processes; by none of them if 0.

    prepare: what becomes of each item in the reading thread, before it is asked for. An InputError of `make`
    is raised here; so is one if a process can't be started, dies or fails otherwise.
    """
    if not workers:
        for number in itertools.count():
            item = make(number)
            yield prepare(item) if prepare else item
    processes: list[_Process] = []
    try:
        try:
            for first in range(workers):
                processes.append(_Process(make, first, workers))
        except OSError as error:
            raise InputError(f"no loader process can be started ({error}); {_REMEDY}") from None

        def read(number: int) -> T:
            item = processes[number % workers].read()
            return prepare(item) if prepare else item

        # One thread: so it reads in the order in which it is asked to. It works with tensors in `prepare`
        # alone; more OpenMP threads would stand in the way of those of the main thread.
        alone = (torch.set_num_threads, (1,)) if prepare else ()
        with ThreadPoolExecutor(1, "loader", *alone) as thread:
            try:
                waiting = deque(thread.submit(read, number) for number in range(AHEAD * workers))
                for number in itertools.count(AHEAD * workers):
                    yield waiting.popleft().result()
                    waiting.append(thread.submit(read, number))
            finally:
                _end(processes)  # what the thread waits for comes to its end
                thread.shutdown(wait=False, cancel_futures=True)
    finally:
        _end(processes)


class _Process:
    """A process that makes items `first`, `first + step`, ... and waits as long as nobody reads them."""

    def __init__(self, make: Callable[[int], T], first: int, step: int):
        # Forked where that is usual: it starts in no time and has the data without a copy.
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self.pipe, far_end = context.Pipe(duplex=False)
        with far_end:  # each end is open on one side alone, which so notices the end of the other
            ends = (self.pipe, far_end)
            self.process = context.Process(target=_serve, args=(*ends, make, first, step), daemon=True)
            self.process.start()

    def read(self) -> T:
        """The next item. Raises InputError if there is none."""
        try:
            item = pickle.loads(self.pipe.recv_bytes())
        except (EOFError, OSError):
            self.process.join()
            status = self.process.exitcode
            how = (
                f"{signal.Signals(-status).name}, perhaps for want of memory"
                if status < 0
                else f"exit status {status}"
            )
            raise InputError(f"a loader process was ended by {how}; {_REMEDY}") from None
        if isinstance(item, Exception):
            raise item
        return item


def _end(processes: list[_Process]) -> None:
    """End the processes, which hold nothing that has to be saved."""
    for one in processes:
        one.process.kill()
    for one in processes:
        one.process.join()


def _serve(near_end: Connection, pipe: Connection, make: Callable[[int], T], first: int, step: int) -> None:
    """What a process does: it ends when nobody can read any more."""
    near_end.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process's business
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    try:
        for number in itertools.count(first, step):
            pipe.send_bytes(pickle.dumps(make(number), protocol=pickle.HIGHEST_PROTOCOL))
    except BrokenPipeError:
        return
    except InputError as error:
        pipe.send_bytes(pickle.dumps(error))
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        failure = InputError(f"a loader process failed ({reason}); --num_workers 0 shows where")
        pipe.send_bytes(pickle.dumps(failure))
