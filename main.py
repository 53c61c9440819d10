"""Train the joint where/what model: python main.py [--preset demo] [--db_root DIR] [--run_dir DIR] ...

Everything happens in the order of `train`: what to resume, data, model, loop. See options.py for all options.
"""

import os

from support.threads import thread_settings

os.environ.update(thread_settings(os.environ))  # before torch is imported

import contextlib
import ctypes
import dataclasses
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch

from data.drawing import enlarged, outline
from data.labels import CHANNEL_COLOURS, NUM_CHANNELS
from data.writer import encode_png
from distributed import NO_LIMIT, Ranks, choose_device, joined, wait_for_all
from loader.cache import prepare
from loader.noise import draw_noise
from loader.pairs import GRID_NOISE, SceneMaps, TrainingPairs, first_scenes, training_loader
from model import WhereWhat, sample, take_weights
from options import Options, from_dict, parse, write_yaml
from run import Run, find_state
from support.checkpoints import PACKED, differing_network, shapes
from support.errors import WITH_RESUME, InputError, run_program
from training import EMA, GraphedStep, NonFiniteLossError, Optimisers, can_capture, train_step

GRID_COLUMNS = 6
GRID_GAP = 3  # pixels, green
GRID_WIDTH = 320  # pixels; narrower maps are enlarged to at least this

# What a state has learnt, beyond what the shapes of its networks tell: a run goes on only with the same.
LEARNT = (
    *("target_class", "image_sizex_small", "image_sizey_small"),
    *("image_sizex_big", "image_sizey_big", "compact_sizex", "compact_sizey"),
)


