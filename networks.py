"""The networks of the model (docs/model.md#networks) and its fixed operations (docs/model.md#placing).

Shapes: B images, planes = 30 one-hot classes + 1 edge map, h x w the map of the module at hand.
Nothing here knows a device: parameters are made where the caller's `torch.device` context says.
"""

import contextlib
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.labels import NUM_CHANNELS
from layers.canvas import PLANES, Canvas, add_noise, reconstruction_loss
from layers.down_up import IDENTITY, DownBlock, UpBlock, activate, instance_norm
from layers.place_density import PlaceDensityNetwork
from layers.scene_conv import scene_conv
from options import Options, network_depth

LEAK = 0.2  # slope of the leaky ReLUs
ENLARGEMENT = 8  # the published STN enlarges its source this many times (NEAREST) before sampling it


# ---- builders -----------------------------------------------------------------------------------


def channel_multipliers(depth: int) -> list[int]:
    """1, 2, 4, 8, 8, 8, ...: widths of `depth` down blocks, in units of the first one's."""
    return [min(2**layer, 8) for layer in range(depth)]


def down(channels_in: int, channels: list[int], *, first: bool = True) -> nn.Sequential:
    """Down blocks, leaky; the `first` one of a network reads planes or a mask, and has no norm."""
    layers: list[nn.Module] = []
    for pair in pairwise([channels_in, *channels]):
        raw = first and not layers
        layers.append(DownBlock(*pair, IDENTITY if raw else LEAK, norm=not raw))
    return nn.Sequential(*layers)


def up(channels_in: int, width: int, depth: int, kernel: tuple[int, int], channels_out: int) -> nn.Sequential:
    """From a 1x1 embedding to a map of logits: one `kernel` layer, then `depth` up blocks."""
    channels = [width * multiplier for multiplier in reversed(channel_multipliers(depth))]
    layers = [UpBlock(*pair, 0.0, norm=True) for pair in pairwise(channels)]
    last = UpBlock(channels[-1], channels_out, 0.0, norm=False)
    return nn.Sequential(UpFromPixel(channels_in, channels[0], kernel), *layers, last)


class DownToPixel(nn.Conv2d):
    """Leaky ReLU, then a convolution whose kernel covers the map: (B,C,h,w) -> (B,D,1,1).

    As a matrix product it need not turn its weights, the largest of a network, over and back. In full
    precision: turning them into half precision would take longer than multiplying by them.
    """

    def forward(self, x: Tensor) -> Tensor:
        x = full_precision(activate(x, LEAK))
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)  # (D,h*w*C)
        with no_autocast(x):
            return F.linear(x.permute(0, 2, 3, 1).flatten(1), weight, self.bias)[:, :, None, None]


class UpFromPixel(nn.ConvTranspose2d):
    """The reverse: a transposed convolution of a single pixel and instance norm, (B,D,1,1) -> (B,C,h,w)."""

    norm = True  # which removes the bias, as in layers/down_up.py

    def __init__(self, channels_in: int, channels_out: int, kernel: tuple[int, int]):
        super().__init__(channels_in, channels_out, kernel)
        self.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.permute(0, 2, 3, 1)  # (D,h,w,C)
        with no_autocast(x):
            product = full_precision(x.flatten(1)) @ weight.flatten(1)
            return instance_norm(product.unflatten(1, weight.shape[1:]).permute(0, 3, 1, 2))


class Reconstructor(nn.Module):
    """Embedding (B,embed_dim,1,1) -> the planes of its scene.

    `forward` stops before the last layer, by far the largest tensor of a step; `loss` applies it.
    """

    def __init__(self, embed_dim: int, width: int, depth: int, kernel: tuple[int, int]):
        super().__init__()
        self.layers = up(embed_dim, width, depth, kernel, PLANES)

    def forward(self, embedding: Tensor) -> Tensor:
        """Features (B,g,h/2,w/2), not yet activated: the input of the last layer."""
        return self.layers[:-1](embedding)

    def loss(self, features: Tensor, canvas: Canvas) -> Tensor:
        """L1 between the reconstruction and canvas.planes(), scalar; the canvas keeps its gradient."""
        return reconstruction_loss(features, self.layers[-1].weight, self.layers[-1].bias, canvas)


def mlp(*channels: int, activation: nn.Module) -> nn.Sequential:
    """1x1 convolutions with an activation between them: a perceptron on (B,C,1,1)."""
    layers = [layer for both in pairwise(channels) for layer in (nn.Conv2d(*both, 1), activation)]
    return nn.Sequential(*layers[:-1])


def full_precision(x: Tensor) -> Tensor:
    """bfloat16 becomes float32: losses and sampling need more digits than convolutions do."""
    return x.float() if x.dtype == torch.bfloat16 else x


