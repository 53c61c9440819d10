"""The operations on a canvas against writing its planes out: forward and every gradient."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

import data.canvas as canvas_module
from data.canvas import Canvas, reconstruction_loss, scene_conv

CHANNEL = 20


def make_canvas(dtype, mask=True, drawn=True, channel=CHANNEL) -> Canvas:
    torch.manual_seed(0)
    labels = torch.randint(0, 30, (2, 24, 16), dtype=torch.uint8)
    edge = (torch.rand(2, 1, 24, 16) > 0.7).to(dtype)
    leaves = [
        torch.rand(2, 1, 24, 16).to(dtype).requires_grad_() if there else None for there in (mask, drawn)
    ]
    return Canvas(labels, edge, channel, *leaves)


def by_hand(canvas: Canvas) -> torch.Tensor:
    """The planes, spelt out."""
    seg = F.one_hot(canvas.labels.long(), 30).permute(0, 3, 1, 2).to(canvas.edge.dtype)
    mask = torch.zeros_like(canvas.edge) if canvas.mask is None else canvas.mask
    drawn = torch.zeros_like(canvas.edge) if canvas.drawn is None else canvas.drawn
    added = F.one_hot(torch.tensor(canvas.channel), 30)[None, :, None, None] * mask
    return torch.cat([seg * (1 - mask) + added, canvas.edge * (1 - mask) + drawn], 1)


def gradients(value: torch.Tensor, *leaves: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return list(torch.autograd.grad((value * torch.randn_like(value)).sum(), leaves))


TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("mask, drawn", [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("present", [range(30), (3, 7, CHANNEL)])
def test_scene_convolution(dtype, mask, drawn, layout, present):
    canvas = make_canvas(dtype, mask, drawn)
    if len(present) < 30:
        canvas = dataclasses.replace(canvas, labels=3 + 4 * (canvas.labels % 2), present=present)
    weight = torch.randn(5, 31, 4, 4, dtype=dtype).to(memory_format=layout).requires_grad_()
    bias = torch.randn(5, dtype=dtype, requires_grad=True)
    leaves = [weight, bias, *(t for t in (canvas.mask, canvas.drawn) if t is not None)]
    fast = scene_conv(canvas, weight, bias)
    assert fast.is_contiguous(memory_format=layout)
    slow = F.conv2d(by_hand(canvas), weight, bias, stride=2, padding=1)
    torch.testing.assert_close(canvas.planes(), by_hand(canvas))
    for ours, plain in zip([fast, *gradients(fast, *leaves)], [slow, *gradients(slow, *leaves)], strict=True):
        torch.testing.assert_close(ours, plain, rtol=TOLERANCE[dtype] * 10, atol=TOLERANCE[dtype] * 10)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("mask, channel", [(False, 20), (True, 20), (True, 0)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_reconstruction_loss(dtype, mask, channel, layout):
    canvas = make_canvas(dtype, mask, drawn=False, channel=channel)
    features = torch.randn(2, 6, 12, 8, dtype=dtype).to(memory_format=layout).requires_grad_()
    weight = torch.randn(6, 31, 4, 4, dtype=dtype).to(memory_format=layout).requires_grad_()
    bias = torch.randn(31, dtype=dtype, requires_grad=True)
    leaves = [features, weight, bias, *([canvas.mask] if mask else [])]
    fast = reconstruction_loss(features, weight, bias, canvas)
    logits = F.conv_transpose2d(features, weight, bias, stride=2, padding=1)
    slow = F.l1_loss(logits.sigmoid(), by_hand(canvas))
    for ours, plain in zip([fast, *gradients(fast, *leaves)], [slow, *gradients(slow, *leaves)], strict=True):
        torch.testing.assert_close(ours, plain, rtol=TOLERANCE[dtype] * 10, atol=TOLERANCE[dtype])


def test_joined_canvases():
    """The planes of two batches one after the other, and all channels of either."""
    one, other = make_canvas(torch.float64, drawn=False), make_canvas(torch.float64, drawn=False)
    one = dataclasses.replace(one, labels=one.labels % 3, present=(0, 1, 2, CHANNEL))
    other = dataclasses.replace(other, labels=5 + other.labels % 2, present=(5, 6, CHANNEL))
    both = one.joined(other)
    assert both.present == (0, 1, 2, 5, 6, CHANNEL)
    torch.testing.assert_close(both.planes(), torch.cat([by_hand(one), by_hand(other)]))


def test_only_the_gradients_asked_for_are_worked_out():
    """Weights of a discriminator cost nothing while G learns: needs_input_grad follows `inputs`."""
    canvas = make_canvas(torch.float32)
    weight, bias = torch.randn(5, 31, 4, 4, requires_grad=True), torch.zeros(5, requires_grad=True)
    scene_conv(canvas, weight, bias).sum().backward(inputs=[canvas.mask])
    assert canvas.mask.grad is not None and weight.grad is None and bias.grad is None


@pytest.fixture(autouse=True)
def several_bands(monkeypatch):
    """Bands of 4 rows, so that small maps have inner and outer ones."""
    whole = canvas_module.bands
    monkeypatch.setattr(canvas_module, "bands", lambda count, height, width, device: [
        (image, slice(first, min(first + 4, height)))
        for image, rows in whole(count, height, width, device)
        for first in range(rows.start, rows.stop, 4)
    ])  # fmt: skip
