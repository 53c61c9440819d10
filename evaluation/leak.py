"""Does the density of places see where something was taken away? The metrics `leak_decoy` and `leak_true`.

A filled hole can betray that something stood there. Two ways to tell: probability around the foot of a hole
where nothing stood must not grow by the filling, and around that of an instance taken away it must not be
more than where the scene was drawn again without it.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from data.erasures import Erasure, erase_exactly
from data.fill import fill_hole
from data.geometry import is_thing
from data.instances import bounding_box, resize_nearest
from data.labels import CHANNEL_OF_ID
from evaluation.collected import LEAK_METRICS, LIKELIHOOD_METRICS, Collected
from evaluation.metrics import EvaluatedScene
from model import WhereWhat
from support.seeds import generator

REACH = 2  # cells each way around the foot's: 5x5 in all
DECOYS = 2  # at most, for each instance and seed
TRIES = 40  # columns drawn to find them


def collect_leak(
    collected: Collected,
    model: WhereWhat,
    view: EvaluatedScene,
    erasures: dict[int, Erasure],
    temperature: float,
) -> None:
    """Add what a scene says about leak; the model must have a density of places."""
    masses = partial(masses_of, model, temperature)
    untouched = masses(small_labels(model, view.label_ids)[None])[0]
    before, after = np.zeros((2, len(collected.seeds)))
    for instance_id, box in zip(view.real_ids, view.real_boxes, strict=True):
        for seed in collected.seeds:
            feet, maps = [], []
            for foot, hole in decoys(view, instance_id, seed):
                feet.append(foot)
                maps.append(small_labels(model, fill_hole(view.label_ids, view.instance_ids, hole)[0]))
            if feet:
                before[seed] += sum(mass_around(untouched, foot) for foot in feet)
                after[seed] += sum(map(mass_around, masses(np.array(maps)), feet))
            collected.decoys += len(feet)
        if instance_id in erasures:
            foot = np.array([(box[0] + box[2]) / 2, box[3]])
            both = masses(without(model, view, erasures[instance_id]))
            for metric, mass in zip(LEAK_METRICS["leak_true"], both, strict=True):
                collected.add("model", metric, [mass_around(mass, foot)])
    for metric, sums in zip(LEAK_METRICS["leak_decoy"], (after, before), strict=True):
        collected.add("model", metric, sums)  # as many on both sides, so that sums serve as means


def absent_metrics(model: WhereWhat, collected: Collected) -> dict[str, str]:
    """Metrics that this model, or these scenes, can't have, and the reason."""
    if not model.where.has_density:
        return dict.fromkeys((*LEAK_METRICS, *LIKELIHOOD_METRICS), "no density of places")
    absent = {"theta_recon_l1": "z and theta determine each other"}
    if not collected.decoys:
        absent["leak_decoy"] = "no free place for a decoy"
    if "entropy_foot" not in collected.values["model"]:
        absent["entropy_foot"] = "the class is in all scenes"
    if not collected.erased["exact"]:
        absent["leak_true"] = "no exact erasures"
    return absent


def decoys(view: EvaluatedScene, instance_id: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Feet (2,) in fractions of the image and holes (H,W) bool of an instance's shape where nothing stands.

    The rows are the instance's own, and with them the distance. The hole has no pixel of a thing: taking a
    thing away would rightly make room for another.
    """
    of_instance = view.instance_ids == instance_id
    x0, y0, x1, y1 = bounding_box(of_instance)
    shape, things = of_instance[y0 : y1 + 1, x0 : x1 + 1], is_thing(view.label_ids[y0 : y1 + 1])
    (height, width), across = view.label_ids.shape, x1 + 1 - x0
    rng = generator(seed, f"{view.name}/{instance_id}", 0, "leak")
    columns = rng.integers(0, width - across + 1, TRIES).tolist()
    free = [x for x in columns if not (things[:, x : x + across] & shape).any()]
    for x in free[:DECOYS]:
        hole = np.zeros((height, width), bool)
        hole[y0 : y1 + 1, x : x + across] = shape
        yield np.array([(x + across / 2) / width, (y1 + 1) / height]), hole


def without(model: WhereWhat, view: EvaluatedScene, erasure: Erasure) -> np.ndarray:
    """Small maps (2,h,w) uint8 without what an erasure removes: the hole filled, and exactly."""
    hole = np.zeros(view.label_ids.shape, bool)
    hole[erasure.window] = erasure.mask
    filled, _ = fill_hole(view.label_ids, view.instance_ids, hole)
    exact, _ = erase_exactly(view.label_ids, view.instance_ids, erasure)
    return np.array([small_labels(model, filled), small_labels(model, exact)])


def small_labels(model: WhereWhat, label_ids: np.ndarray) -> np.ndarray:
    """Channels (h,w) uint8 of a full-size map of label ids (H,W), as the where module sees it."""
    height, width = model.maps.small
    return CHANNEL_OF_ID[resize_nearest(label_ids, width, height)]


@torch.no_grad()
def masses_of(model: WhereWhat, temperature: float, labels: np.ndarray) -> np.ndarray:
    """Probability of each cell, (n,h,w) float64, in small maps of channels (n,h,w) uint8."""
    return model.where.density(torch.from_numpy(labels).to(model.device), temperature).mass().cpu().numpy()


def mass_around(mass: np.ndarray, foot: np.ndarray) -> float:
    """Probability (0..1) of the 5x5 cells of mass (h,w) around a foot (x, y in fractions of the image)."""
    height, width = mass.shape
    column, row = min(int(foot[0] * width), width - 1), min(int(foot[1] * height), height - 1)
    return float(
        mass[max(row - REACH, 0) : row + REACH + 1, max(column - REACH, 0) : column + REACH + 1].sum()
    )
