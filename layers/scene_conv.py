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

from data.labels import NUM_CHANNELS
from layers.canvas import PLANES, Canvas, convolution_backward, index_of, memory_format_of, working_dtype

MIXED = NUM_CHANNELS  # stands for a class where a window shows several, an edge, or part of a mask
MOVING = MIXED + 1  # likewise, where it shows the rim of a mask that has a gradient
PART = 4096  # mixed windows worked out at a time: 8 MB in float32
MAX_MIXED = 0.4  # fraction of mixed windows from which on making all planes is faster


def scene_conv(canvas: Canvas, weight: Tensor, bias: Tensor) -> Tensor:
    """k4s2p1 convolution of canvas.planes() with weight (g,31,4,4) and bias (g,): (B,g,h/2,w/2).

    On a CPU the gradient by the canvas's mask is left out where it comes to nothing: where the mask is 0 or 1
    and the same all around, no change of its place or of the shape behind it changes it.
    """
    c = canvas
    arguments = (c.labels, c.edge, c.mask, c.drawn, c.channel, weight, bias)
    if c.labels.device.type == "cpu":  # which way is up to the data
        classes = classes_of_windows(c, moving=c.mask is not None and c.mask.requires_grad)
        if (classes >= MIXED).sum() <= MAX_MIXED * len(classes):
            return _WindowConv.apply(*arguments, classes)
    return _PlaneConv.apply(*arguments)


