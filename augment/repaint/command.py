"""What the programs of the stages share: their flags, opening OUT, and what they print at the end."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from augment.options import WITH_WEIGHTS, SynthOptions, add_option_flags, as_yaml, options_of
from augment.paint.backends import settings_of
from augment.paint.prompts import load_prompts
from augment.repaint.manifest import STAGES
from augment.repaint.running import Run, check_out, input_of, make_scenes, prepare_out, saved_options
from support.errors import InputError, Parser, run_program
from support.files import alone_in, writing_to
from support.processes import cores

LISTED = 10  # failed and skipped items named at the end


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of every stage that do not decide what is written."""
    add = parser.add_argument_group("run").add_argument
    add("--out", help="folder of the new tree; made if absent")
    add(
        "--num_workers",
        type=int,
        default=cores(),
        help="processes; no influence on the files (default: one for each core)",
    )
    add(
        "--generate_workers",
        type=int,
        help=f"processes that repaint (default: --num_workers, but 1 for {' and '.join(WITH_WEIGHTS)})",
    )
    add("--limit", type=int, metavar="N", help="only the first N frames (default all)")
    add("--only", metavar="CITY[/SEQ[/FRAME]]", help="only these frames")
    add("--verify", action="store_true", help="read all files of finished items again and compare digests")
    add("--dry_run", action="store_true", help="say what there is to do, write nothing")


def stage_parser(verb: str, description: str, with_options: bool = False) -> Parser:
    """The command line of a stage's program; with_options: it takes the options of the pipeline too."""
    parser = Parser(f"python -m scripts.synth.{verb}", description)
    add_run_flags(parser)
    if with_options:
        parser.add_argument("--overwrite", action="store_true", help="replace an earlier run in --out")
        add_option_flags(parser)
    return parser


def parse(parser: Parser) -> tuple[argparse.Namespace, SynthOptions | None]:
    """Flags of sys.argv and, where a `stage_parser` takes them, options. Raises InputError.

    Prints the options and leaves if --print_config is among the flags.
    """
    flags = parser.parse_args()
    options = options_of(vars(flags)) if "print_config" in flags else None
    if options and flags.print_config:
        print(as_yaml(options))
        raise SystemExit(0)
    if not flags.out:
        raise InputError("--out is required: the folder of the new tree")
    for name in ("num_workers", "generate_workers", "limit"):
        value = getattr(flags, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} must be at least 1, not {value}")
    return flags, options


def check_backend(options: SynthOptions) -> None:
    """Raises InputError for settings that the back end does not know and for bad prompts."""
    load_prompts(options.prompts or None)
    settings_of(options.backend, options.backend_settings)


@contextmanager
def start(flags: argparse.Namespace, options: SynthOptions) -> Iterator[Run | None]:
    """Make OUT ready for a run with these options and open it; None after a dry run. Raises InputError.

    Until the block ends no other process can write there.
    """
    out = Path(flags.out)
    check_backend(options)
    check_out(out, options)
    with nullcontext() if flags.dry_run else alone_in(out):
        with writing_to(out):
            prepare_out(out, options, flags.overwrite, flags.dry_run)
            if not options.db_root and not flags.dry_run:
                make_scenes(out, options, flags.num_workers)
        if flags.dry_run and not input_of(out, options).exists():
            print(f"{options.scenes} street scenes of {options.scene_size} pixels would be made first")
            yield None
        else:
            yield _open(flags, options)


@contextmanager
def resume(flags: argparse.Namespace) -> Iterator[Run | None]:
    """Open an OUT that is ready; None after a dry run, which says what there is to do. Raises InputError.

    Until the block ends no other process can write there.
    """
    options = saved_options(Path(flags.out))
    with nullcontext() if flags.dry_run else alone_in(Path(flags.out)):
        yield _open(flags, options)


def _open(flags: argparse.Namespace, options: SynthOptions) -> Run | None:
    run = Run.open(flags, options)
    if not flags.dry_run:
        return run
    for stage in STAGES:
        count = sum(bool(run.to_do(stage, source)) for source in run.scope)
        print(f"{stage:<10} {count} of {len(run.scope)} frames to do, as far as the stage before is done")
    return None


def generate_workers(flags: argparse.Namespace, run: Run) -> int:
    """Processes of the stage generate."""
    alone = run.options.backend in WITH_WEIGHTS
    return flags.generate_workers or (1 if alone else flags.num_workers)


def finish(run: Run, counts: dict[str, dict[str, int]]) -> int:
    """Print what became of the items of each stage; 1 if any failed, else 0."""
    for stage, found in counts.items():
        print(f"{stage:<10} " + ", ".join(f"{count} {status}" for status, count in found.items()))
    for status in ("failed", "skipped"):
        lines = [line for stage in counts for line in run.lines(stage, status, LISTED + 1)]
        for line in lines[:LISTED]:
            print(f"{status:<10} {line['stage']} {line['key']}: {line['reason']}")
        if len(lines) > LISTED:
            print(f"           and more, see {run.manifest.path}")
    return 1 if any(found["failed"] for found in counts.values()) else 0


def run_verb(main: Callable[[], int]) -> None:
    """`run_program`, with Ctrl-C as one line and exit status 130."""

    def until_interrupted() -> int:
        try:
            return main()
        except KeyboardInterrupt:
            print("\nstopped; the same command goes on from there")
            return 130

    run_program(until_interrupted)
