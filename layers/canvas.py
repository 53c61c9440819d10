"""A scene as the networks see it, and the two large operations that read one: first and last layer.

At the published sizes the 31 planes of one scene are 65 MB, and a step would hold a dozen such tensors. Here
planes exist only while an operation reads them.
"""

from collections.abc import Callable, Sequence
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

    def planes(self, dtype: torch.dtype | None = None) -> Tensor:
        """(B,31,h,w): (one-hot labels, edge) * (1 - mask), mask in the target channel, drawn on the edge.

        Channels last in memory; of the edge's type unless another is given.
        """
        dtype = dtype or self.edge.dtype
        planes = torch.zeros((*self.labels.shape, PLANES), dtype=dtype, device=self.edge.device)
        index = index_of(self.labels.long(), PLANES)
        if self.mask is None:
            planes.put_(index, torch.ones_like(index, dtype=dtype))
            planes[..., -1] = self.edge[:, 0]
        else:
            keep = 1 - self.mask[:, 0]
            planes.put_(index, keep.to(dtype))
            planes[..., self.channel] += self.mask[:, 0]
            planes[..., -1] = self.edge[:, 0] * keep
        if self.drawn is not None:
            planes[..., -1] += self.drawn[:, 0]
        return planes.permute(0, 3, 1, 2)

    def joined(self, other: "Canvas") -> "Canvas":
        """This batch of scenes followed by another of the same size and class, with masks or without."""
        return self._each(lambda name, x: torch.cat([x, getattr(other, name)]))

    def paste(self, mask: Tensor) -> "Canvas":
        """This scene with a mask (B,1,h,w) on it."""
        return replace(self, mask=mask)

    def cut(self, images: slice, rows: slice) -> "Canvas":
        """Some rows of some images."""
        return self._each(lambda _, x: x[images, rows] if x.dim() == 3 else x[images, :, rows])

    def detach(self) -> "Canvas":
        return self._each(lambda _, x: x.detach())

    def _each(self, function: Callable[[str, Tensor], Tensor]) -> "Canvas":
        """This canvas with function(name, tensor) of each of its tensors."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **{name: function(name, tensor) for name, tensor in tensors.items()})


def index_of(places: Tensor, planes: int) -> Tensor:
    """Index of one number of each pixel in flattened (B,h,w,planes): much faster than scatter and gather."""
    pixels = torch.arange(places.numel(), device=places.device).view(places.shape)
    return pixels.mul_(planes).add_(places)


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


def memory_format_of(weight: Tensor) -> torch.memory_format:
    """The layout that a layer's weight (4 dimensions) asks maps to have."""
    return torch.channels_last if weight.stride(1) == 1 else torch.contiguous_format


