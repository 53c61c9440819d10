"""The tree that an insertion makes, as a whole: what is planned for it, opening, resuming, summing up.

OUT/insert.json holds the settings and, at the end, the counts; OUT/.work/NAME.json says that an image is
finished and disappears when all are; OUT/manifest.jsonl has a line for each object that was tried.
"""

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from augment.insert.places import WORK, Task
from augment.insert.scene import city_of, stamp
from data.cityscapes import INSTANCE_SUFFIX, LABEL_SUFFIX, Frame
from data.labels import TARGET_CLASSES
from support.errors import InputError
from support.files import digest, is_empty, write_atomic
from support.seeds import generator

VERSION = 3  # of manifest.jsonl and insert.json
SUMMARY = "insert.json"
MANIFEST = "manifest.jsonl"
PREVIEW = "preview.png"
WAIT = 1800  # seconds without a new image of any rank after which rank 0 gives up
MOST_OBJECTS = 255  # in one image; the mask of inserted pixels has 8 bits
_OURS = ("gtFine", "camera", "leftImg8bit", "inserted", "annotations", WORK, MANIFEST, PREVIEW, SUMMARY)


# ---- the plan -----------------------------------------------------------------------------------


def plan(
    names: list[str],
    classes: tuple[str, ...],
    seed: int,
    per_image: tuple[int, int] = (1, 1),
    budget: dict[str, int] | None = None,
) -> list[tuple[str, ...]]:
    """The classes of the objects to insert into each image, in order; from names and seed alone.

    budget: objects of each class in all, spread evenly over the images, the remainder over images drawn by
    the seed. Without it each image gets a number drawn from the range `per_image` (both ends included) and
    each object a class drawn from `classes`. Raises InputError for more than 255 in an image.
    """
    if budget is None:
        planned = []
        for name in names:
            rng = generator(seed, name, 0, "insert plan")
            count = int(rng.integers(per_image[0], per_image[1] + 1))
            planned.append([classes[int(chosen)] for chosen in rng.integers(len(classes), size=count)])
    else:
        planned = [[] for _ in names]
        for class_name, count in sorted(budget.items()):
            order = generator(seed, class_name, 0, "insert budget").permutation(len(names))
            for rank, image in enumerate(order.tolist()):
                planned[image] += [class_name] * (count // len(names) + (rank < count % len(names)))
        for name, chosen in zip(names, planned, strict=True):
            generator(seed, name, 0, "insert order").shuffle(chosen)
    most = max(map(len, planned), default=0)
    if most > MOST_OBJECTS:
        raise InputError(f"{most} objects in one image are too many, at most {MOST_OBJECTS}; ask for fewer")
    return [tuple(chosen) for chosen in planned]


# ---- opening and resuming -----------------------------------------------------------------------


def fingerprint(decisive: dict) -> str:
    """Hash of everything that decides what is written."""
    return digest(json.dumps(decisive, sort_keys=True).encode())


def open_tree(out: Path, decisive: dict, overwrite: bool) -> dict | None:
    """Make the folder OUT ready for a run with these settings; the summary if that is complete there.

    A run of the same settings that was cut short is gone on with; anything else in OUT is refused, except
    that `overwrite` removes an earlier insertion. Raises InputError.
    """
    summary = read_summary(out)
    if overwrite and summary is not None:
        for name in _OURS:  # never more than an insertion writes
            path = out / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        summary = None
    if summary is None:
        if not is_empty(out):
            raise InputError(f"--out {out}: is not empty and holds no earlier insertion; choose another")
        (out / WORK).mkdir(parents=True, exist_ok=True)
        write_summary(out, decisive, {"state": "unfinished"})
        return None
    if summary.get("fingerprint") != fingerprint(decisive):
        raise InputError(
            f"--out {out}: holds an insertion with other settings or data (see its {SUMMARY}); choose"
            " another --out, or give --overwrite to replace it"
        )
    if summary["state"] == "complete":
        return summary
    for left_over in out.rglob(".*.tmp"):
        left_over.unlink()
    (out / WORK).mkdir(exist_ok=True)
    return None


def abandon(out: Path) -> None:
    """Remove what `open_tree` made unless an image is finished: the next command may have other settings."""
    if not any((out / WORK).glob("*.json")):
        shutil.rmtree(out / WORK)
        (out / SUMMARY).unlink()


def read_summary(out: Path) -> dict | None:
    """What OUT/insert.json holds, None if there is none. InputError if it is damaged."""
    path = out / SUMMARY
    try:
        summary = json.loads(path.read_text())
        return summary if summary["state"] and summary["fingerprint"] else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error}); remove {out}, or choose another --out") from None