def no_autocast(x: Tensor) -> contextlib.AbstractContextManager:
    """Within it, products on x's device keep the digits of their factors."""
    if x.device.type in ("cpu", "cuda"):
        return torch.autocast(x.device.type, enabled=False)
    return contextlib.nullcontext()


class SceneDiscriminator(nn.Sequential):
    """A discriminator of canvases (D what): the first layer is a `scene_conv`."""

    def forward(self, canvas: Canvas) -> Tensor:
        hidden = scene_conv(canvas, self[0].weight, self[0].bias)
        for layer in self[1:]:
            hidden = layer(hidden)
        return hidden


class MaskDiscriminator(nn.Sequential):
    """A discriminator of compact masks (D object), outside autocast: it is small and needs the digits.

    Instance norms enlarge the small differences within a smooth mask, of which 8 bits keep too little.
    """

    def forward(self, x: Tensor) -> Tensor:
        with no_autocast(x):
            return super().forward(full_precision(x))


class SceneEncoder(nn.Module):
    """Scene planes and noise -> embedding and an estimate of the noise (where encoder, what encoder).

    The published first layer convolves the planes together with the noise tiled over the map. A
    convolution is linear, so the planes' part is computed once for all noises of a scene, and the
    noise's part once for the interior and once for each border (`noise_features`).
    """

    def __init__(self, z_dim: int, width: int, depth: int, kernel: tuple[int, int], embed_dim: int):
        super().__init__()
        channels = [width * multiplier for multiplier in channel_multipliers(depth)]
        self.first = DownBlock(PLANES + z_dim, channels[0], IDENTITY, norm=False)
        self.body = down(channels[0], channels[1:], first=False)
        self.head = DownToPixel(channels[-1], embed_dim, kernel)
        self.z_head = nn.Conv2d(embed_dim, z_dim, 1)

    def scene_features(self, canvas: Canvas) -> Tensor:
        """The part of the first layer that sees the scene, bias included: (B,g,h/2,w/2)."""
        return scene_conv(canvas, self.first.weight[:, :PLANES], self.first.bias)

    def forward(self, features: Sequence[Tensor], z: Tensor) -> Tensor:
        """Embedding (B,embed_dim,1,1) from z (B,z_dim,1,1) and `scene_features` (.,g,h/2,w/2).

        The features of several groups of scenes share z out equally; a single scene serves all its z.
        """
        hidden = add_noise(features, noise_features(z, self.first.weight[:, PLANES:]))
        return self.head(self.body(hidden))

    def estimate_noise(self, embedding: Tensor, keep: Tensor) -> Tensor:
        """z_hat (B,z_dim,1,1); `keep` (B,embed_dim,1,1) is the dropout mask (loader/noise.py)."""
        return full_precision(self.z_head(embedding * keep))


class VariationalEncoder(nn.Module):
    """theta or a compact mask -> mu, logvar of the noise that explains it, each (B,z_dim,1,1)."""

    def __init__(self, body: nn.Sequential, channels: int, kernel: tuple[int, int], z_dim: int):
        super().__init__()
        self.body = body
        self.mu = nn.Conv2d(channels, z_dim, kernel)
        self.logvar = nn.Conv2d(channels, z_dim, kernel)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = activate(self.body(x), LEAK)
        return full_precision(self.mu(hidden)), full_precision(self.logvar(hidden))


class StnHead(nn.Module):
    """Where embedding (B,embed_dim,1,1) -> theta (B,6), a 2x3 affine matrix without rotation or shear."""

    def __init__(self, embed_dim: int, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(embed_dim, 2 * width), nn.ReLU(), nn.Linear(2 * width, width), nn.ReLU()
        )
        self.theta = nn.Linear(width, 6)
        self.register_buffer("free", torch.tensor([1.0, 0, 1, 0, 1, 1]), persistent=False)

    def start(self) -> None:
        """Let the last layer predict the identity, the whole image."""
        nn.init.zeros_(self.theta.weight)
        with torch.no_grad():
            self.theta.bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0]))

    def forward(self, embedding: Tensor) -> Tensor:
        # A place needs more digits than half precision has: 8 bits are a pixel or two.
        with no_autocast(embedding):
            embedding = embedding.flatten(1).to(self.theta.weight.dtype)
            return self.theta(self.layers(embedding)) * self.free  # (B,6)


# ---- the table ----------------------------------------------------------------------------------


# The networks by who trains them together; each has what it has of these.
GROUPS = {
    "d": ("d_stn", "d_where", "d_obj", "d_what"),
    "sup": ("where_encoder_sup", "what_encoder_sup"),
    "g": (
        *("where_encoder", "where_reconstructor", "stn"),
        *("what_encoder", "generator", "what_reconstructor"),
    ),
    "where": ("place_density",),
}