def train(options: Options, dry_run: bool, ranks: Ranks) -> None:
    device = choose_device(options.device)
    torch.manual_seed(options.random_seed)
    set_speed(options, device)
    run_dir = Path(options.run_dir)
    state = None if dry_run else state_of(options)  # first: what it finds may end the run

    # ---- model
    with torch.device(device):
        model = WhereWhat(options)
    if options.init and state is None:
        take_weights(model, options.init)
    captured = can_capture(options, device, ranks.count)
    optimisers = Optimisers(model, captured=captured)
    step = GraphedStep(model, optimisers) if captured else partial(train_step, model, optimisers)
    ema = EMA(model, options.average_decay) if options.average_decay else None
    grid_noise = draw_grid_noise(options, device)

    # ---- data: one process of each machine fills the cache, which may take hours; the others find it filled
    if ranks.local:
        wait_for_all(NO_LIMIT)
    shown, begin = not ranks.local, ranks.rank / ranks.count
    # The smaller split first: that it is missing should not be found out after hours.
    validation = first_scenes(prepare(options, "val", progress=shown, begin=begin), GRID_COLUMNS).to(device)
    maps = prepare(options, "train", progress=shown, begin=begin)
    pairs = TrainingPairs(maps, options, with_places=model.where.has_density)
    if not ranks.local:
        wait_for_all(NO_LIMIT)
    global_batch = options.batch_size * ranks.count
    iterations = options.max_iters or -(-options.epoch * pairs.usable_count // global_batch)

    if dry_run:
        print(write_yaml(options))
        print(describe(model, pairs, device, iterations, ranks))
        return

    # ---- run folder (with options that replay the run), resume
    replayed = write_yaml(dataclasses.replace(options, resume=""))
    run = Run(run_dir, "--run_dir", replayed, model.loss_names, iterations, ranks, state)
    run.log.line(describe(model, pairs, device, iterations, ranks))
    if state:
        model.networks.load_state_dict(state["networks"])
        optimisers.load_state_dict(state["optimisers"])
        if ema:
            ema.model.networks.load_state_dict(state["networks"] | state.get("averages", {}))
        run.log.line(f"resumed at iteration {run.iteration}")
        del state

    def save() -> Path:
        return run.save(
            options.keep_checkpoints,
            dataclasses.asdict(options),
            model.networks.state_dict(),
            optimisers.state_dict(),
            **({"averages": ema.state_dict()} if ema else {}),
        )

    if run.iteration == 0:
        save()  # whatever happens later, there is a good state

    # ---- loop
    batches = training_loader(
        pairs,
        options.batch_size,
        run.samples_seen,
        options.num_workers,
        pin_memory=device.type == "cuda",
        rank=ranks.rank,
        world=ranks.count,
    )
    with run:
        while run.goes_on():
            try:
                batch = next(batches).to(device, non_blocking=True)
            except InputError as error:
                run.failure = error  # all ranks save what they have, and end
                continue
            first = run.samples_seen + ranks.rank * options.batch_size
            noise = draw_noise(options, range(first, first + options.batch_size))
            noise = noise.to(device, non_blocking=True)
            optimisers.scale_rates(lr_scale(options, run.iteration / iterations))
            log_now = run.iteration == 0 or (run.iteration + 1) % options.log_every == 0
            try:
                # Looking at a loss makes the host wait for a GPU, so there it is done when logging only.
                losses = step(batch, noise, check=device.type == "cpu" or log_now)
            except NonFiniteLossError as error:
                if error.nothing_updated and ranks.count == 1:
                    with contextlib.suppress(InputError):  # the state before may be spoilt, too
                        save()
                raise run.spoilt(f"{error} at iteration {run.iteration + 1}") from None
            epoch = run.samples_seen // pairs.usable_count
            run.count(losses, global_batch)
            if ema:
                ema.update(run.iteration)

            if log_now:
                run.log_losses(epoch, device)
            last = run.iteration == iterations
            grid_now = options.sample_every and (
                run.iteration == 1 or last or run.iteration % options.sample_every == 0
            )
            if grid_now and not ranks.rank:
                image = sample_grid(ema.model if ema else model, validation, grid_noise)
                run.log.image(encode_png(image), epoch, run.iteration)
            epoch_ends = run.samples_seen // pairs.usable_count > epoch
            if run.iteration % options.save_every == 0 if options.save_every else epoch_ends:
                save()
    run.end(save())


# ---- set-up -------------------------------------------------------------------------------------


def lr_scale(options: Options, progress: float) -> float:
    """Factor of the learning rates: the published 1; with decay_from < 1 a straight fall to 0 at the end."""
    return min(1.0, (1 - progress) / (1 - options.decay_from)) if options.decay_from < 1 else 1.0


def set_speed(options: Options, device: torch.device) -> None:
    """Settings of the whole process that cost or save time."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.tf32
    torch.backends.cudnn.benchmark = True  # sizes never change within a run
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif device.type == "cpu":
        keep_freed_memory()


def keep_freed_memory(*, keep: bool = True) -> None:
    """Let the C library keep large freed blocks instead of returning them to the system at once.

    A step makes and frees dozens of tensors of 20 to 70 MB; each would be mapped and zeroed anew. Without
    `keep`, back to what the C library does by default. Does nothing where it is not glibc.
    """
    m_mmap_max, m_mmap_threshold, m_trim_threshold = -4, -3, -1
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        if keep:
            library.mallopt(m_mmap_max, 0)
            library.mallopt(m_trim_threshold, 2**31 - 1)
        else:  # glibc raises its thresholds to these as soon as blocks of such a size have been freed
            library.mallopt(m_mmap_max, 65536)
            library.mallopt(m_mmap_threshold, 2**25)
            library.mallopt(m_trim_threshold, 2**26)
            library.malloc_trim(0)


def describe(
    model: WhereWhat, pairs: TrainingPairs, device: torch.device, iterations: int, ranks: Ranks
) -> str:
    """Parameter table, data and device, as a few lines of text."""
    counts = {name: sum(p.numel() for p in net.parameters()) for name, net in model.networks.items()}
    table = [f"  {name:<20}{count:>12,}" for name, count in {**counts, "all": sum(counts.values())}.items()]
    instances = ", ".join(
        f"{count} usable instances of class {name}" for name, count in pairs.instance_counts.items()
    )
    return "\n".join(
        [
            "parameters:",
            *table,
            f"{len(pairs.maps.frames)} training maps, {pairs.usable_count} with {instances}",
            f"{iterations} iterations of {ranks.count} x {model.options.batch_size} pairs on {device},"
            f" {model.options.precision}, seed {model.options.random_seed}, torch {torch.__version__},"
            f" {torch.get_num_threads()} threads",
        ]
    )


def state_of(options: Options) -> dict | None:
    """The state to go on from, if any; InputError if it doesn't fit these options."""
    found = find_state(Path(options.run_dir), options.resume, "--run_dir")
    if found is None:
        return None
    path, state = found
    if path.suffix == PACKED:
        raise InputError(f"--resume {options.resume}: holds only what samples; give a state-*.pt of a run")
    check_fits(path, state, options)
    return state


def check_fits(path: Path, state: dict, options: Options) -> None:
    """Raises InputError if a state can't be gone on from with these options, naming the option if it can."""
    from_dict(state["options"], str(path))
    network = differing_network(path, state, shapes_of(options), "main.py")
    for item in dataclasses.fields(Options):
        name, ours = item.name, getattr(options, item.name)
        theirs = state["options"].get(name, item.default)
        if theirs != ours and (
            name in LEARNT
            or (network and shapes_of(dataclasses.replace(options, **{name: theirs})) != shapes_of(options))
        ):
            raise InputError(f"{path} was trained with {name} {theirs}, this run has {ours}: make them agree")
    if network:
        raise InputError(
            f"{path}: has other networks than this run ({network}); resume with the options.yaml of its run"
        )


@cache
def shapes_of(options: Options) -> dict[str, torch.Size]:
    """The names and shapes of all weights of a run."""
    with torch.device("meta"):
        return shapes(WhereWhat(options).networks.state_dict())


# ---- sample grids -------------------------------------------------------------------------------


def draw_grid_noise(options: Options, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """z_spatial (2,6,z_spatial,1,1) and z_appr (2,6,z_appr,1,1), the same for all grids of a run."""
    rng = np.random.default_rng([options.random_seed, GRID_NOISE])
    sizes = (options.z_dim_spatial, options.z_dim_appr)
    drawn = (rng.standard_normal((2, GRID_COLUMNS, size, 1, 1), dtype=np.float32) for size in sizes)
    return tuple(torch.from_numpy(z).to(device) for z in drawn)


def sample_grid(
    model: WhereWhat, scene: SceneMaps, grid_noise: tuple[torch.Tensor, torch.Tensor]
) -> np.ndarray:
    """The z-pair grid (docs/model.md#sample-grid), RGB uint8 (height, width, 3).

    One column a scene, of the classes in turn; rows: the scene; the result for (z_appr 1, z_spatial 1); for
    (2, 1); for (1, 2). Big maps narrower than GRID_WIDTH are enlarged and the new objects outlined; others
    are shown as published.
    """
    z_spatial, z_appr = grid_noise
    rows = [scene.labels_big.cpu().numpy()]
    count = len(model.targets)
    for appr, spatial in ((0, 0), (1, 0), (0, 1)):
        row = np.empty_like(rows[0])
        for number, target in enumerate(model.targets[:GRID_COLUMNS]):
            columns = np.s_[number::count]
            of_class = scene.apply(lambda tensor, columns=columns: tensor[columns])
            noise = z_spatial[spatial][columns], z_appr[appr][columns]
            planes = sample(model.of_class(target.name), of_class, *noise).planes
            row[columns] = planes[:, :NUM_CHANNELS].argmax(1).byte().cpu().numpy()
        rows.append(row)
    cells = [[grid_cell(after, before) for after, before in zip(maps, rows[0], strict=True)] for maps in rows]
    height, width = cells[0][0].shape[:2]
    step_y, step_x = height + GRID_GAP, width + GRID_GAP
    image = np.empty((len(rows) * step_y - GRID_GAP, GRID_COLUMNS * step_x - GRID_GAP, 3), np.uint8)
    image[:] = (0, 255, 0)
    for row, column in np.ndindex(len(rows), GRID_COLUMNS):
        top, left = row * step_y, column * step_x
        image[top : top + height, left : left + width] = cells[row][column]
    return image


def grid_cell(labels: np.ndarray, scene: np.ndarray) -> np.ndarray:
    """A map of channels (H,W) uint8 in colours; if narrow, enlarged, and what scene lacks outlined."""
    cell = enlarged(CHANNEL_COLOURS[labels], GRID_WIDTH)
    if cell.shape[1] > labels.shape[1]:
        outline(cell, enlarged(labels != scene, GRID_WIDTH))
    return cell


def main(arguments: list[str] | None = None) -> None:
    options, dry_run = parse(arguments)
    with joined() as ranks:
        train(options, dry_run, ranks)


if __name__ == "__main__":
    run_program(main, WITH_RESUME)
