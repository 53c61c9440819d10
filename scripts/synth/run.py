"""python -m scripts.synth.run --db_root datasets/cityscapes --out datasets/synth

Repaints instances of a Cityscapes-format split and writes a data set with the frames that come of it. Each
frame goes through the stages select, generate and integrate; at the end come build and export. Without
--db_root, built-in street scenes are made and used. The same command again goes on where a run was cut short;
torchrun, a Slurm job array or --shard share the frames out over several processes or machines.
"""

import argparse
import time
from functools import partial
from pathlib import Path

from augment.options import WITH_WEIGHTS, SynthOptions, add_option_flags, as_yaml, options_of
from augment.paint.backends import settings_of
from augment.paint.prompts import load_prompts
from augment.repaint.manifest import STAGES, SYNTH
from augment.repaint.repainter import Repainter
from augment.repaint.running import (
    SynthRun,
    add_run_flags,
    check_out,
    fingerprint_settings,
    input_of,
    make_scenes,
    out_of,
)
from augment.tree_extras import add_panoptic, add_raw, add_train_ids, export_coco, splits_of
from engine.records import MANIFEST
from engine.shards import HELP, Shard, shard_of_process
from engine.tree import Tree, opened
from support.errors import SAME_COMMAND, InputError, Parser, run_program
from support.files import in_turn, writing_to
from support.processes import Pool

LISTED = 10  # failed and skipped items named at the end


def parser() -> Parser:
    parser = Parser("python -m scripts.synth.run", "Repaint the instances of a data set.")
    add_run_flags(parser)
    add = parser.add_argument
    add(
        "--generate_workers",
        type=int,
        help=f"processes that repaint (default: --num_workers, but 1 for {' and '.join(WITH_WEIGHTS)})",
    )
    add("--verify", action="store_true", help="read all files of finished items again and compare digests")
    add("--dry_run", action="store_true", help="say what there is to do, write nothing")
    add("--shard", type=Shard.parse, default=None, metavar="I/N", help=HELP)
    add(
        "--merge",
        action="store_true",
        help="make nothing, merge what all shards have done (the last one to end does that by itself)",
    )
    add("--overwrite", action="store_true", help="replace an earlier run in --out")
    add_option_flags(parser)
    return parser


def main(arguments: list[str] | None = None) -> int:
    flags = parser().parse_args(arguments)
    options, begin = options_of(vars(flags)), time.monotonic()
    if flags.print_config:
        print(as_yaml(options))
        return 0
    out = out_of(flags)
    load_prompts(options.prompts)  # what is wrong with them is better said now
    settings_of(options.backend, options.backend_settings)
    check_out(out, options)
    settings, shard = fingerprint_settings(options), Shard() if flags.merge else shard_of_process(flags.shard)
    if flags.dry_run:
        tell_plan(out, flags, options, settings, shard)
        return 0
    with opened(SYNTH, out, settings, shard, overwrite=flags.overwrite) as tree:
        if not options.db_root:
            with in_turn(out), writing_to(out):
                make_scenes(out, options, flags.num_workers)
        return repaint(SynthRun.of(tree, flags, options), flags, begin)


def tell_plan(
    out: Path, flags: argparse.Namespace, options: SynthOptions, settings: dict, shard: Shard
) -> None:
    """Print what a run would do. Raises InputError where the run would refuse OUT."""
    SYNTH.holds_run(out)
    if not input_of(out, options).exists():
        print(f"{options.scenes} street scenes of {options.scene_size} pixels would be made first")
        return
    run = SynthRun.of(Tree(SYNTH, out, settings, shard), flags, options)
    todo = to_do(run, flags)
    print(f"{len(todo)} of {len(shard.of(run.scope))} frames to do; nothing was written (--dry_run)")


def to_do(run: SynthRun, flags: argparse.Namespace) -> list:
    """The frames of this shard that must be repainted."""
    return run.tree.to_do(run.items(), sound=run.is_unchanged if flags.verify else None)


def repaint(run: SynthRun, flags: argparse.Namespace, begin: float) -> int:
    """Repaint, write the tree and print the counts; the exit status. begin: of the program, monotonic s."""
    options, out, tree = run.options, run.tree.out, run.tree
    workers = flags.generate_workers or (1 if options.backend in WITH_WEIGHTS else flags.num_workers)
    prepare = partial(Repainter, run.root, run.worker_options)
    with tree.pool(prepare, workers) as painters, Pool(flags.num_workers) as others:
        pool = painters if workers == flags.num_workers else others
        if not flags.merge:
            with writing_to(out):
                run.write_summary()
            run.make(to_do(run, flags), painters, pool)
        if not tree.merge(run.items()):
            return int(tree.shard.count == 1)
        selected = run.counts("select", run.scope)
        if not selected["ok"] and not selected["failed"]:
            raise InputError(
                f"{run.root}: no instance in {len(run.scope)} frames of {options.split} passes the"
                " filters; lower min_area or min_side, or give other classes"
            )
        with writing_to(out):
            run.write_summary(STAGES)
            if not selected["ok"]:  # nothing came of it
                return report(run, ("select",))
            splits = [split for split in options.raw_splits.split(",") if split]
            raw, left_out = add_raw(run.root, out, splits, options.raw), 0
            if options.train_ids:
                left_out += add_train_ids(out, partial(pool.with_bar, "train ids"))
            if options.coco:
                left_out += export_coco(out, splits_of(out), map_function=partial(pool.with_bar, "export"))[1]
            if options.panoptic:
                add_panoptic(out, splits_of(out))
    status = report(run, STAGES) or int(left_out > 0)
    print(f"build      {raw} raw files by {options.raw}")
    print(f"seconds    {time.monotonic() - begin:.1f}")
    print(f"tree       {out}")
    return status


def report(run: SynthRun, stages: tuple[str, ...]) -> int:
    """Print what became of the items of some stages; 1 if any failed, else 0."""
    counts = {stage: run.counts(stage, run.scope) for stage in stages}
    for stage, found in counts.items():
        print(f"{stage:<10} " + ", ".join(f"{count} {status}" for status, count in found.items()))
    for status in ("failed", "skipped"):
        lines = [line for stage in stages for line in run.first(stage, status, LISTED + 1)]
        for line in lines[:LISTED]:
            print(f"{status:<10} {line['stage']} {line['key']}: {line['reason']}")
        if len(lines) > LISTED:
            print(f"           and more, see {run.tree.out / MANIFEST}")
    return 1 if any(found["failed"] for found in counts.values()) else 0


if __name__ == "__main__":
    run_program(main, SAME_COMMAND)
