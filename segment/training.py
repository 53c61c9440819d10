"""Training a segmenter and measuring it, in the order in which things happen: `run`.

Everything random follows from (random_seed, position in the sequence of samples), so that a run that was
stopped and resumed ends, on a CPU, with the same weights to the bit as one that was not.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor
from torchvision.models.detection import MaskRCNN

from data.labels import TARGET_CLASSES
from data.writer import encode_png
from distributed import NO_LIMIT, Ranks, average_gradients, choose_device, wait_for_all
from run import Run, find_state
from segment.drawing import sheet
from segment.evaluation import cityscapes_metrics, coco_metrics, detect, predict
from segment.models import build
from segment.options import OPTIMISERS, SegmentOptions
from segment.samples import (
    GroundTruth,
    Mixture,
    TrainingFrame,
    batch_of,
    frames_of,
    read_all,
    read_ground_truth,
)
from support.checkpoints import differing_network, find_checkpoint, shapes
from support.errors import InputError
from support.files import write_atomic
from support.progress import progress_bar

RESULT = "evaluation.json"
IMAGES = 4  # frames of --val that are drawn
STEPS_DOWN = ((2 / 3, 0.1), (8 / 9, 0.01))  # fraction of the run, factor of the learning rate from there
LOSSES = ("loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg")
MAX_GRADIENT = 10.0  # norm
_NONE = f"shows no single instance of {', '.join(TARGET_CLASSES)}"

# A checkpoint fits a run only if these agree.
IDENTITY = (
    "arch",
    "data",
    "share",
    "split",
    "size",
    "window",
    "batch_size",
    "optimiser",
    "iterations",
    "random_seed",
)


def run(options: SegmentOptions, ranks: Ranks) -> None:
    """Train (unless eval_only), measure, write RESULT, print the metrics."""
    out, device = Path(options.out), choose_device(options.device)
    ground_truths = read_ground_truths(options)
    model = trained(options, device) if options.eval_only else learn(options, ground_truths, device, ranks)
    if not ranks.rank:
        metrics = measure(model, options, ground_truths, device)
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(out / RESULT, (json.dumps(metrics, indent=1) + "\n").encode())
        print(table(metrics))
        print(f"metrics    {out / RESULT}")
    wait_for_all(NO_LIMIT)


def read_ground_truths(options: SegmentOptions) -> list[GroundTruth]:
    """The frames of --val. Raises InputError for a bad tree, or one without instances."""
    frames = frames_of(options.val, options.val_split, "--val")
    ground_truths = read_all(frames, options.size, options.num_workers, read_ground_truth)
    if all(one["iscrowd"] for ground_truth in ground_truths for one in ground_truth.annotations):
        raise InputError(
            f"--val {options.val}: split {options.val_split} {_NONE}, so nothing can be measured"
        )
    return ground_truths


def read_mixture(options: SegmentOptions, live: Sequence[TrainingFrame] | None = None) -> Mixture:
    """The frames of --data; live: takes the place of the last of these trees.

    Raises InputError for a bad tree, one without instances, or images of several sizes without --size.
    """
    roots = options.data[:-1] if live else options.data
    found = [frames_of(root, options.split, "--data") for root in roots]
    trees = [read_all(frames, options.size, options.num_workers) for frames in found]
    for root, tree in zip(roots, trees, strict=True):
        if not any(len(sample.labels) for sample in tree):
            raise InputError(
                f"--data {root}: split {options.split} {_NONE}, so nothing can be learnt from it"
            )
    sizes = {tuple(sample.image.shape[1:]) for tree in trees for sample in tree}
    if len(sizes) > 1:
        raise InputError(f"--data: images of {len(sizes)} sizes; give --size WIDTHxHEIGHT")
    trees += [live] if live else []
    weights = options.share or [len(tree) for tree in trees]
    return Mixture(trees, tuple(weight / sum(weights) for weight in weights), options.window)


def trained(options: SegmentOptions, device: torch.device) -> MaskRCNN:
    """The model to measure: --weights, else the newest checkpoint of --out. Raises InputError."""
    given = options.weights not in ("none", "imagenet")
    model = build(options.arch, options.weights if given else str(find_checkpoint(options.out))).to(device)
    set_precision(model, options, device)
    return model


def set_precision(model: MaskRCNN, options: SegmentOptions, device: torch.device) -> None:
    """Let the backbone, where nearly all arithmetic is, count in bf16 if that is wanted.

    Not the heads: torchvision decodes boxes in the numbers that it gets, and bf16 knows of a column beyond
    256 only which pair of pixels it is in.
    """
    wanted = options.precision
    if wanted == "auto":  # many a CPU, and GPUs before capability 8, only imitate bf16, slowly
        has_bf16 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        wanted = "bf16" if has_bf16 else "fp32"
    if wanted == "fp32":
        return
    forward = model.backbone.forward

    def in_bf16(images: Tensor) -> dict[str, Tensor]:
        with torch.autocast(device.type, torch.bfloat16):
            features = forward(images)
        return {level: feature.float() for level, feature in features.items()}

    model.backbone.forward = in_bf16


# ---- training -----------------------------------------------------------------------------------


def learn(
    options: SegmentOptions,
    ground_truths: list[GroundTruth],
    device: torch.device,
    ranks: Ranks,
    live: Sequence[TrainingFrame] | None = None,
) -> MaskRCNN:
    """Train to the last iteration. Leaves the run folder behind. If a signal came, saves and raises Stopped.

    ground_truths: of which the first are drawn. live: samples that take the place of the last tree of --data
    and may come out otherwise each time, following torch's generator. Raises InputError for bad data, a run
    folder that holds another run, and a loss that is not finite.
    """
    # ---- data, model; a state to go on from
    state = state_of(options)
    mixture = read_mixture(options, live)
    torch.manual_seed(options.random_seed)
    model = build(options.arch, "none" if state else options.weights).to(device)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = optimiser_of(options, parameters, device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = False  # the number of proposals changes from step to step
    if state:
        model.load_state_dict(state["networks"])
        optimiser.load_state_dict(state["optimisers"])

    # ---- run folder
    saved = yaml.safe_dump(as_saved(options), sort_keys=False)
    run = Run(Path(options.out), "--out", saved, LOSSES, options.iterations, ranks, state)
    frames = sum(len(tree) for tree in mixture.trees)
    run.log.line(
        f"{frames} frames of {len(mixture.trees)} trees, {sum(p.numel() for p in parameters):,} parameters to"
        f" learn, {options.iterations} iterations of {ranks.count} x {options.batch_size} on {device}"
    )
    if state:
        run.log.line(f"resumed at iteration {run.iteration}")
    wait_for_all()

    def save() -> Path:
        return run.save(
            options.keep_checkpoints, as_saved(options), model.state_dict(), optimiser.state_dict()
        )

    # ---- loop
    set_precision(model, options, device)
    model.train()
    with run:
        while run.goes_on():
            first = run.samples_seen + ranks.rank * options.batch_size
            positions = range(first, first + options.batch_size)
            images, targets = batch_of(mixture, options.random_seed, positions, device)
            set_rate(optimiser, options, run.iteration)
            losses = model(images, targets)
            optimiser.zero_grad(set_to_none=False)
            sum(losses.values()).backward()
            fill_gradients(parameters)
            average_gradients(parameters)
            torch.nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT)
            optimiser.step()
            run.count({name: loss.detach() for name, loss in losses.items()}, len(positions) * ranks.count)

            last = run.iteration == options.iterations
            if run.iteration == 1 or last or run.iteration % options.log_every == 0:
                run.log_losses(first // max(frames, 1), device)
            draw_now = options.picture_every and (last or run.iteration % options.picture_every == 0)
            if draw_now and not ranks.rank:
                run.log.image(encode_png(draw(model, ground_truths[:IMAGES], device)), 0, run.iteration)
                model.train()
            if run.iteration % options.save_every == 0 and not last:
                save()
    run.end(save())
    return model


def state_of(options: SegmentOptions) -> dict | None:
    """The state to go on from, if any. Raises InputError if it doesn't fit these options."""
    found = find_state(Path(options.out), options.resume, "--out")
    if found is None:
        return None
    path, state = found
    with torch.device("meta"):
        networks = shapes(build(options.arch, "none").state_dict())
    network = differing_network(path, state, networks, "scripts.segment")
    ours = as_saved(options)
    for name in IDENTITY:
        if state["options"].get(name) != ours[name]:
            raise InputError(
                f"{path} was trained with {name} {state['options'].get(name)}, this run has {ours[name]}:"
                " make them agree, or choose another --out"
            )
    if network:
        raise InputError(f"{path}: has other networks than {options.arch} ({network}); choose another --out")
    return state


