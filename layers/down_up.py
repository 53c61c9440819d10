"""The layer that the networks are made of: activation, k4s2p1 convolution, instance norm.

A layer activates what it reads, so that what flows between two layers, and is kept for the backward pass, is
one tensor: the normal numbers before the activation.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers.canvas import convolution_backward, memory_format_of, working_dtype

EPSILON = 1e-5  # added to the variance, as nn.InstanceNorm2d does
IDENTITY = 1.0  # slope of the leaky ReLU that changes nothing
FEW_PIXELS = 128  # of a map whose numbers torch's batch norm may add one by one
AT_A_TIME = 2**20  # numbers of a map from which on images go through a layer one by one


class _Block:
    """What down and up blocks share: (B,C,h,w) -> (B,D,h/2,w/2) or (B,D,2h,2w).

    `slope`: of the leaky ReLU that what is read goes through (0: ReLU, IDENTITY: none). `norm`: whether
    instance norm without weights follows. It removes the bias, which is published, but never used nor
    trained then.
    """

    def __init__(self, channels_in: int, channels_out: int, slope: float, norm: bool):
        super().__init__(channels_in, channels_out, kernel_size=4, stride=2, padding=1)
        self.slope, self.norm = slope, norm
        self.bias.requires_grad_(not norm)

    def forward(self, x: Tensor) -> Tensor:
        channels_last = memory_format_of(self.weight) == torch.channels_last
        if self.norm and x.device.type == "cpu" and channels_last:
            return _ActivateConvolveNormalise.apply(x, self.weight, self.slope, self.transposed)
        convolve = F.conv_transpose2d if self.transposed else F.conv2d
        bias = None if self.norm else self.bias
        x = convolve(activate(x, self.slope), self.weight, bias, stride=2, padding=1)
        return instance_norm(x) if self.norm else x

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, slope={self.slope}, norm={self.norm}"


class DownBlock(_Block, nn.Conv2d):
    pass


class UpBlock(_Block, nn.ConvTranspose2d):
    pass


def activate(x: Tensor, slope: float) -> Tensor:
    """Leaky ReLU, or x itself for slope IDENTITY."""
    return x if slope == IDENTITY else F.leaky_relu(x, slope)


def instance_norm(x: Tensor) -> Tensor:
    """Each map of each image with mean 0 and variance 1: (B,C,h,w) -> the same.

    As group norm with a group a channel: the gradient of torch's own (2.14) is wrong for a batch of one where
    the next layer hands a channels-last gradient back.
    """
    return F.group_norm(x, x.shape[1], eps=EPSILON)


class _ActivateConvolveNormalise(torch.autograd.Function):
    """The whole layer for channels-last maps on a CPU.

    Large maps go through image by image, so that what one operation leaves is in the cache for the next.
    torch's instance norm would turn channels-last maps over and back; batch norm of one image is the same
    and has a fast version for them.
    """

    @staticmethod
    def forward(ctx, x, weight, slope, transposed):
        dtype = working_dtype(weight)
        x, w = x.to(dtype).contiguous(memory_format=torch.channels_last), weight.to(dtype)
        convolve = F.conv_transpose2d if transposed else F.conv2d
        normal = inverse_deviation = None
        for images in _parts(x):
            active = activate(x[images], slope)
            y = convolve(active, w, _centring_bias(active, weight, transposed), stride=2, padding=1)
            if normal is None:
                shape = (len(x), *y.shape[1:])
                normal = torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)
                inverse_deviation = torch.empty(shape[:2], dtype=_statistics_type(dtype))
            for one, *into in zip(
                y.split(1), normal[images].split(1), inverse_deviation[images], strict=True
            ):
                _normalise(one, *into)
        ctx.save_for_backward(x, weight, w, normal, inverse_deviation)
        ctx.slope, ctx.transposed = slope, transposed
        return normal

    @staticmethod
    def backward(ctx, gradient):
        x, weight, w, normal, inverse_deviation = ctx.saved_tensors
        # As of now: one pass of a step may need what another does not, which needs_input_grad does not tell.
        needs_x, needs_weight = ctx.needs_input_grad[0], weight.requires_grad
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        grad_x = torch.empty_like(x) if needs_x else None
        grad_weight = None
        for images in _parts(x):
            single = zip(
                gradient[images].split(1), normal[images].split(1), inverse_deviation[images], strict=True
            )
            of_y = [_normalise_backward(*one) for one in single]
            of_y = of_y[0] if len(of_y) == 1 else torch.cat(of_y)
            read = activate(x[images], ctx.slope) if needs_weight else x[images]
            of_x, of_weight = convolution_backward(of_y, read, w, ctx.transposed, (needs_x, needs_weight))
            if needs_weight:
                of_weight = of_weight.to(weight.dtype)
                grad_weight = of_weight if grad_weight is None else grad_weight.add_(of_weight)
            if needs_x:
                torch.ops.aten.leaky_relu_backward.grad_input(
                    of_x, x[images], ctx.slope, False, grad_input=grad_x[images]
                )
        return grad_x, grad_weight, None, None


def _centring_bias(x: Tensor, weight: Tensor, transposed: bool) -> Tensor | None:
    """A bias that takes a convolution's result near mean 0; the norm removes it again, whatever it is.

    bfloat16 keeps few digits, and of a result far from 0 it would keep its mean rather than what
    differs from place to place. Other types have digits enough.
    """
    if x.dtype != torch.bfloat16:
        return None
    mean = x[:, :, ::4].mean((0, 2, 3), dtype=torch.float32)  # (C,); of every fourth row: near enough
    # All that an inner pixel is multiplied by; of an up block, four times that.
    taps = weight.sum((2, 3))
    return -(mean @ taps / 4 if transposed else taps @ mean).to(x.dtype)


def _parts(x: Tensor) -> list[slice]:
    """The images that go through together."""
    together = max(1, AT_A_TIME // x[0].numel())
    return [slice(first, min(first + together, len(x))) for first in range(0, len(x), together)]


def _statistics_type(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _normalise(x: Tensor, normal: Tensor, inverse_deviation: Tensor) -> None:
    """Write (1,C,h,w), normalised, into `normal`, and its inverse deviation (C,)."""
    mean = torch.zeros_like(inverse_deviation)
    weight, bias = torch.ones_like(mean), torch.zeros_like(mean)
    if x[0, 0].numel() <= FEW_PIXELS:
        torch.native_batch_norm(
            *(x, weight, bias, None, None, True, 0.0, EPSILON), out=(normal, mean, inverse_deviation)
        )
        return
    mean, variance = _mean_and_variance(x[0])
    unused = mean.new_empty(0)
    torch.native_batch_norm(
        *(x, weight, bias, mean, variance, False, 0.0, EPSILON), out=(normal, unused, unused.clone())
    )
    torch.rsqrt(variance + EPSILON, out=inverse_deviation)


def _normalise_backward(gradient: Tensor, normal: Tensor, inverse_deviation: Tensor) -> Tensor:
    """Gradient (1,C,h,w) by what was normalised, from the one by the normal numbers.

    Batch norm's backward pass, given what is normal already and a deviation of 1; the true deviation enters
    as its weight.
    """
    zero, one = torch.zeros_like(inverse_deviation), torch.ones_like(inverse_deviation)
    return torch.ops.aten.native_batch_norm_backward(
        *(gradient, normal, inverse_deviation, None, None, zero, one, True, 0.0),
        [True, False, False],
    )[0]


def _mean_and_variance(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (C,) over each map of (C,h,w), channels last in memory.

    torch's batch norm adds the numbers of a channel one by one, which over half a million loses five digits.
    So up to 512 neighbouring pixels count as channels of their own, and their statistics are put together.
    """
    channels, pixels = len(x), x[0].numel()
    groups = math.gcd(pixels, 512)
    grouped = x.permute(1, 2, 0).reshape(1, pixels // groups, 1, groups * channels).permute(0, 3, 1, 2)
    numbers = _statistics_type(x.dtype)
    unused = torch.zeros(2, groups * channels, dtype=numbers)  # says what type the statistics shall have
    statistics = torch.batch_norm_update_stats(grouped, *unused, 0.0)
    means, variances = (part.view(groups, channels).double() for part in statistics)
    mean = means.mean(0)
    variance = variances.mean(0) + (means - mean).square().mean(0)
    return mean.to(numbers), variance.to(numbers)
