"""scripts.insert and scripts.synth.run on the engine: the same tree however it is shared out or cut short."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from augment.validate import validate_tree
from data.coco import coco_path
from scripts.insert import main as insert
from scripts.synth import export
from scripts.synth.run import main as synth
from support.files import LOCK, at_work_in
from tests.mini_frames import write_mini
from tests.programs import run_here
from tests.scripts.synth.test_run import tree as digests
from tests.town import write_checkpoint, write_town

ROOT = Path(__file__).resolve().parents[1]
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Program:
    """One of the two, with its input."""

    module: str
    flags: tuple[str, ...]
    source: Path

    def here(self, out: Path, *more) -> subprocess.CompletedProcess:
        """A run in this process."""
        main = insert if self.module == "scripts.insert" else synth
        return run_here(main, *self.flags, "--out", out, *more)

    def command(self, out: Path, *more) -> list[str]:
        return ["-m", self.module, *self.flags, "--out", str(out), *map(str, more)]

    def forked(self, out: Path, text: str) -> subprocess.CompletedProcess:
        """A process that has imported the program, and then does what `text` says with `run` and `out`."""
        start = START.format(module=self.module, flags=[*self.flags, "--out", str(out)])
        return subprocess.run(
            [sys.executable, "-c", start + text], cwd=ROOT, env=ONE_THREAD, capture_output=True, text=True,
            timeout=300,
        )  # fmt: skip


START = """
import datetime, functools, os, sys, time
import distributed
from {module} import main
from support.errors import run_program
from tests.forked import fork_ranks

run = functools.partial(run_program, functools.partial(main, {flags!r}))
"""


@pytest.fixture(scope="module", params=["insert", "synth"])
def program(request, tmp_path_factory) -> Program:
    root = tmp_path_factory.mktemp(request.param)
    source = root / "in"
    if request.param == "insert":
        write_town(source, 5)
        checkpoint = write_checkpoint(root / "person")
        flags = (
            "--checkpoint",
            checkpoint,
            "--per_image",
            "2",
            "--render",
            "swap",
            "--no_gate",
            "--may_hide",
        )
    else:
        write_mini(source)
        flags = ("--samples", 1, "--raw_splits", "train")
    flags = (*flags, "--db_root", source, "--num_workers", "1")
    return Program(
        "scripts.insert" if request.param == "insert" else "scripts.synth.run", tuple(map(str, flags)), source
    )


@pytest.fixture(scope="module")
def whole(program, tmp_path_factory) -> dict[str, str]:
    """The tree of one undisturbed process."""
    out = tmp_path_factory.mktemp("whole") / "out"
    done = program.here(out)
    assert done.returncode == 0, done.stderr
    return digests(out)


def test_shards_one_after_the_other_make_the_same_tree(program, whole, tmp_path):
    out = tmp_path / "out"
    first = program.here(out, "--shard", "1/2")
    assert first.returncode == 0 and "of shards 2/2; the last shard to end merges" in first.stdout
    assert not (out / "manifest.jsonl").exists()
    missing = program.here(out, "--merge")
    assert missing.returncode == 1 and "are not finished, of shards 2/2" in missing.stdout
    with at_work_in(out):
        refused = program.here(out, "--shard", "2/2")
        assert refused.returncode == 2 and "another process is at work there" in refused.stderr
    second = program.here(out, "--shard", "2/2")
    assert (
        second.returncode == 0
        and f"tree{'' if program.module == 'scripts.insert' else '      '}" in second.stdout
    )
    assert digests(out) == whole


@pytest.mark.slow
@pytest.mark.parametrize("program", ["synth"], indirect=True)  # tests/augment/placement has the other
def test_torchrun_makes_the_same_tree(program, whole, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, *program.command(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, env=ONE_THREAD, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "out") == whole


SLOW = """
import augment.placement.places

distributed.TIMEOUT = datetime.timedelta(seconds=2)

def slowly(real):
    def work(*arguments):
        if os.environ["RANK"] == "0":
            time.sleep(1.5)
        return real(*arguments)
    return work

augment.placement.places.Inserter.edit = slowly(augment.placement.places.Inserter.edit)
statuses = fork_ranks(run)
assert statuses == [0, 0], statuses
"""


@pytest.mark.slow
@pytest.mark.parametrize("program", ["insert"], indirect=True)
def test_a_rank_may_take_much_longer_than_another(program, whole, tmp_path):
    done = program.forked(tmp_path / "out", SLOW)
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "out") == whole


def children(process: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_with_a_killed_parent(program, tmp_path):
    command = [sys.executable, *program.command(tmp_path / "out", "--num_workers", 2)]
    parent = subprocess.Popen(command, cwd=ROOT, env=ONE_THREAD, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while len(workers := children(parent.pid)) < 3 and time.monotonic() < end:  # two and a resource tracker
        assert parent.poll() is None
        time.sleep(0.01)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    end = time.monotonic() + 60  # one that is still being started ends when it has imported everything
    while any(is_alive(worker) for worker in workers) and time.monotonic() < end:
        time.sleep(0.05)
    assert len(workers) >= 3 and not any(is_alive(worker) for worker in workers)


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_what_a_kill_left_of_the_work_files_is_removed_by_the_next_command(program, whole, tmp_path):
    out = tmp_path / "out"
    program.here(out)
    (out / ".work").mkdir()
    for name in ("000001-1-of-2.jsonl", "town_000000_000019.json", "bank.npz"):
        (out / ".work" / name).touch()
    (out / LOCK).touch()
    assert program.here(out).returncode == 0
    assert digests(out) == whole and not (out / ".work").exists()


@pytest.mark.parametrize("ending", ["_polygons.json", "_leftImg8bit.png"])
def test_an_image_whose_polygons_or_pixels_changed_is_named_and_made_again(program, tmp_path, ending):
    source, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(program.source, source)
    path = sorted(source.rglob(f"train/**/*{ending}"))[0]
    again = ("--db_root", source)
    assert program.here(out, *again).returncode == 0
    lines = (out / "manifest.jsonl").read_text()
    os.utime(path, ns=(1, 1))  # of the same size
    done = program.here(out, *again)
    assert done.returncode == 0 and f"is made again: {path.name}\n" in done.stderr
    name = path.name.removesuffix(ending).removesuffix("_gtFine")
    before, after = (
        [json.loads(x) for x in text.splitlines()] for text in (lines, (out / "manifest.jsonl").read_text())
    )
    changed = {x["key"] for x, y in zip(before, after, strict=True) if x.get("sources") != y.get("sources")}
    assert changed == {name if program.module == "scripts.insert" else "/".join(name.split("_"))}


def test_validator_and_export_take_the_tree(program, tmp_path):
    out = tmp_path / "out"
    assert program.here(out, "--coco").returncode == 0
    assert validate_tree(out, verify=True) == []
    written = coco_path(out, "train").read_bytes()
    coco_path(out, "train").unlink()
    done = run_here(export.main, "--out", out, "--splits", "train", "--num_workers", 1)
    assert done.returncode == 0, done.stderr
    assert coco_path(out, "train").read_bytes() == written
