"""Leak: holes where nothing stood, mass at feet, densities that do and do not see a filling."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import evaluation.leak
from data.erasures import Erasure
from data.fill import fill_hole
from data.labels import CHANNEL_OF_ID
from evaluation.collected import LEAK_METRICS, Collected
from evaluation.leak import DECOYS, collect_leak, decoys, mass_around
from evaluation.metrics import EvaluatedScene

ROAD, FENCE, PERSON, CAR = 7, 13, 24, 26
HEIGHT, WIDTH = 64, 128
BODY = np.s_[30:44, 20:26]


def view(car: slice = np.s_[100:128]) -> EvaluatedScene:
    """A road with a person and, in some columns, a car behind it."""
    ids = np.full((HEIGHT, WIDTH), ROAD, np.uint16)
    ids[20:, car] = CAR * 1000
    ids[BODY] = PERSON * 1000
    labels = np.where(ids < 1000, ids, ids // 1000).astype(np.uint8)
    box = np.array([[20 / WIDTH, 30 / HEIGHT, 26 / WIDTH, 44 / HEIGHT]])
    return EvaluatedScene("a", labels, ids, labels == ROAD, labels * 0, None, (PERSON * 1000,), box)


def erasure() -> Erasure:
    mask = np.ones((14, 6), bool)
    return Erasure((PERSON * 1000,), 20, 30, mask, np.full((14, 6), ROAD, np.uint16))


def model_of(weight_of_fence: float) -> SimpleNamespace:
    """A density that is even, but for cells that show a fence."""

    def density(labels: torch.Tensor, temperature: float) -> SimpleNamespace:
        weight = 1 + (weight_of_fence - 1) * (labels == int(CHANNEL_OF_ID[FENCE])).double()
        return SimpleNamespace(mass=lambda: weight / weight.sum((1, 2), keepdim=True))

    maps, where = SimpleNamespace(small=(HEIGHT, WIDTH)), SimpleNamespace(density=density)
    return SimpleNamespace(maps=maps, device=torch.device("cpu"), where=where)


def ratios(model, erasures: dict[int, Erasure]) -> dict[str, np.ndarray]:
    """Filled over fair, (S,), of each metric that was collected."""
    collected = Collected(2)
    collect_leak(collected, model, view(), erasures, 1.0)
    values = collected.values["model"]
    assert collected.decoys == 2 * DECOYS
    return {
        name: np.sum(values[filled], 0) / np.sum(values[fair], 0)
        for name, (filled, fair) in LEAK_METRICS.items()
        if filled in values
    }


def test_mass_around_a_foot_is_that_of_25_cells_and_of_fewer_at_the_edge():
    mass = np.arange(64 * 128).reshape(64, 128) / 1e6
    foot = np.array([20.5 / 128, 43.9 / 64])
    assert mass_around(mass, foot) == pytest.approx(mass[41:46, 18:23].sum())
    assert mass_around(mass, np.array([0.0, 1.0])) == pytest.approx(mass[61:, :3].sum())
    assert mass_around(mass, np.array([1.0, 0.0])) == pytest.approx(mass[:3, 125:].sum())


def test_decoys_have_shape_and_rows_of_the_instance_and_stand_where_nothing_is():
    scene = view()
    found = list(decoys(scene, PERSON * 1000, 0))
    assert len(found) == DECOYS
    for (x, y), hole in found:
        rows, columns = np.nonzero(hole)
        assert np.array_equal(np.unique(rows), np.arange(30, 44)) and np.ptp(columns) == 5
        assert y == 44 / HEIGHT and x * WIDTH == (columns.min() + columns.max() + 1) / 2
        assert (scene.label_ids[hole] == ROAD).all()
    again = list(decoys(scene, PERSON * 1000, 0))
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(found, again, strict=True))
    other = list(decoys(scene, PERSON * 1000, 1))
    assert not all(np.array_equal(a[1], b[1]) for a, b in zip(found, other, strict=True))


def test_there_is_no_decoy_where_there_is_no_room():
    assert list(decoys(view(car=np.s_[:]), PERSON * 1000, 0)) == []


def test_a_density_that_can_not_see_the_filling_has_no_leak():
    found = ratios(model_of(1.0), {PERSON * 1000: erasure()})
    assert found.keys() == LEAK_METRICS.keys() and all(np.allclose(value, 1) for value in found.values())
    # A perfect fill leaves nothing to see even for one that looks for fences.
    assert all(np.allclose(value, 1) for value in ratios(model_of(9.0), {PERSON * 1000: erasure()}).values())


def test_a_density_that_sees_the_filling_is_found_out(monkeypatch):
    def careless(label_ids, instance_ids, hole):
        label_ids, instance_ids = fill_hole(label_ids, instance_ids, hole)
        label_ids[hole] = FENCE
        return label_ids, instance_ids

    monkeypatch.setattr(evaluation.leak, "fill_hole", careless)
    found = ratios(model_of(9.0), {PERSON * 1000: erasure()})
    assert all((value > 2).all() for value in found.values())
    assert found.keys() == LEAK_METRICS.keys()


def test_without_an_exact_erasure_there_are_decoys_alone():
    assert ratios(model_of(1.0), {}).keys() == {"leak_decoy"}
