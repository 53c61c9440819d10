"""python -m scripts.make_streets --out datasets/streets

Writes the built-in street scenes as an official Cityscapes tree: leftImg8bit, gtFine, camera.
"""

import argparse
import os

import cv2

from streets.scenes import write_streets
from support.errors import SAME_COMMAND, Parser, run_program
from support.settings import size_of
from support.threads import cores


def parser() -> Parser:
    parser = Parser(
        "python -m scripts.make_streets",
        "Write procedural street scenes as a Cityscapes tree.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", required=True, help="folder of the tree; made if absent, must be empty")
    parser.add_argument("--train", type=int, default=400, help="scenes in the train split")
    parser.add_argument("--val", type=int, default=60, help="scenes in the val split")
    parser.add_argument("--size", type=size_of, default="512x256", help="width x height in pixels, best 2:1")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes")
    parser.add_argument(
        "--num_workers", type=int, default=cores(), help="processes; no influence on the result"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace scenes of an earlier run in --out")
    parser.add_argument(
        "--erased", action="store_true", help="write what the maps show without each instance, too"
    )
    parser.add_argument(
        "--mixed",
        action="store_true",
        help="with many riders, two-wheelers, trucks, buses and trams, to learn all classes from",
    )
    return parser


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    cv2.setNumThreads(1)
    report = write_streets(
        options.out,
        options.train,
        options.val,
        options.size,
        options.seed,
        options.num_workers,
        overwrite=options.overwrite,
        erased=options.erased,
        mixed=options.mixed,
        title="street scenes",
    )
    if report.found:
        print(f"{options.out} already holds these scenes, nothing to do")
    print("images     " + ", ".join(f"{split} {count}" for split, count in report.images.items()))
    print("instances  " + ", ".join(f"{label} {count}" for label, count in report.instances.items()))
    print(f"seconds    {report.seconds:.1f}" + (" (when it was written)" if report.found else ""))
    print(f"path       {os.path.abspath(options.out)}")


if __name__ == "__main__":
    run_program(main, SAME_COMMAND)
