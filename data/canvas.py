"""A scene as the networks see it, and the two large operations that read one: first and last layer.

At the published sizes the 31 planes of one scene are 65 MB, and a step would hold a dozen such tensors. Here
planes exist only while an operation reads them.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from data.labels import NUM_CHANNELS

PLANES = NUM_CHANNELS + 1  # one-hot segmentation and edge map
BAND_NUMBERS = 2**21  # planes of one band on a CPU: 8 MB in float32


@dataclass(frozen=True)
class Canvas:
    """A batch of scenes, perhaps with a mask of the target class pasted on, as 31 planes to be."""

    labels: Tensor  # (B,h,w) uint8, channel 0..29
    edge: Tensor  # (B,1,h,w), 1 where the instance map has an edge
    channel: int  # target class
    mask: Tensor | None = None  # (B,1,h,w) in [0,1], put into the target channel and cut out of all else
    drawn: Tensor | None = None  # (B,1,h,w), added to the edge plane after the cut

    def planes(self) -> Tensor:
        """(B,31,h,w): (one-hot labels, edge) * (1 - mask), mask in the target channel, drawn on the edge."""
        planes = torch.zeros_like(self.edge).expand(-1, PLANES, -1, -1).contiguous()
        planes.scatter_(1, self.labels[:, None].long(), 1.0)
        planes[:, NUM_CHANNELS:] = self.edge
        if self.mask is not None:
            target = torch.zeros(1, PLANES, 1, 1, dtype=planes.dtype, device=planes.device)
            target[:, self.channel] = 1
            planes = torch.lerp(planes, target, self.mask)
        if self.drawn is not None:
            planes = torch.cat([planes[:, :NUM_CHANNELS], planes[:, NUM_CHANNELS:] + self.drawn], 1)
        return planes

    def paste(self, mask: Tensor) -> "Canvas":
        """This scene with a mask (B,1,h,w) on it."""
        return replace(self, mask=mask)

    def cut(self, images: slice, rows: slice) -> "Canvas":
        """Some rows of some images."""
        parts = {
            name: value[images, rows] if value.dim() == 3 else value[images, :, rows]
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **parts)

    def detach(self) -> "Canvas":
        cut = {name: value.detach() for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **cut)


def bands(count: int, height: int, width: int, device: torch.device) -> list[tuple[slice, slice]]:
    """Parts (images, rows of the half-size map) that a large layer goes through in.

    One part on a GPU. On a CPU some small images, or some rows of a large one, at a time, so that what a
    part makes stays in the cache.
    """
    if device.type != "cpu":
        return [(slice(0, count), slice(0, height))]
    fitting_rows = max(4, BAND_NUMBERS // (PLANES * 4 * width))
    images, rows = max(1, fitting_rows // height), min(height, fitting_rows)
    return [
        (slice(image, min(image + images, count)), slice(first, min(first + rows, height)))
        for image in range(0, count, images)
        for first in range(0, height, rows)
    ]


def working_dtype(x: Tensor) -> torch.dtype:
    """The type that convolutions of x work in: autocast's, where it is on."""
    device = x.device.type
    if device in ("cpu", "cuda") and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


