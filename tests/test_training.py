"""The training step captured and replayed, in bf16, in either memory format: the same by other ways."""

import copy
import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from loader.noise import draw_noise
from model import WhereWhat
from tests.test_density_model import with_places
from tests.test_model import TINY, double, make_batch
from tests.test_parity import FILES, biases_before_norm, build, load, read_batch, read_noise
from training import WARM_UP, GraphedStep, NonFiniteLossError, Optimisers, can_capture, train_step

LOSSES = WhereWhat(TINY).loss_names
PLACES = dataclasses.replace(TINY, where="distribution", mask_loss="bce")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a GPU")
both_kinds = pytest.mark.parametrize("options", [TINY, PLACES], ids=["published", "distribution"])


class HostLooks(TorchDispatchMode):
    """Collects operations by which the host would wait for a GPU, or send it numbers of its own."""

    WAITING = ("nonzero", "_local_scalar_dense", "masked_select", "unique", "repeat_interleave.Tensor")

    def __init__(self, device: str):
        super().__init__()
        self.device, self.found = device, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        devices = {tensor.device.type for tensor in args if isinstance(tensor, torch.Tensor)}
        waits = any(waiting in name for waiting in self.WAITING)
        if "index.Tensor" in name:
            indices = [index for index in args[1] if index is not None]
            waits |= any(index.dtype == torch.bool for index in indices)
            devices |= {index.device.type for index in indices}
        target = (kwargs or {}).get("device") or self.device
        sends = "_to_copy" in name and torch.device(target).type != args[0].device.type
        brings = len(devices) > 1 and not any(t.dim() == 0 for t in args if isinstance(t, torch.Tensor))
        if (waits and self.device in devices) or sends or brings:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@both_kinds
def test_the_host_never_looks_at_a_step(options):
    """On the meta device, where numbers that the host brings along show as those of another device."""
    with torch.device("meta"):
        model = WhereWhat(options)
    batch, noise = with_places(make_batch()).to("meta"), draw_noise(options, range(2)).to("meta")
    with HostLooks("meta") as looks:
        train_step(model, Optimisers(model), batch, noise)
    assert not looks.found


def test_a_look_is_found():
    with HostLooks("cpu") as looks:
        torch.ones(3)[torch.ones(3) > 0]
        torch.ones(1).item()
    assert len(looks.found) == 2


def test_who_captures():
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert can_capture(TINY, cuda, 1)
    assert not can_capture(TINY, cpu, 1) and not can_capture(TINY, cuda, 2)
    assert not can_capture(dataclasses.replace(TINY, cuda_graph="never"), cuda, 1)


def start(options, captured: bool) -> tuple[WhereWhat, Optimisers]:
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = WhereWhat(options)
    return model, Optimisers(model, captured=captured)


def batch_and_noise(options, number: int):
    batch = with_places(make_batch(seed=number)).to("cuda")
    return batch, draw_noise(options, range(2 * number, 2 * number + 2)).to("cuda")


@needs_gpu
@both_kinds
def test_a_replay_is_the_step(options):
    """Over changing batches, rates and a resume in between."""
    torch.backends.cudnn.benchmark = False
    model, optimisers = start(options, captured=False)
    other, others = start(options, captured=True)
    step = GraphedStep(other, others)
    for number in range(WARM_UP + 5):
        if number == WARM_UP + 3:
            saved = copy.deepcopy((other.networks.state_dict(), others.state_dict()))
            other, others = start(options, captured=True)
            other.networks.load_state_dict(saved[0])
            others.load_state_dict(saved[1])
            step = GraphedStep(other, others)
        for one in (optimisers, others):
            one.scale_rates(1 - 0.1 * number)
        losses = train_step(model, optimisers, *batch_and_noise(options, number))
        replayed = step(*batch_and_noise(options, number))
        assert losses.keys() == replayed.keys()
        for name, value in losses.items():
            torch.testing.assert_close(replayed[name], value, rtol=2e-3, atol=2e-4, msg=name)
    assert len({value.item() for value in replayed.values()}) > 5


@needs_gpu
def test_a_replay_finds_what_is_not_finite():
    model, optimisers = start(TINY, captured=True)
    step = GraphedStep(model, optimisers)
    for number in range(WARM_UP + 2):
        step(*batch_and_noise(TINY, number))
    batch, noise = batch_and_noise(TINY, 0)
    noise.z_appr.fill_(float("nan"))
    with pytest.raises(NonFiniteLossError):
        step(batch, noise, check=True)


# ---- bf16 and memory formats --------------------------------------------------------------------


class RoundedProducts(TorchDispatchMode):
    """float32 in which factors and results of convolutions and products have as few digits as in bf16.

    They are rounded on a grid of their own each, shifted at random, so that every seed is another draw of
    what such rounding does. D object and the STN, which autocast leaves alone, are left alone here too.
    """

    PRODUCTS = (torch.ops.aten.convolution, torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm)

    def __init__(self, model: WhereWhat, seed: int):
        super().__init__()
        self.generator, self.exact = torch.Generator().manual_seed(seed), 0
        for name in ("d_obj", "stn"):
            model.networks[name].register_forward_pre_hook(lambda *_: self.enter_exact(1))
            model.networks[name].register_forward_hook(lambda *_: self.enter_exact(-1))

    def enter_exact(self, change: int) -> None:
        self.exact += change

    def rounded(self, value):
        if not isinstance(value, torch.Tensor):
            return value
        shift = 2 ** torch.rand(1, generator=self.generator).item()
        return (value * shift).bfloat16().float() / shift

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if self.exact or function.overloadpacket not in self.PRODUCTS:
            return function(*args, **(kwargs or {}))
        return self.rounded(function(*map(self.rounded, args), **(kwargs or {})))


