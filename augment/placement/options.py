"""The options of `scripts/insert.py`, their checks, and the filters they ask for."""

import argparse
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from augment.options import WITH_WEIGHTS, SynthOptions, is_own, options_of
from augment.paint.folder import read_folder
from augment.paint.painter import RENDERERS, WITH_BANK, WITHOUT_BACKEND, Rendering
from augment.placement.filters import FILTERS, Filters
from augment.tree_extras import BESIDE, RAW_MODES
from data.camera import camera_setting
from data.coco import coco_path
from data.geometry import HeightFit
from data.images import read_mask
from data.labels import TARGET_CLASSES
from engine.records import WORK
from engine.shards import HELP, Shard
from support.errors import InputError, Parser
from support.processes import share_of_cores
from support.progress import progress_bar
from support.settings import add_flags, checked, fields, setting

TRAINING_SPLITS = ("train", "train_extra")
ALL, LIKE_DATA = CLASSES_BY_NAME = ("all", "like-data")


def range_of(text: str) -> tuple[int, int]:
    """ "2" or "1-3"."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    if match is None or int(match[2] or match[1]) < int(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no number and no range such as 1-3")
    return int(match[1]), int(match[2] or match[1])


def _budget(text: str) -> dict[str, int]:
    """ "person=2000,rider=500"."""
    budget = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*([a-z]+)\s*=\s*(\d+)\s*", part)
        if match is None or match[1] not in TARGET_CLASSES or match[1] in budget:
            raise argparse.ArgumentTypeError(
                f"{part!r} is not CLASS=COUNT, for example person=2000 (classes: {', '.join(TARGET_CLASSES)})"
            )
        budget[match[1]] = int(match[2])
    return budget


def _classes(text: str) -> tuple[str, ...] | str:
    """ "person,car", or one of CLASSES_BY_NAME."""
    if text in CLASSES_BY_NAME:
        return text
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if name not in TARGET_CLASSES or names.count(name) > 1:
            wrong = "named twice" if name in TARGET_CLASSES else "no class"
            raise argparse.ArgumentTypeError(
                f"{name!r} is {wrong}: give {' or '.join(CLASSES_BY_NAME)}, or some of"
                f" {', '.join(TARGET_CLASSES)}, separated by commas"
            )
    return names


def _numbers(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = (float("nan"),)
    if not np.isfinite(numbers).all():
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers such as 0.5,-1,0,2")
    return numbers


SECTIONS = {"input": "input", "what": "what is inserted", "rgb": "RGB of the new objects", "output": "output"}
_input, _what, _rgb, _output = (partial(setting, section=name) for name in SECTIONS)


@dataclass(frozen=True, kw_only=True)
class Insertion:
    """Everything besides an image that decides what is inserted into it."""

    checkpoint: tuple[str, ...] = _input(
        help="run folders, state-*.pt or builtin:NAME, each for other classes", flag={"nargs": "+"}
    )
    seed: int = _what(0, "seed of everything random", min=0)
    attempts: int = _what(20, "places tried for each object", min=1)
    temperature: float = _what(
        1.0, "of the density of places; below 1 gathers places where it is high, 1: as learnt"
    )
    z_spatial: tuple[float, ...] | None = _what(
        None, "fixed noise of the place, numbers separated by commas", read=_numbers
    )
    z_appr: tuple[float, ...] | None = _what(None, "fixed noise of the shape", read=_numbers)
    device: str = _output("auto", "auto (cuda if there is one), cpu, cuda or cuda:N")
    filters: Filters = field(default_factory=Filters)  # what objects must pass
    fits: dict[str, HeightFit] = field(default_factory=dict)  # height by foot row, by class, where known
    rendering: Rendering | None = None  # how images are painted; None: not at all


@dataclass(frozen=True, kw_only=True)
class InsertOptions(Insertion):
    """One insertion into a tree; None and "" where nothing was asked for."""

    hashes: dict[str, str] = field(default_factory=dict)  # of the checkpoint of each class, once it is read
    shares: dict[str, int] = field(default_factory=dict)  # how often each class is drawn, once it is known
    out: str = _input(help="folder of the new tree; made if absent")
    db_root: str = _input("", "folder that holds gtFine/ and, if any, camera/ and leftImg8bit/")
    split: str = _input("train", "split to insert into")
    force: bool = _input(False, "insert into a split that others are measured on (val, test)")
    scenes: int | None = _input(
        None,
        "the first so many images of the split; more of them later add to the tree (default all)",
        read=int,
        min=1,
    )
    image: str = _input("", "a single label map (labelIds.png) instead of a split")
    instances: str = _input("", "its instance map (default: the file beside it)")
    camera: str = camera_setting("input")

    per_image: tuple[int, int] | None = _what(
        None, "objects tried in each image, a number or a range (default 1)", read=range_of
    )
    classes: tuple[str, ...] | str = _what(
        ALL,
        "class of each of them, drawn evenly from all that the checkpoints have or from a list such as"
        " person,car; like-data: as often as the data set has instances of it",
        read=_classes,
    )
    target: dict[str, int] | None = setting(
        None, "objects tried in all instead, for example person=2000,rider=500", section="what", read=_budget
    )

    render: str = _rgb(
        "none",
        "none: no leftImg8bit is written; overlay: flat colours; cutout: instances of the data set as they"
        " are, with their own outlines; swap: the same, fitted into the new masks; recolor: that in a colour"
        " of the prompt; sd_inpaint, sdxl_blend: diffusion"
        " models (requirements-diffusion.txt); module:Class: a back end of your own, see docs/synthesis.md",
    )
    render_config: str = _rgb(
        "",
        "their settings, a file as scripts.synth.run --print_config prints it; of its sections backend,"
        " generate (prompts, style), select (margin, min_crop) and integrate (colour_match, feather) count",
        flag={"metavar": "FILE.yaml"},
    )
    bank: str = _rgb(
        "", "file to keep the instances of cutout, swap and recolor in (default: made anew each time)"
    )
    cutouts: str = _rgb(
        "",
        "folder of cut-outs of your own that --render cutout shows instead of the data set's instances: PNGs"
        " with an alpha channel, DIR/person/*.png; see docs/insertion.md",
        flag={"metavar": "DIR"},
    )
    cutouts_beside: bool = _rgb(
        False, "show the data set's instances too, each cut-out as often as each of them"
    )
    shadow: float = _rgb(Rendering.shadow, "darkest part of a contact shadow, 0..1", min=0, max=1)

    raw: str = _output(
        "none",
        "put the source's frames into --out too, by symlink, hardlink or copy; the new ones, only those with"
        f" a new object, are then of a city of their own, CITY{BESIDE}",
        ("none", *RAW_MODES),
    )
    coco: bool = _output(False, "write a COCO annotation file too")
    coco_like: str = _output(
        "",
        "write the annotation of a COCO file of yours anew, with its ids, categories and image names; see"
        " docs/label.md",
        flag={"metavar": "FILE"},
    )
    panoptic: bool = _output(False, "write COCO panoptic annotation too, by the official tool")
    train_ids: bool = _output(False, "write labelTrainIds.png too")
    preview: int = _output(
        0, "contact sheet of the N images with the largest new objects", flag={"metavar": "N"}, min=0
    )
    num_workers: int | None = _output(
        None,
        f"processes (default: one for each core, but 1 for {' and '.join(WITH_WEIGHTS)});"
        " no influence on the files",
        read=int,
    )
    shard: Shard | None = setting(None, HELP, section="output", read=Shard.parse, flag={"metavar": "I/N"})
    merge: bool = _output(
        False, "insert nothing, merge what all shards have done (the last one to end does that by itself)"
    )
    dry_run: bool = _output(False, "say what there is to do, write nothing")
    overwrite: bool = _output(False, "replace an earlier insertion in --out")

    @property
    def beside(self) -> bool:
        """Whether the source's frames lie in the new tree too."""
        return self.raw != "none"


