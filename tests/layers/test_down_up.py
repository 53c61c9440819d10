"""A layer against activation, convolution with bias, and instance norm: forward and every gradient."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from layers import down_up as layers
from layers.down_up import IDENTITY, DownBlock, UpBlock
from tests.canvases import gradients


@pytest.mark.parametrize("kind", [DownBlock, UpBlock])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("slope", [0.0, 0.2, IDENTITY])
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("at_a_time, few_pixels", [(1, 0), (2**20, 240)])  # as large maps, as small ones
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.float64, 1e-11)])
def test_layer_equals_its_three_operations(
    kind, layout, slope, norm, at_a_time, few_pixels, dtype, tolerance, monkeypatch
):
    monkeypatch.setattr(layers, "AT_A_TIME", at_a_time)
    monkeypatch.setattr(layers, "FEW_PIXELS", few_pixels)
    torch.manual_seed(0)
    layer = kind(5, 6, slope, norm).to(dtype).to(memory_format=layout)
    torch.nn.init.normal_(layer.bias)
    x = (torch.randn(3, 5, 12, 20, dtype=dtype) * 3 + 1).to(memory_format=layout).requires_grad_()
    leaves = [x, layer.weight, *([] if norm else [layer.bias])]
    fast = layer(x)
    convolve = F.conv2d if kind is DownBlock else F.conv_transpose2d
    slow = convolve(F.leaky_relu(x, slope), layer.weight, layer.bias, stride=2, padding=1)
    slow = F.instance_norm(slow) if norm else slow
    assert fast.shape == (3, 6, 6, 10) if kind is DownBlock else (3, 6, 24, 40)
    for ours, plain in zip([fast, *gradients(fast, *leaves)], [slow, *gradients(slow, *leaves)], strict=True):
        torch.testing.assert_close(ours, plain, rtol=tolerance, atol=tolerance)


def test_a_bias_that_a_norm_removes_is_not_trained():
    assert not DownBlock(2, 3, 0.2, norm=True).bias.requires_grad
    assert DownBlock(2, 3, 0.2, norm=False).bias.requires_grad


def test_only_the_gradients_asked_for_are_worked_out():
    """Of one graph one pass needs the weight's gradient and another does not: requires_grad tells."""
    layer = DownBlock(2, 3, 0.2, norm=True).to(memory_format=torch.channels_last)
    x = torch.randn(1, 2, 8, 8, requires_grad=True)
    y = layer(x).square().sum()
    flop = {}
    for needed in (True, False):
        layer.weight.requires_grad_(needed)
        with FlopCounterMode(display=False) as counter:
            y.backward(inputs=[x], retain_graph=True)
        flop[needed] = counter.get_total_flops()
    assert layer.weight.grad is None
    assert flop[False] == flop[True] / 2


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_instance_norm_takes_gradients_of_any_layout(count, layout):
    x = torch.randn(count, 6, 6, 10, dtype=torch.float64, requires_grad=True)
    of_y = torch.randn(count, 6, 6, 10, dtype=torch.float64).contiguous(memory_format=layout)
    variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
    slow = (x - mean) / (variance + 1e-5).sqrt()
    torch.testing.assert_close(layers.instance_norm(x), slow)
    ours, plain = (torch.autograd.grad(y, x, grad_outputs=of_y)[0] for y in (layers.instance_norm(x), slow))
    torch.testing.assert_close(ours, plain)