def as_saved(options: SegmentOptions) -> dict:
    """The options as plain values, as YAML and a checkpoint keep them."""
    return json.loads(json.dumps(dataclasses.asdict(options)))


def optimiser_of(
    options: SegmentOptions, parameters: list[Tensor], device: torch.device
) -> torch.optim.Optimizer:
    rate = options.learning_rate or OPTIMISERS[options.optimiser]
    if options.optimiser == "sgd":
        return torch.optim.SGD(parameters, rate, momentum=0.9, weight_decay=options.weight_decay)
    return torch.optim.AdamW(parameters, rate, weight_decay=options.weight_decay, fused=device.type == "cuda")


def set_rate(optimiser: torch.optim.Optimizer, options: SegmentOptions, iteration: int) -> None:
    """Rises over the warm-up, then falls in steps."""
    warmup = min(options.warmup, options.iterations // 10)
    rate = options.learning_rate or OPTIMISERS[options.optimiser]
    rate *= min(1.0, (iteration + 1) / (warmup + 1))
    reached = [factor for fraction, factor in STEPS_DOWN if iteration >= fraction * options.iterations]
    for group in optimiser.param_groups:
        group["lr"] = rate * min(reached, default=1.0)


def fill_gradients(parameters: list[Tensor]) -> None:
    """Zeros where a step used no parameter of a head, so that all ranks average the same ones."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


# ---- measuring ----------------------------------------------------------------------------------


def measure(
    model: MaskRCNN, options: SegmentOptions, ground_truths: list[GroundTruth], device: torch.device
) -> dict:
    """Metrics of a model: "coco", and "cityscapes" where the official program is asked for."""
    bar = progress_bar(predict(model, ground_truths, device), "predictions", len(ground_truths))
    predictions = list(bar)
    metrics = {"coco": coco_metrics(ground_truths, predictions, options.least_area)}
    if options.official:
        metrics["cityscapes"] = cityscapes_metrics(
            ground_truths, predictions, Path(options.out) / "predictions"
        )
    return metrics


def draw(model: MaskRCNN, ground_truths: list[GroundTruth], device: torch.device) -> np.ndarray:
    """An image of what a model sees on some frames, at working size: (H,W,3) uint8."""
    model.eval()
    images = [ground_truth.image.to(device).float() / 255 for ground_truth in ground_truths]
    seen = detect(model, images, [tuple(image.shape[1:]) for image in images])
    return sheet([ground_truth.image for ground_truth in ground_truths], seen)


def table(metrics: dict) -> str:
    """Metrics of `measure` as text, in points of 100."""
    coco, cityscapes = metrics["coco"], metrics.get("cityscapes", {})
    rows = {"all": coco, **coco["classes"]}
    official = {"all": cityscapes, **cityscapes.get("classes", {})}
    lines = [f"{'':<12}{'AP':>7}{'AP50':>7}{'AP75':>7}{'official AP':>13}{'AP50':>7}"]
    for name, row in rows.items():
        others = official.get(name, {})
        values = [*(row[key] for key in ("AP", "AP50", "AP75")), others.get("AP"), others.get("AP50")]
        cells = zip(map(_points, values), (7, 7, 7, 13, 7), strict=True)
        lines.append(f"{name:<12}" + "".join(f"{cell:>{width}}" for cell, width in cells))
    for name, value in coco["by_size"].items():
        lines.append(f"{name:<12}{_points(value):>7}")
    return "\n".join(lines)


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
