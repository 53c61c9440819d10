"""python -m scripts.synth.select --db_root datasets/cityscapes --out datasets/synth

Chooses the instances to repaint and cuts a square context crop and a mask of each: OUT/work/select, and the
lines of the stage in OUT/manifest.jsonl. The options of the later stages are given here too, and saved in
OUT/synth.json. The same command goes on where it was cut short.
"""

from augment.repaint.command import do_stage, parse, stage_parser, start
from support.errors import SAME_COMMAND, Parser, run_program


def parser() -> Parser:
    """The command line."""
    return stage_parser("select", "Choose and cut out the instances to repaint.", with_options=True)


def main(arguments: list[str] | None = None) -> int:
    flags, options = parse(parser(), arguments)
    with start(flags, options) as run:
        return 0 if run is None else do_stage(run, flags, "select", flags.num_workers)


if __name__ == "__main__":
    run_program(main, SAME_COMMAND)