class _SceneConv(torch.autograd.Function):
    """k4s2p1 convolution of a canvas; its planes are made anew in the backward pass instead of kept."""

    @staticmethod
    def forward(ctx, labels, edge, mask, drawn, channel, weight, bias):
        ctx.save_for_backward(labels, edge, mask, drawn, weight)
        ctx.channel, ctx.dtype = channel, working_dtype(weight)
        canvas = Canvas(labels, edge, channel, mask, drawn)
        count, height, width = labels.shape
        w, b = weight.to(ctx.dtype), bias.to(ctx.dtype)
        out = torch.empty(count, len(w), height // 2, width // 2, dtype=ctx.dtype, device=w.device)
        for images, rows in bands(count, height // 2, width // 2, labels.device):
            planes, _ = _padded_planes(canvas, images, rows, ctx.dtype)
            out[images, :, rows] = F.conv2d(planes, w, b, stride=2, padding=(0, 1))
        return out

    @staticmethod
    def backward(ctx, gradient):
        labels, edge, mask, drawn, weight = ctx.saved_tensors
        _, _, needs_mask, needs_drawn, _, needs_weight, needs_bias = ctx.needs_input_grad
        canvas = Canvas(labels, edge, ctx.channel, mask, drawn)
        grad_mask = torch.zeros_like(mask) if needs_mask else None
        grad_drawn = torch.zeros_like(drawn) if needs_drawn else None
        grad_weight = torch.zeros_like(weight) if needs_weight else None
        for images, rows in bands(len(gradient), *gradient.shape[2:], labels.device):
            planes, inner = _padded_planes(canvas, images, rows, ctx.dtype)
            grad_planes, grad_part, _ = torch.ops.aten.convolution_backward(
                gradient[images, :, rows].contiguous(),
                planes,
                weight.to(ctx.dtype),
                None,
                *([2, 2], [0, 1], [1, 1], False, [0, 0], 1),  # stride, padding, dilation, transposed, ...
                [needs_mask or needs_drawn, needs_weight, False],
            )
            if needs_weight:
                grad_weight += grad_part
            if needs_mask or needs_drawn:
                read = slice(max(0, 2 * rows.start - 1), 2 * rows.stop + 1)  # bands share two rows
                grad_planes = grad_planes[:, :, inner]
                of_edge = grad_planes[:, NUM_CHANNELS:]
            if needs_drawn:
                grad_drawn[images, :, read] += of_edge
            if needs_mask:  # planes = (1 - mask) * scene + mask * target
                of_scene = grad_planes.gather(1, labels[images, None, read].long())
                of_target = grad_planes[:, ctx.channel : ctx.channel + 1]
                grad_mask[images, :, read] += of_target - of_scene - of_edge * edge[images, :, read]
        grad_bias = gradient.sum((0, 2, 3), dtype=weight.dtype) if needs_bias else None
        return None, None, grad_mask, grad_drawn, None, grad_weight, grad_bias


def _padded_planes(canvas: Canvas, images: slice, rows: slice, dtype: torch.dtype) -> tuple[Tensor, slice]:
    """Planes that output `rows` of a k4s2p1 layer read, zero rows added where they lie outside the image.

    Returns them with the slice of their rows that are inside.
    """
    height = canvas.labels.shape[1]
    top, bottom = 2 * rows.start - 1, 2 * rows.stop + 1
    inside = slice(max(0, top), min(height, bottom))
    planes = canvas.cut(images, inside).planes().to(dtype)
    above, below = inside.start - top, bottom - inside.stop
    return F.pad(planes, (0, 0, above, below)), slice(above, above + planes.shape[2])


def scene_conv(canvas: Canvas, weight: Tensor, bias: Tensor) -> Tensor:
    """k4s2p1 convolution of canvas.planes() with weight (g,31,4,4) and bias (g,): (B,g,h/2,w/2)."""
    c = canvas
    return _SceneConv.apply(c.labels, c.edge, c.mask, c.drawn, c.channel, weight, bias)


class _ReconstructionLoss(torch.autograd.Function):
    """mean |sigmoid(conv_transpose(features) + bias) - canvas.planes()|, never keeping a tensor of that size.

    The loss is a leaf of the step: its gradient is known up to one factor as soon as it is, so the forward
    pass works it out on the spot, band by band on a CPU, and the backward pass only multiplies. Summing the
    bias's gradient here also spares it the rounding error of a convolution's own sum, which adds half a
    million numbers one by one.
    """

    @staticmethod
    def forward(ctx, features, weight, bias, labels, edge, mask, channel, with_gradient):
        dtype = working_dtype(weight)
        canvas = Canvas(labels, edge, channel, mask)
        w = weight.to(dtype)
        total = torch.zeros((), dtype=bias.dtype, device=bias.device)
        grad_features, grad_weight = torch.zeros_like(features), torch.zeros_like(weight)
        grad_bias = torch.zeros_like(bias)
        grad_mask = torch.zeros_like(mask) if mask is not None else None
        for images, rows in bands(len(features), *features.shape[2:], features.device):
            # Output rows 2a..2b of the layer read its input rows a-1..b; what else they give is cut off.
            read = slice(max(0, rows.start - 1), min(features.shape[2], rows.stop + 1))
            shown = slice(2 * (rows.start - read.start), 2 * (rows.stop - read.start))
            x = features[images, :, read].to(dtype)
            logits = F.conv_transpose2d(x, w, stride=2, padding=1)
            full = slice(2 * rows.start, 2 * rows.stop)
            part = canvas.cut(images, full)
            s = (logits[:, :, shown].to(bias.dtype) + bias[:, None, None]).sigmoid_()
            difference = s - part.planes()
            total += difference.abs().sum()
            if not with_gradient:
                continue
            sign = difference.sign_()
            if mask is not None:  # planes = (1 - mask) * scene + mask * target
                of_scene = sign.gather(1, part.labels[:, None].long()) + sign[:, NUM_CHANNELS:] * part.edge
                grad_mask[images, :, full] = of_scene - sign[:, channel : channel + 1]
            slope = sign.mul_(s).mul_(s.neg_().add_(1))
            grad_bias += slope.sum((0, 2, 3))
            logits.zero_()
            logits[:, :, shown] = slope
            grad_x, grad_w, _ = torch.ops.aten.convolution_backward(
                logits,
                x,
                w,
                None,
                *([2, 2], [1, 1], [1, 1], True, [0, 0], 1),  # stride, padding, dilation, transposed, ...
                [True, True, False],
            )
            grad_features[images, :, read] += grad_x
            grad_weight += grad_w
        size = len(labels) * PLANES * labels[0].numel()
        if with_gradient:
            ctx.save_for_backward(grad_features, grad_weight, grad_bias, grad_mask)
            ctx.size = size
        return total / size

    @staticmethod
    def backward(ctx, gradient):
        scale = gradient / ctx.size
        features, weight, bias, mask = (None if g is None else g * scale for g in ctx.saved_tensors)
        return features, weight, bias, None, None, mask, None, None


def reconstruction_loss(features: Tensor, weight: Tensor, bias: Tensor, canvas: Canvas) -> Tensor:
    """L1 between sigmoid(conv_transpose(features) + bias) and canvas.planes(); the mask keeps its gradient.

    features (B,g,h/2,w/2), weight (g,31,4,4) and bias (31,) of a k4s2p1 layer -> scalar mean.
    """
    c = canvas
    return _ReconstructionLoss.apply(
        features, weight, bias, c.labels, c.edge, c.mask, c.channel, torch.is_grad_enabled()
    )
