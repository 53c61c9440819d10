"""What is compared: the arms, and the recipes that make their data from n scenes.

A recipe makes trees below a folder and returns how many objects or frames there are. The programs of the
project are called by name with the arguments that a shell would give them, in this process, so that a killed
measurement leaves none behind.
"""

import argparse
import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from urllib.parse import quote

import torch

from augment.placement.options import InsertOptions, range_of
from augment.placement.options import parse as parse_insert
from benefit.pasting import paste_tree
from benefit.scenes import SPLIT
from data.frame import ANNOTATION, IMAGE_KIND, Frame, list_frames
from engine.records import read_manifest, write_outputs
from support.errors import InputError
from support.files import listed

_ABOVE = __name__.removesuffix("benefit.arms")  # of the package that holds the whole project, if one does
ARMS_VERSION = "2"  # of what the names of the arms mean; folders of another one are refused


@dataclass(frozen=True)
class Arm:
    """What a segmenter learns from, beside the n scenes themselves."""

    meaning: str
    differs: str = ""  # from which other arm, and in what alone
    recipes: tuple[str, ...] = ()
    live: str = ""  # how new persons are painted each time a scene is drawn; empty: none are
    # One factor or more taken otherwise than the measurement has it:
    share: float | None = None  # of what is learnt from that is made; None: as everywhere
    flags: dict[str, str | None] = field(default_factory=dict)  # of scripts.insert; None: without a value

    def insertion(self, checkpoint: str) -> InsertOptions:
        """What scripts.insert would be told, but for its input. Raises InputError for bad flags."""
        render = "swap" if "inserted" in self.recipes else "cutout"
        given = {"checkpoint": checkpoint, "db_root": "-", "out": "-", "render": render}
        return parse_insert(_as_words(given | self.flags))

    def data(self, recipe: str) -> str:
        """Name of what a recipe makes for this arm, which arms of other shares have in common."""
        flags = [name if value is None else f"{name}={value}" for name, value in self.flags.items()]
        return "+".join([recipe, *flags])


# Models of places: of persons, with shapes; of all classes, places alone.
OF_PERSONS, OF_ALL = "placement", "placement_all"
MODEL_OF = {"cutout": OF_PERSONS, "cutout_all": OF_ALL, "inserted": OF_PERSONS}  # by recipe
# Flags of scripts.insert that the measurement sets, or that would change what the arms are compared by.
_GIVEN = ("checkpoint", "db_root", "split", "scenes", "image", "out", "render", "bank", "seed", "num_workers")
_GIVEN += ("shard", "device", "raw", "target", "coco_like", "overwrite", "merge", "dry_run", "help")
ARMS = {
    "real": Arm("the n scenes alone"),
    "copy-paste": Arm(
        "Simple Copy-Paste: persons of other scenes, their own masks and pixels, flipped, scaled, anywhere",
        "from real in the pasted persons",
        ("copy_paste",),
    ),
    "prior": Arm(
        "persons of other scenes, their own masks and pixels, where they stood there",
        "from cutout in the places; from copy-paste in places, light, shadow, what stands in front",
        ("prior",),
    ),
    "cutout": Arm(
        "scripts.insert --render cutout: their own masks and pixels where a model of the n scenes says",
        "from prior in the places, and in that who stands there is chosen to fit",
        ("cutout",),
    ),
    "cutout-all": Arm(
        "the same with objects of all classes, evenly",
        "from cutout in the classes, and in the model of places, --places_all",
        ("cutout_all",),
    ),
    "cutout-on-the-fly": Arm(
        'InsertInstances(render="cutout") with that model',
        "from cutout in new persons every time a scene is drawn",
        live="cutout",
    ),
    "inserted": Arm(
        "scripts.insert --render swap with that model",
        "from cutout in the masks, which the model draws, and in pixels warped into them",
        ("inserted",),
    ),
    "on-the-fly": Arm(
        'InsertInstances(render="swap") with that model',
        "from inserted in new persons every time a scene is drawn",
        live="swap",
    ),
    "repainted": Arm(
        "scripts.synth.run with swap: windows around instances that have other pixels",
        "from real in the windows, magnified, and in their pixels",
        ("repainted",),
    ),
    "repainted-whole": Arm(
        "the whole frames that those windows are cut from",
        "from real in the pixels of instances",
        ("repainted_whole",),
    ),
    "all": Arm(
        "inserted and repainted", "from inserted in the windows of repainted", ("inserted", "repainted")
    ),
}


