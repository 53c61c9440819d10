"""How likely held-out places are: nats of a density, of kernels and of a uniform box."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from evaluation.collected import Collected
from evaluation.likelihood import collect_entropy, collect_likelihood, kernel_nats, place_numbers
from layers.place_density import PlaceDensity

H, W = 16, 32
BOX = np.array([0.4, 0.3, 0.5, 0.7])


def model_of(density: PlaceDensity) -> SimpleNamespace:
    where = SimpleNamespace(learnt_density=lambda labels: density)
    return SimpleNamespace(where=where, device=torch.device("cpu"))


def density(logits: torch.Tensor) -> PlaceDensity:
    sizes = torch.tensor([math.log(0.4), -2.0, math.log(0.5), -1.0])[None, :, None, None]
    return PlaceDensity(logits, sizes.expand(1, 4, H, W), W / H)


def training(boxes: np.ndarray, baselines: tuple[str, ...] = ("uniform", "prior")) -> SimpleNamespace:
    return SimpleNamespace(boxes=boxes, baselines=baselines)


def random_boxes(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low = rng.uniform([0.1, 0.1], [0.6, 0.4], (count, 2))
    return np.concatenate([low, low + rng.uniform(0.1, 0.3, (count, 2))], 1)


def values_of(collected: Collected, method: str) -> dict[str, float]:
    return {name: float(items[0][0]) for name, items in collected.values[method].items()}


def test_feet_anywhere_have_no_nats_over_the_unit_square():
    collected = Collected(2)
    even = density(torch.zeros(1, H, W))
    collect_likelihood(collected, model_of(even), training(random_boxes(40)), np.zeros((H, W), np.uint8), BOX)
    found = values_of(collected, "model")
    assert found["nll_foot"] == pytest.approx(0, abs=1e-5)
    # Height and aspect are those of the means: a normal density at its middle, hardly cut off.
    middle = math.log(2 * math.pi) + math.log(math.exp(-2) * math.exp(-1))
    assert found["nll_size"] == pytest.approx(middle, abs=1e-3)
    assert values_of(collected, "uniform")["nll_foot"] == 0
    collect_entropy(collected, model_of(even), np.zeros((H, W), np.uint8))
    assert values_of(collected, "model")["entropy_foot"] == pytest.approx(0, abs=1e-6)


def test_a_sharp_density_is_likely_where_it_is_right_alone():
    sharp = torch.full((1, H, W), -9.0)
    sharp[0, 11, 14] = 0.0  # the foot of BOX, 0.45 and 0.7
    for shift, low, high in ((0.0, -math.log(H * W), -5.0), (0.2, 2.0, 9.0)):
        collected = Collected(1)
        box = BOX + [shift, 0, shift, 0]
        model = model_of(density(sharp))
        collect_likelihood(collected, model, training(random_boxes(40), ()), np.zeros((H, W), np.uint8), box)
        assert low <= values_of(collected, "model")["nll_foot"] < high
        assert set(collected.values) == {"model"}  # too few to compare with
        collect_entropy(collected, model, np.zeros((H, W), np.uint8))
        mass = np.exp(sharp[0].double().numpy())
        mass /= mass.sum()
        wanted = -(mass * np.log(mass * H * W)).sum()
        assert values_of(collected, "model")["entropy_foot"] == pytest.approx(wanted)


def test_numbers_of_a_place():
    (numbers,) = place_numbers(BOX[None], 2.0)
    np.testing.assert_allclose(numbers, [0.45, 0.7, math.log(0.4), math.log(2 * 0.1 / 0.4)])


def test_kernels_are_a_density_of_feet_and_of_sizes_given_the_foot():
    places = place_numbers(random_boxes(50), 2.0)
    steps = (np.arange(120) + 0.5) / 60 - 0.5  # beyond the image too: kernels are not cut off
    feet = [np.exp(-kernel_nats(places, np.array([x, y, -1, -1]))[0]) for x in steps[::2] for y in steps[::2]]
    assert np.mean(feet) * 4 == pytest.approx(1, abs=0.01)
    sizes = 7 * (np.arange(60) + 0.5) / 60 - 4
    foot = places[0, :2]
    given = [np.exp(-kernel_nats(places, np.array([*foot, h, a]))[1]) for h in sizes for a in sizes]
    assert np.mean(given) * 49 == pytest.approx(1, abs=0.01)
    near, far = (kernel_nats(places, place)[0] for place in (places[0], places[0] + [2, 0, 0, 0]))
    assert near < far


def test_the_prior_knows_more_than_uniform_boxes_of_its_own_kind():
    boxes = random_boxes(200)
    total = {"uniform": 0.0, "prior": 0.0}
    for box in random_boxes(50, seed=1):
        collected = Collected(1)
        even = model_of(density(torch.zeros(1, H, W)))
        collect_likelihood(collected, even, training(boxes), np.zeros((H, W), np.uint8), box)
        for method in total:
            total[method] += sum(values_of(collected, method).values())
    assert total["prior"] < total["uniform"]
