"""python -m scripts.synth.generate --out datasets/synth

Repaints the instances that scripts.synth.select chose: OUT/work/generate, and the lines of the stage in
OUT/manifest.jsonl. The options are those given to select.
"""

from augment.repaint.command import do_stage, generate_workers, parse, resume, stage_parser
from support.errors import SAME_COMMAND, Parser, run_program


def parser() -> Parser:
    """The command line."""
    return stage_parser("generate", "Repaint the chosen instances.")


def main(arguments: list[str] | None = None) -> int:
    flags, _ = parse(parser(), arguments)
    with resume(flags) as run:
        return 0 if run is None else do_stage(run, flags, "generate", generate_workers(flags, run))


if __name__ == "__main__":
    run_program(main, SAME_COMMAND)