class _PlaneConv(torch.autograd.Function):
    """All planes at once; they are made anew in the backward pass instead of kept."""

    @staticmethod
    def forward(ctx, labels, edge, mask, drawn, channel, weight, bias):
        ctx.save_for_backward(labels, edge, mask, drawn, weight, bias)
        ctx.channel, ctx.dtype, ctx.layout = channel, working_dtype(weight), memory_format_of(weight)
        planes = Canvas(labels, edge, channel, mask, drawn).planes(ctx.dtype)
        w, b = weight.to(ctx.dtype).contiguous(memory_format=ctx.layout), bias.to(ctx.dtype)
        return F.conv2d(planes.contiguous(memory_format=ctx.layout), w, b, stride=2, padding=1)

    @staticmethod
    def backward(ctx, gradient):
        labels, edge, mask, drawn, weight, bias = ctx.saved_tensors
        _, _, needs_mask, needs_drawn, *_ = ctx.needs_input_grad
        # As of now, see layers/down_up.py.
        needs_weight, needs_bias = weight.requires_grad, bias.requires_grad
        planes = Canvas(labels, edge, ctx.channel, mask, drawn).planes(ctx.dtype)
        given = (x.contiguous(memory_format=ctx.layout) for x in (gradient, planes, weight.to(ctx.dtype)))
        needed = needs_mask or needs_drawn, needs_weight
        of_planes, grad_weight = convolution_backward(*given, False, needed)
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
    """Windows of one class are looked up in a table, with a row a class; the others are worked out.

    In all digits, also where convolutions are in half precision: a class's rounding error would be the same
    all over its region.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx, labels, edge, mask, drawn, channel, weight, bias, classes):
        ctx.save_for_backward(labels, edge, mask, drawn, weight, bias, classes)
        ctx.channel = channel
        canvas = Canvas(labels, edge, channel, mask, drawn)
        count, height, width = labels.shape
        shape = (count, len(weight), height // 2, width // 2)
        out = torch.empty(shape, dtype=weight.dtype, memory_format=torch.channels_last)
        rows = out.permute(0, 2, 3, 1).view(-1, len(weight))  # (windows,g)
        table = F.pad(weight[:, :NUM_CHANNELS].sum((2, 3)) + bias[:, None], (0, 2)).T  # (32,g)
        torch.index_select(table.contiguous(), 0, classes, out=rows)
        w = _by_tap(weight)
        for windows in _parts(classes >= MIXED):
            rows[windows] = _Patches.of(canvas, windows).convolve(w) + bias
        return out.contiguous(memory_format=memory_format_of(weight))

    @staticmethod
    def backward(ctx, gradient):
        labels, edge, mask, drawn, weight, bias, classes = ctx.saved_tensors
        _, _, needs_mask, needs_drawn, *_ = ctx.needs_input_grad
        needs_weight, needs_bias = weight.requires_grad, bias.requires_grad
        canvas = Canvas(labels, edge, ctx.channel, mask, drawn)
        rows = gradient.permute(0, 2, 3, 1).reshape(-1, len(weight))
        grad_weight = grad_bias = grad_mask = grad_drawn = None
        if needs_weight or needs_bias:
            sums = _sums_by_class(classes, rows)  # (31,g)
            grad_bias = sums.sum(0) if needs_bias else None
        if needs_weight:
            grad_w = F.pad(sums[:NUM_CHANNELS], (0, 0, 0, 1)).repeat(16, 1, 1)  # (16,31,g)
            for windows in _parts(classes >= MIXED):
                _Patches.of(canvas, windows).add_weight_gradient(grad_w, rows[windows])
            grad_weight = grad_w.view(4, 4, PLANES, -1).permute(3, 2, 0, 1)
        if needs_mask or needs_drawn:
            count, height, width = labels.shape
            grad_mask, grad_drawn = torch.zeros(2, count * (height + 2) * (width + 2), dtype=rows.dtype)
            w = _by_tap(weight)
            for windows in _parts(classes == MOVING):
                patches = _Patches.of(canvas, windows)
                of_mask, of_drawn = patches.place_gradients(w, rows[windows])
                grad_mask.index_add_(0, patches.pixel.flatten(), of_mask.flatten())
                grad_drawn.index_add_(0, patches.pixel.flatten(), of_drawn.flatten())
            grad_mask, grad_drawn = (
                padded.view(count, 1, height + 2, width + 2)[..., 1:-1, 1:-1] if needed else None
                for padded, needed in ((grad_mask, needs_mask), (grad_drawn, needs_drawn))
            )
        return None, None, grad_mask, grad_drawn, None, grad_weight, grad_bias, None


def _by_tap(weight: Tensor) -> Tensor:
    """Weight (g,31,4,4) as (16,31,g)."""
    return weight.permute(2, 3, 1, 0).flatten(0, 1).contiguous()


def _parts(chosen: Tensor) -> tuple[Tensor, ...]:
    """Which windows are chosen, int64, in parts."""
    return chosen.nonzero()[:, 0].split(PART)


def classes_of_windows(canvas: Canvas, moving: bool) -> Tensor:
    """The class of each window, MIXED where it doesn't show one alone: (B * h/2 * w/2) int32.

    With `moving`, windows that show the rim of the mask or of the image are MOVING: elsewhere the mask's
    gradient is left out.
    """
    shown, odd = canvas.labels, canvas.edge[:, 0] != 0
    if canvas.mask is not None:
        mask = canvas.mask[:, 0]
        full = mask == 1
        shown = shown.masked_fill(full, canvas.channel)
        odd = (odd | (mask != 0)) & ~full
    if canvas.drawn is not None:
        odd |= canvas.drawn[:, 0] != 0
    shown = shown.masked_fill(odd, MIXED)
    if moving:
        rim = _rim(mask)
        if canvas.drawn is not None:  # an edge depends on its neighbours
            rim = _spread(rim)
        shown.masked_fill_(rim, MOVING)
    # What lies outside the image is mixed, and so is every window that reaches there; a rim may lie there.
    shown = F.pad(shown, (1, 1, 1, 1), value=MOVING if moving else MIXED)
    highest, lowest = _over_windows(shown, torch.maximum), _over_windows(shown, torch.minimum)
    return torch.where(highest == lowest, highest, highest.clamp(min=MIXED)).flatten().int()


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
    """What some 4x4 windows of a canvas show, pixel by pixel: (n,16) each."""

    pixel: Tensor  # index in the maps, flattened after padding by a pixel, int64
    row: Tensor  # of a weight by tap, flattened (16*31,g): the tap's and the label's, int64
    keep: Tensor  # what the mask leaves of label and edge; 0 outside the image
    edge: Tensor
    mask: Tensor
    drawn: Tensor
    channel: int

    @classmethod
    def of(cls, canvas: Canvas, windows: Tensor) -> "_Patches":
        count, height, width = canvas.labels.shape
        image, place = windows // (height // 2 * (width // 2)), windows % (height // 2 * (width // 2))
        top, left = place // (width // 2) * 2, place % (width // 2) * 2
        corner = (image * (height + 2) + top) * (width + 2) + left
        step = torch.arange(4)
        pixel = corner[:, None] + (step[:, None] * (width + 2) + step).flatten()

        def seen(plane: Tensor | None, outside: int = 0) -> Tensor:
            if plane is None:
                return canvas.edge.new_zeros(()).expand(pixel.shape)
            return F.pad(plane.view(count, height, width), (1, 1, 1, 1), value=outside).take(pixel)

        label = seen(canvas.labels, NUM_CHANNELS).long()
        mask = seen(canvas.mask)
        keep = (label != NUM_CHANNELS).to(mask.dtype) - mask
        row = torch.arange(16) * PLANES + label
        return cls(pixel, row, keep, seen(canvas.edge), mask, seen(canvas.drawn), canvas.channel)

    def convolve(self, w: Tensor) -> Tensor:
        """Products (n,g) with a weight by tap (16,31,g)."""
        of_labels = F.embedding_bag(self.row, w.flatten(0, 1), mode="sum", per_sample_weights=self.keep)
        return of_labels + self.mask @ w[:, self.channel] + self._edge_plane() @ w[:, -1]

    def add_weight_gradient(self, total: Tensor, gradient: Tensor) -> None:
        """Add the gradient by the weight to total (16,31,g), from the one by the products (n,g)."""
        one_hot = torch.zeros(len(self.row), 16 * PLANES, dtype=gradient.dtype).scatter_(
            1, self.row, self.keep
        )
        of_labels = (gradient.T @ one_hot).T.view(total.shape)
        total[:, :NUM_CHANNELS] += of_labels[:, :NUM_CHANNELS]
        total[:, self.channel] += self.mask.T @ gradient
        total[:, -1] += self._edge_plane().T @ gradient

    def place_gradients(self, w: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients by mask and by drawn (n,16), from the one by the products (n,g)."""
        of_label = (F.embedding(self.row, w.flatten(0, 1)) @ gradient[..., None])[..., 0]
        of_edge = gradient @ w[:, -1].T
        return _of_mask(of_label, gradient @ w[:, self.channel].T, of_edge, self.edge), of_edge

    def _edge_plane(self) -> Tensor:
        return self.edge * self.keep + self.drawn


def _sums_by_class(classes: Tensor, rows: Tensor) -> Tensor:
    """Sums (32,g) of the rows (windows,g) of each class: a product with one-hot rows.

    In many short products, for the digits' sake: torch adds the numbers of one product one by one.
    """
    short, kinds = math.gcd(len(rows), 1024), MOVING + 1
    one_hot = torch.zeros(len(rows), kinds, dtype=rows.dtype)
    one_hot.put_(index_of(classes.long(), kinds), torch.ones_like(classes, dtype=rows.dtype))
    return (one_hot.view(-1, short, kinds).transpose(1, 2) @ rows.view(-1, short, rows.shape[1])).sum(0)
