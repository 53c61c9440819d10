"""Train the joint where/what model: python main.py [--preset demo] [--db_root DIR] [--run_dir DIR] ...

Everything happens in the order of `train`: data, model, resume, loop. See options.py for all options.
"""

import dataclasses
import json
import random
import resource
import signal
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from data.cache import prepare
from data.checkpoints import find_checkpoint, list_checkpoints, load_checkpoint, save_checkpoint
from data.errors import InputError, run_program
from data.labels import NUM_CHANNELS, colourise
from data.pairs import GRID_NOISE, Scene, TrainingPairs, first_scenes, training_loader
from model import (
    LOSS_NAMES,
    Averages,
    NonFiniteLossError,
    Optimisers,
    WhereWhat,
    draw_noise,
    sample,
    train_step,
)
from options import Options, parse, write_yaml

GRID_COLUMNS = 6
GRID_GAP = 3  # pixels, green

# A checkpoint fits a run only if these agree: they give the networks' shapes and what they learn.
IDENTITY_OPTIONS = (
    *("target_class", "image_sizex_small", "image_sizey_small", "image_sizex_big", "image_sizey_big"),
    *("compact_sizex", "compact_sizey", "gf_dim", "df_dim", "z_dim_spatial", "z_dim_appr"),
    *("embed_dim_small", "embed_dim_big", "theta_space"),
)


