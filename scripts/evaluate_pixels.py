"""python -m scripts.evaluate_pixels --tree datasets/more --db_root datasets/cityscapes

How the pixels of a tree made by scripts.insert --render compare with those of real instances: contrast with
the light around and softness beside what is beside them, and for cut-outs repeats and enlargement. Prints
a table for each class, and writes pixels.json into the tree with --write.
"""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from augment.placement.plan import repeats
from data.frame import list_frames
from engine.records import read_manifest
from evaluation.pixels import Looks, distance, halves, new_looks, real_looks
from support.errors import InputError, run_program
from support.files import write_atomic
from support.settings import checked, parser_of, setting

RESULT = "pixels.json"


@dataclass(frozen=True)
class PixelOptions:
    """One comparison."""

    tree: str = setting(help="tree that scripts.insert made, with images")
    db_root: str = setting(help="tree it was made from")
    split: str = setting("train", "split of both")
    write: bool = setting(False, f"write {RESULT} into --tree, too")


ABOUT = "Compare inserted objects' pixels with real ones."
parser = partial(parser_of, PixelOptions, "python -m scripts.evaluate_pixels", ABOUT)


def compare(options: PixelOptions) -> dict[str, dict]:
    """By class: `metrics`. InputError for a tree that scripts.insert did not make, or without images."""
    objects = [one for one in read_manifest(options.tree) if one["status"] == "inserted"]
    if not objects:
        raise InputError(
            f"--tree {options.tree}: its manifest.jsonl names no inserted object; give a tree that"
            " scripts.insert has finished"
        )
    if any("render" not in one for one in objects):
        raise InputError(f"{options.tree}: has no images; make it with --render")
    new, real = list_frames(options.tree, options.split), list_frames(options.db_root, options.split)
    return {
        name: metrics(
            new_looks(new, objects, name),
            real_looks(real, name),
            [one for one in objects if one["class"] == name],
        )
        for name in sorted({one["class"] for one in objects})
    }


def metrics(new: Looks, real: Looks, objects: list[dict]) -> dict:
    """Of the new objects of a class; objects: their lines in the manifest."""
    found: dict = {"objects": len(objects)}
    for name in ("contrast", "softness"):
        own, others = getattr(new, name), getattr(real, name)
        found[name] = {
            "new": percentiles(own),
            "real": percentiles(others),
            "distance": distance(own, others),
            "distance_of_real_halves": distance(*halves(others)),
        }
    if all("source" in one["render"] for one in objects):
        found["enlargement"] = percentiles([one["render"]["enlargement"] for one in objects])
        found["repeats"] = repeats(objects)
    return found


def percentiles(values: list[float]) -> list[float] | None:
    """5th, 50th and 95th; None of none."""
    return np.percentile(values, (5, 50, 95)).round(4).tolist() if values else None


def table(results: dict[str, dict]) -> str:
    """The metrics as text."""
    rows = []
    for name, found in results.items():
        rows.append(f"{name}, {found['objects']} objects; 5th, 50th and 95th percentile:")
        for metric in ("contrast", "softness"):
            one = found[metric]
            rows += [f"  {metric:<12}{kind:<6}{_text(one[kind])}" for kind in ("new", "real")]
            apart, floor = one["distance"], one["distance_of_real_halves"]
            rows.append(f"  {'':<12}distance {apart:.3f}, of two halves of the real ones {floor:.3f}")
        if "repeats" in found:
            rows.append(f"  {'enlargement':<18}{_text(found['enlargement'])}")
            shown = found["repeats"]
            rows.append(
                f"  {shown['instances']} instances shown, the commonest {shown['most_often']} times,"
                f" in one image at most {shown['most_often_in_an_image']}"
            )
    return "\n".join(rows)


def _text(values: list[float] | None) -> str:
    return "none" if values is None else "".join(f"{value:>8.2f}" for value in values)


def main(arguments: list[str] | None = None) -> None:
    options = checked(PixelOptions(**vars(parser().parse_args(arguments))))
    results = compare(options)
    print(table(results))
    if options.write:
        path = Path(options.tree) / RESULT
        write_atomic(path, (json.dumps(results, indent=2) + "\n").encode())
        print(path)


if __name__ == "__main__":
    run_program(main)
