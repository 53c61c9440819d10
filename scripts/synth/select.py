"""python -m scripts.synth.select --db_root datasets/cityscapes --out datasets/synth

Chooses the instances to repaint and cuts a square context crop and a mask of each: OUT/work/select, and the
lines of the stage in OUT/manifest.jsonl. The options of the later stages are given here too, and saved in
OUT/synth.json. The same command goes on where it was cut short.
"""

from augment.repaint.command import finish, parse, run_verb, stage_parser, start
from support.errors import Parser


def parser() -> Parser:
    """The command line."""
    return stage_parser("select", "Choose and cut out the instances to repaint.", with_options=True)


def main() -> int:
    flags, options = parse(parser())
    with start(flags, options) as run:
        if run is None:
            return 0
        with run.pool(flags.num_workers) as pool:
            return finish(run, {"select": run.stage("select", pool)})


if __name__ == "__main__":
    run_verb(main)
