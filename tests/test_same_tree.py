"""Programs on the engine: the same tree however a run is shared out, cut short or gone on with."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

import engine.tree
from augment.paint.folder import SHEETS
from augment.validate import validate_tree
from data.coco import coco_path
from engine.records import MANIFEST, WORK
from scripts import convert, cutouts, insert, label, make_streets
from scripts.synth import export
from scripts.synth import run as synth
from streets.scenes import write_streets
from support.files import LOCK, at_work_in
from tests.convert import miniatures
from tests.equality import tree_in
from tests.label import tiny_models
from tests.mini_frames import write_mini
from tests.programs import refused, run_here, run_ok
from tests.town import write_checkpoint, write_places_checkpoint, write_town

ROOT = Path(__file__).resolve().parents[1]
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


@dataclass(frozen=True)
class Program:
    """A program and the flags that make a tree of `source`."""

    main: Callable
    flags: tuple
    source: Path

    def here(self, out: Path, *more) -> str:
        """What a run in this process prints."""
        return run_ok(self.main, *self.flags, "--out", out, *more)

    def line(self, out: Path, *more) -> list[str]:
        """The command line for python."""
        return ["-m", self.main.__module__, *map(str, (*self.flags, "--out", out, *more))]


def inserting(root: Path) -> Program:
    write_town(root / "in", 5)
    given = ("--checkpoint", write_checkpoint(root / "person"), "--db_root", root / "in", "--per_image", 2)
    more = ("--render", "swap", "--no_gate", "--may_hide", "--coco", "--preview", 2)
    return Program(insert.main, (*given, *more, "--num_workers", 1), root / "in")


def inserting_cutouts(root: Path) -> Program:
    write_streets(root / "in", 8, 0, (512, 256), seed=0)
    models = ("--checkpoint", "builtin:person", "builtin:car", "--per_image", 4, "--render", "cutout")
    return Program(insert.main, (*models, "--db_root", root / "in", "--num_workers", 1), root / "in")


def inserting_classes(root: Path) -> Program:
    write_streets(root / "in", 8, 0, (512, 256), seed=0, mixed=True)
    places = ("--checkpoint", write_places_checkpoint(root / "places", "all"), "--classes", "like-data")
    more = ("--per_image", 4, "--render", "cutout", "--no_gate", "--may_hide")
    return Program(insert.main, (*places, *more, "--db_root", root / "in", "--num_workers", 1), root / "in")


def repainting(root: Path) -> Program:
    write_mini(root / "in")
    flags = ("--db_root", root / "in", "--samples", 1, "--raw_splits", "train", "--coco")
    return Program(synth.main, (*flags, "--num_workers", 1), root / "in")


def converting(root: Path) -> Program:
    miniatures.bdd100k(root / "in")
    flags = ("--from", "bdd100k", "--root", root / "in", "--num_workers", 1)
    return Program(convert.main, flags, root / "in")


def making_streets(root: Path) -> Program:
    return Program(
        make_streets.main, ("--train", 4, "--val", 2, "--size", "256x128", "--num_workers", 1), root
    )


def cutting_out(root: Path) -> Program:
    write_streets(root / "in", 4, 1, (512, 256), seed=0)
    return Program(cutouts.main, ("--db_root", root / "in", "--num_workers", 1), root / "in")


def labelling(root: Path) -> Program:
    pytest.importorskip("transformers")
    write_streets(root / "streets", 5, 0, (256, 128), seed=0)
    model = tiny_models.save("segformer", root / "model")
    flags = ("--pictures", root / "streets/leftImg8bit/train", "--model", model)
    return Program(label.main, (*flags, "--num_workers", 1), root / "streets")


def done_in(out: Path) -> int:
    """How many items a run that has not ended has finished."""
    return sum(path.read_text().count('"sources"') for path in out.glob(f"{WORK}/*.jsonl"))


SHARED = (inserting, repainting)  # among several processes or machines
SHARDED = (*SHARED, labelling)
ALL = (*SHARDED, converting, cutting_out, making_streets)


@pytest.fixture(scope="module", params=ALL, ids=lambda make: make.__name__)
def program(request, tmp_path_factory) -> Program:
    return request.param(tmp_path_factory.mktemp("program"))


@pytest.fixture(scope="module")
def whole(program, tmp_path_factory) -> dict[str, bytes]:
    """The tree of one undisturbed process."""
    out = tmp_path_factory.mktemp("whole") / "out"
    program.here(out)
    return tree_in(out)


def of(*programs: Callable):
    """Only these."""
    return pytest.mark.parametrize("program", programs, indirect=True, ids=lambda make: make.__name__)


# ---- several processes --------------------------------------------------------------------------


@pytest.mark.slow
@of(*ALL, inserting_cutouts, inserting_classes)
def test_any_number_of_workers_makes_the_same_tree(program, whole, tmp_path):
    program.here(tmp_path / "out", "--num_workers", 2)
    assert tree_in(tmp_path / "out") == whole


@of(*SHARDED)
def test_shards_one_after_the_other_make_the_same_tree(program, whole, tmp_path):
    out = tmp_path / "out"
    assert "of shards 2/2; the last shard to end merges" in program.here(out, "--shard", "1/2")
    assert not (out / "manifest.jsonl").exists()
    missing = run_here(program.main, *program.flags, "--out", out, "--merge")
    assert missing.returncode == 1 and "are not finished, of shards 2/2" in missing.stdout
    with at_work_in(out):
        again = refused(program.main, *program.flags, "--out", out, "--shard", "2/2")
        assert "another process is at work there" in again
    assert f"{out}\n" in program.here(out, "--shard", "2/2")
    assert tree_in(out) == whole


@pytest.mark.slow
@of(*SHARDED)
def test_torchrun_makes_the_same_tree(program, whole, tmp_path):
    command = [sys.executable, *TORCHRUN, *program.line(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, env=ONE_THREAD, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert tree_in(tmp_path / "out") == whole


SLOW_RANK = """
import datetime, functools, os, time
import distributed
from augment.placement.places import Inserter
from scripts.insert import main
from support.errors import run_program
from tests.forked import fork_ranks

