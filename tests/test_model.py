"""The training step: exactness against the plain version, who is trained by what, and that it learns."""

import dataclasses
import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from data.labels import NUM_CHANNELS
from loader.noise import Noise, UpdateNoise, draw_noise
from loader.pairs import Batch, SceneMaps
from losses import mask_loss
from model import WhereWhat, sample
from networks import GROUPS
from options import PRESETS, Options
from tests.plain import PlainWhereWhat, plain_train_step
from training import NonFiniteLossError, Optimisers, g_step, train_step

TINY = Options(**PRESETS["tiny"])


def make_scene(count: int, options: Options, seed: int) -> SceneMaps:
    """Rectangles of random labels and ids."""
    generator = torch.Generator().manual_seed(seed)

    def blocks(high, height, width, dtype):
        coarse = torch.randint(0, high, (count, 4, 8), generator=generator)
        return coarse.repeat_interleave(height // 4, 1).repeat_interleave(width // 8, 2).to(dtype)

    small, big = [
        (blocks(NUM_CHANNELS, height, width, torch.uint8), blocks(50, height, width, torch.int32))
        for height, width in (
            (options.image_sizey_small, options.image_sizex_small),
            (options.image_sizey_big, options.image_sizex_big),
        )
    ]
    return SceneMaps(*small, *big)


def make_batch(count: int = 2, options: Options = TINY, seed: int = 0) -> Batch:
    rows, columns = (torch.linspace(-1, 1, size) for size in (options.compact_sizey, options.compact_sizex))
    ellipse = (rows[:, None] ** 2 + (columns[None] - 0.1 * seed) ** 2 / 0.5 < 0.9).float()
    compact = ellipse[None, None].repeat(count, 1, 1, 1)
    theta = torch.tensor([[9.0, 0, 2.5, 0, 4.0, -0.5], [12.0, 0, -7, 0, 5.5, 1.5]]).repeat(count, 1)[:count]
    return Batch(make_scene(count, options, seed + 1), make_scene(count, options, seed + 2), compact, theta)


def double(noise: Noise) -> Noise:
    updates = tuple(UpdateNoise(*(t.double() for t in vars(one).values())) for one in noise.updates)
    return Noise(noise.z_spatial.double(), noise.z_appr.double(), updates)


@pytest.mark.parametrize("count", [1, 2])
def test_two_steps_equal_the_plain_ones_in_double_precision(count):
    """Same weights in, same losses and same weights out, through both halves of two iterations."""
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(0)
        fast = WhereWhat(TINY)
        with torch.no_grad():  # a box inside the image, so that coord and the ramps of its edges matter
            fast.networks["stn"].theta.bias.copy_(torch.tensor([3.3, 0, 0.4, 0, 2.7, -0.3]))
            fast.networks["stn"].theta.weight.normal_(0, 0.3)
        other = WhereWhat(TINY)
        other.load_state_dict(fast.state_dict())
        plain = PlainWhereWhat(other)
        fast_optimisers, plain_optimisers = Optimisers(fast), Optimisers(other)
        for step in range(2):
            batch = make_batch(count, seed=step)
            batch = dataclasses.replace(batch, compact=batch.compact.double(), theta=batch.theta.double())
            noise = double(draw_noise(TINY, range(step * count, (step + 1) * count)))
            ours = train_step(fast, fast_optimisers, batch, noise)
            theirs = plain_train_step(plain, plain_optimisers, batch, noise)
            for name in fast.loss_names:
                torch.testing.assert_close(ours[name], theirs[name], rtol=1e-7, atol=1e-9, msg=name)
            for (name, a), b in zip(fast.named_parameters(), other.parameters(), strict=True):
                if a.requires_grad:
                    torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-9, msg=name)
                    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7, msg=name)
    finally:
        torch.set_default_dtype(torch.float32)


def step_outputs(model: WhereWhat):
    batch, noise = make_batch(), draw_noise(TINY, range(2))
    views = model.views(batch)
    return views, noise, model(views, noise, 0)


def reached(loss: torch.Tensor, model: WhereWhat) -> set[str]:
    """Networks that a loss has a gradient for."""
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss, list(trainable.values()), allow_unused=True, retain_graph=True)
    names = [name.split(".")[1] for name in trainable]
    return {n for n, g in zip(names, gradients, strict=True) if g is not None and g.abs().max() > 0}


def trained(adam: torch.optim.Optimizer, model: WhereWhat) -> set[str]:
    """Networks whose parameters an optimiser owns."""
    owned = {id(p) for p in adam.param_groups[0]["params"]}
    return {name.split(".")[1] for name, p in model.named_parameters() if id(p) in owned}


def test_each_parameter_belongs_to_one_optimiser():
    model = WhereWhat(TINY)
    optimisers = Optimisers(model)
    groups = [trained(optimisers.adams[group], model) for group in ("d", "sup", "g")]
    assert groups == [set(GROUPS[group]) for group in ("d", "sup", "g")]
    assert sum(map(len, groups)) == len(model.networks) == 12


