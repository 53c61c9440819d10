"""Time the training step: python -m scripts.bench [--plain] [--json FILE] [--preset paper] ...

Warm-up, then medians over repeats. With --plain, a plain version of the same step (tests/plain.py: enlarged
sources and grid_sample, separate calls for each path, tiled noise, eager float32) runs in the same process,
alternately, and ratios are printed. Then each variant gets a process of its own, which gives its memory, and
its time again, step by step in turn with the others: a process has one memory allocator, and there the plain
version has the C library's as it comes, not as main.py sets it. The data are built-in street scenes unless
--db_root names a Cityscapes tree.
"""

import argparse
import contextlib
import dataclasses
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from distributed import choose_device
from loader.cache import prepare
from loader.noise import Noise, draw_noise
from loader.pairs import Batch, TrainingPairs, training_loader
from main import keep_freed_memory, set_speed
from model import WhereWhat
from options import PRESETS, Options, validate
from streets.scenes import write_streets
from support.errors import InputError, Parser, run_program
from support.run_log import peak_memory_mb
from tests.plain import PlainWhereWhat, plain_train_step
from training import WARM_UP, GraphedStep, Optimisers, can_capture, d_step, g_step, train_step
from where import WHERE_MODULES

VARIANTS = ("plain", "fp32", "bf16")
TYPICAL_THETA = torch.tensor([10.0, 0, 0, 0, 10, 0])  # a box of a tenth of the image, in its middle


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Seconds that `call` takes, its work on a GPU included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


class Variant:
    """One way to take the step, with a model of its own: plain, fp32 or bf16."""

    def __init__(self, name: str, options: Options, batch: Batch, noise: Noise, device: torch.device):
        self.name, self.device = name, device
        plain = {"precision": "fp32", "channels_last": False}
        self.options = dataclasses.replace(options, **plain if name == "plain" else {"precision": name})
        torch.manual_seed(options.random_seed)
        with torch.device(device):
            self.model = WhereWhat(self.options)
        if "stn" in self.model.networks:  # it starts at boxes as large as the image
            self.model.networks["stn"].theta.bias.data.copy_(TYPICAL_THETA)
        captured = name != "plain" and can_capture(self.options, device, 1)
        self.optimisers = Optimisers(self.model, captured=captured)
        self.take = (
            GraphedStep(self.model, self.optimisers)
            if captured
            else partial(train_step, self.model, self.optimisers)
        )
        self.batch, self.noise = batch.to(device), noise.to(device)
        if name == "plain":
            self.plain = PlainWhereWhat(self.model)

    def warm_up(self, count: int) -> None:
        """So many iterations, after those that capturing takes."""
        for _ in range(count + (WARM_UP + 1) * isinstance(self.take, GraphedStep)):
            self.step()

    def step(self) -> None:
        if self.name == "plain":
            plain_train_step(self.plain, self.optimisers, self.batch, self.noise)
        else:
            self.take(self.batch, self.noise)

    def phases(self) -> dict[str, float]:
        """Seconds of one iteration by phase: forward (both times), D, G (both updates)."""
        model, optimisers = self.model, self.optimisers
        seconds = dict.fromkeys(("forward", "D", "G"), 0.0)
        views, paths = None, None

        def forward(update: int) -> None:
            nonlocal views, paths
            views = views or model.views(self.batch)
            paths = model(views, self.noise, update)

        def update_d() -> None:
            d_step(model, optimisers, model.d_losses(views, paths))

        def update_g() -> None:
            g_step(model, optimisers, model.g_losses(views, self.noise, paths))

        for update in (0, 1):
            seconds["forward"] += timed(partial(forward, update), self.device)
            if update == 0:
                seconds["D"] += timed(update_d, self.device)
            seconds["G"] += timed(update_g, self.device)
        return seconds


