"""python -m scripts.convert --from mapillary --root datasets/vistas --out datasets/vistas_tree

Makes the Cityscapes tree that everything here reads of another data set. The same command again goes on where
a run was cut short. --show_mapping prints which category becomes which label.
"""

from functools import partial
from pathlib import Path

from convert.conversion import CONVERT, Conversion, Converter, check_names, find, summed_up, tell_end
from convert.formats import FORMATS
from convert.mapping import mapping_of
from engine.shards import Shard
from engine.tree import opened
from support.errors import SAME_COMMAND, InputError, Parser, run_program
from support.threads import cores

THINGS_ALONE = ("coco", "yolo")  # what scripts.label reads, which needs a segmenter for all else


def parser() -> Parser:
    parser = Parser("python -m scripts.convert", "Make a Cityscapes tree of another data set.")
    about = "; ".join(f"{name} ({text})" for name, text in FORMATS.items())
    choices = (*FORMATS, *THINGS_ALONE)
    parser.add_argument("--from", dest="format", required=True, choices=choices, metavar="FORMAT", help=about)
    parser.add_argument("--root", type=Path, help="folder of the data set, as its archives unpack")
    parser.add_argument("--out", type=Path, help="folder of the tree; made if absent")
    parser.add_argument(
        "--split", help="convert one split of the tree only, for example train (default: all)"
    )
    parser.add_argument(
        "--mapping",
        type=Path,
        metavar="FILE",
        help="YAML lines 'category: label' that replace lines of the table",
    )
    parser.add_argument("--show_mapping", action="store_true", help="print the table in use, and stop")
    parser.add_argument(
        "--link", action="store_true", help="link images that are PNGs already instead of copying them"
    )
    parser.add_argument("--num_workers", type=int, default=cores(), help="processes (default: one a core)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier conversion in --out")
    return parser


def main(arguments: list[str] | None = None) -> int:
    flags = parser().parse_args(arguments)
    if flags.format in THINGS_ALONE:
        raise InputError(
            f"--from {flags.format}: masks of things say nothing of stuff, there is no road to stand on;"
            " python -m scripts.label --pictures DIR --annotations FILE_OR_DIR --out TREE takes the things"
            " from them, and the stuff from a segmenter"
        )
    mapping = mapping_of(flags.format, flags.mapping)
    if flags.show_mapping:
        print("\n".join(f"{category}: {label}" for category, label in mapping.items()))
        return 0
    if flags.root is None or flags.out is None:
        raise InputError("give --root, the folder of the data set, and --out, that of the tree (see --help)")
    conversion = Conversion(flags.format, flags.root, flags.out, mapping, flags.link)
    items, data_set = find(conversion, flags.split)
    with opened(CONVERT, flags.out, conversion.settings(), Shard(), overwrite=flags.overwrite) as tree:
        check_names(tree, items)
        todo = tree.to_do(items)
        if len(todo) < len(items):
            print(f"{flags.out} holds {len(items) - len(todo)} of {len(items)} images already")
        with tree.pool(partial(Converter, conversion, data_set.categories), flags.num_workers) as pool:
            tree.make(todo, pool, "convert", "picture")
        tree.merge(items)
        lines, report = summed_up(tree, items, mapping)
    print(report)
    return tell_end(lines, flags.out, "images")


if __name__ == "__main__":
    run_program(main, SAME_COMMAND)
