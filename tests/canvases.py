"""Canvases to test with, their planes spelt out, and gradients to compare."""

import torch
import torch.nn.functional as F

from layers.canvas import Canvas

CHANNEL = 20


def make_canvas(dtype, *, mask=True, drawn=True, channel=CHANNEL) -> Canvas:
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
    weights = torch.randn(value.shape, dtype=value.dtype)  # the same in any memory format
    return list(torch.autograd.grad((value * weights).sum(), leaves, retain_graph=True))


TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
