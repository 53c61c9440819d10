"""Every option of the synthesis pipeline: its default, its unit, its meaning, and its section in the YAML.

The order of precedence is: defaults below < --config FILE.yaml < command-line flags. The options of a run are
built once, saved in OUT/synth.json, and then only read: the later stages take them from there.
"""

import argparse
import contextlib
import dataclasses
import re
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from cityscapesscripts.helpers.labels import labels as OFFICIAL_LABELS

from support.errors import InputError

BACKENDS = ("swap", "recolor", "cv_inpaint", "sd_inpaint", "sdxl_blend")
WITH_WEIGHTS = ("sd_inpaint", "sdxl_blend")  # one process for these, which may hold a GPU
POLICIES = ("largest", "largest_per_class", "class_balanced")
THINGS = tuple(label.name for label in OFFICIAL_LABELS if label.hasInstances and label.id >= 0)

SECTIONS = {
    "data": "where frames come from",
    "select": "which instances are repainted",
    "generate": "what they are repainted with",
    "backend": "who repaints them, and in a YAML any further key that the back end knows",
    "integrate": "how a patch becomes a frame with truth",
    "build": "the tree around the synthetic frames",
}


def _option(section: str, default, help: str, choices: tuple[str, ...] | None = None):
    return field(default=default, metadata={"section": section, "help": help, "choices": choices})


@dataclass(frozen=True)
class SynthOptions:
    """All settings that decide what a run writes, and where its frames come from."""

    db_root: str = _option(
        "data", "", "folder that holds gtFine/ and leftImg8bit/; none: built-in street scenes"
    )
    split: str = _option("data", "train", "split to repaint")
    scenes: int = _option("data", 20, "built-in street scenes made when there is no db_root, train split")
    scene_size: str = _option("data", "512x256", "their width x height, pixels")
    seed: int = _option("data", 0, "seed of everything random; same seed, same bytes")

    policy: str = _option(
        "select",
        "largest",
        "largest: the k largest instances of a frame; largest_per_class: the k largest of each class;"
        " class_balanced: k times the number of frames in all, classes as even as the data set permits",
        POLICIES,
    )
    k: int = _option("select", 3, "instances (see policy)")
    min_area: int = _option("select", 0, "smallest visible area, pixels; 0: 1/4000 of the frame")
    min_side: int = _option("select", 1, "smallest side of the visible box, pixels")
    truncated: bool = _option("select", True, "take instances that touch the border of the frame too")
    classes: str = _option("select", "all", "label names separated by commas, or all: " + ",".join(THINGS))
    margin: float = _option("select", 0.25, "context on each side of the crop, share of the longer box side")
    min_crop: int = _option("select", 128, "smallest side of the crop, pixels, where the frame has room")

    samples: int = _option("generate", 2, "pictures of each instance; each becomes a synthetic frame")
    prompts: str = _option("generate", "", "YAML of prompts; none: the built-in table")
    style: str = _option("generate", "", "words added to each prompt, for example 'at night'")

    backend: str = _option("backend", "swap", "who repaints", BACKENDS)
    backend_settings: dict = field(default_factory=dict, metadata={"section": "backend", "choices": None})

    colour_match: str = _option(
        "integrate",
        "ring",
        "ring: mean and spread in Lab on a ring around the mask; legacy: the published rule; none",
        ("ring", "legacy", "none"),
    )
    feather: float = _option("integrate", 2.0, "soft edge inside the mask, pixels")
    truth: str = _option(
        "integrate",
        "raster",
        "raster: the ids of the frame, enlarged; polygon: its outlines, enlarged and drawn anew",
        ("raster", "polygon"),
    )
    fragments: str = _option(
        "integrate",
        "void",
        "instances of which the window shows next to nothing: void (becomes unlabeled), keep, or resample"
        " (20 further windows, then void)",
        ("void", "keep", "resample"),
    )
    min_pixels: int = _option("integrate", 4, "what next to nothing is: fewer pixels of the frame")

    raw: str = _option("build", "symlink", "how raw files enter the tree", ("symlink", "hardlink", "copy"))
    raw_splits: str = _option("build", "train,val", "splits that enter it, separated by commas; '': none")
    coco: bool = _option("build", True, "write COCO annotation of the split")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the built-in scenes, pixels."""
        width, height = self.scene_size.split("x")
        return int(width), int(height)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The label names to choose instances of."""
        return THINGS if self.classes == "all" else tuple(self.classes.split(","))


_LEAST = {"scenes": 1, "seed": 0, "k": 1, "min_area": 0, "min_side": 1, "margin": 0, "samples": 1}
_LEAST |= {"min_crop": 1, "feather": 0, "min_pixels": 1}