def arm_of(name: str) -> Arm:
    """An arm by its name, or one that differs from it: "cutout-all+share=0.25+height=60-200+no_overlap".

    After each + stands `share` or a flag of scripts.insert. What argparse calls a type: raises
    argparse.ArgumentTypeError for an unknown arm and for a change that it can't have.
    """
    base, *changes = name.split("+")
    if base not in ARMS:
        raise argparse.ArgumentTypeError(f"{base!r} is no arm: choose from {', '.join(ARMS)}")
    arm = ARMS[base]
    for change in changes:
        flag, equals, value = change.partition("=")
        if flag == "share" and (arm.recipes or arm.live):
            arm = replace(arm, share=_share(value, name))
        elif flag in _GIVEN or not arm.recipes or not set(arm.recipes) <= MODEL_OF.keys():
            raise argparse.ArgumentTypeError(f"{name}: {flag!r} can't be changed in {base}")
        else:
            arm = replace(arm, flags=arm.flags | {flag: value if equals else None})
    if arm.flags:
        try:
            arm.insertion("-")
        except InputError as error:
            text = str(error).removesuffix(" (see --help)")
            raise argparse.ArgumentTypeError(f"{name}: {text}") from None
    if changes:
        arm = replace(arm, differs=f"from {base} in {', '.join(changes)}")
    return arm


def folder_of(name: str) -> str:
    """The folder of an arm, or of what is made for it, by its name, whose flags may hold anything."""
    return quote(name, safe="+=,")


def base_of(name: str) -> str:
    """The arm of ARMS that an arm is, or differs from."""
    return name.split("+")[0]