def build_networks(options: Options) -> nn.ModuleDict:
    """The networks, freshly initialised from torch's random state.

    The published twelve; with option where = distribution the density of places instead of the published
    where module; with what = none no what module. Discriminators and reconstructors return logits: the
    published sigmoid is part of their loss.
    """
    published, draws_shapes = options.where == "published", options.what != "none"
    networks = nn.ModuleDict(
        (where_networks(options) if published else density_network(options))
        | (what_networks(options) if draws_shapes else {})
        | (where_discriminators(options) if published else {})
        | (what_discriminators(options) if draws_shapes else {})
    )
    initialise(networks)
    return networks


def density_network(options: Options) -> dict[str, nn.Module]:
    depth = network_depth(options.image_sizex_small, options.image_sizey_small, "small maps")
    classes = len(options.targets)
    return {"place_density": PlaceDensityNetwork(NUM_CHANNELS, options.where_dim, depth, classes)}


def where_networks(options: Options) -> dict[str, nn.Module]:
    """What finds a place in a small map, as published."""
    g, embed_dim, z_spatial = options.gf_dim, options.embed_dim_small, options.z_dim_spatial
    depth = network_depth(options.image_sizex_small, options.image_sizey_small, "small maps")
    kernel = (4, options.image_sizex_small >> depth)
    return {
        "where_encoder": SceneEncoder(z_spatial, g, depth, kernel, embed_dim),
        "where_encoder_sup": VariationalEncoder(nn.Sequential(nn.Conv2d(6, g, 1)), g, (1, 1), z_spatial),
        "where_reconstructor": Reconstructor(embed_dim, g, depth, kernel),
        "stn": StnHead(embed_dim, g),
    }


def what_networks(options: Options) -> dict[str, nn.Module]:
    """What draws a shape into a box on a big map."""
    g, embed_dim, z_appr = options.gf_dim, options.embed_dim_big, options.z_dim_appr
    depth = network_depth(options.image_sizex_big, options.image_sizey_big, "big maps")
    kernel = (4, options.image_sizex_big >> depth)
    compact, kernel_compact = _compact_size(options)
    channels = [g * multiplier for multiplier in channel_multipliers(compact)]
    return {
        "what_encoder": SceneEncoder(z_appr, g, depth, kernel, embed_dim),
        "what_encoder_sup": VariationalEncoder(down(1, channels), channels[-1], kernel_compact, z_appr),
        "generator": up(embed_dim, g, compact, kernel_compact, 1),
        "what_reconstructor": Reconstructor(embed_dim, g, depth, kernel),
    }


def where_discriminators(options: Options) -> dict[str, nn.Module]:
    """What judges theta, and the layout with its box."""
    d = options.df_dim
    return {
        "d_stn": mlp(6, options.gf_dim, 1, activation=nn.ReLU()),
        "d_where": nn.Sequential(*down(PLANES + 1, [d, 2 * d, 4 * d]), DownBlock(4 * d, 1, LEAK, norm=False)),
    }


def what_discriminators(options: Options) -> dict[str, nn.Module]:
    """What judges the shape, and the layout with the instance."""
    d = options.df_dim
    compact, kernel_compact = _compact_size(options)
    channels = [d * multiplier for multiplier in channel_multipliers(compact)]
    return {
        "d_obj": MaskDiscriminator(
            *down(1, channels), nn.LeakyReLU(LEAK), nn.Conv2d(channels[-1], 1, kernel_compact)
        ),
        "d_what": SceneDiscriminator(*down(PLANES, [d, 2 * d]), DownBlock(2 * d, 1, LEAK, norm=False)),
    }


def _compact_size(options: Options) -> tuple[int, tuple[int, int]]:
    """Depth of the networks of compact masks, and the kernel that covers what they leave."""
    depth = network_depth(options.compact_sizex, options.compact_sizey, "compact masks")
    return depth, (4, options.compact_sizex >> depth)


def initialise(networks: nn.ModuleDict) -> None:
    """Convolutions N(0, 0.02) with bias 0; the STN head starts at the identity (docs/model.md#networks).

    The density of places, no published network, keeps PyTorch's start but for its last layer.
    """
    for name, network in networks.items():
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and name != "place_density":
                nn.init.normal_(module.weight, 0.0, 0.02)
                nn.init.zeros_(module.bias)
        if isinstance(network, (StnHead, PlaceDensityNetwork)):
            network.start()


# ---- fixed operations ---------------------------------------------------------------------------


