"""The options of scripts.benefit."""

import argparse
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from augment.placement.options import range_of, rendering_of
from augment.placement.places import models_for
from benefit.arms import ARMS, OF_ALL, OF_PERSONS, Arm, arm_of, folder_of, models_of, shows_shapes
from benefit.scenes import BuiltInScenes, Scenes, TreeScenes
from data.camera import camera_setting
from distributed import choose_device
from model import load_model
from options import PRESETS, from_dict
from segment.models import ARCHS, build
from segment.options import OPTIMISERS, size_of
from support.checkpoints import find_checkpoint
from support.errors import InputError, Parser
from support.settings import checked, parser_of, setting

FROM_SCENES = "scenes"  # the segmenter begins with weights learnt on built-in scenes
MAX_NAME = 255  # characters of the name of a folder
SECTIONS = {
    "": "what is compared",
    "data": "how the data are made",
    "segmenter": "the segmenter of every arm",
}
_data, _segmenter = (partial(setting, section=name) for name in ("data", "segmenter"))
# These extend a measurement or say how it is done: they may change from one command to the next in an --out.
FREE = ("out", "n", "seeds", "arms", "final", "report", "device")


def _range(text: str) -> str:
    """The same text, what argparse calls a type: a number or a range."""
    range_of(text)
    return text


def _arm(text: str) -> str:
    """The same text, what argparse calls a type: the name of an arm, or of a changed one."""
    arm_of(text)
    return text


@dataclass(frozen=True)
class BenefitOptions:
    """One measurement."""

    out: str = setting(
        "runs/benefit", "folder of everything that is made; several of these commands may share it"
    )
    db_root: str = setting(
        "", "Cityscapes tree: n scenes of its train split, held-out ones of val (default: built-in scenes)"
    )
    final_root: str = setting("", "tree whose val split is the second set of held-out scenes, with --final")
    final_cities: tuple[str, ...] = setting(
        (), "or cities of --db_root, which then are in no other set", read=str, flag={"nargs": "+"}
    )
    camera: str = camera_setting()
    n: tuple[int, ...] = setting((20, 80), "training scenes", read=int, flag={"nargs": "+"})
    seeds: int = setting(3, "repetitions, each with scenes of its own", min=1)
    arms: tuple[str, ...] = setting(
        tuple(ARMS),
        "those of the table below; ARM+share=0.25 is one of them with another --share, ARM+FLAG=VALUE with"
        " a flag of scripts.insert, where an arm is made by that; changes may be several",
        flag={"nargs": "+", "metavar": "ARM"},
        read=_arm,
    )
    held_out: int = setting(100, "scenes to be measured on", min=1)
    final: bool = setting(
        False, "measure on the second set of held-out scenes too, which nothing else ever touches"
    )
    report: bool = setting(False, "only sum up what is finished")
    device: str = setting("auto", "auto (cuda if there is one), cpu, cuda or cuda:N")

    scene_size: tuple[int, int] = _data((1024, 512), "WIDTHxHEIGHT of the scenes, pixels", read=size_of)
    per_image: str = _data("1-3", "objects tried in each scene, a number or a range", read=_range)
    copies: int = _data(
        3, "how often each scene is inserted into, pasted into, repainted, every time anew", min=1
    )
    share: float = _data(0.5, "of what is learnt from that is made, in every arm but real", above=0, below=1)
    places: str = _data(
        "",
        "checkpoint of a model of persons, which then is known from elsewhere (default: one is trained on"
        " the n scenes)",
    )
    places_all: str = _data(
        "builtin:street", "checkpoint of a model of all classes, for cutout-all; always known from elsewhere"
    )
    place_preset: str = _data("demo", "of main.py, for the model of persons", tuple(PRESETS))
    place_iterations: int = _data(400, "steps of its training", min=1)

    arch: str = _segmenter("maskrcnn_small_fpn", "see scripts.segment", ARCHS)
    size: tuple[int, int] = _segmenter((1024, 512), "WIDTHxHEIGHT that it sees, pixels", read=size_of)
    window: tuple[int, int] = _segmenter(
        (256, 256), "WIDTHxHEIGHT of the windows that it learns from, around instances, pixels", read=size_of
    )
    start: str = _segmenter(
        FROM_SCENES,
        "what it begins with: scenes (built-in ones without persons and riders), coco or imagenet (of"
        " torchvision, for archs that have them), or a checkpoint of scripts.segment",
        flag={"metavar": "scenes|coco|imagenet|FILE"},
    )
    start_scenes: int = _segmenter(300, "scenes without persons and riders that it knows before", min=1)
    start_iterations: int = _segmenter(3000, "steps on these, once for all arms; 0: random weights", min=0)
    iterations: int = _segmenter(1000, "steps, the same in every arm", min=1)
    batch_size: int = _segmenter(2, "windows a step", min=1)
    optimiser: str = _segmenter("adamw", "see scripts.segment", tuple(OPTIMISERS))
    learning_rate: float = _segmenter(1e-3, "after the warm-up", above=0)
    precision: str = _segmenter("fp32", "see scripts.segment", ("auto", "fp32", "bf16"))
    least_area: int = _segmenter(100, "pixels; smaller instances count neither as missed nor as found", min=0)
    official: bool = _segmenter(
        False, "measure with the official Cityscapes program too (half a minute an arm)"
    )

    @property
    def scenes(self) -> Scenes:
        """Where the scenes come from."""
        if not self.db_root:
            return BuiltInScenes(self.scene_size)
        return TreeScenes(self.db_root, self.final_root, self.final_cities, self.camera, self.scene_size)

    @property
    def known_places(self) -> dict[str, str]:
        """Checkpoints of models of places that are known from elsewhere; empty: trained here."""
        return {OF_PERSONS: self.places, OF_ALL: self.places_all}

    @property
    def trains_start(self) -> bool:
        """Whether the weights that all arms begin with are trained here."""
        return self.start == FROM_SCENES and self.start_iterations > 0


