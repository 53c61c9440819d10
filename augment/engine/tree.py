"""A tree as one process works on it: opening it, what is still to do, and merging what all shards did."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from augment.engine.records import (
    MANIFEST,
    SCHEMA,
    WORK,
    Item,
    Records,
    are_there,
    fingerprint,
    outputs_of,
    shard_files,
    shard_of_file,
)
from augment.engine.shards import Shard
from support.errors import InputError, name_some, warn
from support.files import alone_in, has_parts, in_turn, is_empty, is_lock, write_atomic, writing_to


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
        found = self.read_summary(out) is not None
        if not found and out.is_dir() and not is_empty(out):
            raise InputError(f"--out {out}: is not empty and holds no earlier run; choose another")
        return found

    def config_hash(self, settings: dict) -> str:
        """Of all that decides what is written, but for the sources."""
        return fingerprint([SCHEMA, self.name, self.code_version, settings])


class Tree:
    """OUT, opened for a run with some settings."""

    def __init__(self, program: Program, out: Path, settings: dict, shard: Shard):
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
            raise InputError(
                f"--out {out}: holds a run with other settings or data (see its {program.summary}); choose"
                " another --out, or give --overwrite to replace it"
            )
        self.is_new = summary is None
        self.was_ended = not self.is_new and not (self.out / WORK).exists()
        self.records = Records(self.out, program.stages)
        self.alone = ExitStack()  # what keeps other processes from this shard

    def write_summary(self, results: dict) -> None:
        """Write the summary: settings, their hash, and `results`."""
        content = self.common | {"settings": self.settings} | results
        write_atomic(self.out / self.program.summary, (json.dumps(content, indent=1) + "\n").encode())

    def append(self, lines: list[dict]) -> None:
        """Add the block of an item. OSError if it can't be written."""
        self.records.append(self.shard, self.common, lines)

    # ---- what there is to do --------------------------------------------------------------------

    def to_do(self, stage: str, items: list[Item]) -> list[Item]:
        """The items of this shard that must be worked on; those whose sources have changed are named."""
        found, changed = [], []
        for item in self.shard.of(items):
            lines = self.records.get(stage, item.key)
            current = is_current(lines, item)
            if not current or lines[-1]["status"] == "failed" or not are_there(self.out, outputs_of(lines)):
                found.append(item)
            if lines and not current:
                changed += sources_changed(lines, item)
        warn_of_changes(changed)
        return found

    # ---- what spans shards ----------------------------------------------------------------------

    @contextmanager
    def merging(self, keys: list[str], finished: Callable[[str], bool]) -> Iterator[bool]:
        """Merge the shards and go on with the block, alone in OUT; whether that falls to this process.

        keys: of all items; finished(key): whether nothing more is to be tried with one now. Of several
        shards the last one to end merges. When the block ends well, the shards' files are gone.
        """
        with ExitStack() as turn:
            last = True
            if self.shard.count > 1:
                self.alone.close()  # first: of two that end at the same time the later one then sees nobody
                turn.enter_context(in_turn(self.out))
                last = not has_parts(self.out)
                self.records = Records(self.out, self.program.stages)
            missing = [number for number, key in enumerate(keys) if not finished(key)]
            files = shard_files(self.out)
            if missing:
                print(f"{self.out}: {self._about(missing, len(keys), files)}")
            elif not last:
                print(f"{self.out}: all items are finished; another shard is still there, which merges them")
            if missing or not last:
                yield False
                return
            with writing_to(self.out):
                if files or not self.was_ended:
                    for left_over in self.out.rglob(".*.tmp"):  # of processes that were killed
                        left_over.unlink(missing_ok=True)
                    known = set(keys)
                    for stage, places in self.records.places.items():
                        for key in places.keys() - known:  # of a wider scope, or gone from the source
                            if self.records.get(stage, key)[-1]["status"] == "failed":
                                del places[key]
                    self.records.write_manifest()
                yield True
                shutil.rmtree(self.out / WORK, ignore_errors=True)

    def _about(self, missing: list[int], count: int, files: list[Path]) -> str:
        """What is missing, in a line."""
        shards = self.shard.count if self.shard.count > 1 or not files else shard_of_file(files[-1]).count
        text = f"{len(missing)} of {count} items are not finished"
        if shards > 1:
            numbers = sorted({number % shards + 1 for number in missing})
            text += f", of shards {', '.join(str(Shard(number, shards)) for number in numbers)}"
        return f"{text}; the last shard to end merges all"


def is_current(lines: list[dict], item: Item) -> bool:
    """Whether a block is of an item as it is now."""
    return bool(lines) and lines[-1]["sources"] == item.stamps() and lines[-1]["asked"] == item.asked


def sources_changed(lines: list[dict], item: Item) -> list[str]:
    """The names of the sources that are not as they were when a block was made."""
    before, now = lines[-1]["sources"], item.stamps()
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def warn_of_changes(names: list[str]) -> None:
    if names:
        warn(f"changed since an earlier run, what is made of it is made again: {name_some(names)}")


@contextmanager
def opened(
    program: Program, out: Path, settings: dict, shard: Shard, *, overwrite: bool = False
) -> Iterator[Tree]:
    """OUT, made ready for a run with these settings; until the block ends nobody else works on this shard.

    A run of the same settings is gone on with, anything else in OUT is refused, except that `overwrite`
    removes an earlier run. A run that fails before anything was made leaves nothing. Raises InputError.
    """
    out = Path(out)
    if overwrite and shard.count > 1:
        raise InputError(f"--overwrite is for a single process, not for shard {shard}; remove {out} first")
    with ExitStack() as held:
        held.enter_context(alone_in(out, "" if shard.count == 1 else f"{shard.number}-of-{shard.count}"))
        with in_turn(out), writing_to(out):
            if program.holds_run(out) and overwrite:
                remove(program, out)
            tree = Tree(program, out, settings, shard)
            if tree.is_new:
                tree.write_summary({"state": "unfinished"})
            (out / WORK).mkdir(exist_ok=True)
        tree.alone = held.enter_context(held.pop_all())
        try:
            yield tree
        except InputError:
            made = {path.name for path in out.iterdir() if not is_lock(path)}
            if shard.count == 1 and not any(tree.records.places.values()) and made <= {program.summary, WORK}:
                remove(program, out)
            raise


def remove(program: Program, out: Path) -> None:
    """Take away what a program writes below OUT, and never more."""
    for name in (*program.folders, WORK, MANIFEST, program.summary):
        path = out / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