def edge_map(m: Tensor) -> Tensor:
    """Largest of the four differences to the neighbours, clipped at 0: (B,1,h,w) -> (B,1,h,w).

    0 where a neighbour lies outside the image. Differentiable; for instance maps take `edge_map(m) > 0`.
    """
    down_step = F.pad(m[:, :, 1:] - m[:, :, :-1], (0, 0, 1, 1))  # row r: m[r] - m[r-1]; 0 outside
    right_step = F.pad(m[:, :, :, 1:] - m[:, :, :, :-1], (1, 1))
    vertical = torch.maximum(down_step[:, :, :-1], -down_step[:, :, 1:])
    horizontal = torch.maximum(right_step[:, :, :, :-1], -right_step[:, :, :, 1:])
    return torch.maximum(vertical, horizontal).clamp(min=0)


def noise_features(z: Tensor, weight: Tensor) -> Tensor:
    """k4s2p1 convolution of z tiled over a map, without tiling: (B,z,1,1) -> (B,g,3,3).

    Padding touches the first and the last output row and column only; the middle one of the three rows and
    columns stands for all others, which see the same 16 taps. The map must have 3 rows and columns.
    """
    return F.conv2d(z.expand(-1, -1, 6, 6), weight, stride=2, padding=1)


def _source_coordinate(scale: Tensor, shift: Tensor, size: int) -> Tensor:
    """Source coordinate u (B,size), -1..1 inside the source, of each output pixel along one axis.

    Pixel centres of the first and last pixel sit at -1 and +1 (align_corners=True, docs/model.md#placing).
    """
    return (
        scale[:, None] * torch.linspace(-1, 1, size, device=scale.device, dtype=scale.dtype) + shift[:, None]
    )


def _placing_matrix(scale: Tensor, shift: Tensor, size: int, source: int) -> Tensor:
    """Bilinear weights (B,size,source) of a source, enlarged by NEAREST, in the output pixels."""
    enlarged = ENLARGEMENT * source
    position = (_source_coordinate(scale, shift, size) + 1) / 2 * (enlarged - 1)
    # Far outside, positions may not fit an integer; nothing is sampled there, wherever exactly it is.
    left = position.detach().floor().clamp(-2, enlarged + 1)
    fraction = (position - left)[..., None]
    cells = torch.arange(source, device=scale.device, dtype=scale.dtype)
    left_in_cell = ((left / ENLARGEMENT).floor()[..., None] == cells).to(scale.dtype)
    right_in_cell = (((left + 1) / ENLARGEMENT).floor()[..., None] == cells).to(scale.dtype)
    return left_in_cell * (1 - fraction) + right_in_cell * fraction


def place(source: Tensor, theta: Tensor, size: tuple[int, int]) -> Tensor:
    """Place source (B,1,sy,sx) with theta (B,6) on a map of `size` (height, width): (B,1,height,width).

    Equal to enlarging the source 8 times with NEAREST and sampling it bilinearly on the affine grid of
    theta, zero outside. Without rotation both steps are separable: two small matrix products.
    """
    rows = _placing_matrix(theta[:, 4], theta[:, 5], size[0], source.shape[2])  # (B,height,sy)
    columns = _placing_matrix(theta[:, 0], theta[:, 2], size[1], source.shape[3])  # (B,width,sx)
    with no_autocast(theta):
        return (rows @ source[:, 0].to(theta.dtype) @ columns.transpose(1, 2))[:, None]


def place_box(
    theta: Tensor, size: tuple[int, int], source_size: tuple[int, int], ramp: float = 0.0
) -> Tensor:
    """The box mask (B,1,height,width) in [0,1]: an all-ones source of `source_size` placed with theta.

    The published edge is a ramp one enlarged source pixel wide, often far below an output pixel, which
    leaves the place next to no gradient. `ramp` > 0 makes it that many output pixels wide instead.
    """
    if ramp == 0:
        rows = _placing_matrix(theta[:, 4], theta[:, 5], size[0], source_size[0]).sum(2)
        columns = _placing_matrix(theta[:, 0], theta[:, 2], size[1], source_size[1]).sum(2)
    else:
        rows = _soft_interval(theta[:, 4], theta[:, 5], size[0], ramp)
        columns = _soft_interval(theta[:, 0], theta[:, 2], size[1], ramp)
    return (rows[:, :, None] * columns[:, None, :])[:, None]


def _soft_interval(scale: Tensor, shift: Tensor, size: int, ramp: float) -> Tensor:
    """1 inside the box, 0 outside, a ramp `ramp` output pixels wide centred on its edge: (B,size)."""
    inside = 1 - _source_coordinate(scale, shift, size).abs()  # distance to the edge, source units
    pixels = inside * (size - 1) / 2 / scale[:, None].abs().clamp(min=1e-3)
    return (pixels / ramp + 0.5).clamp(0, 1)