def write_summary(out: Path, decisive: dict, results: dict) -> None:
    """Write OUT/insert.json: settings, their hash, and `results` with the key "state"."""
    content = {
        "version": VERSION,
        "fingerprint": fingerprint(decisive),
        **results,
        "settings": decisive,
    }
    write_atomic(out / SUMMARY, (json.dumps(content, indent=1) + "\n").encode())


def read_record(out: Path, frame: Frame) -> dict | None:
    """The record of an image that this run or an earlier one worked on, None if there is none."""
    try:
        return json.loads((out / WORK / f"{frame.name}.json").read_text())
    except (OSError, ValueError):
        return None


def is_done(out: Path, frame: Frame) -> bool:
    """Whether an image is finished: record and files are there and the source is still the same."""
    record = read_record(out, frame)
    return (
        record is not None
        and record["status"] == "done"
        and record["stamp"] == stamp(frame)
        and all((out / path).exists() for path in record["files"])
    )


# ---- the run ----------------------------------------------------------------------------------


def all_records(out: Path, frames: list[Frame]) -> list[dict]:
    """The records of all images, waiting for the other ranks. InputError if none comes for too long."""
    records: dict[str, dict] = {}
    last = time.monotonic()
    while len(records) < len(frames):
        for frame in frames:
            name = frame.name
            if name not in records and (record := read_record(out, frame)):
                records[name] = record
                last = time.monotonic()
        if len(records) < len(frames):
            if time.monotonic() - last > WAIT:
                raise InputError(
                    f"{out}: {len(frames) - len(records)} images of other ranks do not come; start again"
                )
            time.sleep(1)
    return [records[frame.name] for frame in frames]


def remove_records(out: Path) -> None:
    """Drop the records of a complete run: the manifest holds what they say."""
    for path in (out / WORK).iterdir():
        path.unlink()
    (out / WORK).rmdir()


# ---- summing up ---------------------------------------------------------------------------------


def manifest_lines(task: Task, record: dict, checkpoints: dict[str, str]) -> list[dict]:
    """The lines of one image; checkpoints: hash of each class's checkpoint."""
    frame = task.frame
    line = {"version": VERSION, "image": frame.name, "source": frame.label_path.name}
    if record["status"] == "failed":
        return [line | {"status": "failed", "reason": record["reason"]}]
    return [line | {"checkpoint": checkpoints[one["class"]][:16], **one} for one in record["objects"]]


def write_manifest(
    out: Path, tasks: list[Task], records: list[dict], checkpoints: dict[str, str]
) -> list[dict]:
    """Write OUT/manifest.jsonl in the order of the tasks, and return its lines."""
    lines = [
        line
        for task, record in zip(tasks, records, strict=True)
        for line in manifest_lines(task, record, checkpoints)
    ]
    write_atomic(out / MANIFEST, "".join(json.dumps(line) + "\n" for line in lines).encode())
    return lines


def sum_up(records: Iterable[dict]) -> dict:
    """Counts over all images: instances before and after, objects, refusals by reason."""
    before, after, inserted, refused = Counter(), Counter(), Counter(), Counter()
    refusals: dict[str, Counter] = {}
    failed, changed, images = [], 0, 0
    for record in records:
        images += 1
        if record["status"] == "failed":
            failed.append(record["image"])
            continue
        before.update(record["before"])
        after.update(record["after"])
        changed += any(one["status"] == "inserted" for one in record["objects"])
        for one in record["objects"]:
            (inserted if one["status"] == "inserted" else refused)[one["class"]] += 1
            refusals.setdefault(one["class"], Counter()).update(one["refusals"])
    return {
        "images": images,
        "images_changed": changed,
        "images_failed": failed,
        "instances_before": {name: before[name] for name in TARGET_CLASSES},
        "instances_after": {name: after[name] for name in TARGET_CLASSES},
        "objects_inserted": dict(sorted(inserted.items())),
        "objects_given_up": dict(sorted(refused.items())),
        "refusals": {name: dict(sorted(counts.items())) for name, counts in sorted(refusals.items())},
    }


def histogram(results: dict) -> str:
    """Instances of each class before and after, as a table of text."""
    before, after = results["instances_before"], results["instances_after"]
    rows = [f"{'class':<12}{'before':>9}{'after':>9}{'inserted':>10}"]
    rows += [
        f"{name:<12}{before[name]:>9}{after[name]:>9}{results['objects_inserted'].get(name, 0):>10}"
        for name in before
        if before[name] or after[name]
    ]
    return "\n".join(rows)


def finished_frame(out: Path, split: str, frame: Frame) -> Frame:
    """A source frame's counterpart in the tree OUT."""
    folder = out / "gtFine" / split / city_of(frame)
    return Frame(frame.name, folder / (frame.name + LABEL_SUFFIX), folder / (frame.name + INSTANCE_SUFFIX))
