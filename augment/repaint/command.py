"""What the programs that work on a run share: their flags."""

import argparse
from pathlib import Path

from support.errors import InputError
from support.processes import share_of_cores


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that do not decide what is written."""
    add = parser.add_argument_group("run").add_argument
    add("--out", help="folder of the new tree; made if absent")
    add(
        "--num_workers",
        type=int,
        default=share_of_cores(),
        help="processes; no influence on the files (default: one for each core)",
    )
    add("--limit", type=int, metavar="N", help="only the first N frames (default all)")
    add("--only", metavar="CITY[/SEQ[/FRAME]]", help="only these frames")


def out_of(flags: argparse.Namespace) -> Path:
    """--out. Raises InputError if it isn't given, and for numbers out of range."""
    if not flags.out:
        raise InputError("--out is required: the folder of the new tree")
    for name in ("num_workers", "generate_workers", "limit"):
        value = vars(flags).get(name)
        if value is not None and value < 1:
            raise InputError(f"--{name} must be at least 1, not {value}")
    return Path(flags.out)
