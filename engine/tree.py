"""A tree as one process works on it: opening it, what is still to do, doing it, merging what all have done.

with opened(program, out, settings, shard) as tree:
    todo = tree.to_do(items)
    with tree.pool(prepare, workers) as pool:
        tree.make(todo, pool, "images")
    if tree.merge(items):
        tree.write_summary(...)
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from engine.records import (
    MANIFEST,
    SCHEMA,
    WORK,
    Records,
    WorkItem,
    are_there,
    fingerprint,
    outputs_of,
    write_outputs,
    write_record,
)
from engine.shards import Shard
from support.errors import InputError, name_some, warn
from support.files import WorkLock, at_work_in, is_empty, is_lock, write_atomic, writing_to
from support.processes import Pool
from support.progress import progress_bar

_SHARDS = "of-"  # and a number: a file in OUT/.work that says how many shards there are

# Makes an item: writes files with write(contents by path below OUT), which gives their digests, and returns
# the lines of all stages; the engine adds to the last one, which may say {"status": "failed", "reason": ...}.
# InputError for what is wrong with all items, OSError where writing fails.
Make = Callable[[WorkItem, Callable[[dict[str, bytes | Path]], dict[str, str]]], list[dict]]


@dataclass(frozen=True)
class Program:
    """What a program makes trees of."""

    name: str
    code_version: str  # of everything that decides what it writes; another one starts anew
    summary: str  # its file of settings and counts below OUT
    stages: tuple[str, ...]  # in the order of the manifest
    folders: tuple[str, ...]  # all else that it writes below OUT, which --overwrite removes

    def read_summary(self, out: Path) -> dict | None:
        """What the summary holds, None if there is none. InputError if it is damaged."""
        path = Path(out) / self.summary
        try:
            summary = json.loads(path.read_text())
            if summary.keys() >= {"config_hash", "settings"}:
                return summary
            raise ValueError("incomplete")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(f"{path}: damaged ({error}); remove {out}, or choose another --out") from None

    def holds_run(self, out: Path) -> bool:
        """Whether there is an earlier run to go on with. InputError for a folder of anything else."""
        empty = not out.is_dir() or is_empty(out)  # looked at first: the summary is what a run begins with
        found = (Path(out) / self.summary).exists()
        if not found and not empty:
            raise InputError(f"--out {out}: is not empty and holds no earlier run; choose another")
        return found

    def config_hash(self, settings: dict) -> str:
        """Of all that decides what is written, but for the sources."""
        return fingerprint([SCHEMA, self.name, self.code_version, settings])


# ---- one item, in a process of a pool ------------------------------------------------------------


@dataclass
class _Maker:
    """What a process makes items with."""

    out: Path
    stage: str
    common: dict
    prepare: Callable[[], Make]

    @cached_property
    def make(self) -> Make:
        return self.prepare()

    def __call__(self, item: WorkItem, earlier: set[str]) -> None:
        """Make an item and write its record; `earlier` files that it does not have any more are removed."""
        make, own = self.make, item.line(self.stage)
        *parts, last = make(item, partial(write_outputs, self.out))
        lines = [*parts, own | last]
        for path in earlier - outputs_of(lines).keys():
            (self.out / path).unlink(missing_ok=True)
        write_record(self.out, [self.common | line for line in lines])


_maker: _Maker | None = None


def _start(maker: _Maker) -> None:
    global _maker
    _maker = maker


def _work(job: tuple[WorkItem, set[str]]) -> None:
    _maker(*job)


# ---- the tree -----------------------------------------------------------------------------------


class Tree:
    """OUT, opened for a run with some settings."""

    def __init__(
        self, program: Program, out: Path, settings: dict, shard: Shard, lock: WorkLock | None = None
    ):
        """settings: as JSON gives them back. Raises InputError if OUT holds a run with others."""
        self.program, self.out, self.settings, self.shard = program, Path(out), settings, shard
        self.config_hash = program.config_hash(settings)
        self.common = {
            "schema": SCHEMA,
            "program": program.name,
            "run_id": self.config_hash[:12],
            "config_hash": self.config_hash,
            "code_version": program.code_version,
        }
        summary = program.read_summary(out)
        if summary is not None and summary["config_hash"] != self.config_hash:
            others = (name for name in settings if summary["settings"].get(name) != settings[name])
            named = "".join(f"{name}; " for name in others)
            raise InputError(
                f"--out {out}: holds a run with other settings or data ({named}see its {program.summary});"
                " choose another --out, or give --overwrite to replace it"
            )
        self.is_new = summary is None
        self.was_ended = not self.is_new and not (self.out / WORK).exists()
        self.is_merged = False
        self.lock = lock  # None: only to look at it
        self.records = Records(self.out, program.stages)

    def write_summary(self, results: dict) -> None:
        """Write the summary: settings, their hash, and `results`."""
        content = self.common | {"settings": self.settings} | results
        write_atomic(self.out / self.program.summary, (json.dumps(content, indent=1) + "\n").encode())

    def to_do(
        self, items: list[WorkItem], *, sound: Callable[[list[dict]], bool] | None = None
    ) -> list[WorkItem]:
        """The items of this shard that must be made; those whose sources have changed are named.

        sound: whether what was made of an item, by its lines, is as it should be; by default, whether its
        files are there.
        """
        sound = sound or (lambda lines: are_there(self.out, outputs_of(lines)))
        found, changed = [], []
        for item in self.shard.of(items):
            lines = self.records.get(item.key)
            current = is_current(lines, item)
            failed = any(line["status"] == "failed" for line in lines)
            if not current or failed or not sound(lines):
                found.append(item)
            if lines and not current:
                before, now = lines[-1]["sources"], item.stamps()
                changed += sorted(
                    name for name in before.keys() | now.keys() if before.get(name) != now.get(name)
                )
        if changed:
            warn(f"changed since an earlier run, what is made of it is made again: {name_some(changed)}")
        return found

    def pool(self, prepare: Callable[[], Make], workers: int) -> Pool:
        """Processes that make items; what prepare() returns in each of them makes one."""
        maker = _Maker(self.out, self.program.stages[-1], self.common, prepare)
        return Pool(workers, _start, (maker,))

    def make(self, items: list[WorkItem], pool: Pool, title: str, unit: str = "frame") -> None:
        """Make items in a pool of this tree, with a bar if it has a title.

        InputError for what is wrong with all of them, or with writing.
        """
        jobs = ((item, set(outputs_of(self.records.get(item.key)))) for item in items)
        with writing_to(self.out):
            for _ in progress_bar(pool.map(_work, jobs), title, len(items), unit, show=bool(title)):
                pass

    def merge(self, items: list[WorkItem]) -> bool:
        """Write the manifest, alone in OUT from here on; whether that falls to this process.

        items: all of the run; it does if something was made of each, and nobody else is at work.
        """
        alone = self.shard.count == 1 or self.lock.take(alone=True)
        self.records = Records(self.out, self.program.stages)
        missing = [n for n, item in enumerate(items) if not is_current(self.records.get(item.key), item)]
        if missing:
            print(f"{self.out}: {self._about(missing, len(items))}")
        elif not alone:
            print(f"{self.out}: all items are finished; another shard is still there, which merges them")
        if missing or not alone:
            return False
        with writing_to(self.out):
            if not self.was_ended or not self.records.are_merged:
                for left_over in self.out.rglob(".*.tmp"):  # of processes that were killed
                    left_over.unlink(missing_ok=True)
                self.records.merge({item.key for item in items})
                self.records = Records(self.out, self.program.stages)
        self.is_merged = True
        return True

    def _about(self, missing: list[int], count: int) -> str:
        """What is missing, in a line."""
        shards = self.shard.count
        if shards == 1:  # perhaps to merge what others have done
            marks = sorted((self.out / WORK).glob(f"{_SHARDS}*"), key=lambda path: path.stat().st_mtime_ns)
            shards = int(marks[-1].name.removeprefix(_SHARDS)) if marks else 1
        text = f"{len(missing)} of {count} items are not finished"
        if shards > 1:
            numbers = sorted({number % shards + 1 for number in missing})
            text += f", of shards {', '.join(str(Shard(number, shards)) for number in numbers)}"
        return f"{text}; the last shard to end merges all"


def is_current(lines: list[dict], item: WorkItem) -> bool:
    """Whether lines are of an item as it is now."""
    return bool(lines) and lines[-1]["sources"] == item.stamps() and lines[-1]["asked"] == item.params


@contextmanager
def opened(
    program: Program, out: Path, settings: dict, shard: Shard, *, overwrite: bool = False
) -> Iterator[Tree]:
    """OUT, made ready for a run with these settings.

    Until the block ends nobody else works there, but for other shards. A run of the same settings is gone on
    with, anything else in OUT is refused, except that `overwrite` removes an earlier run. A run that fails
    before anything was made leaves nothing. Raises InputError.
    """
    out, single = Path(out), shard.count == 1
    if overwrite and not single:
        raise InputError(f"--overwrite is for a single process, not for shard {shard}; remove {out} first")
    with at_work_in(out, alone=single) as lock:
        with writing_to(out):
            if program.holds_run(out) and overwrite:
                remove(program, out)
            tree = Tree(program, out, settings, shard, lock)
            if tree.is_new:
                tree.write_summary({"state": "unfinished"})
            (out / WORK).mkdir(exist_ok=True)
            if not single:
                (out / WORK / f"{_SHARDS}{shard.count}").touch()
        try:
            yield tree
        except InputError:
            made = {path.name for path in out.iterdir() if not is_lock(path)}
            if single and not Records(out, program.stages) and made <= {program.summary, WORK}:
                remove(program, out)
            raise
        if tree.is_merged:
            shutil.rmtree(out / WORK, ignore_errors=True)


def remove(program: Program, out: Path) -> None:
    """Take away what a program writes below OUT, and never more."""
    take_away(out, *program.folders, WORK, MANIFEST, program.summary)


def take_away(out: Path, *names: str) -> None:
    """Remove files and folders below OUT, those that are there."""
    for path in (out / name for name in names):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
