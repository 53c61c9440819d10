"""The density of places in the training step: alone, beside shapes, of one class and of several."""

import dataclasses

import numpy as np
import pytest
import torch

from data.labels import NUM_CHANNELS
from loader.noise import draw_noise
from loader.pairs import PLACES, Batch, PlaceTargets
from model import WhereWhat, sample
from support.errors import InputError
from tests.test_model import TINY, make_batch, reached
from training import Optimisers, train_step


def with_places(batch: Batch, *, known: bool = True) -> Batch:
    count, (height, width) = len(batch.theta), batch.real.labels_small.shape[1:]
    rng = np.random.default_rng(5)
    corners = rng.uniform([0.1, 0.2], [0.6, 0.5], (count, 2, PLACES, 2))
    boxes = np.concatenate([corners, corners + [0.1, 0.3]], 3).astype(np.float32)
    labels = rng.integers(0, NUM_CHANNELS, (count, 2, height, width), np.uint8)
    has = torch.full((count, 2, PLACES), known)
    arrays = torch.from_numpy(labels), torch.from_numpy(boxes), has, torch.zeros_like(has).long()
    return dataclasses.replace(batch, places=PlaceTargets(*arrays))


def distribution(**options) -> WhereWhat:
    torch.manual_seed(0)
    return WhereWhat(dataclasses.replace(TINY, where="distribution", where_dim=8, **options))


def test_networks_that_the_density_does_not_need_are_not_built():
    assert set(distribution().networks) == {
        *("place_density", "what_encoder", "what_encoder_sup", "generator", "what_reconstructor"),
        *("d_obj", "d_what"),
    }


def test_a_step_reports_the_terms_of_the_model():
    model = distribution()
    optimisers, batch = Optimisers(model), with_places(make_batch())
    losses = train_step(model, optimisers, batch, draw_noise(TINY, range(2)), check=True)
    assert tuple(losses) == model.loss_names and "g_where" not in losses
    assert losses["where_nll_foot"] > 0 and torch.isfinite(losses["where_nll_size"])


def test_likelihood_alone_trains_the_density():
    model = distribution()
    views, noise = model.views(with_places(make_batch())), draw_noise(TINY, range(2))
    losses = model.g_losses(views, noise, model(views, noise, 0))
    assert reached(losses["where_nll_foot"] + losses["where_nll_size"], model) == {"place_density"}
    of_shapes = losses["g_what"] + losses["g_obj"] + losses["what_recon"]
    assert "place_density" not in reached(of_shapes, model)


def test_each_update_learns_from_maps_of_its_own():
    model = distribution()
    views, noise = model.views(with_places(make_batch())), draw_noise(TINY, range(2))
    first, second = (model(views, noise, update).where.nll_size for update in (0, 1))
    assert first != second
    unknown = model.views(with_places(make_batch(), known=False))
    assert float(model(unknown, noise, 0).where.nll_foot) == 0


# ---- several classes, and option what = none ------------------------------------------------------


def several(names: str = "person,rider,car") -> WhereWhat:
    """A model of places alone, uneven in another way for each class."""
    model = distribution(what="none", target_class=names)
    with torch.no_grad():
        model.networks["place_density"].planes.weight.normal_(0, 0.5)
    return model


def places_batch(classes: int) -> Batch:
    places = with_places(make_batch()).places
    numbers = torch.arange(places.known.numel()).view(places.known.shape) % classes
    return Batch(places=dataclasses.replace(places, classes=numbers))


def test_places_alone_need_one_network_and_learn_from_likelihood():
    model = several()
    assert set(model.networks) == {"place_density"}
    assert model.loss_names == ("where_nll_foot", "where_nll_size", "g_total")
    before = [parameter.clone() for parameter in model.parameters()]
    losses = train_step(model, Optimisers(model), places_batch(3), draw_noise(TINY, range(2)), check=True)
    assert tuple(losses) == model.loss_names and torch.isfinite(losses["g_total"])
    after = list(model.parameters())
    assert all(not torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_each_class_learns_from_its_own_places_through_shared_features():
    model, noise = several(), draw_noise(TINY, range(2))
    batch = places_batch(1)  # all of the first class
    views = model.views(batch)
    model.g_losses(views, noise, model(views, noise, 0))["g_total"].backward()
    network = model.networks["place_density"]
    of_class = network.planes.weight.grad.flatten(1).abs().sum(1).view(3, 5)
    assert (of_class[0] > 0).all() and (of_class[1:] == 0).all()
    assert network.embedding.weight.grad.abs().sum() > 0


def test_places_alone_of_one_class_have_the_likelihood_of_the_joint_model():
    joint, alone = distribution(), distribution(what="none")
    alone.networks["place_density"].load_state_dict(joint.networks["place_density"].state_dict())
    batch, noise = with_places(make_batch()), draw_noise(TINY, range(2))
    views = joint.views(batch)
    wanted = joint.g_losses(views, noise, joint(views, noise, 1))
    views = alone.views(Batch(places=batch.places))
    found = alone.g_losses(views, noise, alone(views, noise, 1))
    for name in ("where_nll_foot", "where_nll_size"):
        assert torch.equal(found[name], wanted[name])


def test_z_and_theta_determine_each_other_for_each_class():
    model, scene, noise = several(), make_batch().real, draw_noise(TINY, range(2))
    thetas = []
    for target in model.targets:
        of_class = model.of_class(target.name)
        drawn, again = (sample(of_class, scene, noise.z_spatial, noise.z_appr) for _ in range(2))
        assert torch.equal(drawn.planes, again.planes)
        thetas.append(drawn.theta)
        again = of_class.where.density(scene.labels_small).z_of_theta(thetas[-1])
        torch.testing.assert_close(again.float(), noise.z_spatial.flatten(1), rtol=0, atol=1e-4)
        on_scene = of_class.where.on(scene.labels_small, scene.ids_small)
        assert torch.equal(on_scene.sample(noise.z_spatial), thetas[-1])
    assert not torch.allclose(thetas[0], thetas[1]) and not torch.allclose(thetas[0], thetas[2])


def test_a_model_of_several_classes_must_be_told_which():
    model = several("bus,train")
    train = model.of_class("train")
    assert train.target.name == "train" and train.networks is model.networks and len(model.targets) == 2
    with pytest.raises(InputError, match=r"places of bus, train: say which with --target_class"):
        model.target  # noqa: B018 (it raises)
    with pytest.raises(InputError, match=r"--target_class car: the checkpoint has places of bus, train only"):
        model.of_class("car")
    assert distribution().target.name == "person"