def ceiling_gflops(device: torch.device) -> float:
    """GFLOP/s of the larger of a matrix product and a convolution, float32, best of five."""
    a = torch.randn(2048, 2048, device=device)
    x, w = torch.randn(1, 64, 256, 512, device=device), torch.randn(128, 64, 4, 4, device=device)
    calls = [
        (2 * 2048**3, lambda: a @ a),
        (2 * 64 * 128 * 16 * 128 * 256, lambda: torch.nn.functional.conv2d(x, w, stride=2, padding=1)),
    ]
    best = []
    for flop, call in calls:
        call()
        best.append(flop / min(timed(call, device) for _ in range(5)) / 1e9)
    return max(best)


def count_gflop(variant: Variant) -> float:
    """GFLOP of one iteration, as torch counts them for convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter:
        if variant.name == "plain":
            variant.step()
        else:  # a captured step names no operations
            train_step(variant.model, variant.optimisers, variant.batch, variant.noise)
    return counter.get_total_flops() / 1e9


def loader_rate(pairs: TrainingPairs, options: Options, seconds: float = 5.0) -> float:
    """Pairs per second that one loader process delivers from a warm cache."""
    batches = iter(training_loader(pairs, options.batch_size, 0, num_workers=1))
    for _ in range(8):  # what was prefetched while the process started
        next(batches)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        next(batches)
        count += options.batch_size
    return count / (time.perf_counter() - started)


def alone(names: list[str], flags: argparse.Namespace, db_root: Path) -> dict[str, dict[str, float]]:
    """Each variant in a process of its own, steps in turn: seconds, and memory at its start and at most."""
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        processes = {name: stack.enter_context(ProcessPoolExecutor(1, context)) for name in names}
        try:
            start = {name: processes[name].submit(_begin, name, flags, db_root).result() for name in names}
            seconds: dict[str, list[float]] = {name: [] for name in names}
            for _ in range(flags.repeats):
                for name in names:
                    seconds[name].append(processes[name].submit(_step).result())
            peak = {name: processes[name].submit(_peak).result() for name in names}
        except BrokenProcessPool:
            raise InputError("the process of a variant was killed, perhaps for want of memory") from None
    return {
        name: {
            "seconds_alone": statistics.median(seconds[name]),
            "start_memory_mb": start[name],
            "peak_memory_mb": peak[name],
        }
        for name in names
    }


# The other side of `alone`.
_variant: Variant | None = None


def _begin(name: str, flags: argparse.Namespace, db_root: Path) -> float:
    """Make the variant of this process; its memory before, in MB."""
    global _variant
    options, device, _, batch, noise = set_up(flags, db_root)
    if name == "plain":
        keep_freed_memory(keep=False)
    torch.optim.Adam([torch.zeros(1)])  # PyTorch loads its compiler with the first optimiser
    start = peak_memory_mb(device)
    _variant = Variant(name, options, batch, noise, device)
    _variant.warm_up(2)
    return start


def _step() -> float:
    return timed(_variant.step, _variant.device)


def _peak() -> float:
    return peak_memory_mb(_variant.device)


def set_up(
    flags: argparse.Namespace, db_root: Path
) -> tuple[Options, torch.device, TrainingPairs, Batch, Noise]:
    """What is timed and where: options, device, pairs, and the batch and noise of all steps."""
    if flags.threads:
        torch.set_num_threads(flags.threads)
    chosen = {name: getattr(flags, name) for name in ("device", "batch_size", "channels_last", "cuda_graph")}
    chosen |= {"db_root": str(db_root), "cache_dir": flags.cache_dir or str(db_root / "cache")}
    options = validate(Options(**PRESETS[flags.preset] | chosen))
    device = choose_device(options.device)
    set_speed(options, device)
    has_density = WHERE_MODULES[options.where].has_density
    pairs = TrainingPairs(prepare(options, "train"), options, with_places=has_density)
    batch = next(iter(training_loader(pairs, options.batch_size)))
    return options, device, pairs, batch, draw_noise(options, range(options.batch_size))


def bench(flags: argparse.Namespace, db_root: Path) -> dict:
    """Everything that `--json` writes (and phases, gflop, settings)."""
    options, device, pairs, batch, noise = set_up(flags, db_root)
    names = ["plain"] * flags.plain + flags.variants.split(",")
    variants = [Variant(name, options, batch, noise, device) for name in names]
    for variant in variants:
        variant.warm_up(flags.warm_up)
    times = {name: [] for name in names}
    for _ in range(flags.repeats):  # alternately, so that all see the same machine
        for variant in variants:
            times[variant.name].append(timed(variant.step, device))
    seconds = {name: statistics.median(values) for name, values in times.items()}

    fast = variants[names.index("fp32")] if "fp32" in names else variants[-1]
    phases = [fast.phases() for _ in range(3)]
    gflop = count_gflop(fast)
    result: dict = {
        name: {"seconds": value, "iterations_per_second": 1 / value, "times": times[name]}
        for name, value in seconds.items()
    }
    if flags.plain:
        result["plain"]["gflop"] = count_gflop(variants[0])
    ceiling, fast_name = ceiling_gflops(device), fast.name
    del variants, fast
    for name, numbers in alone(names, flags, db_root).items():
        result[name] |= numbers
    if flags.plain:
        for kind in ("seconds", "seconds_alone"):
            ratio = {name: result["plain"][kind] / result[name][kind] for name in names if name != "plain"}
            result["ratio" + kind.removeprefix("seconds")] = ratio
        plain, other = result["plain"], result[fast_name]
        result["ratio"]["memory"] = plain["peak_memory_mb"] / other["peak_memory_mb"]
        result["ratio_alone"]["step_memory"] = (plain["peak_memory_mb"] - plain["start_memory_mb"]) / (
            other["peak_memory_mb"] - other["start_memory_mb"]
        )
    data_seconds = statistics.median(
        timed(lambda p=p: pairs[p], torch.device("cpu")) * options.batch_size for p in range(16)
    )
    return result | {
        "phases": {"data": data_seconds}
        | {key: statistics.median(p[key] for p in phases) for key in phases[0]},
        "gflop": gflop,
        "ceiling_gflops": ceiling,
        "achieved_gflops": gflop / seconds[fast_name],
        "loader": {"pairs_per_second": loader_rate(pairs, options)},
        "settings": {
            "preset": flags.preset,
            "batch_size": options.batch_size,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "channels_last": options.channels_last,
        },
    }


def table(result: dict) -> str:
    """The result as text."""
    titles = ("variant", "s/iteration", "iterations/s", "times plain")
    titles += ("s alone", "times plain", "peak MB", "start MB")
    rows = ["".join(f"{title:>13}" for title in titles)]
    for name in VARIANTS:
        if name in result:
            numbers = result[name]
            ratio, ratio_alone = (
                f"{result[key][name]:.2f}" if name in result.get(key, {}) else ""
                for key in ("ratio", "ratio_alone")
            )
            rows.append(
                f"{name:>13}{numbers['seconds']:13.3f}{numbers['iterations_per_second']:13.3f}{ratio:>13}"
                f"{numbers['seconds_alone']:13.3f}{ratio_alone:>13}"
                f"{numbers['peak_memory_mb']:13.0f}{numbers['start_memory_mb']:13.0f}"
            )
    if "ratio" in result:
        rows.append(
            f"memory: plain needs {result['ratio']['memory']:.2f} times as much; without what a process holds"
            f" before the model is made, {result['ratio_alone']['step_memory']:.2f} times"
        )
    rows.append("phases, s: " + ", ".join(f"{name} {value:.3f}" for name, value in result["phases"].items()))
    rows.append(
        f"{result['gflop']:.0f} GFLOP an iteration, {result['achieved_gflops']:.0f} GFLOP/s of"
        f" {result['ceiling_gflops']:.0f} (largest of a product and a convolution here)"
    )
    rows.append(f"loader: {result['loader']['pairs_per_second']:.0f} pairs/s from one process, warm cache")
    return "\n".join(rows)


def scaling(flags: argparse.Namespace, db_root: Path) -> str:
    """Cost of an iteration against batch size, and of preparing a data set against its images."""
    options, device, pairs, *_ = set_up(flags, db_root)
    rows = ["batch   s/iteration   s/pair"]
    for size in (1, 2, 4):
        sized = dataclasses.replace(options, batch_size=size)
        batch = next(iter(training_loader(pairs, size)))
        variant = Variant("fp32", sized, batch, draw_noise(sized, range(size)), device)
        variant.warm_up(1)
        seconds = statistics.median(timed(variant.step, device) for _ in range(flags.repeats))
        rows.append(f"{size:5} {seconds:13.3f} {seconds / size:8.3f}")
    rows.append("images   first pass, s   s/image   later start, s")
    for count in (8, 16, 32):
        with tempfile.TemporaryDirectory() as folder:
            write_streets(Path(folder) / "streets", count, 1, (1024, 512), seed=0)
            sized = dataclasses.replace(options, db_root=f"{folder}/streets", cache_dir=f"{folder}/cache")
            cold, warm = (
                timed(lambda sized=sized: prepare(sized, "train", progress=False), torch.device("cpu"))
                for _ in range(2)
            )
        rows.append(f"{count:6} {cold:15.2f} {cold / count:9.3f} {warm:16.3f}")
    return "\n".join(rows)


def parser() -> Parser:
    parser = Parser("python -m scripts.bench", "Time the training step.")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="paper", help="sizes and widths")
    parser.add_argument("--db_root", help="Cityscapes tree (default: 8 built-in scenes, 2048x1024 pixels)")
    parser.add_argument("--cache_dir", default="", help="working maps (default: a temporary folder)")
    parser.add_argument("--batch_size", type=int, default=1, help="pairs per iteration (default 1)")
    parser.add_argument("--variants", default="fp32,bf16", help="of fp32, bf16 (default fp32,bf16)")
    parser.add_argument("--plain", action="store_true", help="time the plain version of the step too")
    parser.add_argument("--repeats", type=int, default=5, help="timed iterations of each (default 5)")
    parser.add_argument("--warm_up", type=int, default=2, help="iterations before timing (default 2)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's choice)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--channels_last",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="memory format of maps, the plain version's excepted (default yes)",
    )
    parser.add_argument("--cuda_graph", choices=("auto", "never"), default="auto", help="capture the step")
    parser.add_argument("--scaling", action="store_true", help="cost against batch size and images instead")
    parser.add_argument("--json", metavar="FILE", help="write the result there")
    return parser


def main(arguments: list[str] | None = None) -> None:
    flags = parser().parse_args(arguments)
    for name, minimum in (("repeats", 1), ("warm_up", 0), ("threads", 0)):
        if getattr(flags, name) < minimum:
            raise InputError(f"--{name} must be at least {minimum}, not {getattr(flags, name)}")
    where = PRESETS[flags.preset].get("where", "published")
    if flags.plain and WHERE_MODULES[where].has_density:
        raise InputError(
            f"--plain: preset {flags.preset} has a where module of its own, of which there is no plain"
            " version; take --preset paper"
        )
    for name in flags.variants.split(","):
        if name not in VARIANTS[1:]:
            raise InputError(f"variant '{name}' is unknown: choose of {', '.join(VARIANTS[1:])}")
    if flags.json and (Path(flags.json).is_dir() or not Path(flags.json).absolute().parent.is_dir()):
        raise InputError(f"--json {flags.json}: is a folder, or its folder does not exist; name a file")
    with tempfile.TemporaryDirectory() as folder:
        db_root = Path(flags.db_root or f"{folder}/streets")
        if not flags.db_root:
            write_streets(db_root, 8, 1, (2048, 1024), seed=0)
        if flags.scaling:
            print(scaling(flags, db_root))
            return
        result = bench(flags, db_root)
    print(table(result))
    if flags.json:
        Path(flags.json).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    run_program(main)