def checked(options: SynthOptions) -> SynthOptions:
    """The same options. Raises InputError for a value out of range, naming the option."""
    for item in dataclasses.fields(SynthOptions):
        value, choices = getattr(options, item.name), item.metadata["choices"]
        if choices and value not in choices:
            raise InputError(f"{item.name} must be one of {', '.join(choices)}, not {value!r}")
        if item.name in _LEAST and not _LEAST[item.name] <= value < float("inf"):
            raise InputError(f"{item.name} must be at least {_LEAST[item.name]}, not {value}")
    if options.samples > 999:
        raise InputError(f"samples must be at most 999, not {options.samples}")
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", options.scene_size):
        raise InputError(f"scene_size must be WIDTHxHEIGHT, for example 512x256, not {options.scene_size!r}")
    for name in options.class_names:
        if name not in THINGS:
            raise InputError(f"classes: {name!r} has no instances in Cityscapes, only {', '.join(THINGS)}")
    return options


def from_sections(content: dict, source: str) -> dict:
    """Values by option name of a YAML's sections. Raises InputError, naming `source`, for what is unknown."""
    values: dict = {}
    for section, entries in content.items():
        if section not in SECTIONS:
            raise InputError(f"{source}: unknown section '{section}', only {', '.join(SECTIONS)}")
        if not isinstance(entries, dict):
            raise InputError(f"{source}: section '{section}' must hold 'name: value' lines")
        known = {
            item.name for item in dataclasses.fields(SynthOptions) if item.metadata["section"] == section
        }
        for name, value in entries.items():
            if section == "backend":
                if name == "name":
                    values["backend"] = _typed("backend", value, source)
                else:
                    values.setdefault("backend_settings", {})[name] = value
            elif name in known:
                values[name] = _typed(name, value, source)
            else:
                raise InputError(f"{source}: unknown option '{name}' in section '{section}'")
    return values


def _typed(name: str, value, source: str):
    kind = type(SynthOptions.__dataclass_fields__[name].default)
    if kind is float and type(value) in (int, str):  # YAML reads 2e-4 as a string, 1 as an integer
        with contextlib.suppress(ValueError):
            value = float(value)
    if type(value) is not kind:
        raise InputError(f"{source}: option {name} must be of type {kind.__name__}, not {value!r}")
    return value


def from_saved(values: dict, source: str) -> SynthOptions:
    """Options from what `dataclasses.asdict` gave, as saved in synth.json. InputError if they do not fit."""
    if not isinstance(values, dict) or values.keys() - SynthOptions.__dataclass_fields__.keys():
        raise InputError(f"{source}: holds options that this version does not know; start anew")
    return checked(SynthOptions(**values))


def add_option_flags(parser: argparse.ArgumentParser) -> None:
    """Add --config, --print_config and a flag for each option; flags not given leave no trace."""
    parser.add_argument("--config", metavar="FILE.yaml", help="options by sections, see --print_config")
    parser.add_argument(
        "--print_config", action="store_true", help="print all options as YAML with comments, and stop"
    )
    for section, text in SECTIONS.items():
        group = parser.add_argument_group(f"{section}: {text}")
        for item in dataclasses.fields(SynthOptions):
            if item.metadata["section"] != section or item.name == "backend_settings":
                continue
            shown = f"{item.metadata['help']} (default {item.default!r})".replace("%", "%%")
            kind = {"type": type(item.default), "choices": item.metadata["choices"]}
            if isinstance(item.default, bool):
                kind = {"action": argparse.BooleanOptionalAction}
            elif not item.metadata["choices"]:
                kind["metavar"] = type(item.default).__name__.upper()
            group.add_argument(f"--{item.name}", help=shown, default=argparse.SUPPRESS, **kind)


def options_of(flags: dict) -> SynthOptions:
    """The options of parsed flags, which may name a --config. Raises InputError for what can't be used."""
    values: dict = {}
    if flags.get("config"):
        path = flags["config"]
        try:
            content = yaml.safe_load(Path(path).read_text()) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"--config {path}: can't be read as YAML ({reason})") from None
        if not isinstance(content, dict):
            raise InputError(f"--config {path}: must hold sections, see --print_config")
        values = from_sections(content, f"--config {path}")
    values |= {name: value for name, value in flags.items() if name in SynthOptions.__dataclass_fields__}
    for name in ("db_root", "prompts"):  # later stages may be run from elsewhere
        if values.get(name):
            values[name] = str(Path(values[name]).absolute())
    return checked(SynthOptions(**values))


def as_yaml(options: SynthOptions) -> str:
    """A YAML with a comment above each option; --config reads it back to equal options."""
    lines = []
    for section, text in SECTIONS.items():
        lines.append(f"{section}:  # {text}")
        for item in dataclasses.fields(SynthOptions):
            if item.metadata["section"] != section:
                continue
            if item.name == "backend_settings":
                entries = dict(options.backend_settings)
            else:
                entries = {"name" if item.name == "backend" else item.name: getattr(options, item.name)}
                help = item.metadata["help"]
                if item.metadata["choices"] and ":" not in help:
                    help += ": " + ", ".join(item.metadata["choices"])
                lines += textwrap.wrap(help, 100, initial_indent="  # ", subsequent_indent="  #   ")
            if entries:
                text = yaml.safe_dump(entries, sort_keys=False).rstrip()
                lines += textwrap.indent(text, "  ").splitlines()
        lines.append("")
    return "\n".join(lines)
