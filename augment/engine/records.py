"""What was made of each item: OUT/manifest.jsonl, and the files of shards until they are merged.

All these files have one format. An item of a stage has a block of lines: one for each of its parts (an
object inserted, an instance cut out, a sample painted), and last its own, which alone has "sources", the size
and the time of change of the files that it was made from. A block is written at once; one that was cut short
doesn't count. The last block of an item counts. Only the place of each block is kept in memory.
"""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from augment.engine.shards import Shard
from support.errors import InputError
from support.files import digest, listed, replacing, write_atomic

SCHEMA = 2  # of the lines
MANIFEST = "manifest.jsonl"
WORK = ".work"  # folder of what is there only until a run has ended, all shards merged


@dataclass(frozen=True)
class Item:
    """What a stage makes in one go."""

    key: str
    sources: dict[str, Path] = field(
        default_factory=dict
    )  # files it is made from, by name; they may be absent
    asked: object = None  # what decides it beside the settings of the run, as JSON gives it back

    def stamps(self) -> dict[str, list[int]]:
        """By what a change shows: size in bytes and mtime in ns of each source that is there."""
        found = {}
        for name, path in self.sources.items():
            try:
                status = path.stat()
            except OSError:
                continue
            found[name] = [status.st_size, status.st_mtime_ns]
        return found

    def line(self, stage: str, status: str, reason: str = "", **facts) -> dict:
        """The item's own line, the last one of its block; made before the sources are read."""
        line = line_of(stage, self.key, status, reason, **facts)
        return line | {"sources": self.stamps(), "asked": self.asked}


def line_of(stage: str, key: str, status: str, reason: str = "", **facts) -> dict:
    """A line without what is common to a run."""
    line = {"stage": stage, "key": key, "status": status}
    return line | ({"reason": reason} if reason else {}) | facts


def fingerprint(content) -> str:
    """SHA-256 of anything that JSON can express."""
    return digest(json.dumps(content, sort_keys=True).encode())


def write_outputs(out: Path, files: dict[str, bytes | Path]) -> dict[str, str]:
    """Write files, or copies of files, by path below OUT; their digests by path. OSError if it fails."""
    digests = {}
    for name, content in sorted(files.items()):
        path = Path(out) / name
        path.parent.mkdir(parents=True, exist_ok=True)
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


def shard_files(out: Path) -> list[Path]:
    """The files of shards that are not merged yet, each after those that were there when it was begun."""
    return listed(Path(out) / WORK, "*-of-*.jsonl")


def shard_of_file(path: Path) -> Shard:
    """Whose file of `shard_files` it is."""
    _, number, _, count = path.stem.split("-")
    return Shard(int(number), int(count))


class Records:
    """All blocks below OUT, as they were when this was made, and those appended since."""

    def __init__(self, out: Path, stages: tuple[str, ...]):
        """Nothing is written. Raises InputError, naming it, for a line that is none of ours."""
        self.out = Path(out)
        self.places: dict[str, dict[str, tuple[int, int, int]]] = {stage: {} for stage in stages}
        self._files: list[BinaryIO] = []
        self._own: BinaryIO | None = None
        for path in (self.out / MANIFEST, *shard_files(out)):
            if path.exists():
                self._read(path)

    def _read(self, path: Path) -> None:
        file = path.open("rb")
        self._files.append(file)
        begin = end = 0
        for number, text in enumerate(file, 1):
            if not text.endswith(b"\n"):  # cut short, as by a kill
                break
            end += len(text)
            try:
                line = json.loads(text)
                places = self.places[line["stage"]]
                if "sources" in line:
                    places[line["key"]] = len(self._files) - 1, begin, end - begin
                    begin = end
            except (ValueError, KeyError, TypeError):
                raise InputError(
                    f"{path}, line {number}: damaged; remove that line, or give --overwrite to start anew"
                ) from None

    def _block(self, place: tuple[int, int, int]) -> bytes:
        file, begin, length = place
        return os.pread(self._files[file].fileno(), length, begin)

    def get(self, stage: str, key: str) -> list[dict]:
        """The block of an item, its own line last; none if there is no such item."""
        place = self.places[stage].get(key)
        return [] if place is None else [json.loads(text) for text in self._block(place).splitlines()]

    def append(self, shard: Shard, common: dict, lines: list[dict]) -> None:
        """Add a block, each line with what is common to the run; the first begins the file of the shard.

        What an earlier block of the item wrote and this one did not is removed from OUT.
        """
        stage, key = lines[-1]["stage"], lines[-1]["key"]
        for path in outputs_of(self.get(stage, key)).keys() - outputs_of(lines).keys():
            (self.out / path).unlink(missing_ok=True)
        if self._own is None:
            earlier = shard_files(self.out)
            number = int(earlier[-1].name.split("-")[0]) + 1 if earlier else 1
            name = f"{number:06d}-{shard.number}-of-{shard.count}.jsonl"
            self._own = (self.out / WORK / name).open("xb+", buffering=0)
            self._files.append(self._own)
        block = b"".join(json.dumps(common | line).encode() + b"\n" for line in lines)
        begin = self._own.tell()
        if self._own.write(block) != len(block):
            raise OSError("only part of a record could be written")
        self.places[stage][key] = len(self._files) - 1, begin, len(block)

    def blocks(self, stage: str) -> Iterator[list[dict]]:
        """All blocks of a stage, in the order of the keys."""
        return (self.get(stage, key) for key in sorted(self.places[stage]))

    def write_manifest(self) -> None:
        """Write OUT/manifest.jsonl anew, whole or not at all: stage by stage, in the order of the keys."""
        with replacing(self.out / MANIFEST) as temporary, temporary.open("wb") as new:
            for places in self.places.values():
                for key in sorted(places):
                    new.write(self._block(places[key]))
