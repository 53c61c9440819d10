"""Prompts: a table of phrases by class, and the seeded choice among them (docs/synthesis.md#prompts)."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from support.errors import InputError

DEFAULT_PATH = Path(__file__).with_name("prompts.yaml")


@dataclass(frozen=True)
class Prompts:
    """The table; `template` holds one {} for the phrase."""

    template: str = "a photo of {}"
    negative: str = ""
    style: str = ""
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)


def load_prompts(path: str | Path = "") -> Prompts:
    """The table of a YAML file, or the published one. Raises InputError, naming the file, if it is bad."""
    path = Path(path or DEFAULT_PATH)
    try:
        content = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: no readable table of prompts ({reason}); see {DEFAULT_PATH}") from None
    try:
        return _checked(content)
    except ValueError as error:
        raise InputError(f"{path}: {error}; see {DEFAULT_PATH}") from None


def draw_prompts(
    class_name: str, seed: int, table: Prompts, style: str = "", count: int = 1
) -> tuple[str, ...]:
    """Prompts of a class: its phrases in the template, then the style words of table and call.

    The phrases come in an order drawn from `seed` alone, each once before any comes again, whatever the
    `count`. A class without phrases is asked for by its name.
    """
    phrases = table.classes.get(class_name) or (f"a {class_name}",)
    order = np.random.default_rng(seed).permutation(len(phrases))
    chosen = (phrases[order[sample % len(phrases)]] for sample in range(count))
    return tuple(
        " ".join(words for words in (table.template.format(phrase), table.style, style) if words)
        for phrase in chosen
    )


def _checked(content: object) -> Prompts:
    """The table of a file's content; ValueError for what makes no sense."""
    known = tuple(Prompts.__dataclass_fields__)
    if not isinstance(content, dict):
        raise ValueError(f"not a mapping with the keys {', '.join(known)}")
    for key in content:
        if key not in known:
            raise ValueError(f"unknown key {key!r}, only {', '.join(known)}")
    for key in ("template", "negative", "style"):
        if not isinstance(content.get(key, ""), str):
            raise ValueError(f"{key} must be a text")
    template = content.get("template", Prompts.template)
    if template.count("{}") != 1 or template.count("{") != 1 or template.count("}") != 1:
        raise ValueError("template must hold one {} for the phrase")
    classes = content.get("classes") or {}
    if not isinstance(classes, dict):
        raise ValueError("classes must map class names to lists of phrases")
    for name, phrases in classes.items():
        if not isinstance(phrases, list) or not phrases or not all(isinstance(one, str) for one in phrases):
            raise ValueError(f"classes: {name} must have a list of phrases")
    texts = {key: content[key] for key in ("template", "negative", "style") if key in content}
    return Prompts(classes={name: tuple(phrases) for name, phrases in classes.items()}, **texts)
