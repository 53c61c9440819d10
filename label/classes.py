"""Which Cityscapes label a class of a model, or of somebody's annotation, is: by its name."""

from collections.abc import Iterable
from pathlib import Path

from convert.mapping import VOID, mapping_of, read_table
from data.labels import OFFICIAL_LABELS
from support.errors import InputError, name_some

# Without these a map tells neither where things may stand nor what stands there.
NEEDED = ("road", "sidewalk", "building", "vegetation", "sky", "person", "car")
_REMEDY = f"--mapping FILE, a line 'class: Cityscapes label' each, or 'class: {VOID}'"


def known_labels(override: Path | None) -> dict[str, str]:
    """Label, or VOID, by the name of a class as `plain` gives it.

    Official names, those of COCO by the table of `scripts.convert`, and the lines of the file `override`.
    """
    table = mapping_of("coco_panoptic", None)
    table |= {label.name: label.name for label in OFFICIAL_LABELS if label.id >= 0}
    table |= read_table(override) if override else {}
    return {plain(name): label for name, label in table.items()}


def plain(name: str) -> str:
    """A name in small letters, with blanks between its words."""
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def labels_of_model(names: Iterable[str], known: dict[str, str], model: str) -> dict[str, str]:
    """Label of each class of a model by its name, VOID where there is none.

    Raises InputError, with a list, if classes that are NEEDED have none.
    """
    names = list(names)
    labels = {name: known.get(plain(name), VOID) for name in names}
    lacking = [label for label in NEEDED if label not in labels.values()]
    if lacking:
        raise InputError(
            f"--model {model}: has no class for {', '.join(lacking)}, only {name_some(names)}; take a model"
            f" trained on Cityscapes, or say which class is which in {_REMEDY}"
        )
    return labels


def labels_of_annotation(names: Iterable[str], known: dict[str, str], path: Path) -> dict[str, str]:
    """Label of each category by its name. Raises InputError, with a list, if one has none."""
    names = list(names)
    unknown = [name for name in names if plain(name) not in known]
    if unknown:
        raise InputError(
            f"--annotations {path}: categories without a Cityscapes label: {name_some(unknown)}; give them in"
            f" {_REMEDY}"
        )
    return {name: known[plain(name)] for name in names}
