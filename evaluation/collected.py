"""What the scenes of an evaluation gave, and the metrics of all of them with their spread over the seeds."""

from collections import Counter

import numpy as np

from data.geometry import HeightFit, box_spread, too_few
from data.labels import TargetClass
from evaluation.baselines import BASELINES, Training
from evaluation.metrics import (
    EvaluatedScene,
    Measures,
    draw_masks,
    join,
    measure,
    placement_distances,
    placement_metrics,
    shape_metrics,
)
from evaluation.shapes import ShapeFeature, shapes_of
from support.progress import progress_bar
from support.seeds import generator

# What rests on the training instances, besides all of the baselines; plausible_rate without cameras too.
HEIGHT_METRICS = ("height_residual", "height_band_rate")
SHAPE_METRICS = ("shape_precision", "shape_recall", "shape_frechet", "shape_nn_iou")
LEAK_METRICS = {  # each is the ratio of what is collected under these two names
    "leak_decoy": ("leak_decoy_filled", "leak_decoy_before"),
    "leak_true": ("leak_true_filled", "leak_true_exact"),
}
LIKELIHOOD_METRICS = ("nll_foot", "nll_size", "entropy_foot")
OVERLAP_METRICS = ("overlap_rate", "overlap_any_rate")  # of real instances: training masks fill their boxes

MODEL_METRICS = (  # that no baseline has
    "mask_spread",
    "box_change_z_appr",
    "mask_change_z_spatial",
    "theta_recon_l1",
    "mask_recon_l1",
    *LEAK_METRICS,
    "entropy_foot",
)


class Collected:
    """What the scenes gave so far, for each method and each of the seeds 0, 1, ..."""

    def __init__(self, seeds: int):
        self.seeds = range(seeds)
        self.placed: dict[tuple[str, int], list[Measures]] = {}  # by method and seed, one a scene
        self.values: dict[str, dict[str, list[np.ndarray]]] = {}  # method -> metric -> (S,) one an item
        self.shapes: list[list[np.ndarray]] = [[] for _ in self.seeds]  # generated, (K,1024) one a scene
        self.real_shapes: list[np.ndarray] = []  # (R,1024) one a scene that holds some
        self.cameras = 0  # scenes with a camera file
        self.assumed: list[str] = []  # names of the scenes whose camera is assumed
        self.erased: Counter[str] = Counter()  # instances placed again: erased exact, or filled
        self.decoys = 0  # holes where nothing stood, all seeds
        self.absent: dict[str, str] = {}  # metrics that this model or these scenes can't have, and the reason

    def add(self, method: str, metric: str, values: np.ndarray | list[float]) -> None:
        """An item's value for each seed (S,), or one for all; the metric is the mean over all items."""
        values = np.broadcast_to(np.asarray(values, float), len(self.seeds))
        self.values.setdefault(method, {}).setdefault(metric, []).append(values)

    def add_placed(
        self, method: str, view: EvaluatedScene, target: TargetClass, boxes: np.ndarray, masks: np.ndarray
    ) -> None:
        """Objects of one scene: boxes (S,K,4) in fractions of the image, masks (S,K,cy,cx) in 0..1."""
        for seed in self.seeds:
            measures = measure(view, target, boxes[seed], masks[seed])
            self.placed.setdefault((method, seed), []).append(measures)
        self.add(method, "box_spread", [box_spread(of_seed) for of_seed in boxes])

    def add_real(self, view: EvaluatedScene, target: TargetClass, training: Training) -> None:
        """The usable instances of one scene."""
        if not view.real_ids:
            return
        for seed in self.seeds:
            masks = draw_masks(training, view.name, seed, len(view.real_ids), "real")
            measures = measure(view, target, view.real_boxes, masks, view.real_ids)
            self.placed.setdefault(("real", seed), []).append(measures)
        if len(view.real_ids) > 1:
            self.add("real", "box_spread", [box_spread(view.real_boxes)])


