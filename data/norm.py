"""Instance norm and activation in one: the pair that follows most layers of the model.

The activation's slope can be undone where it isn't 0, so that one tensor kept for the backward pass serves
norm, activation and the convolution that reads it.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-5  # added to the variance, as nn.InstanceNorm2d does


class NormActivation(nn.Module):
    """Instance norm without weights, then leaky ReLU of a `slope` (0: ReLU): (B,C,h,w) -> the same."""

    def __init__(self, slope: float):
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        # On a CPU, torch's instance norm takes contiguous maps and would turn all maps over and back.
        if x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last):
            return _NormActivation.apply(x, self.slope)
        return F.leaky_relu_(F.instance_norm(x, eps=EPSILON), self.slope)

    def extra_repr(self) -> str:
        return f"slope={self.slope}"


class _NormActivation(torch.autograd.Function):
    """For channels-last maps on a CPU: batch norm, image by image, which has a fast version for them."""

    @staticmethod
    def forward(ctx, x, slope):
        numbers = torch.float64 if x.dtype == torch.float64 else torch.float32  # of the statistics
        normal = torch.empty_like(x)
        inverse_deviation = torch.empty(x.shape[:2], dtype=numbers)
        one, zero = torch.ones(x.shape[1], dtype=numbers), torch.zeros(x.shape[1], dtype=numbers)
        for image in range(len(x)):
            mean, variance = _mean_and_variance(x[image], numbers)
            torch.native_batch_norm(
                *(x[image : image + 1], one, zero, mean, variance, False, 0.0, EPSILON),
                out=(normal[image : image + 1], zero.new_empty(0), zero.new_empty(0)),
            )
            inverse_deviation[image] = (variance + EPSILON).rsqrt()
        ctx.slope = slope
        out = F.leaky_relu_(normal, slope) if slope else F.relu(normal)
        ctx.save_for_backward(out if slope else normal, inverse_deviation)
        return out

    @staticmethod
    def backward(ctx, gradient):
        kept, inverse_deviation = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        gradient = torch.ops.aten.leaky_relu_backward(gradient, kept, ctx.slope, True)
        normal = F.leaky_relu(kept, 1 / ctx.slope) if ctx.slope else kept
        zero, one = torch.zeros_like(inverse_deviation[0]), torch.ones_like(inverse_deviation[0])
        grad_x = torch.empty_like(gradient)
        for image in range(len(gradient)):
            # Batch norm's backward pass, given what is normal already and a deviation of 1; the true
            # deviation enters as its weight.
            grad_x[image : image + 1] = torch.ops.aten.native_batch_norm_backward(
                *(gradient[image : image + 1], normal[image : image + 1], inverse_deviation[image]),
                *(None, None, zero, one, True, 0.0, [True, False, False]),
            )[0]
        # Its mean is 0, but for torch's adding one by one; a bias's gradient, its sum, would show that.
        return grad_x.sub_(grad_x.mean((2, 3), keepdim=True)), None


def _mean_and_variance(x: Tensor, numbers: torch.dtype) -> tuple[Tensor, Tensor]:
    """Mean and variance (C,) over each map of (C,h,w), channels last in memory.

    torch adds the numbers of a channel one by one, which over half a million loses five digits. So up to
    512 neighbouring pixels count as channels of their own, and their statistics are put together.
    """
    channels, pixels = len(x), x[0].numel()
    groups = math.gcd(pixels, 512)
    grouped = x.permute(1, 2, 0).reshape(1, pixels // groups, 1, groups * channels).permute(0, 3, 1, 2)
    unused = torch.zeros(2, groups * channels, dtype=numbers)  # says what type the statistics shall have
    statistics = torch.batch_norm_update_stats(grouped, *unused, 0.0)
    means, variances = (part.view(groups, channels).double() for part in statistics)
    mean = means.mean(0)
    variance = variances.mean(0) + (means - mean).square().mean(0)
    return mean.to(numbers), variance.to(numbers)
