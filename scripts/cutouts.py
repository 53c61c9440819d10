"""python -m scripts.cutouts --db_root datasets/cityscapes --split train --out datasets/cutouts

Writes the instances of a split as cut-outs, PNGs with an alpha channel in a folder for each class, with
contact sheets. Delete what is no good, add your own; `scripts.insert --render cutout --cutouts OUT` shows
what is there. The same command goes on where a run was cut short, and what was deleted stays deleted.
"""

from collections import Counter
from functools import partial
from pathlib import Path

from augment.paint.export import CUTOUTS, Cutter, write_sheets
from augment.paint.folder import SHEETS
from data.frame import list_frames
from data.labels import TARGET_CLASSES
from engine.records import WorkItem
from engine.shards import Shard
from engine.tree import opened
from support.errors import SAME_COMMAND, InputError, Parser, name_some, run_program, warn
from support.files import check_apart, listed, writing_to
from support.threads import cores

MIN_HEIGHT = 32


def parser() -> Parser:
    parser = Parser("python -m scripts.cutouts", "Write the instances of a data set as cut-outs.")
    parser.add_argument("--db_root", type=Path, required=True, help="folder with gtFine/ and leftImg8bit/")
    parser.add_argument("--split", default="train", help="split whose instances are cut out (default train)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the cut-outs; made if absent")
    parser.add_argument(
        "--classes",
        nargs="+",
        choices=TARGET_CLASSES,
        default=[*TARGET_CLASSES],
        metavar="CLASS",
        help=f"of {', '.join(TARGET_CLASSES)} (default: all)",
    )
    parser.add_argument(
        "--min_height",
        type=int,
        default=MIN_HEIGHT,
        help=f"pixels; smaller instances are left out (default {MIN_HEIGHT})",
    )
    parser.add_argument("--num_workers", type=int, default=cores(), help="processes (default: one a core)")
    parser.add_argument("--overwrite", action="store_true", help="replace the cut-outs of an earlier run")
    return parser


def main(arguments: list[str] | None = None) -> int:
    flags = parser().parse_args(arguments)
    check_apart(flags.out, flags.db_root, f"the input {flags.db_root} or around it")
    frames = list_frames(flags.db_root, flags.split, skip_incomplete=True)
    with_image = [frame for frame in frames if frame.image_path]
    if not with_image:
        raise InputError(
            f"{flags.db_root}: has no images in leftImg8bit/{flags.split}; unpack"
            " leftImg8bit_trainvaltest.zip there"
        )
    items = [WorkItem(frame.name, sources_of(frame), task=frame) for frame in with_image]
    classes = tuple(name for name in TARGET_CLASSES if name in flags.classes)
    settings = {"split": flags.split, "classes": list(classes), "min_height": flags.min_height}
    with opened(CUTOUTS, flags.out, settings, Shard(), overwrite=flags.overwrite) as tree:
        todo = tree.to_do(items, sound=lambda lines: True)  # what was deleted is not made again
        if len(todo) < len(items):
            print(
                f"{flags.out} holds the instances of {len(items) - len(todo)} of {len(items)} images already"
            )
        with tree.pool(partial(Cutter, classes, flags.min_height), flags.num_workers) as pool:
            tree.make(todo, pool, "cut-outs", "image")
        tree.merge(items)
        lines = [tree.records.get(item.key)[-1] for item in items]
        failed = [line["reason"] for line in lines if line["status"] == "failed"]
        others = sum(line.get("others", 0) for line in lines)
        there = Counter({name: len(listed(flags.out / name, "*.png")) for name in classes})
        with writing_to(flags.out):
            sheets = write_sheets(flags.out, classes)
            state = "with failures" if failed else "complete"
            tree.write_summary({"state": state, "cutouts": dict(there), "others": others, "failed": failed})
    print("cut-outs    " + (", ".join(f"{name} {count}" for name, count in there.items() if count) or "none"))
    print(f"left out    {others} that something cuts or covers")
    if sheets:
        print(f"sheets      {len(sheets)} in {flags.out / SHEETS}")
    print(f"path        {flags.out}")
    if failed:
        warn(f"{len(failed)} images failed: {name_some(failed)}")
    return 1 if failed else 0


def sources_of(frame) -> dict[str, Path]:
    """The files that an image's cut-outs are made from, by name."""
    paths = (frame.instance_path, frame.image_path, frame.camera_path, frame.void_path)
    return {path.name: path for path in paths if path}


if __name__ == "__main__":
    run_program(main, SAME_COMMAND)