@torch.no_grad()
def losses_at(model: WhereWhat, batch, noise) -> dict[str, float]:
    """The losses of the first half before any update: after one Adam's step is a gradient's sign."""
    views = model.views(batch)
    paths = model(views, noise, 0)
    found = model.d_losses(views, paths) | model.g_losses(views, noise, paths)
    assert set(found) == set(LOSSES)
    return {name: value.item() for name, value in found.items() if name != "g_total"}


def copied(model: WhereWhat, **options) -> WhereWhat:
    other = WhereWhat(dataclasses.replace(model.options, **options))
    other.load_state_dict(model.state_dict())
    return other


def losses_off(model: WhereWhat, batch, noise, draws: int) -> dict[str, tuple[float, float, float]]:
    """Of each loss: its value in float32, how far off bf16 is, how far off rounded products are at most."""
    exact = losses_at(model, batch, noise)
    short = losses_at(copied(model, precision="bf16"), batch, noise)
    rounded = []
    for seed in range(draws):
        with RoundedProducts(other := copied(model), seed):
            rounded.append(losses_at(other, batch, noise))
    return {
        name: (value, short[name] - value, max(abs(one[name] - value) for one in rounded))
        for name, value in exact.items()
    }


def allowed(value: float, rounding: float) -> float:
    """How far off bf16 may be: thrice the most that rounded products were seen to do, since sums, norms and
    activations between them are rounded too; and the digits that float32 and bf16 print alike."""
    return 3 * rounding + 1e-3 * abs(value) + 1e-4


@pytest.mark.slow
def test_bf16_losses_are_off_by_its_rounding_alone_at_random_starts():
    starts = []
    for seed in range(8):
        torch.manual_seed(seed)
        batch, noise = make_batch(2), draw_noise(TINY, [2 * seed, 2 * seed + 1])
        starts.append(losses_off(WhereWhat(TINY), batch, noise, draws=3))
    assert any(off for start in starts for _, off, _ in start.values())
    for name in starts[0]:
        rounding = max(start[name][2] for start in starts)
        value = sum(abs(start[name][0]) for start in starts) / len(starts)
        if value > 0.1:
            assert allowed(value, rounding) < 0.03 * value, name  # so that 3% more or less would be seen
        for value, off, _ in (start[name] for start in starts):
            assert abs(off) <= allowed(value, rounding), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_bf16_losses_are_off_by_its_rounding_alone_on_the_parity_inputs(path):
    model = build(load(path))
    batch, noise = read_batch(load(path), 0), read_noise(load(path), 0, model)
    for name, (value, off, rounding) in losses_off(model, batch, noise, draws=4).items():
        assert abs(off) <= allowed(value, rounding), name


@torch.no_grad()
def test_bf16_leaves_d_object_its_digits():
    torch.manual_seed(0)
    model = WhereWhat(dataclasses.replace(TINY, precision="bf16"))
    d_obj, d_what = model.networks["d_obj"], model.networks["d_what"]
    masks = torch.rand(4, 1, *model.maps.compact)
    expected = d_obj(masks)
    with model.autocast():
        assert torch.equal(d_obj(masks), expected)
        assert d_what[1](torch.rand(1, TINY.df_dim, 8, 8)).dtype == torch.bfloat16


def losses_of(options, batch, noise) -> dict[str, float]:
    torch.manual_seed(0)
    model = WhereWhat(options)
    return {name: value.item() for name, value in train_step(model, Optimisers(model), batch, noise).items()}


def assert_same_weights(state: dict, model: WhereWhat, rtol: float, atol: float) -> None:
    """All parameters but those that instance norm removes, whose gradient is rounding noise."""
    noise = biases_before_norm(model)
    for name, value in model.networks.state_dict().items():
        if name not in noise:
            torch.testing.assert_close(state[name], value, rtol=rtol, atol=atol, msg=name)


def test_channels_last_changes_nothing():
    batch, noise = make_batch(), draw_noise(TINY, range(2))
    plain = losses_of(dataclasses.replace(TINY, channels_last=False), batch, noise)
    other = losses_of(TINY, batch, noise)
    assert TINY.channels_last
    for name in LOSSES:
        assert other[name] == pytest.approx(plain[name], rel=1e-4, abs=1e-5), name


def test_a_run_may_go_on_in_the_other_memory_format():
    """What Adam remembers has to be turned over with the weights."""
    torch.set_default_dtype(torch.float64)
    try:
        batch, noise = make_batch(), double(draw_noise(TINY, range(2)))
        batch = dataclasses.replace(batch, compact=batch.compact.double(), theta=batch.theta.double())
        torch.manual_seed(0)
        models = [WhereWhat(dataclasses.replace(TINY, channels_last=last)) for last in (True, False)]
        optimisers = [Optimisers(model) for model in models]
        train_step(models[0], optimisers[0], batch, noise)
        models[1].load_state_dict(models[0].state_dict())
        optimisers[1].load_state_dict(copy.deepcopy(optimisers[0].state_dict()))
        for model, optimiser in zip(models, optimisers, strict=True):
            train_step(model, optimiser, batch, noise)
        assert_same_weights(models[0].networks.state_dict(), models[1], rtol=1e-6, atol=1e-8)
    finally:
        torch.set_default_dtype(torch.float32)
