"""What was made of each item: OUT/manifest.jsonl, and in OUT/.work what is not merged yet.

The manifest has a block of lines for each item and stage: one for each of its parts (an object inserted, an
instance cut out, a sample painted), and last the item's own, which alone has "sources", the size and the time
of change of the files that it was made from. In OUT/.work each process has a file of records: a line for an
item, a list of all its lines, written at once; it counts instead of what the manifest says of the item, and
one that was cut short doesn't count. Only the place of each block and record is kept in memory.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from support.errors import InputError
from support.files import append, digest, replacing, stamp, write_atomic

SCHEMA = 2  # of the lines
MANIFEST = "manifest.jsonl"
WORK = ".work"  # folder of what is there only until a run has ended, all shards merged
_RECORDS = ".jsonl"  # ends the names of the files of records there

Place = tuple[int, int, int]  # number of the file, begin, length


@dataclass(frozen=True)
class WorkItem:
    """What is made in one go."""

    key: str
    sources: dict[str, Path] = field(default_factory=dict)  # files it is made from, by name; may be absent
    params: object = None  # what decides it beside the settings of the run, as JSON gives it back
    facts: dict = field(default_factory=dict)  # what its line says whatever becomes of it
    task: object = None  # what makes it may want to know more

    def stamps(self) -> dict[str, list[int]]:
        """By what a change shows: size in bytes and mtime in ns of each source that is there."""
        return {name: found for name, path in self.sources.items() if (found := stamp(path))}

    def line(self, stage: str) -> dict:
        """The item's own line, the last one of its block; made before the sources are read."""
        line = line_of(stage, self.key, "ok", **self.facts)
        return line | {"sources": self.stamps(), "asked": self.params}


def line_of(stage: str, key: str, status: str, reason: str = "", **facts) -> dict:
    """A line without what is common to a run."""
    line = {"stage": stage, "key": key, "status": status}
    return line | ({"reason": reason} if reason else {}) | facts


def fingerprint(content) -> str:
    """SHA-256 of anything that JSON can express."""
    return digest(json.dumps(content, sort_keys=True).encode())


@dataclass(frozen=True)
class Link:
    """A file of the tree that is a symbolic link."""

    target: Path
    content: bytes


def write_outputs(out: Path, files: dict[str, bytes | Path | Link]) -> dict[str, str]:
    """Write files, copies or links by path below OUT; their digests by path. OSError if it fails."""
    digests = {}
    for name, content in sorted(files.items()):
        path = Path(out) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Link):
            with replacing(path) as temporary:
                temporary.symlink_to(content.target)
            content = content.content
        else:
            content = content.read_bytes() if isinstance(content, Path) else content
            write_atomic(path, content)
        digests[name] = digest(content)
    return digests


def outputs_of(lines: Iterable[dict]) -> dict[str, str]:
    """Digests of all files that some lines say were written, by path below OUT."""
    return {path: sha for line in lines for path, sha in line.get("outputs", {}).items()}


def are_there(out: Path, digests: dict[str, str], *, compare: bool = False) -> bool:
    """Whether files exist and, where they are to be compared, still have their digests."""
    try:
        for path, sha in digests.items():
            if not compare:
                os.stat(f"{out}/{path}")
            elif digest((Path(out) / path).read_bytes()) != sha:
                return False
    except OSError:
        return False
    return True


def write_record(out: Path, lines: list[dict]) -> None:
    """Write what was made of an item, its own line last, at the end of this process's file."""
    name = f"{os.uname().nodename}-{os.getpid()}{_RECORDS}"
    append(Path(out) / WORK / name, json.dumps(lines).encode() + b"\n")


def read_manifest(out: Path | str) -> Iterator[dict]:
    """The lines of OUT/manifest.jsonl but for a last one that was cut short; none if there is no such file.

    One after another, since there may be more than memory holds. Raises InputError, with its number, for a
    line that is none of ours.
    """
    path = Path(out) / MANIFEST
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            try:
                line = json.loads(text)
                sound = {"stage", "key", "status"} <= line.keys()
            except (ValueError, AttributeError):
                sound = False
            if sound:
                yield line
            elif text.endswith(b"\n"):
                raise InputError(f"{path}, line {number}: damaged; make the tree anew")


class Records:
    """What is known of all items below OUT at the time when this is made."""

    def __init__(self, out: Path, stages: tuple[str, ...]):
        """Nothing is written. Raises InputError for a line of the manifest that is none of ours."""
        self.out = Path(out)
        self._files: list[BinaryIO] = []
        self._new: dict[str, Place] = {}
        self._merged: dict[str, dict[str, Place]] = {stage: {} for stage in stages}
        manifest = self.out / MANIFEST
        if manifest.exists():
            self._read_manifest(manifest)
        for path in sorted(self._work_files(), key=lambda path: path.stat().st_mtime_ns):
            self._read_records(path)

    def _work_files(self) -> list[Path]:
        return list((self.out / WORK).glob(f"*{_RECORDS}"))

    def _read_manifest(self, path: Path) -> None:
        self._files.append(path.open("rb"))
        begin = end = 0
        for number, text in enumerate(self._files[-1], 1):
            if not text.endswith(b"\n"):  # of a file that was copied in part
                break
            end += len(text)
            try:
                line = json.loads(text)
                places = self._merged[line["stage"]]
                if "sources" in line:
                    places[line["key"]] = len(self._files) - 1, begin, end - begin
                    begin = end
            except (ValueError, KeyError, TypeError):
                raise InputError(
                    f"{path}, line {number}: damaged; remove that line, or give --overwrite to start anew"
                ) from None

    def _read_records(self, path: Path) -> None:
        self._files.append(path.open("rb"))
        begin = 0
        for text in self._files[-1]:
            with suppress(ValueError):  # cut short, as by a kill
                self._new[json.loads(text)[-1]["key"]] = len(self._files) - 1, begin, len(text)
            begin += len(text)

    def _text(self, place: Place) -> bytes:
        file, begin, length = place
        return os.pread(self._files[file].fileno(), length, begin)

    def __bool__(self) -> bool:
        """Whether anything was made."""
        return bool(self._new) or any(self._merged.values())

    @property
    def are_merged(self) -> bool:
        """Whether the manifest tells all."""
        return not self._new

    def get(self, key: str) -> list[dict]:
        """All lines of an item, stage by stage, its own of the last stage last; none if nothing was made."""
        if key in self._new:
            return json.loads(self._text(self._new[key]))
        blocks = [self._text(places[key]) for places in self._merged.values() if key in places]
        return [json.loads(text) for block in blocks for text in block.splitlines()]

    def keys(self) -> list[str]:
        """Of all items, sorted."""
        return sorted(set().union(self._new, *self._merged.values()))

    def blocks(self) -> Iterator[list[dict]]:
        """`get` of all items, in the order of the keys."""
        return map(self.get, self.keys())

    def merge(self, known: set[str]) -> None:
        """Write OUT/manifest.jsonl anew, as a whole: stage by stage, in the order of the keys.

        Left out are items that failed and are not known: of a wider scope, or gone from the source.
        """
        keys = [
            key
            for key in self.keys()
            if key in known or (lines := self.get(key))[-1]["status"] != "failed" or outputs_of(lines)
        ]
        with replacing(self.out / MANIFEST) as temporary, temporary.open("wb") as file:
            for stage in self._merged:
                for key in keys:
                    for line in self.get(key):
                        if line["stage"] == stage:
                            file.write(json.dumps(line).encode() + b"\n")
        for path in self._work_files():
            path.unlink()
