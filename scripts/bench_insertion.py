"""Time insertion: python -m scripts.bench_insertion [--images 120] [--preset paper] [--db_root DIR]

scripts.insert with an untrained model over a whole data set, start and writing included, against the
published way to one sample of an image, which writes nothing; scripts.synth.run with swap over the same; and
the transform `insertion.InsertInstances` in one process with one thread. On a CPU.
"""

import dataclasses
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from augment.placement.filters import Filters
from data.frame import Frame, list_frames
from data.labels import CHANNEL_OF_ID
from insertion import InsertInstances, make_bank
from loader.pairs import SceneMaps
from model import WhereWhat
from options import PRESETS, Options
from scripts.bench import timed
from streets.scenes import write_streets
from support.checkpoints import find_checkpoint, save_checkpoint
from support.errors import InputError, Parser, run_program
from tests.plain import PlainWhereWhat

SMALL = (512, 256)  # the transform is timed on scenes of this size too
SAMPLES = 40  # for the transform


def plain_sampling(plain: PlainWhereWhat, frame: Frame) -> torch.Tensor:
    """The published way to one new object in an image: both PNGs decoded, expanded, path 5 called plainly."""
    scene = []
    for width, height in ((plain.small[1], plain.small[0]), (plain.big[1], plain.big[0])):
        maps = []
        for path in (frame.label_path, frame.instance_path):
            resized = Image.open(path).resize((width, height), Image.Resampling.NEAREST)
            maps.append(torch.from_numpy(np.asarray(resized).astype(np.int32))[None])
        scene += [torch.from_numpy(CHANNEL_OF_ID)[maps[0].long()], maps[1]]
    return plain.sample(SceneMaps(*scene), *(torch.randn(1, n, 1, 1) for n in plain.noise_sizes)).cpu()


def plain_seconds(model: WhereWhat, frames: list[Frame]) -> float:
    """Seconds of one image in `plain_sampling`, median."""
    plain, cpu = PlainWhereWhat(model), torch.device("cpu")
    with torch.no_grad():
        plain_sampling(plain, frames[0])
        return statistics.median(timed(lambda f=f: plain_sampling(plain, f), cpu) for f in frames[:8])


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a program took, from its start to its end."""

    output: str
    seconds: float
    core_seconds: float  # of all its processes; on a busy machine it tells more
    megabytes: int  # of the largest of its processes, at most

    def text(self, name: str, count: int, images: int, unit: str) -> str:
        """The line about `count` of a unit made of so many images."""
        return (
            f"{name}: {count / self.seconds:.2f} {unit}/s, {self.core_seconds / count:.2f} s of a core each"
            f" ({images} images, start and writing included), {self.megabytes} MB in its largest process"
        )


def measured(program: str, *arguments: str) -> Measured:
    """Run a program of scripts/. Raises InputError if it fails."""
    started = time.perf_counter()
    line = [sys.executable, "-m", f"{__package__}.{program}", *arguments]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise InputError(f"scripts.{program} failed: {output.strip().splitlines()[-1]}")
    seconds = time.perf_counter() - started
    return Measured(output, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss // 1024)


def transform_rate(
    checkpoint: Path, filters: Filters, db_root: Path, bank: Path, render: str
) -> tuple[float, tuple[int, int]]:
    """Images that the transform makes in a second of one core, 1 to 3 objects in each; their size."""
    transform = InsertInstances(
        checkpoint, (1, 3), 1.0, render, bank=make_bank(db_root, "train", bank), filters=filters
    )
    samples = []
    for frame in islice(list_frames(db_root, "train"), SAMPLES):
        labels, ids = frame.read_maps()
        samples.append((Image.fromarray(frame.read_image(labels.shape)), [ids, labels]))
    transform(*samples[0])  # loads the model
    started = time.process_time()
    for sample in samples:
        transform(*sample)
    return len(samples) / (time.process_time() - started), samples[0][0].size


def parser() -> Parser:
    parser = Parser("python -m scripts.bench_insertion", "Time insertion on a CPU.")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="paper", help="sizes and widths")
    parser.add_argument("--db_root", help="Cityscapes tree (default: built-in scenes, 2048x1024 pixels)")
    parser.add_argument("--images", type=int, default=120, help="built-in scenes made (default 120)")
    parser.add_argument(
        "--checkpoint", help="trained model for the transform (default: an untrained one, all filters off)"
    )
    return parser


def main(arguments: list[str] | None = None) -> None:
    flags = parser().parse_args(arguments)
    if flags.images < 1:
        raise InputError(f"--images must be at least 1, not {flags.images}")
    trained = find_checkpoint(flags.checkpoint) if flags.checkpoint else None
    options = Options(**PRESETS[flags.preset])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        db_root = Path(flags.db_root or folder / "streets")
        if not flags.db_root:
            write_streets(db_root, flags.images, 1, (2048, 1024), seed=0)
        frames = list_frames(db_root, "train")
        torch.manual_seed(options.random_seed)
        model = WhereWhat(dataclasses.replace(options, channels_last=False))
        state = {"iteration": 0, "samples_seen": 0, "options": dataclasses.asdict(options), "optimisers": {}}
        state |= {"networks": model.networks.state_dict(), "window": {}}
        untrained = save_checkpoint(folder / "run", state, keep=1)

        common = ("--db_root", str(db_root), "--out")
        fixed = ("--no_gate", "--device", "cpu", "--checkpoint", str(untrained))
        inserted = measured("insert", *common, f"{folder}/inserted", *fixed)
        fast, slow = inserted.seconds / len(frames), plain_seconds(model, frames)
        print(inserted.text("scripts.insert", len(frames), len(frames), "images"))
        print(
            f"published sampling path: {1 / slow:.2f} images/s (no start, nothing written)\n"
            f"ratio: {slow / fast:.2f}"
        )
        synth = measured("synth.run", *common, f"{folder}/synth")
        made = int(re.search(r"^integrate +(\d+) ok", synth.output, re.MULTILINE)[1])
        print(synth.text("scripts.synth.run with swap", made, len(frames), "frames"))
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        trees = [db_root]
        if not flags.db_root:
            trees.append(folder / "small")
            write_streets(trees[1], SAMPLES, 1, SMALL, seed=0)
        filters = Filters() if trained else Filters(rules=())
        for tree in trees:
            for render in ("swap", "cutout"):
                rate, (width, height) = transform_rate(
                    trained or untrained, filters, tree, folder / "bank.npz", render
                )
                print(f"InsertInstances with {render}, {width}x{height}: {rate:.2f} images/s of one core")


if __name__ == "__main__":
    run_program(main)