def parser() -> Parser:
    parser = Parser("python -m scripts.insert", "Insert objects into a Cityscapes-format data set.")
    add_flags(parser, InsertOptions, SECTIONS)
    add_flags(parser, Filters, {"": "filters that an object must pass"})
    off = parser.add_argument_group("filters that are switched off")
    for name, text in FILTERS.items():
        off.add_argument(f"--no_{name}", action="append_const", const=name, dest="off", help=text)
    off.add_argument("--no_gate", action="store_true", help="none of these filters")
    return parser


def parse(arguments: list[str] | None = None) -> InsertOptions:
    """Options of a command line (None: sys.argv). Raises InputError for what can't be used."""
    flags = vars(parser().parse_args(arguments))
    left_out = flags.pop("off") or ()
    rules = () if flags.pop("no_gate") else tuple(name for name in FILTERS if name not in left_out)
    filters = {item.name: flags.pop(item.name) for item in fields(Filters) if item.name in flags}
    if isinstance(region := filters.get("region"), str):  # rather read now than in every worker
        filters |= {"region": None, "region_mask": region or None}
        read_region(region)
    options = checked(InsertOptions(**flags, filters=checked(Filters(rules, **filters))))

    if not options.db_root and not options.image:
        raise InputError("--db_root is required (or --image for a single image)")
    if options.render not in RENDERERS and not is_own(options.render):
        raise InputError(f"--render {options.render}: choose {', '.join(RENDERERS)}, or module:Class")
    if options.instances and not options.image:
        raise InputError("--instances belongs to --image")
    if options.raw != "none" and (options.image or options.render == "none"):
        raise InputError("--raw: belongs to a split (--db_root) whose new frames have images (--render)")
    if options.coco_like and (options.image or options.beside):
        raise InputError("--coco_like: belongs to a split (--db_root) without --raw, names of images stay")
    if options.coco and Path(options.coco_like).name == coco_path(Path(), options.split).name:
        raise InputError(
            f"--coco_like {options.coco_like}: --coco writes a file of that name; rename it, or go without"
        )
    if options.per_image and options.target:
        raise InputError("--per_image and --target exclude each other")
    if options.classes != ALL and options.target:
        raise InputError("--classes and --target exclude each other: --target names its classes")
    if not options.image and options.split not in TRAINING_SPLITS and not options.force:
        raise InputError(
            f"--split {options.split}: models are measured on it, new objects would leak into that; give"
            " --force if you mean it"
        )
    if options.cutouts and options.render != "cutout":
        raise InputError("--cutouts belongs to --render cutout")
    if options.cutouts_beside and not options.cutouts:
        raise InputError("--cutouts_beside belongs to --cutouts")
    shows_own = options.render in WITH_BANK and (options.cutouts_beside or not options.cutouts)
    if options.bank and options.cutouts and not shows_own:
        raise InputError("--bank: --cutouts shows no instances of the data set; add --cutouts_beside")
    if shows_own and not options.db_root:
        raise InputError(f"--render {options.render} shows instances of a data set; give it as --db_root")
    own = (options.render,) if is_own(options.render) else ()
    backends = tuple(name for name in RENDERERS if name not in WITHOUT_BACKEND)
    for option, users in (("render_config", (*backends, *own)), ("bank", WITH_BANK)):
        if getattr(options, option) and options.render not in users:
            raise InputError(f"--{option} belongs to --render {', '.join(users)}")
    if options.num_workers is None:
        workers = 1 if options.render in WITH_WEIGHTS else share_of_cores()  # they may fill a GPU each
        options = replace(options, num_workers=workers)
    return options


