"""The command line of `scripts/insert.py`: its options, their checks, and the rules they ask for."""

import argparse
import os
import re

import numpy as np
from cityscapesscripts.helpers.labels import name2label

from augment.insert.gates import RULES, Gates
from augment.insert.places import WORK, read_region
from augment.options import WITH_WEIGHTS, SynthOptions, options_of
from augment.paint.painter import RENDERERS, WITH_BANK, Rendering
from data.camera import CAMERA_CHOICES
from data.labels import TARGET_CLASSES
from support.errors import InputError, Parser
from support.processes import cores

TRAINING_SPLITS = ("train", "train_extra")


def _range(text: str) -> tuple[int, int]:
    """ "2" or "1-3"."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    if match is None or int(match[2] or match[1]) < int(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no number and no range such as 1-3")
    return int(match[1]), int(match[2] or match[1])


def _limits(text: str) -> tuple[float, float]:
    """ "5-30", "0.5-12.5"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)", text)
    if match is None or float(match[2]) < float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no range such as 5-30")
    return float(match[1]), float(match[2])


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


def _numbers(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = (float("nan"),)
    if not np.isfinite(numbers).all():
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers such as 0.5,-1,0,2")
    return numbers


def _labels(text: str) -> tuple[int, ...]:
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in name2label or name2label[name].id < 0:
            raise argparse.ArgumentTypeError(f"{name!r} is no Cityscapes label")
    return tuple(sorted({name2label[name].id for name in names}))


def parser() -> Parser:
    """The command line of scripts.insert."""
    parser = Parser("python -m scripts.insert", "Insert objects into a Cityscapes-format data set.")
    add = parser.add_argument
    add("--checkpoint", required=True, nargs="+", help="run folders or state-*.pt, one for each class")
    add("--out", required=True, help="folder of the new tree; made if absent")
    add("--db_root", help="folder that holds gtFine/ and, if any, camera/ and leftImg8bit/")
    add("--split", default="train", help="split to insert into (default train)")
    add("--force", action="store_true", help="insert into a split that others are measured on (val, test)")
    add("--scenes", type=int, help="the first so many images of the split (default all)")
    add("--image", help="a single label map (labelIds.png) instead of a split")
    add("--instances", help="its instance map (default: the file beside it)")
    camera = "; ".join(f"{choice}: {meaning}" for choice, meaning in CAMERA_CHOICES.items())
    add("--camera", choices=CAMERA_CHOICES, default="auto", help=f"{camera} (default auto)")

    what = parser.add_argument_group("what is inserted")
    add = what.add_argument
    add("--per_image", type=_range, help="objects tried in each image, a number or a range (default 1)")
    add("--target", type=_budget, help="objects tried in all instead, for example person=2000,rider=500")
    add("--seed", type=int, default=0, help="seed of everything random (default 0)")
    add("--attempts", type=int, default=20, help="places tried for each object (default 20)")
    add("--z_spatial", type=_numbers, help="fixed noise of the place, numbers separated by commas")
    add("--z_appr", type=_numbers, help="fixed noise of the shape")
    add("--region", help="where feet may be: X0,Y0,X1,Y1 in pixels, or a picture that is not zero there")
    add("--distance", type=_limits, help="of the feet from the camera, metres, for example 5-30")
    add("--height", type=_limits, help="of the box, pixels of the data set, for example 40-300")
    add("--protect", type=_labels, default=(), help="labels that may not be covered, separated by commas")

    rules = parser.add_argument_group("rules that an object must pass")
    for rule, text in RULES.items():
        rules.add_argument(f"--no_{rule}", action="store_true", help=f"drop the rule: {text}")
    rules.add_argument("--no_gate", action="store_true", help="drop all these rules")
    defaults = Gates()
    for name, kind, text in (
        ("max_overlap", float, "share of the mask behind things in front"),
        ("max_overlap_any", float, "share of the mask on things, in front or behind"),
        ("min_area", int, "pixels of a new object that must be seen; default 1/4000 of the image"),
        ("min_visible", int, "pixels; things left with fewer go altogether; default 1/40000 of the image"),
        ("min_score", float, "discriminator's score of the place, 0..1, comparable within a checkpoint only"),
    ):
        default = getattr(defaults, name)
        shown = "" if default is None else f" (default {default})"
        rules.add_argument(f"--{name}", type=kind, default=default, help=text + shown)

    picture = parser.add_argument_group("RGB of the new objects")
    add = picture.add_argument
    add(
        "--render",
        choices=RENDERERS,
        default="none",
        help="none (default): no leftImg8bit is written; overlay: flat colours; swap: instances of the data"
        " set, fitted into the new masks; recolor: the same in a colour of the prompt; sd_inpaint,"
        " sdxl_blend: diffusion models (requirements-diffusion.txt)",
    )
    add(
        "--render_config",
        metavar="FILE.yaml",
        help="their settings, a file as scripts.synth.run --print_config prints it; of its sections backend,"
        " generate (prompts, style), select (margin, min_crop) and integrate (colour_match, feather) count",
    )
    add("--bank", help="file to keep the instances of swap and recolor in (default: made anew each time)")
    add("--shadow", type=float, default=0.5, help="darkest part of a contact shadow, 0..1 (default 0.5)")

    how = parser.add_argument_group("output")
    add = how.add_argument
    add("--coco", action="store_true", help="write a COCO annotation file too")
    add("--preview", type=int, default=0, metavar="N", help="contact sheet of the first N changed images")
    add(
        "--num_workers",
        type=int,
        help=f"processes (default: one for each core, but 1 for {' and '.join(WITH_WEIGHTS)});"
        " no influence on the files",
    )
    add("--device", default="auto", help="auto (cuda if there is one), cpu, cuda or cuda:N")
    add("--overwrite", action="store_true", help="replace an earlier insertion in --out")
    return parser


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Settings of a command line (None: sys.argv). Raises InputError for what can't be used."""
    settings = parser().parse_args(arguments)

    if not settings.db_root and not settings.image:
        raise InputError("--db_root is required (or --image for a single image)")
    if settings.instances and not settings.image:
        raise InputError("--instances belongs to --image")
    if settings.per_image and settings.target:
        raise InputError("--per_image and --target exclude each other")
    if not settings.image and settings.split not in TRAINING_SPLITS and not settings.force:
        raise InputError(
            f"--split {settings.split}: models are measured on it, new objects would leak into that; give"
            " --force if you mean it"
        )
    for name, least in (
        ("scenes", 1),
        ("attempts", 1),
        ("min_area", 1),
        ("min_visible", 1),
        ("seed", 0),
        ("preview", 0),
    ):
        value = getattr(settings, name)
        if value is not None and value < least:
            raise InputError(f"{name} must be at least {least}, not {value}")
    if settings.render in WITH_BANK and not settings.db_root:
        raise InputError(f"--render {settings.render} shows instances of a data set; give it as --db_root")
    for option, users in (("render_config", RENDERERS[2:]), ("bank", WITH_BANK)):
        if getattr(settings, option) and settings.render not in users:
            raise InputError(f"--{option} belongs to --render {', '.join(users)}")
    for name in ("max_overlap", "max_overlap_any", "min_score", "shadow"):
        if not 0 <= getattr(settings, name) <= 1:
            raise InputError(f"{name} must be in 0..1, not {getattr(settings, name)}")
    if settings.num_workers is None:  # torchrun sets LOCAL_WORLD_SIZE
        settings.num_workers = cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if settings.render in WITH_WEIGHTS:  # which may fill a GPU each
            settings.num_workers = 1
    return settings


def rendering_of(settings: argparse.Namespace, device: str) -> Rendering | None:
    """How a command line wants new objects painted, None for not at all; device: for models.

    Raises InputError for settings that can't be used.
    """
    if settings.render == "none":
        return None
    options = SynthOptions()
    if settings.render != "overlay":
        options = options_of({"config": settings.render_config, "backend": settings.render})
    bank = settings.bank or options.backend_settings.get("bank") or f"{settings.out}/{WORK}/bank.npz"
    rendering = Rendering(
        settings.render, options, settings.shadow, settings.db_root or "", settings.split, bank, device
    )
    rendering.check()
    return rendering


def gates_of(settings: argparse.Namespace) -> Gates:
    """The rules of a command line. Raises InputError for a region that can't be used."""
    region, region_mask = None, None
    if settings.region and (match := re.fullmatch(r"(-?\d+),(-?\d+),(-?\d+),(-?\d+)", settings.region)):
        region = tuple(int(number) for number in match.groups())
        if region[0] >= region[2] or region[1] >= region[3]:
            raise InputError(f"--region {settings.region}: empty; give X0,Y0,X1,Y1 with X0 < X1 and Y0 < Y1")
    elif settings.region:
        region_mask = settings.region
        read_region(region_mask)  # rather now than in every worker
    kept = () if settings.no_gate else tuple(r for r in RULES if not getattr(settings, f"no_{r}"))
    return Gates(
        rules=kept,
        max_overlap=settings.max_overlap,
        max_overlap_any=settings.max_overlap_any,
        min_area=settings.min_area,
        min_visible=settings.min_visible,
        min_score=settings.min_score,
        region=region,
        region_mask=region_mask,
        distance=settings.distance,
        height=settings.height,
        protected=settings.protect,
    )