def summarise(
    collected: Collected, training: Training, fit: HeightFit | None, count: int
) -> tuple[dict[str, dict[str, dict]], dict[str, np.ndarray]]:
    """{method: {metric: {"mean", "std"}}} over the seeds, and each method's boxes (n,4) of seed 0.

    count: objects of each method and seed; as many real ones are drawn, with replacement. std is None for
    a single seed. At least one real instance must have been collected. Of `too_few` training instances
    nothing is made: what rests on them is {"mean": None, "std": None, "reason"}, and baselines give no boxes.
    """
    methods = ("model", *training.baselines, "real")
    values: dict[str, dict[str, list[float]]] = {
        method: {name: list(np.mean(items, 0)) for name, items in collected.values.get(method, {}).items()}
        for method in methods
    }
    for name, parts in LEAK_METRICS.items():
        if all(part in values["model"] for part in parts):
            filled, fair = (values["model"].pop(part) for part in parts)
            values["model"][name] = [a / b if b else float("nan") for a, b in zip(filled, fair, strict=True)]
    reason, with_shapes = too_few(len(training.boxes)), bool(collected.real_shapes)
    if with_shapes:
        training_shapes = shapes_of(training.masks)
        feature, real_shapes = ShapeFeature(training_shapes), np.concatenate(collected.real_shapes)
        of_model = values["model"]
        both = zip(of_model.pop("mask_spread_z_spatial"), of_model["mask_spread"], strict=True)
        of_model["mask_change_z_spatial"] = [a / b if b else float("nan") for a, b in both]

    first_boxes = {}
    for seed in progress_bar(collected.seeds, "figures", unit="seed"):
        placed = {method: join(collected.placed[method, seed]) for method in methods}
        real_boxes = placed["real"]["box"]
        drawn = generator(seed, "", 0, "real").integers(len(real_boxes), size=count)
        placed["real"] = {name: rows[drawn] for name, rows in placed["real"].items()}
        first_boxes = first_boxes or {method: measures["box"] for method, measures in placed.items()}

        metrics = {method: placement_metrics(measures, fit) for method, measures in placed.items()}
        others = {method: placed[method]["box"] for method in methods if method != "real"}
        for method, distance in placement_distances(others, real_boxes, seed).items():
            metrics[method]["placement_distance"] = distance
        if with_shapes and not reason:
            made = np.concatenate(collected.shapes[seed])
            for method, found in shape_metrics(made, real_shapes, training_shapes, feature, seed).items():
                metrics[method] |= found
        for method in methods:
            for name, value in metrics[method].items():
                values[method].setdefault(name, []).append(value)
    results = {method: _mean_and_std(values[method]) for method in methods}
    results["model"] |= {name: _absent(why) for name, why in collected.absent.items()}
    return _withheld(results, reason, with_shapes) if reason else results, first_boxes


def _absent(reason: str) -> dict:
    return {"mean": None, "std": None, "reason": reason}


def _withheld(
    results: dict[str, dict[str, dict]], reason: str, with_shapes: bool
) -> dict[str, dict[str, dict]]:
    """`results` of model and real with the reason in the place of all that rests on training instances."""
    absent = _absent(reason)
    placement = [name for name in results["model"] if name not in MODEL_METRICS]
    lacking = (*HEIGHT_METRICS, "plausible_rate", *(SHAPE_METRICS if with_shapes else ()))
    model, real = (dict.fromkeys(lacking, absent) | results[method] for method in ("model", "real"))
    baseline = dict.fromkeys((*placement, *HEIGHT_METRICS, "plausible_rate"), absent)
    return {
        "model": model,
        **dict.fromkeys(BASELINES, baseline),
        "real": real | dict.fromkeys(OVERLAP_METRICS, absent),
    }


def _mean_and_std(metrics: dict[str, list[float]]) -> dict[str, dict]:
    """Over the seeds for which a metric is defined; metrics that no seed defines are left out."""
    result = {}
    for name, values in sorted(metrics.items()):
        defined = [float(value) for value in values if np.isfinite(value)]
        if defined:
            std = float(np.std(defined, ddof=1)) if len(defined) > 1 else None
            result[name] = {"mean": float(np.mean(defined)), "std": std}
    return result