def described(arm: str) -> str:
    """What an arm is, and the factor in which it differs from another: a line or two."""
    differs = ARMS[arm].differs
    return f"  {arm}: {ARMS[arm].meaning}" + (f";\n    differs {differs}" if differs else "")


def parser() -> Parser:
    return parser_of(
        BenefitOptions,
        "python -m scripts.benefit",
        "Measure whether made data help a segmenter. Start the same command several times to share the work.",
        SECTIONS,
        epilog="\n".join(["arms:", *map(described, ARMS)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def parse(arguments: list[str] | None = None) -> BenefitOptions:
    """Options of a command line (None: sys.argv). Raises InputError for what can't be used."""
    options = BenefitOptions(**vars(parser().parse_args(arguments)))
    named_once = {
        name: tuple(dict.fromkeys(getattr(options, name))) for name in ("n", "arms", "final_cities")
    }
    options = replace(options, **named_once)
    checked(options)
    if min(options.n) < 2:
        raise InputError("--n: at least 2 scenes, one to paste into and one to paste from")
    if not options.db_root and (options.final_root or options.final_cities or options.camera != "auto"):
        raise InputError("--final_root, --final_cities and --camera belong to a tree: give --db_root")
    if options.final_root and options.final_cities:
        raise InputError("--final_root and --final_cities: two second sets; give one of them")
    if options.final and options.db_root and not (options.final_root or options.final_cities):
        raise InputError("--final: name the second held-out scenes with --final_root or --final_cities")
    if options.final_root and Path(options.final_root).resolve() == Path(options.db_root).resolve():
        raise InputError(
            f"--final_root {options.final_root}: is --db_root, whose val split is measured on before; give"
            " another tree, or --final_cities"
        )
    for checkpoint in filter(None, options.known_places.values()):
        find_checkpoint(checkpoint)
    options.scenes.check(max(options.n), options.held_out, final=options.final)
    if not options.report:
        _check_models(options)
    return options


def _check_flags(name: str, arm: Arm, options: BenefitOptions) -> None:
    """Raises InputError for flags of scripts.insert that an arm's model of places can't be used with."""
    (model,) = models_of(arm)
    try:
        insertion = arm.insertion(options.known_places[model] or "-")
        insertion = replace(insertion, rendering=rendering_of(insertion))
        if options.known_places[model]:
            models_for(insertion)
    except InputError as error:
        raise InputError(f"--arms {name}: {error}") from None


def _check_models(options: BenefitOptions) -> None:
    """Raises InputError, now and not after hours, for a device or a model that an arm can't use."""
    choose_device(options.device)
    if options.start != FROM_SCENES:
        try:
            build(options.arch, options.start)
        except InputError as error:
            raise InputError(str(error).replace("--weights", "--start")) from None
    arms = {name: arm_of(name) for name in options.arms}
    for name, arm in arms.items():
        if len(folder_of(name)) > MAX_NAME:
            raise InputError(f"--arms {name}: is too long for the name of a folder; give a shorter path")
        if arm.flags:
            _check_flags(name, arm, options)
    for model in dict.fromkeys(model for arm in arms.values() for model in models_of(arm)):
        checkpoint = options.known_places[model]
        flag = f"--{'places_all' if model == OF_ALL else 'places'} {checkpoint}"
        if checkpoint:
            known = load_model(checkpoint).options
        elif model == OF_PERSONS:
            flag = f"--place_preset {options.place_preset}"
            known = from_dict(PRESETS[options.place_preset], flag)
        else:
            raise InputError("--places_all: name a checkpoint, or leave cutout-all out of --arms")
        classes = [target.name for target in known.targets]
        if model == OF_ALL and len(classes) == 1:
            raise InputError(
                f"{flag}: has places of {classes[0]} alone; give a model of all classes, or leave cutout-all"
                " out of --arms"
            )
        if model == OF_PERSONS and "person" not in classes:
            raise InputError(f"{flag}: has places of {', '.join(classes)}, not of persons; give one that has")
        drawn = [name for name, arm in arms.items() if shows_shapes(arm)]
        if model == OF_PERSONS and known.what == "none" and drawn:
            raise InputError(
                f"{flag}: knows places alone and draws no shapes; give another, or leave {', '.join(drawn)}"
                " out of --arms"
            )
