"""python -m scripts.synth.export --out datasets/synth

Writes OUT/annotations/instancesonly_filtered_gtFine_SPLIT.json, the COCO annotation of all frames of a tree:
raw and synthetic ones, or those of an insertion. With --panoptic also
OUT/gtFine/cityscapes_panoptic_SPLIT.json and its images, as the official tool makes them.
"""

import json
from functools import partial
from pathlib import Path

from augment.tree_extras import add_panoptic, export_coco, splits_of
from data.coco import CATEGORY_IDS
from support.errors import SAME_COMMAND, InputError, Parser, run_program
from support.files import at_work_in, writing_to
from support.processes import Pool
from support.threads import cores


def parser() -> Parser:
    parser = Parser("python -m scripts.synth.export", "Write COCO annotation of a tree.")
    parser.add_argument("--out", required=True, type=Path, help="folder of the tree")
    parser.add_argument("--splits", nargs="+", help="splits to write (default: all that have ground truth)")
    parser.add_argument(
        "--category_ids",
        choices=CATEGORY_IDS,
        default="coco",
        help="coco: 1 to 8; cityscapes: the label ids 24 to 33 (default coco)",
    )
    parser.add_argument(
        "--polygons",
        action="store_true",
        help="outlines instead of run-length codes, for instances without holes that are no groups",
    )
    parser.add_argument("--panoptic", action="store_true", help="write COCO panoptic annotation too")
    parser.add_argument("--num_workers", type=int, default=cores(), help="processes (default: one a core)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    flags = parser().parse_args(arguments)
    splits = flags.splits or splits_of(flags.out)
    if not splits:
        raise InputError(f"--out {flags.out}: holds no instance maps; give the folder of a tree")
    with at_work_in(flags.out), writing_to(flags.out), Pool(flags.num_workers) as pool:
        spread = partial(pool.with_bar, "export")
        paths, left_out = export_coco(
            flags.out, splits, flags.category_ids, polygons=flags.polygons, map_function=spread
        )
        panoptic = add_panoptic(flags.out, splits) if flags.panoptic else []
    for path in panoptic:
        print(path)
    for path in paths:
        content = json.loads(path.read_text())
        new = sum(one["source"] != "original" for one in content["annotations"])
        print(f"{path}: {len(content['images'])} images, {len(content['annotations'])} annotations,", end=" ")
        print(f"{new} of them new")
    return 1 if left_out else 0


if __name__ == "__main__":
    run_program(main, SAME_COMMAND)
