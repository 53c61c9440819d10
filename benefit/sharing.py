"""Tasks that any number of processes take from a shared folder.

A task has a folder below OUT, named as it is. Who works on it holds the lock there, which the operating
system takes back from a process that dies; result.json, written at the end as a whole, says that it is done.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from support.files import write_atomic

RESULT = "result.json"
WAIT = 0.5  # seconds between looks at what others do


@dataclass(frozen=True)
class BenefitTask:
    """One piece of work; work(folder) returns what result.json holds beside the seconds it took."""

    name: str
    needs: tuple[str, ...]  # names of tasks that must be done before
    work: Callable[[Path], dict]


def read_result(out: Path, name: str) -> dict | None:
    """What a task found, None if it isn't done."""
    try:
        return json.loads((out / name / RESULT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def work_off(out: Path, tasks: list[BenefitTask], on_done: Callable[[str, dict], None]) -> None:
    """Do tasks until all are done, here or by others; on_done(name, result) after each that is done here."""
    while open_tasks := [task for task in tasks if not (out / task.name / RESULT).exists()]:
        waiting = {task.name for task in open_tasks}
        if not any(try_task(out, task, on_done) for task in open_tasks if waiting.isdisjoint(task.needs)):
            time.sleep(WAIT)


def try_task(out: Path, task: BenefitTask, on_done: Callable[[str, dict], None]) -> bool:
    """Do a task unless another process does; whether anything changed."""
    folder = out / task.name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "task.lock", timeout=0):
            if (folder / RESULT).exists():
                return True
            start = time.monotonic()
            result = task.work(folder.absolute())
            result["seconds"] = time.monotonic() - start
            write_atomic(folder / RESULT, (json.dumps(result, indent=1) + "\n").encode())
    except Timeout:
        return False
    on_done(task.name, result)
    return True