def test_discriminator_losses_reach_their_discriminator_only():
    model = WhereWhat(TINY)
    views, _, paths = step_outputs(model)
    for name, loss in model.d_losses(views, paths).items():
        assert reached(loss, model) == {name}


def test_what_losses_train_the_where_module():
    """That is the joint training: theta carries gradients of the what losses."""
    torch.manual_seed(0)
    model = WhereWhat(TINY)
    with torch.no_grad():
        model.networks["stn"].theta.bias.copy_(torch.tensor([2.0, 0, 0.2, 0, 2.0, -0.3]))
        model.networks["stn"].theta.weight.normal_(0, 0.1)
    views, noise, paths = step_outputs(model)
    losses = model.g_losses(views, noise, paths)
    assert {"stn", "where_encoder"} <= reached(losses["g_what"], model)
    assert {"stn", "where_encoder"} <= reached(losses["what_recon"], model)
    assert "what_encoder" not in reached(losses["where_recon"] + losses["g_where"] + losses["coord"], model)


def test_updates_move_only_whom_they_should():
    torch.manual_seed(0)
    model = WhereWhat(TINY)
    optimisers = Optimisers(model)
    views, noise, paths = step_outputs(model)
    losses = model.g_losses(views, noise, paths)
    optimisers.backward(["g"], losses["g_total"], retain_graph=True)
    with_gradient = {n.split(".")[1] for n, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == set(GROUPS["g"])
    assert all(p.requires_grad for parameters in optimisers.parameters.values() for p in parameters)


def test_what_kl_weight_trains_its_own_encoder():
    """The gradient of one supervised encoder is that of its weighted KL and its reconstruction."""
    torch.manual_seed(0)
    model = WhereWhat(dataclasses.replace(TINY, what_kl_weight=0.3))
    optimisers = Optimisers(model)
    views, noise, paths = step_outputs(model)
    terms = model.g_losses(views, noise, paths)
    encoders = ("where", "what")
    expected = {}
    for encoder in encoders:
        loss = (0.3 if encoder == "what" else 1) * terms[f"{encoder}_kl"] + terms[f"{encoder}_vae_recon"]
        parameters = [p for p in model.parameters_of([f"{encoder}_encoder_sup"]) if p.requires_grad]
        expected[encoder] = torch.autograd.grad(loss, parameters, retain_graph=True)
    g_step(model, optimisers, terms)
    for encoder in encoders:
        parameters = [p for p in model.parameters_of([f"{encoder}_encoder_sup"]) if p.requires_grad]
        for parameter, gradient in zip(parameters, expected[encoder], strict=True):
            torch.testing.assert_close(parameter.grad, gradient)


def test_mask_loss_bce_is_the_likelihood_of_the_mask():
    target = torch.tensor([[[[0.0, 1.0], [1.0, 0.25]]]])
    made = torch.tensor([[[[0.1, 0.8], [0.5, 0.25]]]])
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))  # a grey pixel that is met costs its entropy
    nats = -math.log(0.9) - math.log(0.8) - math.log(0.5) + entropy
    assert mask_loss(made, target, "bce").item() == pytest.approx(nats / 4)
    assert mask_loss(made, target, "l1").item() == pytest.approx((0.1 + 0.2 + 0.5) / 4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_with_mask_loss_bce(precision):
    options = dataclasses.replace(TINY, mask_loss="bce", precision=precision)
    torch.manual_seed(0)
    model = WhereWhat(options)
    batch = make_batch()
    losses = train_step(model, Optimisers(model), batch, draw_noise(options, range(2)), check=True)
    assert 0.5 < losses["what_vae_recon"] < 0.8  # near log 2: nothing is learnt yet


def test_reconstruction_target_is_not_detached():
    model = WhereWhat(TINY)
    with torch.no_grad():
        model.networks["stn"].theta.bias.copy_(torch.tensor([2.01, 0, 0.2, 0, 2.03, -0.3]))
    _, _, paths = step_outputs(model)
    assert paths.what.cond_boxed.mask.requires_grad and paths.what.result.drawn.requires_grad


def test_one_d_update_and_two_g_updates_a_step():
    model = WhereWhat(TINY)
    optimisers = Optimisers(model)
    train_step(model, optimisers, make_batch(), draw_noise(TINY, range(2)))
    steps = [
        {int(state["step"]) for state in optimisers.adams[group].state.values()}
        for group in ("d", "sup", "g")
    ]
    assert steps == [{1}, {2}, {2}]


@pytest.mark.slow
def test_overfits_one_batch():
    torch.manual_seed(0)
    options = dataclasses.replace(TINY, learning_rate=2e-3)
    model = WhereWhat(options)
    optimisers = Optimisers(model)
    batch = make_batch(1, options)
    history = [train_step(model, optimisers, batch, draw_noise(options, [step])) for step in range(100)]
    for name, factor in (("where_recon", 0.8), ("what_recon", 0.8), ("what_vae_recon", 0.75)):
        first, last = (torch.stack([h[name] for h in part]).mean() for part in (history[:5], history[-5:]))
        assert last < factor * first, f"{name}: {first:.3f} -> {last:.3f}"


def test_noise_belongs_to_the_sample_not_to_the_batch():
    together = draw_noise(TINY, [5, 6])
    alone = draw_noise(TINY, [6])
    torch.testing.assert_close(together.z_appr[1:], alone.z_appr)
    torch.testing.assert_close(together.updates[1].keep_what[:, 1:], alone.updates[1].keep_what)
    first, second = together.updates
    assert not torch.equal(first.eps_where, second.eps_where)
    assert not torch.equal(first.keep_what, second.keep_what)
    seen = (draw_noise(TINY, range(200)).updates[0].keep_what > 0).float().mean()
    assert abs(seen - 0.6) < 0.02


def test_sampling_is_path_five_without_dropout():
    torch.manual_seed(0)
    model = WhereWhat(TINY)
    views, noise, paths = step_outputs(model)
    drawn = sample(model, views.batch.cond, noise.z_spatial, noise.z_appr)
    torch.testing.assert_close(drawn.theta, paths.where.theta)
    torch.testing.assert_close(drawn.compact, paths.what.newobj)
    torch.testing.assert_close(drawn.planes, paths.what.result.planes())


def test_where_ignores_z_appr():
    model = WhereWhat(TINY)
    noise, other = draw_noise(TINY, range(2)), draw_noise(TINY, range(2, 4))
    scene = make_batch().cond
    one = sample(model, scene, noise.z_spatial, noise.z_appr)
    two = sample(model, scene, noise.z_spatial, other.z_appr)
    assert torch.equal(one.theta, two.theta) and not torch.equal(one.compact, two.compact)


@pytest.mark.parametrize("term, networks", [("d_what", "d_what"), ("where_recon", "where_reconstructor")])
def test_non_finite_loss_is_named(term, networks):
    model = WhereWhat(TINY)
    optimisers = Optimisers(model)
    with torch.no_grad():
        next(model.networks[networks].parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteLossError, match=f"{term} turned nan") as caught:
        train_step(model, optimisers, make_batch(), draw_noise(TINY, range(2)), check=True)
    assert caught.value.nothing_updated == (term == "d_what")


def test_train_step_on_the_meta_device():
    """Nothing in a step is made on a device of its own choice, or looks at a value."""
    with torch.device("meta"):
        model = WhereWhat(TINY)
    losses = train_step(
        model, Optimisers(model), make_batch().to("meta"), draw_noise(TINY, range(2)).to("meta")
    )
    assert all(loss.device.type == "meta" and loss.shape == () for loss in losses.values())


def test_forward_on_fake_cuda_tensors():
    """Every tensor of the five paths and of the losses is on the GPU if weights and batch are."""
    with FakeTensorMode(allow_non_fake_inputs=False):
        with torch.device("cuda"):
            model = WhereWhat(TINY)
        batch, noise = make_batch().to("cuda"), draw_fake_noise("cuda")
        views = model.views(batch)
        paths = model(views, noise, 0)
        losses = model.d_losses(views, paths) | model.g_losses(views, noise, paths)
        drawn = sample(model, batch.cond, noise.z_spatial, noise.z_appr)
    values = [
        *vars(paths.where).values(),
        *vars(paths.what).values(),
        *losses.values(),
        *vars(drawn).values(),
    ]
    values += vars(paths.what.result.detach()).values()
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    assert len(tensors) > 30 and {tensor.device.type for tensor in tensors} == {"cuda"}


def draw_fake_noise(device: str) -> Noise:
    """Noise of the right shapes; numpy can't draw it in fake mode."""
    sizes = (TINY.z_dim_spatial, TINY.z_dim_appr)
    keeps = (TINY.embed_dim_small, TINY.embed_dim_big)
    update = UpdateNoise(
        *(torch.randn(2, size, 1, 1, device=device) for size in sizes),
        *(torch.ones(2, 2, size, 1, 1, device=device) for size in keeps),
    )
    return Noise(*(torch.randn(2, size, 1, 1, device=device) for size in sizes), (update, update))


def test_sampling_equals_the_plain_path():
    torch.manual_seed(0)
    model = WhereWhat(TINY)
    batch, noise = make_batch(), draw_noise(TINY, range(2))
    drawn = sample(model, batch.cond, noise.z_spatial, noise.z_appr)
    with torch.no_grad():
        plain = PlainWhereWhat(model).sample(batch.cond, noise.z_spatial, noise.z_appr)
    torch.testing.assert_close(drawn.planes, plain, rtol=1e-4, atol=1e-4)
