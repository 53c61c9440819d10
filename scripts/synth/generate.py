"""python -m scripts.synth.generate --out datasets/synth

Repaints the instances that scripts.synth.select chose: OUT/work/generate, and the lines of the stage in
OUT/manifest.jsonl. The options are those given to select.
"""

from augment.repaint.command import finish, generate_workers, parse, resume, run_verb, stage_parser
from support.errors import Parser


def parser() -> Parser:
    """The command line."""
    return stage_parser("generate", "Repaint the chosen instances.")


def main() -> int:
    flags, _ = parse(parser())
    with resume(flags) as run:
        if run is None:
            return 0
        with run.pool(generate_workers(flags, run)) as pool:
            return finish(run, {"generate": run.stage("generate", pool)})


if __name__ == "__main__":
    run_verb(main)