def train(options: Options, dry_run: bool) -> None:
    device = choose_device(options.device)
    seed_everything(options.random_seed)

    # ---- data
    pairs = TrainingPairs(prepare(options, "train"), options)
    validation = first_scenes(prepare(options, "val"), GRID_COLUMNS).to(device)
    iterations = options.max_iters or -(-options.epoch * pairs.usable_count // options.batch_size)

    # ---- model
    with torch.device(device):
        model = WhereWhat(options)
    optimisers = Optimisers(model)
    averages = Averages(model, options.average_decay) if options.average_decay else None
    grid_noise = draw_grid_noise(options, device)

    if dry_run:
        print(write_yaml(options))
        print(describe(model, pairs, device, iterations))
        return

    # ---- run folder, resume
    run_dir = Path(options.run_dir)
    checkpoints = run_dir / "checkpoints"
    state = find_state(options, checkpoints)
    start_run_folder(options, run_dir, state)
    log = RunLog(run_dir, purge_after=state["iteration"] if state else 0)
    log.line(describe(model, pairs, device, iterations))
    iteration, samples_seen, window = 0, 0, empty_window()
    if state:
        restore(state, model, optimisers, averages)
        iteration, samples_seen, window = state["iteration"], state["samples_seen"], state["window"]
        log.line(f"resumed at iteration {iteration}")
        del state

    def save() -> Path:
        return save_checkpoint(
            checkpoints,
            {
                "iteration": iteration,
                "samples_seen": samples_seen,
                "options": dataclasses.asdict(options),
                "networks": model.networks.state_dict(),
                "optimisers": optimisers.state_dict(),
                "window": {name: float(value) for name, value in window.items()},
                **({"averages": averages.state_dict()} if averages else {}),
            },
            options.keep_checkpoints,
        )

    if iteration == 0:
        save()  # whatever happens later, there is a good state

    # ---- loop
    batches = iter(
        training_loader(
            pairs, options.batch_size, samples_seen, options.num_workers, pin_memory=device.type == "cuda"
        )
    )
    bar = tqdm(total=iterations, initial=iteration, unit="it", dynamic_ncols=True, disable=None)
    started, iterations_before = time.perf_counter(), iteration
    with StopRequest() as stop:
        while iteration < iterations and not stop.signal_name:
            batch = next(batches).to(device, non_blocking=True)
            positions = range(samples_seen, samples_seen + options.batch_size)
            noise = draw_noise(options, positions).to(device)
            optimisers.set_learning_rate(learning_rate_at(options, iteration / iterations))
            log_now = iteration == 0 or (iteration + 1) % options.log_every == 0
            try:
                # Looking at a loss makes the host wait for a GPU, so there it is done when logging only.
                losses = train_step(model, optimisers, batch, noise, check=device.type == "cpu" or log_now)
            except NonFiniteLossError as error:
                if error.nothing_updated and all_finite(model):
                    save()
                newest = find_checkpoint(checkpoints)
                log.line(f"stopped: {error} at iteration {iteration + 1}; last good state: {newest}")
                raise InputError(
                    f"{error} at iteration {iteration + 1}; the last good state is {newest}: resume from it"
                    " with a lower --learning_rate"
                ) from None
            epoch = samples_seen // pairs.usable_count
            iteration += 1
            samples_seen += options.batch_size
            if averages:
                averages.update(iteration)
            bar.update()
            for name, value in losses.items():
                window[name] = window[name] + value
            window["count"] += 1

            if log_now:
                means = {name: float(window[name]) / window["count"] for name in LOSS_NAMES}
                seconds = (time.perf_counter() - started) / (iteration - iterations_before)
                log.stats({"epoch": epoch, "iter": iteration, **means}, seconds, peak_memory_mb(device))
                window = empty_window()
                started, iterations_before = time.perf_counter(), iteration
            last = iteration == iterations
            if options.sample_every and (iteration == 1 or last or iteration % options.sample_every == 0):
                picture = sample_grid(averages.model if averages else model, validation, grid_noise)
                log.picture(picture, epoch, iteration)
            epoch_ends = samples_seen // pairs.usable_count > epoch
            if iteration % options.save_every == 0 if options.save_every else epoch_ends:
                save()
    bar.close()

    # ---- end
    path = save()
    if stop.signal_name:
        log.line(
            f"stopped by {stop.signal_name} at iteration {iteration}, saved {path}; go on with --resume auto"
        )
    else:
        log.line(f"finished {iteration} iterations, saved {path}")
    log.close()


# ---- set-up -------------------------------------------------------------------------------------


def choose_device(name: str) -> torch.device:
    """The torch device of an option value; InputError if there is no such device here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device '{name}' is unknown: choose auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device '{name}' is not supported: choose auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device '{name}': {torch.cuda.device_count()} CUDA devices here; choose auto or cpu"
        )
    return device


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def learning_rate_at(options: Options, progress: float) -> float:
    """The published constant rate, or with decay_from < 1 a straight fall to 0 at the end of the run."""
    left = (1 - progress) / (1 - options.decay_from) if options.decay_from < 1 else 1.0
    return options.learning_rate * min(1.0, left)


def describe(model: WhereWhat, pairs: TrainingPairs, device: torch.device, iterations: int) -> str:
    """Parameter table, data and device, as a few lines of text."""
    counts = {name: sum(p.numel() for p in net.parameters()) for name, net in model.networks.items()}
    table = [f"  {name:<20}{count:>12,}" for name, count in {**counts, "all": sum(counts.values())}.items()]
    instances = pairs.instance_count
    return "\n".join(
        [
            "parameters:",
            *table,
            f"{len(pairs.maps.frames)} training maps, {pairs.usable_count} with {instances} usable instances"
            f" of class {model.options.target_class}",
            f"{iterations} iterations of {model.options.batch_size} pairs on {device}, seed"
            f" {model.options.random_seed}, torch {torch.__version__}, {torch.get_num_threads()} threads",
        ]
    )


def empty_window() -> dict:
    """Sums of the losses since the last log line, and how many iterations they cover."""
    return dict.fromkeys((*LOSS_NAMES, "count"), 0)


def find_state(options: Options, checkpoints: Path) -> dict | None:
    """The checkpoint to go on from, if any; InputError if it doesn't fit these options."""
    if not options.resume:
        if list_checkpoints(checkpoints):
            raise InputError(
                f"{options.run_dir} already holds a run: give --resume auto to go on with it, or another"
                " --run_dir"
            )
        return None
    if options.resume == "auto" and not list_checkpoints(checkpoints):
        return None
    path = find_checkpoint(checkpoints if options.resume == "auto" else options.resume)
    state = load_checkpoint(path)
    for name in IDENTITY_OPTIONS:
        theirs, ours = state["options"].get(name), getattr(options, name)
        if theirs != ours:
            raise InputError(f"{path} was trained with {name} {theirs}, this run has {ours}: make them agree")
    return state


def restore(state: dict, model: WhereWhat, optimisers: Optimisers, averages: Averages | None) -> None:
    model.networks.load_state_dict(state["networks"])
    if averages:
        averages.model.networks.load_state_dict(state["networks"] | state.get("averages", {}))
    optimisers.load_state_dict(state["optimisers"])


def all_finite(model: WhereWhat) -> bool:
    return all(bool(parameter.isfinite().all()) for parameter in model.parameters())


class StopRequest:
    """Within the `with` block Ctrl-C and SIGTERM only ask the loop to end; a second one ends at once."""

    def __init__(self):
        self.signal_name = ""

    def __enter__(self) -> "StopRequest":
        self._before = {
            number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def _ask(self, number, _frame) -> None:
        self.signal_name = signal.Signals(number).name
        signal.signal(number, self._before[number])

    def __exit__(self, *_exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


# ---- run folder ---------------------------------------------------------------------------------


def start_run_folder(options: Options, run_dir: Path, state: dict | None) -> None:
    """Make the folder and write options.yaml (without `resume`, so that it replays the run)."""
    try:
        (run_dir / "samples").mkdir(parents=True, exist_ok=True)
        (run_dir / "options.yaml").write_text(write_yaml(dataclasses.replace(options, resume="")))
    except OSError as error:
        raise InputError(f"run_dir {run_dir} can't be written ({error.strerror}): choose another") from None
    if state is None:  # a run that died before its first checkpoint may have left lines
        (run_dir / "stats.jsonl").unlink(missing_ok=True)


class RunLog:
    """log.txt for people, stats.jsonl for programs, TensorBoard for curves: one call writes all three."""

    def __init__(self, run_dir: Path, purge_after: int):
        """Lines and curves past iteration `purge_after` belong to steps that will be done again: dropped."""
        self.run_dir = run_dir
        stats = run_dir / "stats.jsonl"
        if stats.exists():
            rows = [line for line in stats.read_text().splitlines(True) if line.endswith("\n")]
            stats.write_text("".join(row for row in rows if json.loads(row)["iter"] <= purge_after))
        self._text = (run_dir / "log.txt").open("a", buffering=1)
        self._stats = stats.open("a", buffering=1)
        self._board = SummaryWriter(run_dir, purge_step=purge_after + 1)

    def line(self, text: str) -> None:
        tqdm.write(text)
        self._text.write(f"{text}\n")

    def stats(self, row: dict, seconds_per_iter: float, memory_mb: float) -> None:
        """`row`: epoch, iter and every loss, means since the last call."""
        row = row | {"seconds_per_iter": round(seconds_per_iter, 4), "peak_memory_mb": round(memory_mb)}
        self._stats.write(json.dumps(row) + "\n")
        losses = " ".join(f"{name} {row[name]:.4f}" for name in LOSS_NAMES)
        self.line(f"epoch {row['epoch']} iter {row['iter']} {losses} ({seconds_per_iter:.2f} s/it)")
        for name, value in row.items():
            if name not in ("epoch", "iter"):
                group = "loss" if name in LOSS_NAMES else "run"
                self._board.add_scalar(f"{group}/{name}", value, row["iter"])

    def picture(self, picture: np.ndarray, epoch: int, iteration: int) -> None:
        path = self.run_dir / "samples" / f"epoch_{epoch:02d}_iter_{iteration:04d}.png"
        cv2.imwrite(str(path), picture[:, :, ::-1])
        self._board.add_image("samples", picture, iteration, dataformats="HWC")

    def close(self) -> None:
        self._board.close()
        self._stats.close()
        self._text.close()


def peak_memory_mb(device: torch.device) -> float:
    """Largest memory so far in MB: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, KB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


# ---- sample grids -------------------------------------------------------------------------------


def draw_grid_noise(options: Options, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """z_spatial (2,6,z_spatial,1,1) and z_appr (2,6,z_appr,1,1), the same for all grids of a run."""
    rng = np.random.default_rng([options.random_seed, GRID_NOISE])
    sizes = (options.z_dim_spatial, options.z_dim_appr)
    drawn = (rng.standard_normal((2, GRID_COLUMNS, size, 1, 1), dtype=np.float32) for size in sizes)
    return tuple(torch.from_numpy(z).to(device) for z in drawn)


def sample_grid(model: WhereWhat, scene: Scene, grid_noise: tuple[torch.Tensor, torch.Tensor]) -> np.ndarray:
    """The z-pair grid (spec section 9), RGB uint8 (height, width, 3).

    One column a scene; rows: the scene; the result for (z_appr 1, z_spatial 1); for (2, 1); for (1, 2).
    """
    z_spatial, z_appr = grid_noise
    rows = [scene.labels_big.cpu().numpy()]
    for appr, spatial in ((0, 0), (1, 0), (0, 1)):
        planes = sample(model, scene, z_spatial[spatial], z_appr[appr]).planes
        rows.append(planes[:, :NUM_CHANNELS].argmax(1).byte().cpu().numpy())
    height, width = model.big
    step_y, step_x = height + GRID_GAP, width + GRID_GAP
    picture = np.empty((len(rows) * step_y - GRID_GAP, GRID_COLUMNS * step_x - GRID_GAP, 3), np.uint8)
    picture[:] = (0, 255, 0)
    for row, maps in enumerate(rows):
        for column in range(GRID_COLUMNS):
            top, left = row * step_y, column * step_x
            picture[top : top + height, left : left + width] = colourise(maps[column])
    return picture


def main() -> None:
    train(*parse())


if __name__ == "__main__":
    run_program(main)
