"""The manifest of a synthesis run: one JSON line for each item of select, generate and integrate, appended.

Raw files and COCO files are no items of a run: they follow from the tree as it is, whoever makes it.

While a stage runs, only the parent process appends, one line in one write. The last line of an item counts;
a last line that was cut short is dropped. When a stage is through, the file is written anew, the last line
of each item only, sorted: so an interrupted and an uninterrupted run end with the same lines, except for
"seconds", which is measured (`same_lines` leaves it out).

Only the place of each line in the file is kept in memory.
"""

import json
import os
from pathlib import Path

from data.writer import FrameName
from support.errors import InputError
from support.files import digest, replacing, write_atomic

SCHEMA = 1
CODE_VERSION = "3"  # of everything that decides what the pipeline writes; another one starts anew
MANIFEST = "manifest.jsonl"
STAGES = ("select", "generate", "integrate")
STATUSES = ("ok", "skipped", "failed")


def fingerprint(content) -> str:
    """SHA-256 of anything that JSON can express."""
    return digest(json.dumps(content, sort_keys=True).encode())


def frame_key(name: FrameName) -> str:
    """ "city/seq/frame" """
    return f"{name.city}/{name.sequence:06d}/{name.frame:06d}"


def instance_key(name: FrameName, instance_id: int) -> str:
    """ "city/seq/frame/instance" """
    return f"{frame_key(name)}/{instance_id:05d}"


def sample_key(name: FrameName, instance_id: int, sample: int) -> str:
    """ "city/seq/frame/instance/sample", samples counting from 1."""
    return f"{instance_key(name, instance_id)}/{sample:03d}"


def line_of(stage: str, key: str, status: str, reason: str = "", **facts) -> dict:
    """A line without what is common to a run."""
    line = {"stage": stage, "key": key, "status": status}
    return line | ({"reason": reason} if reason else {}) | facts


def write_outputs(out: Path, files: dict[str, bytes]) -> dict[str, str]:
    """Write files by their path below OUT; their digests by path. OSError if that fails."""
    for name, content in files.items():
        path = Path(out) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
    return {name: digest(files[name]) for name in sorted(files)}


class Manifest:
    """OUT/manifest.jsonl, open for appending and for looking up the last line of each item."""

    def __init__(self, out: Path, common: dict, read_only: bool = False):
        """common: what each new line begins with (schema, run_id, config_hash, code_version).

        A line cut short at the end is removed. Raises InputError for any other line that is no JSON.
        read_only: nothing is written, and the file may be missing.
        """
        self.out, self.path, self.common = Path(out), Path(out) / MANIFEST, common
        self.places: dict[tuple[str, str], tuple[int, str]] = {}  # offset and status of the last line
        self.end, self.file = 0, None
        if read_only and not self.path.exists():
            return
        if not read_only:
            self.path.touch()
        with self.path.open("rb") as file:
            for number, text in enumerate(file, 1):
                if not text.endswith(b"\n"):
                    break
                try:
                    line = json.loads(text)
                    self.places[line["stage"], line["key"]] = self.end, line["status"]
                except (ValueError, KeyError, TypeError):
                    raise InputError(
                        f"{self.path}, line {number}: damaged; remove that line, or give --overwrite to start"
                        " anew"
                    ) from None
                self.end += len(text)
        if not read_only:
            if self.end < self.path.stat().st_size:
                os.truncate(self.path, self.end)
            self.file = self.path.open("ab", buffering=0)

    def append(self, line: dict) -> None:
        """Add a line made by `line_of`."""
        text = json.dumps(self.common | line).encode() + b"\n"
        if self.file.write(text) != len(text):
            raise OSError(f"{self.path}: only part of a line could be written")
        self.places[line["stage"], line["key"]] = self.end, line["status"]
        self.end += len(text)

    def get(self, stage: str, key: str) -> dict | None:
        """The last line of an item."""
        if (stage, key) not in self.places:
            return None
        with self.path.open("rb") as file:
            file.seek(self.places[stage, key][0])
            return json.loads(file.readline())

    def is_done(self, line: dict | None, source: Path | None = None) -> bool:
        """Whether a last line says that an item need not be worked on again.

        Its outputs must exist. With `source` (the input's root) all inputs and outputs must also still have
        the digests of the line.
        """
        if line is None or line["status"] != "ok" or line["config_hash"] != self.common["config_hash"]:
            return False
        if source is None:
            return all((self.out / path).exists() for path in line.get("outputs", ()))
        try:
            return all(
                digest(((self.out if path.startswith("work/") else Path(source)) / path).read_bytes()) == sha
                for path, sha in line.get("inputs", {}).items()
            ) and all(
                digest((self.out / path).read_bytes()) == sha for path, sha in line.get("outputs", {}).items()
            )
        except OSError:
            return False

    def tidy(self) -> None:
        """Write the file anew, atomically: the last line of each item, by stage and key."""
        order = sorted(self.places, key=lambda item: (STAGES.index(item[0]), item[1]))
        places = {}
        with replacing(self.path) as temporary:
            with self.path.open("rb") as old, temporary.open("wb") as new:
                for item in order:
                    offset, status = self.places[item]
                    old.seek(offset)
                    places[item] = new.tell(), status
                    new.write(old.readline())
                self.end = new.tell()
            self.file.close()
        self.places = places
        self.file = self.path.open("ab", buffering=0)


def same_lines(path: Path) -> list[dict]:
    """The lines of a tidy manifest without what is measured, to compare runs."""
    lines = map(json.loads, Path(path).read_text().splitlines())
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]
