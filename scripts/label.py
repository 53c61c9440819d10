"""python -m scripts.label --pictures photos --out datasets/photos

Makes the Cityscapes tree that everything here reads of pictures alone: a pretrained segmenter says what each
pixel shows, and --annotations whose things somebody has outlined. The same command goes on where a run was
cut short; torchrun, a Slurm job array or --shard share the pictures out.
"""

from functools import partial

from label.labelling import label
from label.options import SECTIONS, LabelOptions, options_of
from support.errors import SAME_COMMAND, run_program
from support.settings import parser_of

ABOUT = "Make a Cityscapes tree of pictures, with a segmenter's maps."
parser = partial(parser_of, LabelOptions, "python -m scripts.label", ABOUT, SECTIONS)


def main(arguments: list[str] | None = None) -> int:
    return label(options_of(vars(parser().parse_args(arguments))))


if __name__ == "__main__":
    run_program(main, SAME_COMMAND)