distributed.TIMEOUT = datetime.timedelta(seconds=2)
edit = Inserter.edit

def slowly(*arguments):
    if os.environ["RANK"] == "0":
        time.sleep(1.5)
    return edit(*arguments)

Inserter.edit = slowly
statuses = fork_ranks(functools.partial(run_program, functools.partial(main, {flags!r})))
assert statuses == [0, 0], statuses
"""


@pytest.mark.slow
@of(inserting)
def test_a_rank_may_take_much_longer_than_another(program, whole, tmp_path):
    code = SLOW_RANK.format(flags=program.line(tmp_path / "out")[2:])
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=ONE_THREAD, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert tree_in(tmp_path / "out") == whole


def children(process: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@of(*SHARDED)
def test_workers_end_with_a_killed_parent(program, tmp_path):
    command = [sys.executable, *program.line(tmp_path / "out", "--num_workers", 2)]
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


def test_a_second_process_on_the_same_tree_is_one_line_and_status_2(program, tmp_path):
    out = tmp_path / "out"
    with at_work_in(out):  # as a run is
        for more in ((), ("--overwrite",)):
            assert refused(program.main, *program.flags, "--out", out, *more) == (
                f"error: --out {out}: another process is at work there; wait for its end, or choose another"
                " --out\n"
            )
        assert [path.name for path in out.iterdir()] == [LOCK]


# ---- going on -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "how", "workers"),  # a conversion of three images would end too soon
    [(one, "KILL", 1) for one in (*SHARDED, inserting_cutouts, inserting_classes, making_streets)]
    + [(repainting, "INT", 2), (labelling, "INT", 2)],
    indirect=["program"],
)
def test_a_run_that_was_cut_short_goes_on_to_the_same_tree(program, whole, tmp_path, how, workers):
    out = tmp_path / "out"
    command = ["nice", sys.executable, *program.line(out, "--num_workers", workers)]  # slower than this test
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which a shell's background jobs do not
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, env=ONE_THREAD, preexec_fn=heed, **pipes)
    while process.poll() is None and not done_in(out):
        time.sleep(0.001)
    process.send_signal(getattr(signal, f"SIG{how}"))
    printed, complaints = process.communicate(timeout=60)
    if how == "INT":
        assert process.returncode == 130 and "Traceback" not in complaints
        assert "stopped; the same command goes on" in printed
    else:
        assert process.returncode == -signal.SIGKILL
    assert (out / WORK).is_dir() and not (out / "manifest.jsonl").exists()
    next(path for path in out.iterdir() if path.is_dir()).joinpath(".x.png.1.tmp").write_bytes(b"half")
    program.here(out)
    assert tree_in(out) == whole


def test_a_full_disk_is_one_line_and_what_is_done_is_kept(program, whole, tmp_path, monkeypatch):
    out, real = tmp_path / "out", engine.tree.write_outputs

    def write_outputs(folder, files):
        if done_in(out) >= 2:
            raise OSError(28, "No space left on device")
        return real(folder, files)

    with monkeypatch.context() as patched:
        patched.setattr(engine.tree, "write_outputs", write_outputs)
        message = refused(program.main, *program.flags, "--out", out)
    assert "No space left" in message and str(out) in message and "the same command goes on" in message
    assert not list(out.rglob("*.tmp")) and done_in(out) >= 2
    printed = program.here(out)
    assert program.main is not insert.main or "holds 2 of 5 images already" in printed
    assert tree_in(out) == whole


def test_a_finished_tree_stays_as_it_is_but_for_what_a_kill_left_of_the_work_files(program, whole, tmp_path):
    out = tmp_path / "out"
    program.here(out)
    made = [path for path in out.rglob("*.png") if path.parent not in (out, out / SHEETS)]
    times = {path: path.stat().st_mtime_ns for path in made}
    (out / WORK).mkdir()
    for name in ("000001-1-of-2.jsonl", "town_000000_000019.json", "bank.npz"):
        (out / WORK / name).touch()
    for name in (LOCK, MANIFEST):  # make_streets leaves no manifest
        (out / name).touch()
    printed = program.here(out)
    assert program.main is not insert.main or "complete already" in printed
    assert tree_in(out) == whole and not (out / WORK).exists()
    assert all(path.stat().st_mtime_ns == before for path, before in times.items())


@of(*SHARED)
@pytest.mark.parametrize("ending", ["_polygons.json", "_leftImg8bit.png"])
def test_an_image_whose_polygons_or_pixels_changed_is_named_and_made_again(program, tmp_path, ending):
    source, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(program.source, source)
    path = sorted(source.rglob(f"train/**/*{ending}"))[0]
    again = (*program.flags, "--db_root", source, "--out", out)
    run_ok(program.main, *again)
    manifest = out / "manifest.jsonl"
    before = list(map(json.loads, manifest.read_text().splitlines()))
    os.utime(path, ns=(1, 1))  # of the same size
    done = run_here(program.main, *again)
    assert done.returncode == 0 and f"is made again: {path.name}\n" in done.stderr
    after = list(map(json.loads, manifest.read_text().splitlines()))
    name = path.name.removesuffix(ending).removesuffix("_gtFine")
    changed = {x["key"] for x, y in zip(before, after, strict=True) if x.get("sources") != y.get("sources")}
    assert changed in ({name}, {"/".join(name.split("_"))})


@of(*SHARED)
def test_validator_and_export_take_the_tree(program, tmp_path):
    out = tmp_path / "out"
    program.here(out)
    assert validate_tree(out, verify=True) == []
    written = coco_path(out, "train").read_bytes()
    coco_path(out, "train").unlink()
    run_ok(export.main, "--out", out, "--splits", "train", "--num_workers", 1)
    assert coco_path(out, "train").read_bytes() == written