def convolution_backward(
    gradient: Tensor, x: Tensor, w: Tensor, transposed: bool, needed: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients by x and by the weight of a k4s2p1 convolution, where needed, from the one by its result."""
    geometry = ([2, 2], [1, 1], [1, 1], transposed, [0, 0], 1)  # stride, padding, dilation, ...
    return torch.ops.aten.convolution_backward(gradient, x, w, None, *geometry, [*needed, False])[:2]


_FIRST_MIDDLE_LAST = (slice(0, 1), slice(1, -1), slice(-1, None))


def _nine_sums(x: Tensor) -> Tensor:
    """Sums (B,g,3,3) over corners, sides and inner part of maps (B,g,h,w).

    By way of the sum over the whole map, which takes a twentieth of the time of one over its inner part.
    """

    def three_sums(line: Tensor) -> Tensor:
        first, last = line[..., 0], line[..., -1]
        return torch.stack([first, line.sum(-1) - first - last, last], -1)

    left, right = x[..., 0].sum(-1), x[..., -1].sum(-1)
    columns = torch.stack([left, x.sum((2, 3)) - left - right, right], -1)
    top, bottom = three_sums(x[:, :, 0]), three_sums(x[:, :, -1])
    return torch.stack([top, columns - top - bottom, bottom], -2)


class _AddNoise(torch.autograd.Function):
    """The first row, the inner ones and the last of the noise are added; nothing is kept."""

    @staticmethod
    def forward(ctx, core, *features):
        share = len(core) // len(features)
        first = features[0]
        layout = torch.contiguous_format if first.is_contiguous() else torch.channels_last
        shape, dtype = (len(core), *first.shape[1:]), working_dtype(first)
        out = torch.empty(shape, dtype=dtype, device=first.device, memory_format=layout)
        inner = core[..., 1:2].expand(-1, -1, -1, shape[-1] - 2)
        rows_of_noise = torch.cat([core[..., :1], inner, core[..., 2:]], -1)  # (B,g,3,w)
        rows_of_noise = rows_of_noise.to(first.dtype).contiguous(memory_format=layout)
        for feature, part, noise in zip(features, out.split(share), rows_of_noise.split(share), strict=True):
            for i, rows in enumerate(_FIRST_MIDDLE_LAST):
                part[:, :, rows] = feature[:, :, rows] + noise[:, :, i : i + 1]
        ctx.core_dtype, ctx.counts = core.dtype, [len(feature) for feature in features]
        return out

    @staticmethod
    def backward(ctx, gradient):
        parts = gradient.chunk(len(ctx.counts))
        grad_features = [
            part if len(part) == count else part.sum(0, keepdim=True)
            for part, count in zip(parts, ctx.counts, strict=True)
        ]
        return _nine_sums(gradient).to(ctx.core_dtype), *grad_features


def add_noise(features: Sequence[Tensor], core: Tensor) -> Tensor:
    """features + noise: (B,g,h,w) from parts of features and the noise's core (B,g,3,3).

    Each part holds B / len(features) scenes, or one that is used that often. The core's middle row and
    column stand for all inner ones of the map.
    """
    return _AddNoise.apply(core, *features)


class _ReconstructionLoss(torch.autograd.Function):
    """mean |sigmoid(conv_transpose(relu(features)) + bias) - planes|, never keeping a tensor of planes' size.

    The loss is a leaf of the step: its gradient is known up to one factor as soon as it is, so the forward
    pass works it out on the spot, band by band on a CPU, and the backward pass only multiplies. Summing the
    bias's gradient here also spares it the rounding error of a convolution's own sum, which adds half a
    million numbers one by one.
    """

    @staticmethod
    def forward(ctx, features, weight, bias, labels, edge, mask, channel, with_gradient):
        dtype = working_dtype(weight)
        canvas = Canvas(labels, edge, channel, mask)
        w, b = weight.to(dtype), bias.to(dtype)
        total = torch.zeros((), dtype=bias.dtype, device=bias.device)
        grad_features, grad_weight = torch.zeros_like(features), torch.zeros_like(weight)
        grad_bias = torch.zeros_like(bias)
        grad_mask = torch.zeros_like(mask) if mask is not None else None
        for images, rows in bands(len(features), *features.shape[2:], features.device):
            # Output rows 2a..2b of the layer read its input rows a-1..b; what else they give is cut off.
            read = slice(max(0, rows.start - 1), min(features.shape[2], rows.stop + 1))
            full = slice(2 * rows.start, 2 * rows.stop)
            x = features[images, :, read].to(dtype).relu()
            output = F.conv_transpose2d(x, w, b, stride=2, padding=1)
            above, below = 2 * (rows.start - read.start), 2 * (read.stop - rows.stop)
            shown = output[:, :, above : output.shape[2] - below]
            loss, of_mask = _difference(shown, canvas.cut(images, full))
            total += loss
            if not with_gradient:
                continue
            if mask is not None:
                grad_mask[images, :, full] = of_mask
            output[:, :, :above] = 0
            output[:, :, output.shape[2] - below :] = 0
            grad_bias += _plane_sums(shown)
            grad_x, grad_w = convolution_backward(output, x, w, True, (True, True))
            grad_features[images, :, read] += torch.ops.aten.threshold_backward(grad_x, x, 0)
            grad_weight += grad_w
        size = len(labels) * PLANES * labels[0].numel()
        if with_gradient:
            ctx.save_for_backward(grad_features, grad_weight, grad_bias, grad_mask)
            ctx.size = size
        return total / size

    @staticmethod
    def backward(ctx, gradient):
        scale = gradient / ctx.size  # in place: a second backward pass through here is an error
        features, weight, bias, mask = (None if g is None else g.mul_(scale) for g in ctx.saved_tensors)
        return features, weight, bias, None, None, mask, None, None


def _difference(logits: Tensor, canvas: Canvas) -> tuple[Tensor, Tensor]:
    """Sum of |sigmoid(logits) - planes| over (B,31,h,w), and its derivative by the mask (B,1,h,w).

    Puts the derivative by the logits in their place. All planes are 0 but three of each pixel: its label's,
    the target class's and the edge. So |s - plane| is s, the sigmoid, corrected on those three; there it is
    worked out with all digits, because near 1 half precision has few.
    """
    number = torch.float64 if logits.dtype == torch.float64 else torch.float32
    pixels = logits.permute(0, 2, 3, 1)  # (B,h,w,31)
    label, target, edge = index_of(canvas.labels.long(), PLANES), canvas.channel, canvas.edge[:, 0]
    mask = torch.zeros_like(edge) if canvas.mask is None else canvas.mask[:, 0]
    on_target = canvas.labels == target
    slope = torch.where(on_target, 0.0, 1.0).to(number)  # of the target's plane by the mask
    special = (  # logit; plane; the plane's slope by the mask
        (pixels.take(label), torch.where(on_target, 1.0, 1 - mask), -slope),
        (pixels[..., target], torch.where(on_target, 1.0, mask), slope),
        (pixels[..., -1], edge * (1 - mask), -edge),
    )
    corrections, derivatives, of_mask = [], [], 0
    for logit, plane, plane_slope in special:
        s = logit.to(number).sigmoid()
        difference = s - plane
        sign = difference.sign()
        corrections.append(difference.abs() - s)
        derivatives.append((sign * s * (1 - s)).to(logits.dtype))
        of_mask = of_mask - sign * plane_slope
    corrections[0] = corrections[0] * slope  # a label that is the target counts once

    s = logits.sigmoid_()
    total = _plane_sums(s).sum() + sum(correction.sum() for correction in corrections)
    s.addcmul_(s, s, value=-1)  # the sigmoid's derivative
    pixels.put_(label, derivatives[0])
    pixels[..., target] = derivatives[1]
    pixels[..., -1] = derivatives[2]
    return total, of_mask[:, None]


def _plane_sums(x: Tensor) -> Tensor:
    """Sum (C,) over each plane of (B,C,h,w), channels last in memory: over rows first, which is fastest."""
    channels, width = x.shape[1], x.shape[3]
    columns = x.permute(0, 2, 3, 1).reshape(-1, width * channels).sum(0)
    return columns.view(width, channels).sum(0, dtype=torch.promote_types(x.dtype, torch.float32))


def reconstruction_loss(features: Tensor, weight: Tensor, bias: Tensor, canvas: Canvas) -> Tensor:
    """L1 between sigmoid(conv_transpose(relu(features)) + bias) and canvas.planes(), the mask with gradient.

    features (B,g,h/2,w/2), weight (g,31,4,4) and bias (31,) of a k4s2p1 layer -> scalar mean.
    """
    c = canvas
    return _ReconstructionLoss.apply(
        features, weight, bias, c.labels, c.edge, c.mask, c.channel, torch.is_grad_enabled()
    )
