"""Tables from a data set's category names to Cityscapes labels."""

from pathlib import Path

from cityscapesscripts.helpers.labels import name2label

from convert.source import Category
from support.errors import InputError
from support.settings import read_yaml

VOID = "void"  # not annotated: label 0
GROUP = "group"  # behind a thing's name: several that are not told apart
_TABLES = Path(__file__).parent / "mappings"


def allowed(target: object) -> bool:
    """Whether a name may stand on the right side of a table."""
    if target == VOID:
        return True
    if not isinstance(target, str):
        return False
    label = name2label.get(target) or name2label.get(target.removesuffix(GROUP))
    return label is not None and label.id >= 0 and (label.name == target or label.hasInstances)


def is_thing(label: str) -> bool:
    """Whether a label has instances; a group has none."""
    return label in name2label and name2label[label].hasInstances


def read_table(path: Path) -> dict[str, str]:
    """Category name -> label name. Raises InputError for what is no such table."""
    wanted = "lines 'category: Cityscapes label'"
    content = read_yaml(path, wanted, flag="--mapping ")
    if not all(isinstance(name, str) for name in content):
        raise InputError(f"--mapping {path}: must hold {wanted}")
    for name, target in content.items():
        if not allowed(target):
            raise InputError(
                f"--mapping {path}: {name}: {target!r} is no Cityscapes label, no thing with '{GROUP}'"
                f" behind, and not {VOID}"
            )
    return content


def numbered_names(format_name: str) -> list[str]:
    """The category names of a format whose table lists them by their ids, from 0."""
    return list(read_table(_TABLES / f"{format_name}.yaml"))


def mapping_of(format_name: str, override: Path | None) -> dict[str, str]:
    """The table of a format; the lines of the file `override` replace its own or add to them."""
    table = read_table(_TABLES / f"{format_name}.yaml")
    return table | read_table(override) if override else table


def check_complete(mapping: dict[str, str], categories: dict[int, Category]) -> None:
    """Raises InputError, listing them, for categories that the mapping lacks."""
    unknown = sorted({category.name for category in categories.values()} - mapping.keys())
    if unknown:
        raise InputError(
            f"categories without a Cityscapes label: {', '.join(unknown)}; give them in --mapping FILE, a"
            f" line 'category: label' each, or 'category: {VOID}'"
        )
