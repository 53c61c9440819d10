"""python -m scripts.synth.build --out datasets/synth

Puts the raw frames beside the synthetic ones in OUT, as links or copies: then OUT is a data set that every
reader of Cityscapes takes. The source is only read; a second call changes nothing.
"""

from functools import partial
from pathlib import Path

from augment.repaint.manifest import SYNTH
from augment.repaint.running import input_of, saved_options
from augment.tree_extras import RAW_MODES, add_raw, add_train_ids
from support.errors import SAME_COMMAND, InputError, Parser, run_program
from support.files import at_work_in, writing_to
from support.processes import Pool
from support.threads import cores


def parser() -> Parser:
    parser = Parser("python -m scripts.synth.build", "Put raw frames beside synthetic ones.")
    parser.add_argument("--out", required=True, type=Path, help="folder of the tree")
    parser.add_argument("--db_root", type=Path, help="data set of the raw frames (default: that of the run)")
    parser.add_argument("--splits", nargs="+", help="splits to put there (default: those of the run)")
    parser.add_argument("--mode", choices=RAW_MODES, help="how (default: that of the run)")
    parser.add_argument(
        "--train_ids",
        action="store_true",
        help="write labelTrainIds.png of all frames, raw and synthetic (default: as the run)",
    )
    parser.add_argument("--num_workers", type=int, default=cores(), help="processes (default: one a core)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    flags = parser().parse_args(arguments)
    if SYNTH.read_summary(flags.out) is not None:
        options = saved_options(flags.out)
        db_root = flags.db_root or input_of(flags.out, options)
        splits = flags.splits or [split for split in options.raw_splits.split(",") if split]
        mode, train_ids = flags.mode or options.raw, flags.train_ids or options.train_ids
    elif flags.db_root is None:
        raise InputError(f"--out {flags.out}: holds no {SYNTH.summary}; name the data set with --db_root")
    else:
        db_root, splits, mode = flags.db_root, flags.splits or ["train", "val"], flags.mode or RAW_MODES[0]
        train_ids = flags.train_ids
    left_out = 0
    with at_work_in(flags.out), writing_to(flags.out):
        count = add_raw(db_root, flags.out, splits, mode)
        if train_ids:
            with Pool(flags.num_workers) as pool:
                left_out = add_train_ids(flags.out, partial(pool.with_bar, "train ids"))
    print(f"{count} raw files of {', '.join(splits)} by {mode} from {db_root}")
    print(f"tree: {flags.out}")
    return 1 if left_out else 0


if __name__ == "__main__":
    run_program(main, SAME_COMMAND)