def rendering_of(options: InsertOptions) -> Rendering | None:
    """How a command line wants new objects painted, None for not at all.

    Raises InputError for settings that can't be used.
    """
    if options.render == "none":
        return None
    painting = SynthOptions()
    if options.render not in WITHOUT_BACKEND:
        painting = options_of({"config": options.render_config, "backend": options.render})
    bank = options.bank or painting.backend_settings.get("bank") or f"{options.out}/{WORK}/bank.npz"
    cutouts = read_folder(Path(options.cutouts), with_progress) if options.cutouts else None
    rendering = Rendering(
        options.render,
        painting,
        options.shadow,
        options.db_root,
        options.split,
        bank,
        options.device,
        cutouts,
        options.cutouts_beside,
    )
    rendering.check()
    return rendering


def with_progress(function: Callable, paths: list[Path]) -> Iterator:
    """function(path) of each, with a bar."""
    return map(function, progress_bar(paths, "cut-outs", unit="file"))


def read_region(path: str | None) -> np.ndarray | None:
    """Where an image is not zero, (H,W) bool; none of none. Raises InputError if it can't be read."""
    if not path:
        return None
    try:
        return read_mask(Path(path))
    except InputError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise InputError(
            f"--region {path}: can't be read as an image ({reason}), and is not X0,Y0,X1,Y1"
        ) from None
