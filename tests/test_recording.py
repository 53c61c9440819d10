"""The captured step: that a step can be captured, and that its replay takes the same steps."""

import copy
import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from loader.noise import draw_noise
from model import WhereWhat
from tests.test_model import TINY, make_batch, with_places
from training import WARM_UP, GraphedStep, NonFiniteLossError, Optimisers, can_capture, train_step

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
