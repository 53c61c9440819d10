"""What the programs of the stages share: their flags, opening OUT, and what they print at the end."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from augment.engine.records import MANIFEST
from augment.engine.shards import HELP, Shard, shard_of_process
from augment.engine.tree import Tree, opened
from augment.options import WITH_WEIGHTS, SynthOptions, add_option_flags, as_yaml, options_of
from augment.paint.backends import settings_of
from augment.paint.prompts import load_prompts
from augment.repaint.manifest import STAGES, SYNTH
from augment.repaint.running import Run, check_out, decisive_settings, input_of, make_scenes, saved_options
from support.errors import InputError, Parser
from support.files import in_turn, writing_to
from support.processes import share_of_cores

LISTED = 10  # failed and skipped items named at the end


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of every stage that do not decide what is written."""
    add = parser.add_argument_group("run").add_argument
    add("--out", help="folder of the new tree; made if absent")
    add(
        "--num_workers",
        type=int,
        default=share_of_cores(),
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


def stage_parser(verb: str, description: str, *, with_options: bool = False, sharded: bool = True) -> Parser:
    """The command line of a stage's program; with_options: it takes the options of the pipeline too.

    sharded: several processes can share its work.
    """
    parser = Parser(f"python -m scripts.synth.{verb}", description)
    add_run_flags(parser)
    parser.set_defaults(shard=Shard(), merge=False)
    if sharded:
        parser.add_argument("--shard", type=Shard.parse, default=None, metavar="I/N", help=HELP)
        parser.add_argument(
            "--merge",
            action="store_true",
            help="make nothing, merge what all shards have done (the last one to end does that by itself)",
        )
    if with_options:
        parser.add_argument("--overwrite", action="store_true", help="replace an earlier run in --out")
        add_option_flags(parser)
    return parser


def parse(parser: Parser, arguments: list[str] | None) -> tuple[argparse.Namespace, SynthOptions | None]:
    """Flags of a command line (None: sys.argv) and, where a `stage_parser` takes them, options.

    Raises InputError for what can't be used.

    Prints the options and leaves if --print_config is among the flags.
    """
    flags = parser.parse_args(arguments)
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

    Until the block ends no other process works on this shard.
    """
    out = Path(flags.out)
    check_backend(options)
    check_out(out, options)
    if flags.dry_run and not input_of(out, options).exists():
        print(f"{options.scenes} street scenes of {options.scene_size} pixels would be made first")
        yield None
        return
    with _open(flags, options, overwrite=flags.overwrite) as run:
        yield run


@contextmanager
def resume(flags: argparse.Namespace) -> Iterator[Run | None]:
    """Open an OUT that is ready; None after a dry run, which says what there is to do. Raises InputError.

    Until the block ends no other process works on this shard.
    """
    with _open(flags, saved_options(Path(flags.out))) as run:
        yield run


@contextmanager
def _open(
    flags: argparse.Namespace, options: SynthOptions, *, overwrite: bool = False
) -> Iterator[Run | None]:
    out, settings = Path(flags.out), decisive_settings(options)
    shard = Shard() if flags.merge else shard_of_process(flags.shard)
    if flags.dry_run:
        SYNTH.holds_run(out)
        run = Run.open(Tree(SYNTH, out, settings, shard), flags, options)
        for stage in STAGES:
            count = sum(bool(run.to_do(stage, source)) for source in run.scope)
            print(f"{stage:<10} {count} of {len(run.scope)} frames to do, as far as the stage before is done")
        yield None
        return
    with opened(SYNTH, out, settings, shard, overwrite=overwrite) as tree:
        if not options.db_root:
            with in_turn(out), writing_to(out):
                make_scenes(out, options, flags.num_workers)
        yield Run.open(tree, flags, options)


def generate_workers(flags: argparse.Namespace, run: Run) -> int:
    """Processes of the stage generate."""
    alone = run.options.backend in WITH_WEIGHTS
    return flags.generate_workers or (1 if alone else flags.num_workers)


def do_stage(run: Run, flags: argparse.Namespace, stage: str, workers: int) -> int:
    """What the program of one stage does with an opened run; the exit status."""
    if not flags.merge:
        with run.pool(workers) as pool:
            run.stage(stage, pool)
    with run.merging((stage,)) as merged:
        return finish(run, (stage,)) if merged else int(run.tree.shard.count == 1)


def finish(run: Run, stages: tuple[str, ...]) -> int:
    """Save and print what became of the items of each stage; 1 if any failed, else 0."""
    run.save()
    counts = {stage: run.counts(stage, run.scope) for stage in stages}
    for stage, found in counts.items():
        print(f"{stage:<10} " + ", ".join(f"{count} {status}" for status, count in found.items()))
    for status in ("failed", "skipped"):
        lines = [line for stage in stages for line in run.first(stage, status, LISTED + 1)]
        for line in lines[:LISTED]:
            print(f"{status:<10} {line['stage']} {line['key']}: {line['reason']}")
        if len(lines) > LISTED:
            print(f"           and more, see {run.out / MANIFEST}")
    return 1 if any(found["failed"] for found in counts.values()) else 0
