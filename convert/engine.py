"""Converting a whole data set: names in the tree, resuming, the manifest, the report.

OUT/manifest.jsonl has a line for each item that was tried, appended while a run goes on; the last one of an
item counts. OUT/convert.json holds what decides on the content and, at the end, the report.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from convert.formats import module_of
from convert.frame import maps_of, write_item
from convert.mapping import VOID, check_complete
from convert.source import Category, DataSet, Item, existing_folder
from data.frame import Frame
from data.images import find_image
from support.errors import InputError
from support.files import is_empty, stamp, write_atomic

VERSION = 1  # of the two files; another one starts anew
MANIFEST = "manifest.jsonl"
SUMMARY = "convert.json"
_PLACES = 10**6  # sequences, and frames of each


@dataclass(frozen=True)
class Conversion:
    """What is asked for. mapping: category name -> label name; link: link pictures that need no change."""

    format_name: str
    root: Path
    out: Path
    mapping: dict[str, str]
    link: bool

    def decisive(self) -> dict:
        """What decides on the content of the tree; splits may come one after the other."""
        root = str(self.root.resolve())
        return {
            "version": VERSION,
            "format": self.format_name,
            "root": root,
            "link": self.link,
            "mapping": self.mapping,
        }


@dataclass(frozen=True)
class Task:
    """An item and the frame of the tree that it becomes."""

    frame: Frame
    item: Item

    @property
    def key(self) -> str:
        """ "split/city/seq/frame" """
        return f"{self.frame.split}/{self.frame.key}"

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.item.picture, *self.item.annotations)


# ---- input --------------------------------------------------------------------------------------


def find(conversion: Conversion, split: str | None) -> tuple[list[Task], DataSet]:
    """The items of a split, or of all, with their names, and the data set.

    Raises InputError if the folder holds no data set of the format, if the mapping lacks categories, if
    there is no such split, or if OUT lies in the data set or around it.
    """
    root = existing_folder(conversion.root, "the data set").resolve()
    out = conversion.out.resolve()
    if out == root or root in out.parents or out in root.parents:
        raise InputError(
            f"--out {conversion.out}: inside the data set {conversion.root} or around it; choose another"
        )
    data_set = module_of(conversion.format_name).find(conversion.root)
    check_complete(conversion.mapping, data_set.categories)
    splits = sorted({item.split for item in data_set.items})
    if split is not None and split not in splits:
        raise InputError(f"--split {split}: no such split, only {', '.join(splits)}")
    found = [replace(item, picture=find_image(item.picture) or item.picture) for item in data_set.items]
    tasks = _named(found, conversion.out)
    return [task for task in tasks if split in (None, task.item.split)], data_set


def _named(items: list[Item], out: Path) -> list[Task]:
    """Every item with a name; those without a place of their own are counted within split and city."""
    count: Counter[tuple[str, str]] = Counter()
    tasks = []
    for item in items:
        place = item.place
        if place is None:
            place = divmod(count[item.split, item.city], _PLACES)
            count[item.split, item.city] += 1
        tasks.append(Task(Frame.official(out, item.split, item.city, *place), item))
    twice = [key for key, number in Counter(task.key for task in tasks).items() if number > 1]
    if twice:
        raise InputError(f"two pictures would have the name {twice[0]} in the tree; rename a folder of one")
    return tasks


# ---- one item, in a worker process ---------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    conversion: Conversion
    categories: dict[int, Category]


_job: _Job | None = None


def start_worker(conversion: Conversion, categories: dict[int, Category]) -> None:
    """Tell this process what it works on; for a `Pool`."""
    global _job
    _job = _Job(conversion, categories)


def work(task: Task) -> dict:
    """Convert an item; its line of the manifest. OSError where writing fails."""
    conversion, item = _job.conversion, task.item
    source = [os.path.relpath(path, conversion.root) for path in task.files]
    line = {"stage": "convert", "key": task.key, "picture": source[0], "annotations": source[1:]}
    try:
        before = stamp(*task.files)
        if before is None:
            missing = next(path for path in task.files if not path.is_file())
            raise InputError(f"{missing}: is not there; unpack all archives of the data set")
        if item.problem:
            raise InputError(item.problem)
        segments = module_of(conversion.format_name).read(item, _job.categories)
        maps = maps_of(segments, _job.categories, conversion.mapping)
        outputs = write_item(task.frame, item, segments, maps, conversion.link)
    except (InputError, ValueError) as error:
        reason = str(error) if isinstance(error, InputError) else f"{item.annotations[0]}: {error}"
        return line | {"status": "failed", "reason": reason}
    return line | {"status": "ok", "stamp": before, "counts": maps.counts, "outputs": outputs}


# ---- the run ------------------------------------------------------------------------------------


def convert(
    conversion: Conversion, tasks: list[Task], map_function: Callable[[list[Task]], Iterable[dict]]
) -> list[dict]:
    """Convert what isn't there yet into OUT, which this process has locked; the lines of all tasks, in order.

    map_function gives the lines that `work` makes of the tasks it is given. Raises InputError if OUT holds
    something else, OSError where writing fails.
    """
    out = conversion.out
    _open(conversion)
    lines = _read_manifest(out)
    sources = {task.key: os.path.relpath(task.item.picture, conversion.root) for task in tasks}
    for key, line in lines.items():
        if sources.get(key, line["picture"]) != line["picture"]:
            raise InputError(
                f"--out {out}: {key} is {line['picture']} there, now {sources[key]}; choose another --out"
            )
    todo = [task for task in tasks if not _is_done(out, task, lines.get(task.key))]
    if len(todo) < len(tasks):
        print(f"{out} holds {len(tasks) - len(todo)} of {len(tasks)} pictures already")
    with (out / MANIFEST).open("ab", buffering=0) as manifest:
        for line in map_function(todo):
            manifest.write(json.dumps(line).encode() + b"\n")
            lines[line["key"]] = line
    content = "".join(json.dumps(lines[key]) + "\n" for key in sorted(lines))
    write_atomic(out / MANIFEST, content.encode())
    return [lines[task.key] for task in tasks]


def _open(conversion: Conversion) -> None:
    """Make OUT ready: empty, or holding an earlier part of the same conversion."""
    path = conversion.out / SUMMARY
    if not path.exists():
        if not is_empty(conversion.out):
            raise InputError(f"--out {conversion.out}: is not empty and holds no conversion; choose another")
        write_summary(conversion, {"state": "unfinished"})
        return
    try:
        settings = json.loads(path.read_text())["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error}); choose another --out") from None
    decisive = conversion.decisive()
    if differing := [name for name in decisive if settings.get(name) != decisive[name]]:
        raise InputError(
            f"--out {conversion.out}: holds a conversion with another {' and '.join(differing)}"
            f" (see its {SUMMARY}); choose another --out"
        )
    for left_over in conversion.out.rglob(".*.tmp"):
        left_over.unlink()


def write_summary(conversion: Conversion, results: dict) -> None:
    """Write OUT/convert.json: the settings, and `results` with the key "state"."""
    content = results | {"settings": conversion.decisive()}
    write_atomic(conversion.out / SUMMARY, (json.dumps(content, indent=1) + "\n").encode())


def _read_manifest(out: Path) -> dict[str, dict]:
    """The last line of each item; one cut short at the end is dropped from the file."""
    path = out / MANIFEST
    content = path.read_bytes() if path.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    lines = {}
    for number, text in enumerate(whole.splitlines(), 1):
        try:
            line = json.loads(text)
            lines[line["key"]] = line
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{path}, line {number}: damaged; remove that line") from None
    return lines


def _is_done(out: Path, task: Task, line: dict | None) -> bool:
    """Whether an item is converted: its files are there and the sources are still the same."""
    return (
        line is not None
        and line["status"] == "ok"
        and line["stamp"] == stamp(*task.files)
        and all((out / path).exists() for path in line["outputs"])
    )


# ---- the report ---------------------------------------------------------------------------------


def report_of(lines: list[dict], mapping: dict[str, str]) -> dict[str, dict]:
    """What became of each category that occurs, by name, by rising label name.

    label: its Cityscapes label or "void"; fate: "mapped", "merged" (others that occur have the same label),
    or "dropped"; segments, of these single instances, and pixels.
    """
    sums: dict[str, list[int]] = {}
    for line in lines:
        for name, numbers in line.get("counts", {}).items():
            sums[name] = [a + b for a, b in zip(sums.get(name, (0, 0, 0)), numbers, strict=True)]
    sharing = Counter(mapping[name] for name in sums)
    report = {}
    for name in sorted(sums, key=lambda name: (mapping[name] == VOID, mapping[name], name)):
        label = mapping[name]
        fate = "dropped" if label == VOID else "merged" if sharing[label] > 1 else "mapped"
        segments, single, pixels = sums[name]
        report[name] = {
            "label": label,
            "fate": fate,
            "segments": segments,
            "single": single,
            "pixels": pixels,
        }
    return report


def report_text(report: dict[str, dict]) -> str:
    """The report as a table."""
    width = max([8, *map(len, report)])
    pixels = max(1, sum(row["pixels"] for row in report.values()))
    lines = [f"{'category':<{width}}  {'label':<14}{'':<9}{'segments':>9}{'single':>9}{'% of pixels':>13}"]
    for name, row in report.items():
        share = 100 * row["pixels"] / pixels
        counts = f"{row['segments']:>9}{row['single']:>9}{share:>13.3f}"
        lines.append(f"{name:<{width}}  {row['label']:<14}{row['fate']:<9}{counts}")
    return "\n".join(lines)