def _share(text: str, name: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{name}: share must be above 0 and below 1")


def models_of(arm: Arm) -> tuple[str, ...]:
    """The models of places that an arm wants."""
    models = [MODEL_OF[recipe] for recipe in arm.recipes if recipe in MODEL_OF]
    return tuple(dict.fromkeys([*models, OF_PERSONS] if arm.live else models))


def shows_shapes(arm: Arm) -> bool:
    """Whether an arm shows persons in the shapes that the model of persons draws."""
    return "inserted" in arm.recipes or arm.live == "swap"


@dataclass(frozen=True)
class RecipeSource:
    """What the recipes of one case start from."""

    tree: Path  # the n scenes
    models: dict[str, str | Path]  # checkpoints, for recipes in MODEL_OF
    seed: int
    copies: int
    per_image: str
    device: str
    flags: dict[str, str | None] = field(default_factory=dict)  # further ones of scripts.insert


def run_program(name: str, arguments: dict, log: Path) -> None:
    """Call the `main` of a program with --flag value for each argument; what it prints goes to a file.

    A value None leaves a flag without a value. Raises InputError if it ends with a status other than 0.
    """
    words = _as_words(arguments)
    threads = torch.get_num_threads()
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("a", encoding="utf-8", errors="backslashreplace") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        print(name, *words)
        status = import_module(_ABOVE + name).main(words)
    torch.set_num_threads(threads)  # some of them want only one
    if status:
        raise InputError(f"{name} ended with status {status}: see {log}")


def _as_words(arguments: dict) -> list[str]:
    return [
        str(word) for flag, value in arguments.items() for word in (f"--{flag}", value) if word is not None
    ]


# ---- model ---------------------------------------------------------------------------


def train_placement(folder: Path, tree: Path, preset: str, iterations: int, seed: int, device: str) -> dict:
    """Train a model of places on the scenes of a tree."""
    arguments = {
        "preset": preset,
        "db_root": tree,
        "run_dir": folder / "run",
        "cache_dir": folder / "cache",
        "max_iters": iterations,
        "random_seed": seed,
        "num_workers": 0,
        "sample_every": 0,
        "save_every": max(1, iterations // 4),
        "device": device,
        "resume": "auto",
    }
    run_program("main", arguments, folder / "log.txt")
    return {"iterations": iterations}


# ---- recipes ------------------------------------------------------------------------------------


def inserted(model: str, classes: str, render: str, folder: Path, source: RecipeSource) -> dict:
    """Objects where a model says, once for each copy; classes, render: as for scripts.insert."""
    objects = 0
    for copy in range(source.copies):
        out = folder / f"tree{copy}"
        arguments = {
            "checkpoint": source.models[model],
            "db_root": source.tree,
            "split": SPLIT,
            "out": out,
            "per_image": source.per_image,
            "classes": classes,
            "render": render,
            "bank": folder / "bank.npz",
            "seed": _seed(source, copy),
            "num_workers": 1,
            "shard": "1/1",  # whatever job this process is part of
            "device": source.device,
        }
        if "cutouts" in source.flags:  # instead of what the scenes show
            del arguments["bank"]
        run_program("scripts.insert", arguments | source.flags, folder / "log.txt")
        report = json.loads((out / "insert.json").read_text(encoding="utf-8"))
        objects += sum(report["objects_inserted"].values())
    return {"objects": objects, "frames": _frames(folder)}


def pasted(method: str, folder: Path, source: RecipeSource) -> dict:
    """Persons of other images, once for each copy."""
    objects, per_image = 0, range_of(source.per_image)
    for copy in range(source.copies):
        out, seed = folder / f"tree{copy}", _seed(source, copy)
        objects += paste_tree(method, source.tree, SPLIT, out, folder / "bank.npz", per_image, seed)
    return {"objects": objects, "frames": _frames(folder)}


def repainted(folder: Path, source: RecipeSource) -> dict:
    """The largest instances with other pixels, in windows around them."""
    arguments = {
        "db_root": source.tree,
        "split": SPLIT,
        "out": folder / "tree0",
        "samples": source.copies,
        "raw_splits": "",
        "seed": source.seed,
        "backend": "swap",
        "num_workers": 1,
        "shard": "1/1",
    }
    run_program("scripts.synth.run", arguments, folder / "log.txt")
    return {"frames": _frames(folder)}


def repainted_whole(folder: Path, source: RecipeSource) -> dict:
    """The whole frames that the windows of `repainted` are cut from, with the annotation of the raw frame."""
    made, tree = folder / "windows/tree0", folder / "tree0"
    frames = {frame.name: frame for frame in list_frames(source.tree, SPLIT)}
    repainted(made.parent, source)
    for line in read_manifest(made):
        if line["stage"] == "integrate" and "synthetic" in line:
            raw = frames["_".join(line["key"].split("/")[:3])]
            new = Frame(tree, SPLIT, line["synthetic"].split("_")[0], line["synthetic"])
            files = {new.place(IMAGE_KIND, ".png"): made / new.panorama_place}
            files |= {new.place(new.kind, ending): raw.annotation_path(ending) for ending in ANNOTATION}
            write_outputs(tree, files)
    return {"frames": _frames(folder)}


RECIPES: dict[str, Callable[[Path, RecipeSource], dict]] = {
    "copy_paste": partial(pasted, "copy_paste"),
    "prior": partial(pasted, "prior"),
    "cutout": partial(inserted, OF_PERSONS, "person", "cutout"),
    "cutout_all": partial(inserted, OF_ALL, "all", "cutout"),
    "inserted": partial(inserted, OF_PERSONS, "person", "swap"),
    "repainted": repainted,
    "repainted_whole": repainted_whole,
}


def trees_of(folder: Path) -> list[Path]:
    """The trees that a recipe made below a folder."""
    return sorted(path for path in folder.glob("tree*") if path.is_dir())


def _seed(source: RecipeSource, copy: int) -> int:
    return 1000 * source.seed + copy


def _frames(folder: Path) -> int:
    return sum(1 for tree in trees_of(folder) for _ in listed(tree, f"gtFine/{SPLIT}/*/*_instanceIds.png"))
