"""python -m scripts.synth.integrate --out datasets/synth

Pastes what scripts.synth.generate painted into the frames: OUT/panorama holds the whole edited frames,
OUT/leftImg8bit and OUT/gtFine the focus crops with their truth. The options are those given to select.
"""

from augment.repaint.command import do_stage, parse, resume, stage_parser
from support.errors import SAME_COMMAND, Parser, run_program


def parser() -> Parser:
    """The command line."""
    return stage_parser("integrate", "Paste repainted instances and make focus crops.")


def main(arguments: list[str] | None = None) -> int:
    flags, _ = parse(parser(), arguments)
    with resume(flags) as run:
        return 0 if run is None else do_stage(run, flags, "integrate", flags.num_workers)


if __name__ == "__main__":
    run_program(main, SAME_COMMAND)
