"""Time insertion: python -m scripts.bench_insertion [--images 120] [--preset paper] [--db_root DIR]

scripts.insert with an untrained model over a whole data set, start and writing included, against the
published way to one sample of an image, which writes nothing. On a CPU.
"""

import dataclasses
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data.cityscapes import Frame, list_frames
from data.labels import CHANNEL_OF_ID
from loader.pairs import Scene
from main import seed_everything
from model import WhereWhat
from options import PRESETS, Options
from scripts.bench import timed
from streets.scenes import write_streets
from support.checkpoints import save_checkpoint
from support.errors import InputError, Parser, run_program
from tests.plain import PlainWhereWhat


def plain_sampling(plain: PlainWhereWhat, frame: Frame) -> torch.Tensor:
    """The published way to one new object in an image: both PNGs decoded, expanded, path 5 called plainly."""
    scene = []
    for width, height in ((plain.small[1], plain.small[0]), (plain.big[1], plain.big[0])):
        maps = []
        for path in (frame.label_path, frame.instance_path):
            resized = Image.open(path).resize((width, height), Image.Resampling.NEAREST)
            maps.append(torch.from_numpy(np.asarray(resized).astype(np.int32))[None])
        scene += [torch.from_numpy(CHANNEL_OF_ID)[maps[0].long()], maps[1]]
    return plain.sample(Scene(*scene), *(torch.randn(1, n, 1, 1) for n in plain.noise_sizes)).cpu()


def plain_seconds(model: WhereWhat, frames: list[Frame]) -> float:
    """Seconds of one image in `plain_sampling`, median."""
    plain, cpu = PlainWhereWhat(model), torch.device("cpu")
    with torch.no_grad():
        plain_sampling(plain, frames[0])
        return statistics.median(timed(lambda f=f: plain_sampling(plain, f), cpu) for f in frames[:8])


def insert_seconds(model: WhereWhat, options: Options, db_root: Path) -> tuple[float, int]:
    """Seconds of one image in scripts.insert, and the number of images."""
    with tempfile.TemporaryDirectory() as folder:
        state = {"iteration": 0, "samples_seen": 0, "options": dataclasses.asdict(options), "optimisers": {}}
        save_checkpoint(Path(folder), state | {"networks": model.networks.state_dict(), "window": {}}, keep=1)
        line = [sys.executable, "-m", "scripts.insert", "--checkpoint", folder, "--db_root", str(db_root)]
        line += ["--out", f"{folder}/out", "--no_gate", "--device", "cpu"]
        done = subprocess.run(line, capture_output=True, text=True)
    found = re.search(r"(\d+) images in ([\d.]+) s", done.stdout)
    if done.returncode or not found:
        raise InputError(f"scripts.insert failed: {(done.stderr.strip() or done.stdout).splitlines()[-1]}")
    return float(found[2]) / int(found[1]), int(found[1])


def parser() -> Parser:
    """The command line."""
    parser = Parser("python -m scripts.bench_insertion", "Time insertion on a CPU.")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="paper", help="sizes and widths")
    parser.add_argument("--db_root", help="Cityscapes tree (default: built-in scenes, 2048x1024 pixels)")
    parser.add_argument("--images", type=int, default=120, help="built-in scenes made (default 120)")
    return parser


def main() -> None:
    arguments = parser().parse_args()
    if arguments.images < 1:
        raise InputError(f"--images must be at least 1, not {arguments.images}")
    options = Options(**PRESETS[arguments.preset])
    with tempfile.TemporaryDirectory() as folder:
        db_root = Path(arguments.db_root or f"{folder}/streets")
        if not arguments.db_root:
            write_streets(db_root, arguments.images, 1, (2048, 1024), seed=0)
        frames = list_frames(db_root, "train")
        seed_everything(options.random_seed)
        model = WhereWhat(dataclasses.replace(options, channels_last=False))
        slow = plain_seconds(model, frames)
        fast, count = insert_seconds(model, options, db_root)
    print(
        f"scripts.insert: {1 / fast:.2f} images/s ({count} images, start and writing included)\n"
        f"published sampling path: {1 / slow:.2f} images/s (no start, nothing written)\n"
        f"ratio: {slow / fast:.2f}"
    )


if __name__ == "__main__":
    run_program(main)
