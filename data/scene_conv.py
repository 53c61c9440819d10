"""The first layer of a network that reads scenes: a k4s2p1 convolution of a canvas's 31 planes.

At the published sizes the planes of one scene are 65 MB, almost all zeros. On a GPU they are made where the
layer reads them and not kept. On a CPU they are not made at all: nine out of ten of a layer's 4x4 windows
show one class and no edge, and all such windows of one class have one result.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from data.canvas import PLANES, Canvas, index_of, memory_format_of, working_dtype
from data.labels import NUM_CHANNELS

MIXED = NUM_CHANNELS  # stands for a class where a window shows several, an edge, or part of a mask
PART = 4096  # mixed windows spelt out at a time: 8 MB in float32
MOST_MIXED = 0.4  # share of mixed windows from which on making all planes is faster


def scene_conv(canvas: Canvas, weight: Tensor, bias: Tensor) -> Tensor:
    """k4s2p1 convolution of canvas.planes() with weight (g,31,4,4) and bias (g,): (B,g,h/2,w/2).

    On a CPU the gradient by the canvas's mask is left out where it comes to nothing: where the mask is 0 or 1
    and the same all around, no change of its place or of the shape behind it changes it.
    """
    c = canvas
    arguments = (c.labels, c.edge, c.mask, c.drawn, c.channel, weight, bias)
    if c.labels.device.type == "cpu" and not torch.compiler.is_compiling():
        classes = classes_of_windows(c, moving=c.mask is not None and c.mask.requires_grad)
        if (classes == MIXED).sum() <= MOST_MIXED * len(classes):
            return _WindowConv.apply(*arguments, classes)
    return _PlaneConv.apply(*arguments)


class _PlaneConv(torch.autograd.Function):
    """All planes at once; they are made anew in the backward pass instead of kept."""

    @staticmethod
    def forward(ctx, labels, edge, mask, drawn, channel, weight, bias):
        ctx.save_for_backward(labels, edge, mask, drawn, weight)
        ctx.channel, ctx.dtype, ctx.layout = channel, working_dtype(weight), memory_format_of(weight)
        planes = Canvas(labels, edge, channel, mask, drawn).planes(ctx.dtype)
        w, b = weight.to(ctx.dtype).contiguous(memory_format=ctx.layout), bias.to(ctx.dtype)
        return F.conv2d(planes.contiguous(memory_format=ctx.layout), w, b, stride=2, padding=1)

    @staticmethod
    def backward(ctx, gradient):
        labels, edge, mask, drawn, weight = ctx.saved_tensors
        _, _, needs_mask, needs_drawn, _, needs_weight, needs_bias = ctx.needs_input_grad
        planes = Canvas(labels, edge, ctx.channel, mask, drawn).planes(ctx.dtype)
        of_planes, grad_weight, _ = torch.ops.aten.convolution_backward(
            gradient.contiguous(memory_format=ctx.layout),
            planes.contiguous(memory_format=ctx.layout),
            weight.to(ctx.dtype).contiguous(memory_format=ctx.layout),
            None,
            *([2, 2], [1, 1], [1, 1], False, [0, 0], 1),  # stride, padding, dilation, transposed, ...
            [needs_mask or needs_drawn, needs_weight, False],
        )
        grad_mask = grad_drawn = None
        if needs_drawn:
            grad_drawn = of_planes[:, -1:].to(drawn.dtype)
        if needs_mask:
            index = index_of(labels.long(), PLANES)
            of_scene = of_planes.permute(0, 2, 3, 1).take(index)
            grad_mask = _of_mask(of_scene, of_planes[:, ctx.channel], of_planes[:, -1], edge[:, 0])
            grad_mask = grad_mask[:, None].to(mask.dtype)
        grad_weight = grad_weight.to(weight.dtype) if needs_weight else None
        grad_bias = gradient.sum((0, 2, 3), dtype=weight.dtype) if needs_bias else None
        return None, None, grad_mask, grad_drawn, None, grad_weight, grad_bias


def _of_mask(of_scene: Tensor, of_target: Tensor, of_edge: Tensor, edge: Tensor) -> Tensor:
    """Derivative by the mask from those by planes: planes = (1 - mask) * scene + mask * target."""
    return of_target - of_scene - of_edge * edge


class _WindowConv(torch.autograd.Function):
    """Windows of one class are looked up in a table, with a row a class; the others are matrix products.

    The result has all digits, also where products are in half precision: a class's rounding error would be
    the same all over its region.
    """

    @staticmethod
    def forward(ctx, labels, edge, mask, drawn, channel, weight, bias, classes):
        ctx.save_for_backward(labels, edge, mask, drawn, weight, classes)
        ctx.channel, ctx.dtype, ctx.layout = channel, working_dtype(weight), memory_format_of(weight)
        canvas = Canvas(labels, edge, channel, mask, drawn)
        table = F.pad(weight[:, :NUM_CHANNELS].sum((2, 3)) + bias[:, None], (0, 1)).T  # (31,g)
        count, height, width = labels.shape
        shape = (count, len(weight), height // 2, width // 2)
        out = torch.empty(shape, dtype=weight.dtype, memory_format=torch.channels_last)
        rows = out.permute(0, 2, 3, 1).view(-1, len(weight))
        torch.index_select(table.contiguous(), 0, classes, out=rows)
        w, b = _rows(weight).to(ctx.dtype), bias.to(ctx.dtype)
        for part in _mixed(classes):
            patches = _Patches.of(canvas, part).planes(ctx.dtype)
            rows[part] = torch.addmm(b, patches.flatten(1), w).to(rows.dtype)
        return out.contiguous(memory_format=ctx.layout)

    @staticmethod
    def backward(ctx, gradient):
        labels, edge, mask, drawn, weight, classes = ctx.saved_tensors
        _, _, needs_mask, needs_drawn, _, needs_weight, needs_bias, _ = ctx.needs_input_grad
        canvas = Canvas(labels, edge, ctx.channel, mask, drawn)
        rows = gradient.permute(0, 2, 3, 1).reshape(-1, len(weight)).to(ctx.dtype)  # (windows,g)
        w = _rows(weight).to(ctx.dtype)
        grad_w = torch.zeros_like(w.T, dtype=weight.dtype)  # (g,496)
        grad_mask = torch.zeros_like(mask) if needs_mask else None
        grad_drawn = torch.zeros_like(drawn) if needs_drawn else None
        for part in _mixed(classes):
            patches, of_part = _Patches.of(canvas, part), rows[part]
            if needs_weight:
                grad_w += of_part.T @ patches.planes(ctx.dtype).flatten(1)
            if needs_mask or needs_drawn:
                of_planes = (of_part @ w.T).view(len(part), 16, PLANES)
                of_edge = of_planes[..., -1]
            if needs_drawn:
                patches.add_to(grad_drawn, of_edge)
            if needs_mask:
                of_scene = of_planes.take(index_of(patches.label, PLANES))
                patches.add_to(
                    grad_mask, _of_mask(of_scene, of_planes[..., ctx.channel], of_edge, patches.edge)
                )
        grad_weight = grad_bias = None
        if needs_weight or needs_bias:
            sums = _sums_by_class(classes, rows, weight.dtype)  # (31,g)
            grad_bias = sums.sum(0) if needs_bias else None
        if needs_weight:
            grad_w.view(-1, 16, PLANES)[..., :NUM_CHANNELS] += sums[:NUM_CHANNELS].T[:, None]
            grad_weight = grad_w.view(-1, 4, 4, PLANES).permute(0, 3, 1, 2)
        return None, None, grad_mask, grad_drawn, None, grad_weight, grad_bias, None


def _rows(weight: Tensor) -> Tensor:
    """Weight (g,31,4,4) as a matrix (16*31,g) of which the flattened planes of a window are the factor."""
    return weight.permute(2, 3, 1, 0).reshape(-1, len(weight))


def _mixed(classes: Tensor) -> tuple[Tensor, ...]:
    """Which windows are mixed, int64, in parts."""
    return (classes == MIXED).nonzero()[:, 0].split(PART)


def classes_of_windows(canvas: Canvas, moving: bool) -> Tensor:
    """The class of each window, MIXED where it doesn't show one alone: (B * h/2 * w/2) int32.

    With `moving`, windows at the rim of the mask count as mixed too: elsewhere its gradient is left out.
    """
    shown, odd = canvas.labels, canvas.edge[:, 0] != 0
    if canvas.mask is not None:
        mask = canvas.mask[:, 0]
        full = mask == 1
        shown = shown.masked_fill(full, canvas.channel)
        odd = (odd | (mask != 0)) & ~full
        if moving:
            odd |= _rim(mask)
    if canvas.drawn is not None:
        odd |= canvas.drawn[:, 0] != 0
        if moving:  # an edge depends on its neighbours
            odd |= _spread(_rim(mask))
    # What lies outside the image is mixed, and so is every window that reaches there.
    shown = F.pad(shown.masked_fill(odd, MIXED), (1, 1, 1, 1), value=MIXED)
    highest, lowest = _over_windows(shown, torch.maximum), _over_windows(shown, torch.minimum)
    return torch.where(highest == lowest, highest, MIXED).flatten().int()


def _over_windows(x: Tensor, pick: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """What `pick` leaves of each 4x4 window, in steps of 2: (B,h+2,w+2) -> (B,h/2,w/2)."""
    x = pick(pick(x[:, :-3:2], x[:, 1:-2:2]), pick(x[:, 2:-1:2], x[:, 3::2]))
    return pick(pick(x[..., :-3:2], x[..., 1:-2:2]), pick(x[..., 2:-1:2], x[..., 3::2]))


def _rim(mask: Tensor) -> Tensor:
    """Where a mask (B,h,w) differs from one of its four neighbours; bool."""
    rim = torch.zeros_like(mask, dtype=torch.bool)
    for axis, size in ((1, mask.shape[1] - 1), (2, mask.shape[2] - 1)):
        step = mask.narrow(axis, 1, size) != mask.narrow(axis, 0, size)
        rim.narrow(axis, 1, size).logical_or_(step)
        rim.narrow(axis, 0, size).logical_or_(step)
    return rim


def _spread(x: Tensor) -> Tensor:
    """x (B,h,w) bool, or one of the four neighbours."""
    spread = x.clone()
    for axis, size in ((1, x.shape[1] - 1), (2, x.shape[2] - 1)):
        spread.narrow(axis, 1, size).logical_or_(x.narrow(axis, 0, size))
        spread.narrow(axis, 0, size).logical_or_(x.narrow(axis, 1, size))
    return spread


@dataclass(frozen=True)
class _Patches:
    """What some 4x4 windows of a canvas show, pixel by pixel: (n,16) each, 0 outside the image."""

    pixel: Tensor  # index in (B,h,w), int64
    inside: Tensor  # 1 or 0
    label: Tensor  # int64
    edge: Tensor
    mask: Tensor
    drawn: Tensor
    channel: int

    @classmethod
    def of(cls, canvas: Canvas, windows: Tensor) -> "_Patches":
        _, height, width = canvas.labels.shape
        image, place = windows // (height // 2 * (width // 2)), windows % (height // 2 * (width // 2))
        steps = torch.arange(-1, 3)
        row = (place // (width // 2) * 2)[:, None] + steps
        column = (place % (width // 2) * 2)[:, None] + steps
        inside = ((row >= 0) & (row < height))[:, :, None] & ((column >= 0) & (column < width))[:, None]
        row, column = row.clamp(0, height - 1), column.clamp(0, width - 1)
        pixel = ((image[:, None] * height + row) * width)[:, :, None] + column[:, None]
        pixel, inside = pixel.flatten(1), inside.flatten(1).to(canvas.edge.dtype)

        def values(plane: Tensor | None) -> Tensor:
            return torch.zeros_like(inside) if plane is None else plane.take(pixel) * inside

        return cls(
            *(pixel, inside, canvas.labels.take(pixel).long()),
            *(values(canvas.edge), values(canvas.mask), values(canvas.drawn), canvas.channel),
        )

    def planes(self, dtype: torch.dtype) -> Tensor:
        """As canvas.planes(), (n,16,31)."""
        keep = self.inside - self.mask
        planes = torch.zeros((*self.pixel.shape, PLANES), dtype=dtype)
        planes.put_(index_of(self.label, PLANES), keep.to(dtype))
        planes[..., self.channel] += self.mask
        planes[..., -1] = self.edge * keep + self.drawn
        return planes

    def add_to(self, total: Tensor, values: Tensor) -> None:
        """Add values (n,16) to the pixels of total (B,1,h,w) that they belong to."""
        values = (values * self.inside).to(total.dtype)
        total.view(-1).index_add_(0, self.pixel.flatten(), values.flatten())


def _sums_by_class(classes: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Sums (31,g) of the rows (windows,g) of each class: a product with one-hot rows.

    In many short products, for the digits' sake: torch adds the numbers of one product one by one.
    """
    short = math.gcd(len(rows), 1024)
    one_hot = torch.zeros(len(rows), PLANES, dtype=rows.dtype)
    one_hot.put_(index_of(classes.long(), PLANES), torch.ones_like(classes, dtype=rows.dtype))
    products = one_hot.view(-1, short, PLANES).transpose(1, 2) @ rows.view(-1, short, rows.shape[1])
    return products.sum(0, dtype=dtype)
