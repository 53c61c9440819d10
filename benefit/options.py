"""The options of scripts.benefit."""

import argparse
from dataclasses import dataclass, replace

from benefit.arms import ARMS
from segment.models import ARCHS
from segment.options import OPTIMISERS, size_of
from support.errors import InputError, Parser
from support.settings import add_flags, checked, setting

SECTIONS = {
    "": "what is compared",
    "data": "how the data are made",
    "segmenter": "the segmenter of every arm",
}
# These extend a measurement or say how it is done: they may change from one command to the next in an --out.
FREE = ("out", "n", "seeds", "arms", "final", "report", "device")


@dataclass(frozen=True)
class BenefitOptions:
    """One measurement."""

    out: str = setting(
        "runs/benefit", "folder of everything that is made; several of these commands may share it"
    )
    n: tuple[int, ...] = setting((20, 80), "training scenes", read=int, flag={"nargs": "+"})
    seeds: int = setting(3, "repetitions, each with scenes of its own", min=1)
    arms: tuple[str, ...] = setting(
        tuple(ARMS), "those of the table", tuple(ARMS), flag={"nargs": "+"}, read=str
    )
    held_out: int = setting(100, "scenes to be measured on", min=1)
    final: bool = setting(
        False, "measure on the second set of held-out scenes too, which nothing else ever touches"
    )
    report: bool = setting(False, "only sum up what is finished")
    device: str = setting("auto", "auto (cuda if there is one), cpu, cuda or cuda:N")

    scene_size: tuple[int, int] = setting(
        (1024, 512), "WIDTHxHEIGHT of the scenes, pixels", section="data", read=size_of
    )
    per_image: str = setting("1-3", "objects tried in each scene, a number or a range", section="data")
    copies: int = setting(
        3,
        "how often each scene is inserted into, pasted into, repainted, every time anew",
        section="data",
        min=1,
    )
    share: float = setting(
        0.5, "of what is learnt from that is made, in every arm but real", section="data", above=0, below=1
    )
    place_preset: str = setting("demo", "of main.py, for the model of places and shapes", section="data")
    place_iterations: int = setting(400, "steps of its training", section="data", min=1)

    arch: str = setting("maskrcnn_small_fpn", "see scripts.segment", ARCHS, section="segmenter")
    size: tuple[int, int] = setting(
        (1024, 512), "WIDTHxHEIGHT that it sees, pixels", section="segmenter", read=size_of
    )
    window: tuple[int, int] = setting(
        (256, 256),
        "WIDTHxHEIGHT of the windows that it learns from, around instances, pixels",
        section="segmenter",
        read=size_of,
    )
    start_scenes: int = setting(
        300, "scenes without persons and riders that it knows before", section="segmenter", min=1
    )
    start_iterations: int = setting(
        3000, "steps on these, once for all arms; 0: random weights", section="segmenter", min=0
    )
    iterations: int = setting(1000, "steps, the same in every arm", section="segmenter", min=1)
    batch_size: int = setting(2, "windows a step", section="segmenter", min=1)
    optimiser: str = setting("adamw", "see scripts.segment", tuple(OPTIMISERS), section="segmenter")
    learning_rate: float = setting(1e-3, "after the warm-up", section="segmenter", above=0)
    precision: str = setting("fp32", "see scripts.segment", ("auto", "fp32", "bf16"), section="segmenter")
    least_area: int = setting(
        100, "pixels; smaller instances count neither as missed nor as found", section="segmenter", min=0
    )


def described(arm: str) -> str:
    """What an arm is, and the factor in which it differs from another: a line or two."""
    differs = ARMS[arm].differs
    return f"  {arm}: {ARMS[arm].meaning}" + (f";\n    differs {differs}" if differs else "")


def parser() -> Parser:
    """The command line of scripts.benefit."""
    parser = Parser(
        "python -m scripts.benefit",
        "Measure whether made data help a segmenter. Start the same command several times to share the work.",
        epilog="\n".join(["arms:", *map(described, ARMS)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_flags(parser, BenefitOptions, SECTIONS)
    return parser


def parse(arguments: list[str] | None = None) -> BenefitOptions:
    """Options of a command line (None: sys.argv). Raises InputError for what can't be used."""
    options = BenefitOptions(**vars(parser().parse_args(arguments)))
    options = replace(options, n=tuple(options.n), arms=tuple(options.arms))
    checked(replace(options, arms=None))  # argparse has seen each of them
    if min(options.n) < 2:
        raise InputError("--n: at least 2 scenes, one to paste into and one to paste from")
    return options
