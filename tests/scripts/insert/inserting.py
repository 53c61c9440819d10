"""scripts.insert as its tests run it, and what they look at."""

import json
from pathlib import Path

from data.frame import list_frames
from scripts.insert import main

FRAMES = 4
COMMAND = ("--per_image", "2-3", "--no_apart", "--min_visible", "20", "--may_hide", "--render", "overlay")


def insert(arguments: list[str]) -> int:
    """scripts.insert, without processes of its own unless it is asked for some."""
    return main(["--num_workers", "0", *arguments])


def maps(root: Path, index: int, split: str = "train"):
    return list_frames(root, split)[index].read_maps()


def lines(out: Path) -> list[dict]:
    """The manifest's lines of objects, and of images that failed."""
    found = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    return [line for line in found if line["status"] != "ok"]
