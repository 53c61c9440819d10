"""Settings as dataclasses: their fields alone make flags, read YAML and saved values, and check ranges.

@dataclass(frozen=True)
class Options:
    steps: int = setting(50, "steps of the solver", min=1)
"""

import argparse
import contextlib
import dataclasses
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import yaml

from support.errors import InputError, Parser

T = TypeVar("T")
_LISTED = 20  # names in the message about an unknown one
_BOUNDS = {
    "min": (lambda value, bound: value >= bound, "at least"),
    "above": (lambda value, bound: value > bound, "above"),
    "max": (lambda value, bound: value <= bound, "at most"),
    "below": (lambda value, bound: value < bound, "below"),
}


def setting(
    default=dataclasses.MISSING,
    help: str = "",
    choices: tuple[str, ...] = (),
    section: str = "",
    read: Callable | None = None,
    flag: dict | None = None,
    **bounds: float,
):
    """A field with its default, its meaning, and what it may be. The default may be None: not given.

    Without a default its flag must be given, text unless `read` says otherwise.
    section: under which heading its flag stands. read: what makes a value of a flag's text, by default the
    type of the default. flag: further arguments of argparse, and "name" if it is not that of the field.
    bounds: min, above, max, below.
    """
    assert bounds.keys() <= _BOUNDS.keys(), bounds
    metadata = {"help": help, "choices": choices, "section": section, "read": read, "flag": flag or {}}
    return dataclasses.field(default=default, metadata=metadata | {"bounds": bounds})


def fields(kind) -> list[dataclasses.Field]:
    """The fields of a dataclass, or of an instance, that `setting` made."""
    return [item for item in dataclasses.fields(kind) if "help" in item.metadata]


def typed(item: dataclasses.Field, value, source: str):
    """A value of a YAML file or of saved settings; InputError, naming `source`, for a wrong type."""
    kind = type(item.default)
    if kind is float and type(value) in (int, str):  # YAML reads 2e-4 as a string, 1 as an integer
        with contextlib.suppress(ValueError):
            value = float(value)
    if type(value) is not kind:
        raise InputError(f"{source}: {item.name} must be of type {kind.__name__}, not {value!r}")
    return value


def changed(settings: T, values: dict, source: str) -> T:
    """Settings with other values. Raises InputError, naming `source`, for unknown names and wrong types.

    What the dataclass itself refuses with a ValueError is an InputError too; ranges are left to `checked`.
    """
    known = {item.name: item for item in fields(settings)}
    for name in values:
        if name not in known:
            listed = f"it has {', '.join(known) or 'none'}" if len(known) <= _LISTED else "see --help"
            raise InputError(f"{source}: unknown setting '{name}'; {listed}")
    values = {name: typed(known[name], value, source) for name, value in values.items()}
    try:
        return dataclasses.replace(settings, **values)
    except ValueError as error:
        raise InputError(f"{source}: {error}") from None


def checked(settings: T, source: str = "") -> T:
    """The same settings. Raises InputError for a value that is no choice, out of range or not finite."""
    start = f"{source}: " if source else ""
    for item in fields(settings):
        value, choices = getattr(settings, item.name), item.metadata["choices"]
        if value is None:
            continue
        if choices and value not in choices:
            raise InputError(f"{start}{item.name} '{value}' is unknown: choose {', '.join(choices)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{start}{item.name} must be a finite number, not {value}")
        bounds = item.metadata["bounds"]
        if not all(_BOUNDS[name][0](value, bound) for name, bound in bounds.items()):
            wanted = " and ".join(f"{_BOUNDS[name][1]} {bound}" for name, bound in bounds.items())
            raise InputError(f"{start}{item.name} must be {wanted}, not {value}")
    return settings


def size_of(text: str) -> tuple[int, int]:
    """ "512x256" as width and height, what argparse calls a type."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, for example 512x256")
    return int(match[1]), int(match[2])


def add_flags(parser: argparse.ArgumentParser, kind, headings: dict[str, str] | None = None) -> None:
    """Add a flag for each setting; flags that are not given leave no trace in the parsed namespace.

    headings: of the sections, in their order; none: no sections.
    """
    for section, heading in (headings or {"": ""}).items():
        group = parser.add_argument_group(heading) if heading else parser
        for item in fields(kind):
            if item.metadata["section"] == section:
                about = _flag(item)
                group.add_argument(f"--{about.pop('name', item.name)}", dest=item.name, **about)


def parser_of(kind, program: str, description: str, headings: dict[str, str] | None = None, **more) -> Parser:
    """The command line of a program that has a flag for each setting, see `add_flags`; more: for argparse."""
    parser = Parser(program, description, **more)
    add_flags(parser, kind, headings)
    return parser


def _flag(item: dataclasses.Field) -> dict:
    """What argparse wants to know of a flag."""
    required = item.default is dataclasses.MISSING
    said = default = "" if required else item.default
    if isinstance(default, tuple):  # as it would be typed: several words, or WIDTHxHEIGHT
        said = (" " if "nargs" in item.metadata["flag"] else "x").join(map(str, default))
    shown = "" if default in (None, "", ()) else f" (default {said})"
    about = {"help": (item.metadata["help"] + shown).replace("%", "%%"), "default": argparse.SUPPRESS}
    if required:
        about["required"] = True
    if isinstance(default, bool):
        about["action"] = argparse.BooleanOptionalAction
    else:
        about["type"] = item.metadata["read"] or type(default)
        if item.metadata["choices"]:
            about["choices"] = item.metadata["choices"]
    return about | item.metadata["flag"]


def read_yaml(path: str | Path, what: str, *, may_be_empty: bool = False, flag: str = "--config ") -> dict:
    """The mapping in a YAML file. Raises InputError if it can't be read or holds something else.

    what: it must hold, and flag: what stands before its path, for the message.
    """
    try:
        content = yaml.safe_load(Path(path).read_bytes())
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: an impossible date
        reason = str(getattr(error, "strerror", None) or error).splitlines()[0]
        raise InputError(f"{flag}{path}: can't be read as YAML ({reason})") from None
    if content is None and may_be_empty:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{flag}{path}: must hold {what}")
    return content
