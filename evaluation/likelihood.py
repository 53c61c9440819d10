"""How likely held-out instances are: the metrics `nll_foot`, `nll_size` and `entropy_foot`.

Rates such as `plausible_rate` reward a model for being cleaner than reality, and one that knows a single good
place. Likelihood does not: every real place must have its share.
"""

import math

import numpy as np
import torch
from scipy.special import logsumexp

from evaluation.baselines import Training
from evaluation.collected import Collected
from model import WhereWhat

SMALLEST_BANDWIDTH = 1e-3  # of a kernel, in the numbers of a place


@torch.no_grad()
def collect_likelihood(
    collected: Collected, model: WhereWhat, training: Training, labels_small: np.ndarray, box: np.ndarray
) -> None:
    """Add the nats of an instance's box (4,), in fractions of the image.

    labels_small: (h,w) uint8, channels of the small map without the instance. The model must have a density.
    """
    density = model.where.learnt_density(torch.from_numpy(labels_small)[None].to(model.device))
    known = torch.ones(1, 1, dtype=torch.bool, device=model.device)
    of_box = torch.from_numpy(box.astype(np.float32))[None, None].to(model.device)
    foot, size = (float(nats) for nats in density.losses(of_box, known))
    nats = {"model": (foot - math.log(labels_small.size), size)}  # of the unit square, whatever the cells
    if training.baselines:
        places, ratio = place_numbers(training.boxes, density.ratio), density.ratio
        nats["uniform"] = (0.0, float(np.log(np.ptp(places[:, 2:], 0)).sum()))
        nats["prior"] = kernel_nats(places, place_numbers(box[None], ratio)[0])
    for method, both in nats.items():
        for metric, value in zip(("nll_foot", "nll_size"), both, strict=True):
            collected.add(method, metric, [value])


@torch.no_grad()
def collect_entropy(collected: Collected, model: WhereWhat, labels_small: np.ndarray) -> None:
    """Add the nats that the model expects of its own feet on an untouched small map (h,w) uint8."""
    mass = model.where.learnt_density(torch.from_numpy(labels_small)[None].to(model.device)).mass()
    nats = torch.special.entr(mass).sum() - math.log(labels_small.size)
    collected.add("model", "entropy_foot", [float(nats)])


def place_numbers(boxes: np.ndarray, ratio: float) -> np.ndarray:
    """x and y of the foot, log height, log aspect (n,4) of boxes (n,4) in fractions of an image.

    ratio: width / height of the image.
    """
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    numbers = (boxes[:, ::2].mean(1), boxes[:, 3], np.log(height), np.log(ratio * width / height))
    return np.stack(numbers, 1)


def kernel_nats(places: np.ndarray, place: np.ndarray) -> tuple[float, float]:
    """Nats of a place's foot, and of its size given the foot, by a kernel density of other places (n,4).

    Normal kernels, independent in the numbers of a place, with Scott's bandwidths n^(-1/8) sigma.
    """
    width = np.maximum(places.std(0) * len(places) ** (-1 / 8), SMALLEST_BANDWIDTH)
    logs = -(((place - places) / width) ** 2) / 2 - np.log(width) - math.log(2 * math.pi) / 2  # (n,4)
    of_foot, of_all = (float(logsumexp(part.sum(1)) - math.log(len(places))) for part in (logs[:, :2], logs))
    return -of_foot, of_foot - of_all
