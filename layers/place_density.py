"""A density of places: where an object's foot stands in a scene, how tall it is there, and how wide.

A place has four numbers: x and y of the foot (the middle of the box's lower edge), the logarithm of the
height and that of the aspect (width / height in pixels). x, y and the height are fractions of the image. The
foot has a probability in each cell of a grid and is uniform within it; height and aspect are normal, given
the foot, and cut off where the box would leave the image.

Taken one after the other (column, row, height, aspect), each number has an increasing distribution function,
so that four normal numbers z_spatial and a place determine each other: theta = f(scene, z) is exact,
invertible, and differentiable in z and in the planes. Distribution functions need more digits than float32
has.
"""

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PLACE_PLANES = 5  # of a class: a logit of the foot; mean and log sigma of log height; the same of log aspect

_MIN_FRACTION = 1e-6  # of a distribution is left beyond the smallest and the largest number that z stands for
_MIN_SIZE = 1e-4  # of the image, where a foot stands on its very edge
_LOG_SIGMA = (-4.0, -0.5)  # from 2 % of a height to the 0.6 of whoever knows nothing


@dataclass(frozen=True)
class PlaceDensity:
    """The density of places in each of B scenes, over h x w cells."""

    logits: Tensor  # (B,h,w) of the foot's cell, not normalised
    sizes: Tensor  # (B,4,h,w) mean, log sigma of log height; mean, log sigma of log aspect
    ratio: float  # width / height of the image

    @classmethod
    def of_planes(cls, planes: Tensor, ratio: float) -> "PlaceDensity":
        """From the network's planes (B,5,h,w)."""
        height_sigma, aspect_sigma = planes[:, 2:3].clamp(*_LOG_SIGMA), planes[:, 4:5].clamp(*_LOG_SIGMA)
        sizes = torch.cat([planes[:, 1:2], height_sigma, planes[:, 3:4], aspect_sigma], 1)
        return cls(planes[:, 0], sizes, ratio)

    def at_temperature(self, temperature: float) -> "PlaceDensity":
        """Each density, of feet, heights and aspects, to the power 1/temperature: 1 changes nothing.

        That of a normal number, cut off or not, is one whose sigma is sqrt(temperature) times as large.
        """
        if temperature == 1:
            return self
        wider = self.sizes.new_tensor([0, math.log(temperature) / 2] * 2)[:, None, None]
        return PlaceDensity(self.logits / temperature, self.sizes + wider, self.ratio)

    def mass(self) -> Tensor:
        """Probability of each cell (B,h,w) float64; 1 in all for each scene."""
        return self.logits.double().flatten(1).softmax(1).view_as(self.logits)

    def theta_of_z(self, z: Tensor) -> Tensor:
        """theta (N,6) float64 of z (N,4), one a scene or N for a single one; boxes lie in the image."""
        z = z.double()
        fraction = _normal_cdf(z).clamp(_MIN_FRACTION, 1 - _MIN_FRACTION)
        mass = self.mass().expand(len(z), -1, -1)
        column, x = _inverse_cumulative(mass.sum(1), fraction[:, 0])
        _, y = _inverse_cumulative(_column(mass, column), fraction[:, 1])
        return self._theta_at(x, y, fraction[:, 2:])

    def theta_at(self, feet: Tensor, z: Tensor) -> Tensor:
        """theta (N,6) float64 of feet (N,2), x and y in fractions of the image, and of z (N,2) for the size.

        z = 0 is the median of heights and aspects at that foot.
        """
        x, y = feet.double().unbind(1)
        return self._theta_at(x, y, _normal_cdf(z.double()).clamp(_MIN_FRACTION, 1 - _MIN_FRACTION))

    def _theta_at(self, x: Tensor, y: Tensor, fractions: Tensor) -> Tensor:
        """theta (N,6) of feet x, y (N,), height and aspect (N,2) being so far up in their distributions."""
        height_mean, height_sigma, aspect_mean, aspect_sigma = self._sizes_at(x, y)
        log_height = _truncated_normal_icdf(fractions[:, 0], height_mean, height_sigma, _tallest(y))
        widest = _widest(x, log_height, self.ratio)
        log_aspect = _truncated_normal_icdf(fractions[:, 1], aspect_mean, aspect_sigma, widest)
        return _theta(x, y, log_height, log_aspect, self.ratio)

    def z_of_theta(self, theta: Tensor) -> Tensor:
        """The inverse of `theta_of_z`: z (N,4) float64 of theta (N,6) whose boxes lie in the image.

        Beyond 4.7 sigmas z is cut off.
        """
        x, y, log_height, log_aspect = _place(theta.double(), self.ratio)
        mass = self.mass().expand(len(theta), -1, -1)
        column, fraction_x = _cumulative(mass.sum(1), x)
        _, fraction_y = _cumulative(_column(mass, column), y)
        height_mean, height_sigma, aspect_mean, aspect_sigma = self._sizes_at(x, y)
        fractions = [
            fraction_x,
            fraction_y,
            _truncated_normal_cdf(log_height, height_mean, height_sigma, _tallest(y)),
            _truncated_normal_cdf(log_aspect, aspect_mean, aspect_sigma, _widest(x, log_height, self.ratio)),
        ]
        return torch.special.ndtri(torch.stack(fractions, 1).clamp(_MIN_FRACTION, 1 - _MIN_FRACTION))

    def likelihood(self, theta: Tensor) -> Tensor:
        """How likely the feet of theta (N,6) are, (N,) float64: 1 in the likeliest cell of the scene."""
        x, y, _, _ = _place(theta.double(), self.ratio)
        height, width = self.logits.shape[1:]
        mass = self.mass().expand(len(theta), -1, -1)
        scene = torch.arange(len(theta), device=theta.device)
        return mass[scene, _cell(y, height), _cell(x, width)] / mass.amax((1, 2))

    def losses(self, boxes: Tensor, known: Tensor, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Negative log likelihoods of feet (cells) and of sizes, in nats, scalars.

        boxes (B,K,4): x0, y0, x1, y1, fractions of the image; known (B,K) bool: which count. Means over a
        scene's known boxes, 0 without any, then over scenes, so that parts of a batch add up to it.
        classes (B,K) int64, 0..C-1: of each box, where the densities are those of C classes in each of B
        scenes, scene by scene (B*C in all).
        """
        # An unknown box is worked with as if it were the lower middle of the image, and weighs nothing: to
        # leave it out, the host would wait for the GPU.
        x0, y0, x1, y1 = boxes.flatten(0, 1).unbind(1)
        unknown = ~known.flatten()
        x0, x1 = x0.masked_fill(unknown, 0.25), x1.masked_fill(unknown, 0.75)
        y0, y1 = y0.masked_fill(unknown, 0.5), y1.masked_fill(unknown, 1)
        scene = torch.arange(len(known), device=known.device).repeat_interleave(known.shape[1])
        if classes is not None:
            scene = scene * (len(self.logits) // len(known)) + classes.flatten()
        x, y, log_height = (x0 + x1) / 2, y1, (y1 - y0).log()
        log_aspect = ((x1 - x0) * self.ratio).log() - log_height
        height, width = self.logits.shape[1:]
        column, row = _cell(x, width), _cell(y, height)
        log_mass = self.logits.flatten(1).log_softmax(1).view_as(self.logits)
        weight = (known / (known.sum(1, keepdim=True).clamp(min=1) * len(known))).flatten()
        foot = -(weight * log_mass[scene, row, column]).sum()
        height_mean, height_sigma, aspect_mean, aspect_sigma = self._sizes_at(x, y, scene)
        size = _truncated_normal_nll(log_height, height_mean, height_sigma, _tallest(y))
        size = size + _truncated_normal_nll(
            log_aspect, aspect_mean, aspect_sigma, _widest(x, log_height, self.ratio)
        )
        return foot, (weight * size).sum()

    def clear_of(self, things: Tensor, weight: float) -> "PlaceDensity":
        """The density times exp(-weight * fraction of the box on things); things (B,h,w) bool."""
        return replace(self, logits=self.logits - weight * self._fractions_on(things)) if weight else self

    def that_fit(self) -> "PlaceDensity":
        """The density times the probability that the height, not cut off, fits between foot and upper edge.

        Without it a stray foot in the sky has a box of next to no height.
        """
        rows = self.logits.shape[1]
        y = (torch.arange(rows, device=self.logits.device) + 0.5)[:, None] / rows
        mean, sigma = self.sizes[:, 0], self.sizes[:, 1].exp()
        return replace(self, logits=self.logits + torch.special.log_ndtr((_tallest(y) - mean) / sigma))

    def overlap(self, things: Tensor) -> Tensor:
        """Expected fraction of a box that falls on things (B,h,w) bool, over feet.

        Mean over scenes, scalar.
        """
        return (self.logits.flatten(1).softmax(1) * self._fractions_on(things).flatten(1)).sum(1).mean()

    def _fractions_on(self, things: Tensor) -> Tensor:
        """Fraction of each cell's box that falls on things, both (B,h,w).

        A cell's box stands on its centre with the means of height and aspect, which get no gradient.
        """
        height, width = things.shape[1:]
        x = (torch.arange(width, device=things.device) + 0.5) / width
        y = (torch.arange(height, device=things.device) + 0.5)[:, None] / height
        log_height, log_aspect = self.sizes.detach()[:, 0], self.sizes.detach()[:, 2]
        tall, wide = log_height.exp(), (log_height + log_aspect).exp() / self.ratio
        # Sums of things above and left of each corner of the cells, read bilinearly at the boxes' corners.
        sums = F.pad(things.to(x.dtype).cumsum(1).cumsum(2), (1, 0, 1, 0))
        left, right = ((x - wide / 2).clamp(0, 1) * width, (x + wide / 2).clamp(0, 1) * width)
        top, bottom = ((y - tall).clamp(0, 1) * height, y.expand_as(tall) * height)

        def above_left(row: Tensor, column: Tensor) -> Tensor:
            return _bilinear(sums[..., None], row, column)[..., 0]

        covered = above_left(bottom, right) - above_left(top, right)
        covered = covered - above_left(bottom, left) + above_left(top, left)
        return covered / ((right - left) * (bottom - top)).clamp(min=1e-3)

    def _sizes_at(self, x: Tensor, y: Tensor, scene: Tensor | None = None) -> tuple[Tensor, ...]:
        """Mean and sigma of log height, of log aspect, (N,) each, bilinear at feet x, y (N,) of scenes."""
        if scene is None:
            scene = (
                torch.arange(len(x), device=x.device) if len(self.sizes) > 1 else torch.zeros_like(x).long()
            )
        height, width = self.sizes.shape[2:]
        row, column = (y * height - 0.5).clamp(0, height - 1), (x * width - 0.5).clamp(0, width - 1)
        values = _bilinear(self.sizes.permute(0, 2, 3, 1), row, column, scene)
        return values[:, 0], values[:, 1].exp(), values[:, 2], values[:, 3].exp()


class PlaceDensityNetwork(nn.Module):
    """Labels (B,h,w) uint8 -> planes (B,C,5,h,w) of a `PlaceDensity` for each of C classes.

    A U-Net over labels and coordinates, whose features all classes share. It halves the map `depth` times;
    width, 2, 3, 4, 4, ... times width channels from the finest level to the coarsest.
    """

    def __init__(self, labels: int, width: int, depth: int, classes: int = 1):
        super().__init__()
        self.classes = classes
        channels = [width * min(level + 1, 4) for level in range(depth + 1)]
        self.embedding = nn.Embedding(labels, width)
        self.first = _Layer(width + 2, width)
        self.down = nn.ModuleList([_Layer(above, below) for above, below in pairwise(channels)])
        self.whole = nn.Linear(channels[-1], channels[-1])
        self.up = nn.ModuleList([_Layer(above + below, above) for above, below in pairwise(channels)])
        self.planes = nn.Conv2d(width, classes * PLACE_PLANES, 1)

    def start(self) -> None:
        """Give the last layer its start: feet anywhere, boxes a fifth of the image high."""
        nn.init.zeros_(self.planes.weight)
        half = math.log(0.5)
        with torch.no_grad():
            start = torch.tensor([0, math.log(0.2), half, math.log(0.4), half])
            self.planes.bias.copy_(start.repeat(self.classes))

    def forward(self, labels: Tensor) -> Tensor:
        height, width = labels.shape[1:]
        kind = {"device": labels.device, "dtype": self.embedding.weight.dtype}
        rows = torch.linspace(-1, 1, height, **kind)[:, None].expand(height, width)
        columns = torch.linspace(-1, 1, width, **kind).expand(height, width)
        coordinates = torch.stack([rows, columns], 2).expand(len(labels), -1, -1, -1)
        hidden = torch.cat([self.embedding(labels.int()), coordinates], 3).permute(0, 3, 1, 2)
        hidden = self.first(hidden)
        levels = []
        for layer in self.down:
            levels.append(hidden)
            hidden = layer(F.avg_pool2d(hidden, 2))
        hidden = hidden + self.whole(hidden.mean((2, 3)))[:, :, None, None]
        for layer, level in zip(reversed(self.up), reversed(levels), strict=True):
            hidden = F.interpolate(hidden, scale_factor=2, mode="bilinear")
            hidden = layer(torch.cat([level, hidden], 1))
        return self.planes(hidden).unflatten(1, (self.classes, PLACE_PLANES))


class _Layer(nn.Sequential):
    """3x3 convolution, group norm (8 channels a group), SiLU."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__(
            nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
            nn.GroupNorm(max(channels_out // 8, 1), channels_out),
            nn.SiLU(),
        )


# ---- places and theta ---------------------------------------------------------------------------


def _theta(x: Tensor, y: Tensor, log_height: Tensor, log_aspect: Tensor, ratio: float) -> Tensor:
    """theta (N,6) of places; rounding does not push a box beyond the image's edge."""
    height = torch.minimum(log_height.exp(), y)
    width = torch.minimum((log_height + log_aspect).exp() / ratio, 2 * torch.minimum(x, 1 - x))
    zero = torch.zeros_like(x)
    shift_x, shift_y = -(2 * x - 1) / width, -(2 * y - height - 1) / height
    return torch.stack([1 / width, zero, shift_x, zero, 1 / height, shift_y], 1)


def _place(theta: Tensor, ratio: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, y, log height, log aspect (N,) of theta (N,6): the inverse of `_theta`."""
    width, height = 1 / theta[:, 0], 1 / theta[:, 4]
    x, y = (1 - theta[:, 2] * width) / 2, (1 - theta[:, 5] * height + height) / 2
    return x, y, height.log(), (width * ratio / height).log()


def _tallest(y: Tensor) -> Tensor:
    """The largest log height (N,) of a box that stands at row y (N,)."""
    return y.clamp(min=_MIN_SIZE).log()


def _widest(x: Tensor, log_height: Tensor, ratio: float) -> Tensor:
    """The largest log aspect (N,) of a box of this log height (N,) that stands at column x (N,)."""
    return (2 * ratio * torch.minimum(x, 1 - x).clamp(min=_MIN_SIZE)).log() - log_height


def _bilinear(maps: Tensor, row: Tensor, column: Tensor, scene: Tensor | None = None) -> Tensor:
    """Values (...,C) of maps (B,h,w,C) at rows 0..h-1 and columns 0..w-1, both (...), of these scenes (...).

    Without `scene` the first axis of row and column is that of the maps.
    """
    if scene is None:
        scene = torch.arange(len(maps), device=maps.device).view(-1, *[1] * (row.dim() - 1))
    upper, left = row.detach().long().clamp(max=maps.shape[1] - 2), column.detach().long()
    left = left.clamp(max=maps.shape[2] - 2)
    down, right = (row - upper)[..., None], (column - left)[..., None]
    above = maps[scene, upper, left] * (1 - right) + maps[scene, upper, left + 1] * right
    below = maps[scene, upper + 1, left] * (1 - right) + maps[scene, upper + 1, left + 1] * right
    return above * (1 - down) + below * down


# ---- distribution functions ---------------------------------------------------------------------


def _normal_cdf(z: Tensor) -> Tensor:
    """The fraction of N(0, 1) below z; unlike torch.special.ndtr with all digits far below 0 too."""
    return torch.special.log_ndtr(z).exp()


def _cell(position: Tensor, count: int) -> Tensor:
    """The cell, 0..count-1, of positions in 0..1."""
    return (position.detach() * count).long().clamp(0, count - 1)


def _column(mass: Tensor, column: Tensor) -> Tensor:
    """One column (N,) of each map (N,h,w): (N,h)."""
    return mass[torch.arange(len(mass), device=mass.device), :, column]


def _cumulative(mass: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """Cell (N,) of positions (N,) in 0..1, and the fraction of mass (N,n) below each, (N,) in 0..1."""
    cell = _cell(position, mass.shape[1])[:, None]
    sums = mass.cumsum(1)
    part = (position[:, None] * mass.shape[1] - cell) * mass.gather(1, cell)
    below = sums.gather(1, cell) - mass.gather(1, cell) + part
    return cell[:, 0], (below / sums[:, -1:])[:, 0]


def _inverse_cumulative(mass: Tensor, fraction: Tensor) -> tuple[Tensor, Tensor]:
    """Cell and position (N,) in 0..1 below which `fraction` (N,) in 0..1 of mass (N,n) lies."""
    sums = mass.cumsum(1)
    wanted = fraction[:, None] * sums[:, -1:]
    cell = torch.searchsorted(sums.detach(), wanted.detach()).clamp(max=mass.shape[1] - 1)
    of_cell = mass.gather(1, cell)
    part = (wanted - (sums.gather(1, cell) - of_cell)) / of_cell.clamp(min=1e-300)
    return cell[:, 0], ((cell + part.clamp(0, 1)) / mass.shape[1])[:, 0]


def _reachable(mean: Tensor, sigma: Tensor, bound: Tensor) -> Tensor:
    """The mean, at most 8 sigmas above the bound: beyond, the digits of a distribution function run out."""
    return torch.minimum(mean, bound + 8 * sigma)


def _truncated_normal_icdf(fraction: Tensor, mean: Tensor, sigma: Tensor, bound: Tensor) -> Tensor:
    """The number below which `fraction` of N(mean, sigma) lies, cut off above `bound`; all (N,)."""
    mean = _reachable(mean, sigma, bound)
    below_bound = _normal_cdf((bound - mean) / sigma)
    return torch.minimum(mean + sigma * torch.special.ndtri(fraction * below_bound), bound)


def _truncated_normal_cdf(value: Tensor, mean: Tensor, sigma: Tensor, bound: Tensor) -> Tensor:
    """The fraction of N(mean, sigma), cut off above `bound`, that lies below `value`; all (N,)."""
    mean = _reachable(mean, sigma, bound)
    below_bound = _normal_cdf((bound - mean) / sigma)
    return _normal_cdf((value - mean) / sigma) / below_bound


def _truncated_normal_nll(value: Tensor, mean: Tensor, sigma: Tensor, bound: Tensor) -> Tensor:
    """Negative log density of `value` under N(mean, sigma) cut off above `bound`, in nats; all (N,)."""
    mean = _reachable(mean, sigma, bound)
    standard = (value - mean) / sigma
    normal = standard.square() / 2 + sigma.log() + math.log(2 * math.pi) / 2
    return normal + torch.special.log_ndtr((torch.maximum(bound, value) - mean) / sigma)
