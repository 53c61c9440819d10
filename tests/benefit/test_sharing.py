"""Processes that share tasks."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


WORKER = """
import sys, time
from functools import partial
from pathlib import Path
from benefit.sharing import BenefitTask, work_off

def note(name, folder):
    time.sleep(0.05)
    with (folder.parent / "done.txt").open("a") as file:
        file.write(name + chr(10))
    return {}

names = [f"task{number}" for number in range(8)]
work = [BenefitTask(name, ("first",), partial(note, name)) for name in names]
first = BenefitTask("first", (), partial(note, "first"))
work_off(Path(sys.argv[1]), [*work, first], lambda name, result: None)
"""


@pytest.mark.slow
def test_processes_share_the_tasks_and_do_each_once_after_what_it_needs(tmp_path):
    processes = [subprocess.Popen([sys.executable, "-c", WORKER, tmp_path], cwd=ROOT) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    done = (tmp_path / "done.txt").read_text().split()
    assert done[0] == "first" and sorted(done[1:]) == [f"task{number}" for number in range(8)]
