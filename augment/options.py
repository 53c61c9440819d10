"""Every option of the synthesis pipeline: its default, its unit, its meaning, and its section in the YAML.

The order of precedence is: defaults below < --config FILE.yaml < command-line flags. The options of a run are
built once, saved in OUT/synth.json, and then only read: the later stages take them from there.
"""

import argparse
import dataclasses
import re
import textwrap
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import yaml
from cityscapesscripts.helpers.labels import labels as OFFICIAL_LABELS

from support.errors import InputError
from support.settings import add_flags, fields, read_yaml, setting, size_of, typed
from support.settings import checked as in_range

BACKENDS = ("swap", "recolor", "cv_inpaint", "sd_inpaint", "sdxl_blend")
WITH_WEIGHTS = ("sd_inpaint", "sdxl_blend")  # one process for these, which may hold a GPU
POLICIES = ("largest", "largest_per_class", "class_balanced")
THINGS = tuple(label.name for label in OFFICIAL_LABELS if label.hasInstances and label.id >= 0)

SECTIONS = {
    "data": "where frames come from",
    "select": "which instances are repainted",
    "generate": "what they are repainted with",
    "backend": "who repaints them, and in a YAML any further key that the back end knows",
    "integrate": "how a patch becomes a frame with ground truth",
    "build": "the tree around the synthetic frames",
}
_data, _select, _generate, _backend, _integrate, _build = (
    partial(setting, section=name) for name in SECTIONS
)


@dataclass(frozen=True)
class SynthOptions:
    """All settings that decide what a run writes, and where its frames come from."""

    db_root: str = _data("", "folder that holds gtFine/ and leftImg8bit/; none: built-in street scenes")
    split: str = _data("train", "split to repaint")
    scenes: int = _data(20, "built-in street scenes made when there is no db_root, train split", min=1)
    scene_size: str = _data("512x256", "their width x height, pixels")
    seed: int = _data(0, "seed of everything random; same seed, same bytes", min=0)

    policy: str = _select(
        "largest",
        "largest: the k largest instances of a frame; largest_per_class: the k largest of each class;"
        " class_balanced: k times the number of frames in all, classes as even as the data set permits",
        POLICIES,
    )
    k: int = _select(3, "instances (see policy)", min=1)
    min_area: int = _select(0, "smallest visible area, pixels; 0: 1/4000 of the frame", min=0)
    min_side: int = _select(1, "smallest side of the visible box, pixels", min=1)
    truncated: bool = _select(True, "take instances that touch the border of the frame too")
    classes: str = _select("all", "label names separated by commas, or all: " + ",".join(THINGS))
    margin: float = _select(0.25, "context on each side of the crop, fraction of the longer box side", min=0)
    min_crop: int = _select(128, "smallest side of the crop, pixels, where the frame has room", min=1)

    samples: int = _generate(2, "images of each instance; each becomes a synthetic frame", min=1, max=999)
    prompts: str = _generate("", "YAML of prompts; none: the built-in table")
    style: str = _generate("", "words added to each prompt, for example 'at night'")

    backend: str = _backend(
        "swap",
        f"who repaints: {', '.join(BACKENDS)}, or one of your own as module:Class, see docs/synthesis.md",
    )
    backend_settings: dict = field(default_factory=dict, metadata={"section": "backend"})

    colour_match: str = _integrate(
        "ring",
        "ring: mean and spread in Lab on a ring around the mask; legacy: the published rule; none",
        ("ring", "legacy", "none"),
    )
    feather: float = _integrate(2.0, "soft edge inside the mask, pixels", min=0)
    truth: str = _integrate(
        "raster",
        "raster: the ids of the frame, enlarged; polygon: its outlines, enlarged and drawn anew",
        ("raster", "polygon"),
    )
    fragments: str = _integrate(
        "void",
        "instances of which the window shows next to nothing: void (becomes unlabeled), keep, or resample"
        " (20 further windows, then void)",
        ("void", "keep", "resample"),
    )
    min_pixels: int = _integrate(4, "what next to nothing is: fewer pixels of the frame", min=1)

    raw: str = _build("symlink", "how raw files enter the tree", ("symlink", "hardlink", "copy"))
    raw_splits: str = _build("train,val", "splits that enter it, separated by commas; '': none")
    train_ids: bool = _build(False, "write labelTrainIds.png of all frames of the tree")
    coco: bool = _build(True, "write COCO annotation of the split")
    panoptic: bool = _build(False, "write COCO panoptic annotation, by the official tool")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the built-in scenes, pixels."""
        return size_of(self.scene_size)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The label names to choose instances of."""
        return THINGS if self.classes == "all" else tuple(name.strip() for name in self.classes.split(","))


def is_own(backend: str) -> bool:
    """Whether a back end is named as module:Class, which may come from outside this project."""
    return re.fullmatch(r"[\w.]+:\w+", backend) is not None


def checked(options: SynthOptions) -> SynthOptions:
    """The same options. Raises InputError for a value out of range, naming the option."""
    in_range(options)
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", options.scene_size):
        raise InputError(f"scene_size must be WIDTHxHEIGHT, for example 512x256, not {options.scene_size!r}")
    if options.backend not in BACKENDS and not is_own(options.backend):
        raise InputError(
            f"backend '{options.backend}' is unknown: choose {', '.join(BACKENDS)}, or module:Class"
        )
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
        known = {item.name: item for item in fields(SynthOptions) if item.metadata["section"] == section}
        for name, value in entries.items():
            if section == "backend":
                if name == "name":
                    values["backend"] = typed(known["backend"], value, source)
                else:
                    values.setdefault("backend_settings", {})[name] = value
            elif name in known:
                values[name] = typed(known[name], value, source)
            else:
                raise InputError(f"{source}: unknown setting '{name}' in section '{section}'")
    return values


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
    add_flags(parser, SynthOptions, {section: f"{section}: {text}" for section, text in SECTIONS.items()})


def options_of(flags: dict) -> SynthOptions:
    """The options of parsed flags, which may name a --config. Raises InputError for what can't be used."""
    values: dict = {}
    if flags.get("config"):
        content = read_yaml(flags["config"], "sections, see --print_config", may_be_empty=True)
        values = from_sections(content, f"--config {flags['config']}")
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
