"""python -m scripts.synth.run --db_root datasets/cityscapes --out datasets/synth

Repaints instances of a Cityscapes-format split and writes a data set with the frames that come of it: all
stages in order, select, generate, integrate, build, export. Without --db_root, built-in street scenes are
made and used. The same command again goes on where a run was cut short; torchrun, a Slurm job array or
--shard share the frames out over several processes or machines.
"""

import argparse
import time
from functools import partial

from augment.repaint.command import finish, generate_workers, parse, stage_parser, start
from augment.repaint.manifest import STAGES
from augment.repaint.running import Run
from augment.tree import add_panoptic, add_raw, add_train_ids, export_coco, splits_of
from support.errors import SAME_COMMAND, Parser, run_program


def parser() -> Parser:
    """The command line."""
    return stage_parser("run", "Repaint the instances of a data set, all stages.", with_options=True)


def main(arguments: list[str] | None = None) -> int:
    flags, options = parse(parser(), arguments)
    begin = time.monotonic()
    with start(flags, options) as run:
        return 0 if run is None else all_stages(run, flags, begin)


def all_stages(run: Run, flags: argparse.Namespace, begin: float) -> int:
    """Do all stages and print the counts; the exit status. begin: of the program, monotonic seconds."""
    options, stages, left_out = run.options, STAGES, 0
    painters = generate_workers(flags, run)
    with run.pool(flags.num_workers) as pool, run.pool(painters) as paint_pool:
        for stage in () if flags.merge else STAGES:
            run.stage(stage, paint_pool if stage == "generate" and painters != flags.num_workers else pool)
            if stage == "select" and run.tree.shard.count == 1 and not run.counts(stage, run.scope)["ok"]:
                stages = (stage,)  # the others have no input
                break
        with run.merging(stages) as merged:
            if not merged:
                return int(run.tree.shard.count == 1)
            if stages != STAGES:
                return finish(run, stages)
            splits = [split for split in options.raw_splits.split(",") if split]
            raw = add_raw(run.root, run.out, splits, options.raw)
            if options.train_ids:
                left_out += add_train_ids(run.out, partial(pool.with_bar, "train ids"))
            if options.coco:
                bar = partial(pool.with_bar, "export")
                left_out += export_coco(run.out, splits_of(run.out), map_function=bar)[1]
            if options.panoptic:
                add_panoptic(run.out, splits_of(run.out))
            status = finish(run, STAGES) or int(left_out > 0)
    print(f"build      {raw} raw files by {options.raw}")
    print(f"seconds    {time.monotonic() - begin:.1f}")
    print(f"tree       {run.out}")
    return status


if __name__ == "__main__":
    run_program(main, SAME_COMMAND)
