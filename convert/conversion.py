"""Converting a whole data set: names in the tree, one image after another, the report.

A program of the engine; OUT/convert.json has the report.
"""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from convert.formats import module_of
from convert.frame import files_of, maps_of
from convert.mapping import VOID, check_complete
from convert.source import Category, DataSet, existing_folder
from data.frame import GT_KINDS, IMAGE_KIND, Frame
from data.images import find_image
from engine.records import WorkItem
from engine.tree import Program, Tree
from support.errors import InputError, name_some, warn
from support.files import check_apart, is_there, writing_to

CONVERT = Program("convert", "2", "convert.json", ("convert",), (IMAGE_KIND, GT_KINDS[0]))
_PLACES = 10**6  # sequences, and frames of each


@dataclass(frozen=True)
class Conversion:
    """What is asked for. mapping: category name -> label name; link: link images that need no change."""

    format_name: str
    root: Path
    out: Path
    mapping: dict[str, str]
    link: bool

    def settings(self) -> dict:
        """What decides on the content of the tree; splits may come one after the other."""
        root = str(self.root.resolve())
        return {"format": self.format_name, "root": root, "link": self.link, "mapping": self.mapping}


# ---- input --------------------------------------------------------------------------------------


def find(conversion: Conversion, split: str | None) -> tuple[list[WorkItem], DataSet]:
    """The items of a split, or of all, with their names, and the data set.

    Raises InputError if the folder holds no data set of the format, if the mapping lacks categories, if
    there is no such split, or if OUT lies in the data set or around it.
    """
    root = existing_folder(conversion.root, "the data set")
    check_apart(conversion.out, root, f"the data set {root} or around it")
    data_set = module_of(conversion.format_name).find(root)
    check_complete(conversion.mapping, data_set.categories)
    splits = sorted({item.split for item in data_set.items})
    if split is not None and split not in splits:
        raise InputError(f"--split {split}: no such split, only {', '.join(splits)}")
    found: dict[str, WorkItem] = {}
    count: Counter[tuple[str, str]] = Counter()  # of items without a place of their own
    for item in data_set.items:
        item = replace(item, image=find_image(item.image) or item.image)
        place = item.place
        if place is None:
            place = divmod(count[item.split, item.city], _PLACES)
            count[item.split, item.city] += 1
        frame = Frame.official(conversion.out, item.split, item.city, *place)
        key = f"{item.split}/{frame.key}"
        if key in found:
            raise InputError(f"two images would have the name {key} in the tree; rename a folder of one")
        sources = {os.path.relpath(path, root): path for path in item.files}
        image, *annotations = sources
        found[key] = WorkItem(
            key, sources, None, {"picture": image, "annotations": annotations}, (frame, item)
        )
    return [one for one in found.values() if split in (None, one.task[1].split)], data_set


# ---- one image --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Converter:
    """What converts images: `engine.tree.Make` for items whose task is a `Frame` and a `SourceImage`."""

    conversion: Conversion
    categories: dict[int, Category]

    def __call__(self, item: WorkItem, write: Callable) -> list[dict]:
        """Write the files of a frame; what the line says of it. OSError where writing fails."""
        (frame, source), conversion = item.task, self.conversion
        try:
            if missing := [path for path in source.files if not is_there(path)]:
                raise InputError(f"{missing[0]}: is not there; unpack all archives of the data set")
            if source.problem:
                raise InputError(source.problem)
            segments = module_of(conversion.format_name).read(source, self.categories)
            maps = maps_of(segments, self.categories, conversion.mapping)
            files = files_of(frame, source, maps, conversion.link)
        except (InputError, ValueError) as error:
            reason = str(error) if isinstance(error, InputError) else f"{source.annotations[0]}: {error}"
            return [{"status": "failed", "reason": reason}]
        return [{"counts": maps.counts, "outputs": write(files)}]


def check_names(tree: Tree, items: list[WorkItem]) -> None:
    """Raises InputError if a name stands for another image in OUT than it would now."""
    for item in items:
        lines, image = tree.records.get(item.key), item.facts["picture"]
        if lines and lines[-1]["picture"] != image:
            raise InputError(
                f"--out {tree.out}: {item.key} is {lines[-1]['picture']} there, now {image}; choose another"
                " --out"
            )


# ---- the report ---------------------------------------------------------------------------------


def summed_up(tree: Tree, items: list[WorkItem], mapping: dict[str, str]) -> tuple[list[dict], str]:
    """Write the summary of a merged tree: each item's line, and what became of the categories as a table."""
    lines = [tree.records.get(item.key)[-1] for item in items]
    failed, report = reasons(lines), report_of(lines, mapping)
    state = "with failures" if failed else "complete"
    summary = {"state": state, "pictures": len(lines), "failed": failed, "categories": report}
    with writing_to(tree.out):
        tree.write_summary(summary)
    return lines, report_text(report)


def tell_end(lines: list[dict], out: Path, what: str) -> int:
    """Print how many of `what` are in OUT and name those that failed; the exit status."""
    failed = reasons(lines)
    print(f"{len(lines) - len(failed)} of {len(lines)} {what} are in {out}")
    if failed:
        warn(f"{len(failed)} failed: {name_some(failed)}")
    return 1 if failed else 0


def reasons(lines: list[dict]) -> list[str]:
    """Why items failed."""
    return [line["reason"] for line in lines if line["status"] == "failed"]


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
        numbers = zip(("segments", "single", "pixels"), sums[name], strict=True)
        report[name] = {"label": label, "fate": fate, **dict(numbers)}
    return report


def report_text(report: dict[str, dict]) -> str:
    """The report as a table."""
    width = max([8, *map(len, report)])
    wide = max([14, *(len(row["label"]) + 1 for row in report.values())])
    pixels = max(1, sum(row["pixels"] for row in report.values()))
    lines = [
        f"{'category':<{width}}  {'label':<{wide}}{'':<9}{'segments':>9}{'single':>9}{'% of pixels':>13}"
    ]
    for name, row in report.items():
        share = 100 * row["pixels"] / pixels
        counts = f"{row['segments']:>9}{row['single']:>9}{share:>13.3f}"
        lines.append(f"{name:<{width}}  {row['label']:<{wide}}{row['fate']:<9}{counts}")
    return "\n".join(lines)
