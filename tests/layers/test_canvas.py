"""The operations on a canvas against writing its planes out: forward and every gradient."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

import layers.canvas as canvas_module
from layers.canvas import reconstruction_loss
from tests.canvases import TOLERANCE, by_hand, gradients, make_canvas


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("mask, channel", [(False, 20), (True, 20), (True, 0)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_reconstruction_loss(dtype, mask, channel, layout):
    canvas = make_canvas(dtype, mask=mask, drawn=False, channel=channel)
    features = torch.randn(2, 6, 12, 8, dtype=dtype).to(memory_format=layout).requires_grad_()
    weight = torch.randn(6, 31, 4, 4, dtype=dtype).to(memory_format=layout).requires_grad_()
    bias = torch.randn(31, dtype=dtype, requires_grad=True)
    leaves = [features, weight, bias, *([canvas.mask] if mask else [])]
    fast = reconstruction_loss(features, weight, bias, canvas)
    logits = F.conv_transpose2d(features.relu(), weight, bias, stride=2, padding=1)
    slow = F.l1_loss(logits.sigmoid(), by_hand(canvas))
    for ours, plain in zip([fast, *gradients(fast, *leaves)], [slow, *gradients(slow, *leaves)], strict=True):
        torch.testing.assert_close(ours, plain, rtol=TOLERANCE[dtype] * 10, atol=TOLERANCE[dtype])


def test_joined_canvases():
    """The planes of two batches one after the other."""
    one, other = make_canvas(torch.float64, drawn=False), make_canvas(torch.float64, drawn=False)
    other = dataclasses.replace(other, labels=5 + other.labels % 2)
    torch.testing.assert_close(one.joined(other).planes(), torch.cat([by_hand(one), by_hand(other)]))


@pytest.fixture(autouse=True)
def several_bands(monkeypatch):
    """Bands of 4 rows, so that small maps have inner and outer ones."""
    whole = canvas_module.bands
    monkeypatch.setattr(canvas_module, "bands", lambda count, height, width, device: [
        (image, slice(first, min(first + 4, height)))
        for image, rows in whole(count, height, width, device)
        for first in range(rows.start, rows.stop, 4)
    ])  # fmt: skip
