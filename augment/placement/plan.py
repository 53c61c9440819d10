"""The tree that an insertion makes, as a whole: what is planned for it, and summing up.

OUT/insert.json holds the settings and the counts, OUT/manifest.jsonl a line for each object that was tried
and one for each image.
"""

from collections import Counter
from collections.abc import Iterable

import numpy as np

from augment.placement.places import STAGE
from data.frame import CAMERA_KIND, GT_KINDS, IMAGE_KIND, VOID_FILE
from data.labels import TARGET_CLASSES
from engine.tree import Program
from support.errors import InputError
from support.seeds import generator

PREVIEW = "preview.png"
INSERT = Program(
    "insert",
    "8",
    "insert.json",
    (STAGE,),
    (*GT_KINDS, CAMERA_KIND, IMAGE_KIND, "inserted", "annotations", "images", PREVIEW, VOID_FILE),
)
MAX_OBJECTS = 255  # in one image; the mask of inserted pixels has 8 bits


# ---- the plan -----------------------------------------------------------------------------------


def plan(
    names: list[str],
    classes: dict[str, int],
    seed: int,
    per_image: tuple[int, int] = (1, 1),
    budget: dict[str, int] | None = None,
) -> list[tuple[str, ...]]:
    """The classes of the objects to insert into each image, in order; from names and seed alone.

    budget: objects of each class in all, spread evenly over the images, the remainder over images drawn by
    the seed. Without it each image gets a number drawn from the range `per_image` (both ends included) and
    each object a class drawn from `classes`, which says how often each of them comes beside the others.
    Raises InputError for more than 255 in an image.
    """
    if budget is None:
        planned, listed, ends = [], list(classes), np.cumsum(list(classes.values()))
        for name in names:
            rng = generator(seed, name, 0, "insert plan")
            count = int(rng.integers(per_image[0], per_image[1] + 1))
            drawn = np.searchsorted(ends, rng.integers(ends[-1], size=count), side="right")
            planned.append([listed[chosen] for chosen in drawn.tolist()])
    else:
        planned = [[] for _ in names]
        for class_name, count in sorted(budget.items()):
            order = generator(seed, class_name, 0, "insert budget").permutation(len(names))
            for rank, image in enumerate(order.tolist()):
                planned[image] += [class_name] * (count // len(names) + (rank < count % len(names)))
        for name, chosen in zip(names, planned, strict=True):
            generator(seed, name, 0, "insert order").shuffle(chosen)
    largest = max(map(len, planned), default=0)
    if largest > MAX_OBJECTS:
        raise InputError(f"{largest} objects in one image are too many, at most {MAX_OBJECTS}; ask for fewer")
    return [tuple(chosen) for chosen in planned]


# ---- summing up ---------------------------------------------------------------------------------


def sum_up(blocks: Iterable[list[dict]]) -> dict:
    """Counts over all images, each with the lines of its objects and last its own."""
    before, after, inserted, given_up = Counter(), Counter(), Counter(), Counter()
    rejections: dict[str, Counter] = {}
    failed, changed, images = [], 0, 0
    cutouts: dict[str, list[dict]] = {}
    for *objects, own in blocks:
        images += 1
        if own["status"] == "failed":
            failed.append(own["key"])
            continue
        before.update(own["before"])
        after.update(own["after"])
        changed += any(one["status"] == "inserted" for one in objects)
        for one in objects:
            (inserted if one["status"] == "inserted" else given_up)[one.get("label", one["class"])] += 1
            rejections.setdefault(one["class"], Counter()).update(one["refusals"])
            if "source" in one.get("render", {}):
                cutouts.setdefault(one["class"], []).append(one)
    return {
        "images": images,
        "images_changed": changed,
        "images_failed": failed,
        "instances_before": {name: before[name] for name in TARGET_CLASSES},
        "instances_after": {name: after[name] for name in TARGET_CLASSES},
        "objects_inserted": dict(sorted(inserted.items())),
        "objects_given_up": dict(sorted(given_up.items())),
        "refusals": {name: dict(sorted(counts.items())) for name, counts in sorted(rejections.items())},
        "cutouts": {name: repeats(objects) for name, objects in sorted(cutouts.items())},
    }


def repeats(objects: list[dict]) -> dict[str, int]:
    """How often inserted objects show the same instance; objects: lines of those painted by `cutout`."""
    shown = Counter(one["render"]["source"] for one in objects)
    within = Counter((one["image"], one["render"]["source"]) for one in objects)
    return {
        "objects": len(objects),
        "instances": len(shown),
        "most_often": max(shown.values(), default=0),
        "most_often_in_an_image": max(within.values(), default=0),
    }


def histogram(results: dict) -> str:
    """Instances of each class before and after, as a table of text; of other labels what was inserted."""
    before, after = results["instances_before"], results["instances_after"]
    rows = [f"{'class':<12}{'before':>9}{'after':>9}{'inserted':>10}"]
    rows += [
        f"{name:<12}{before[name]:>9}{after[name]:>9}{results['objects_inserted'].get(name, 0):>10}"
        for name in before
        if before[name] or after[name]
    ]
    others = {name: count for name, count in results["objects_inserted"].items() if name not in before}
    rows += [f"{name:<12}{'':>18}{count:>10}" for name, count in others.items()]
    return "\n".join(rows)
