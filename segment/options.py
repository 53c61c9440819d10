"""The options of scripts.segment and their checks."""

from dataclasses import dataclass, replace
from functools import partial

from segment.models import ARCHS
from support.errors import InputError
from support.settings import checked, parser_of, setting, size_of
from support.threads import cores

OPTIMISERS = {"sgd": 0.01, "adamw": 5e-4}  # with the learning rate of each


@dataclass(frozen=True)
class SegmentOptions:
    """One training of a segmenter."""

    data: list[str] = setting(
        help="Cityscapes trees to learn from, several are joined", flag={"nargs": "+", "required": False}
    )
    val: str = setting(help="Cityscapes tree to be measured on")
    out: str = setting(help="run folder; made if absent")
    share: tuple[float, ...] | None = setting(
        None,
        "how much of what is learnt from comes from each tree (default: as many frames as it has)",
        read=float,
        flag={"nargs": "+"},
    )
    split: str = setting("train", "split of --data")
    val_split: str = setting("val", "split of --val")
    size: tuple[int, int] | None = setting(
        None, "WIDTHxHEIGHT that the networks see, pixels (default: as the images are)", read=size_of
    )
    window: tuple[int, int] | None = setting(
        None,
        "WIDTHxHEIGHT of windows around instances to learn from, pixels (default: whole images)",
        read=size_of,
    )
    arch: str = setting(ARCHS[0], "the segmenter; maskrcnn_small_fpn learns on a CPU", ARCHS)
    weights: str = setting(
        "none", "none: random; imagenet: of the backbone; coco: of all but the classes; or a checkpoint"
    )
    iterations: int = setting(24000, "optimiser steps", min=1)
    batch_size: int = setting(8, "images a step, for each process", min=1)
    optimiser: str = setting("sgd", "sgd (momentum 0.9) or adamw", tuple(OPTIMISERS))
    learning_rate: float | None = setting(
        None,
        f"after the warm-up (default: {OPTIMISERS['sgd']} for sgd, {OPTIMISERS['adamw']} for adamw)",
        read=float,
        above=0,
    )
    weight_decay: float = setting(1e-4, "of the optimiser", min=0)
    warmup: int = setting(1000, "steps in which the learning rate rises; at most a tenth of all", min=0)
    precision: str = setting(
        "auto",
        "of the backbone: fp32, bf16, or auto: bf16 on a GPU that has it, else fp32",
        ("auto", "fp32", "bf16"),
    )
    least_area: int = setting(0, "COCO metrics leave instances with fewer pixels out", min=0)
    official: bool = setting(True, "measure with the official Cityscapes program too")
    eval_only: bool = setting(False, "measure the newest checkpoint of --out, or --weights; train nothing")
    resume: str = setting("", "auto: go on with the newest checkpoint of --out, if any", ("", "auto"))
    random_seed: int = setting(0, "seed of everything random", min=0, max=2**64 - 1)
    device: str = setting("auto", "auto (cuda if there is one), cpu, cuda or cuda:N")
    num_workers: int = setting(cores(), "processes that decode the trees at the start", min=0)
    log_every: int = setting(50, "steps between log lines", min=1)
    picture_every: int = setting(1000, "steps between images of predictions, 0: none", min=0)
    save_every: int = setting(1000, "steps between checkpoints", min=1)
    keep_checkpoints: int = setting(2, "checkpoints kept, the oldest go first", min=1)


ABOUT = "Train and measure instance segmentation on Cityscapes trees."
parser = partial(parser_of, SegmentOptions, "python -m scripts.segment", ABOUT)


def parse(arguments: list[str] | None = None) -> SegmentOptions:
    """Options of a command line (None: sys.argv). Raises InputError for what can't be used."""
    flags = vars(parser().parse_args(arguments))
    return validate(SegmentOptions(**{"data": [], **flags}))


def validate(options: SegmentOptions) -> SegmentOptions:
    """The same options, tuples where lists were. Raises InputError, naming the first that can't be used."""
    checked(options)
    if not options.data and not options.eval_only:
        raise InputError("--data is required: the trees to learn from (or --eval_only)")
    if options.share:
        if len(options.share) != len(options.data):
            raise InputError(
                f"--share: {len(options.share)} numbers for {len(options.data)} trees; give one each"
            )
        if min(options.share) < 0 or sum(options.share) <= 0:
            raise InputError("--share: no number may be negative and one must be positive")
        options = replace(options, share=tuple(options.share))
    return options
