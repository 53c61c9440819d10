"""Running scripts.insert in this process, and what tests of it look at."""

import json
import sys
from pathlib import Path

import pytest
import torch

from data.frame import list_frames
from scripts.insert import main
from support.errors import run_program

FRAMES = 4
COMMAND = ("--per_image", "2-3", "--no_apart", "--min_visible", "20", "--may_hide", "--render", "overlay")


def run(monkeypatch, *arguments, workers: int = 0) -> int:
    """The exit status of the program, run in this process."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["insert", *map(str, arguments), "--num_workers", str(workers)])
    with pytest.raises(SystemExit) as stopped:
        run_program(main)
    torch.set_num_threads(threads)
    return stopped.value.code


def content(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
    }


def records(tree: Path) -> list[str]:
    """What the files of shards hold that are not merged."""
    return [path.read_text() for path in tree.glob(".work/*.jsonl")]


def maps(root: Path, index: int, split: str = "train"):
    return list_frames(root, split)[index].read_maps()


def lines(out: Path) -> list[dict]:
    """The manifest's lines of objects, and of images that failed."""
    found = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    return [line for line in found if line["status"] != "ok"]
