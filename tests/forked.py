"""Ranks without torchrun: forked from a process that has imported everything, so they start in no time."""

import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def fork_ranks(program: Callable[[], None], count: int = 2) -> list[int]:
    """Exit statuses of `count` processes on this machine that each run `program` as torchrun would start it.

    They end as programs do, through the whole shutdown of the interpreter. A signal counts negative.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(count):
        process = os.fork()
        if not process:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            program()
            sys.exit()
        processes.append(process)
    return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]


def let_other_threads_come_late() -> None:
    """From here on the threads of this process but the calling one run only when that one waits."""
    cores = sorted(os.sched_getaffinity(0))
    mine = {cores[int(os.environ["RANK"]) % len(cores)]}
    os.sched_setaffinity(0, mine)
    for thread in map(int, os.listdir("/proc/self/task")):
        if thread != os.getpid():
            with suppress(ProcessLookupError):  # a loader's thread may end meanwhile
                os.sched_setaffinity(thread, mine)
                os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))


def threads_of_the_group(patience: float = 5) -> list[str]:
    """Names of this process's threads that a process group has started and that stay for `patience` seconds.

    The kernel lists a thread for a moment after somebody has waited for its end.
    """
    end = time.monotonic() + patience
    while names := [name for name in _threads() if "gloo" in name or "tcpstore" in name]:
        if time.monotonic() > end:
            break
        time.sleep(0.01)
    return names


def _threads() -> list[str]:
    names = []
    for thread in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it may end meanwhile
            names.append((thread / "comm").read_text().strip())
    return names
