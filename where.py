"""Where an object stands: the published where module and the density of places, behind one interface.

Each has its paths (`forward`), its terms of the objective (`d_losses`, `g_losses`, named in `terms`), and
`on(scene)`, which places and scores objects on one scene. Nobody else needs to know which of the two it is,
but whoever wants the density itself (`has_density`, `PlacesOnDensity.density`).
Shapes: B images a batch, h x w the small map.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.labels import FIRST_THING_CHANNEL
from layers.canvas import Canvas
from layers.place_density import PlaceDensity
from loader.noise import Noise
from losses import coord_loss, gan_loss, kl_loss, stn_theta_loss
from networks import full_precision
from options import Options
from support.errors import InputError
from views import Maps, Views

MAX_TEMPERATURE = 10  # far beyond it the sizes that are drawn overflow

# ---- as published: an STN head, trained by discriminators ---------------------------------------


@dataclass(frozen=True)
class PublishedPaths:
    """What the published where module answers: paths 1, 2 and 5 (docs/model.md#paths)."""

    theta: Tensor  # (B,6) path 5: the predicted place on x
    theta_vae: Tensor  # (B,6) path 1
    theta_real_z: Tensor  # (B,6) path 2
    mu: Tensor  # (B,z_spatial,1,1) path 1
    logvar: Tensor
    cond_z: Tensor  # (B,z_spatial,1,1) estimate of z_spatial, path 5
    real_z: Tensor  # path 2
    recon: Tensor  # (2B,g,h/2,w/2) features of the reconstructions, path 2, then path 5
    cond_boxed: Canvas  # x with the predicted box

    def thetas(self) -> Tensor:
        """All predicted places (3B,6)."""
        return torch.cat([self.theta, self.theta_vae, self.theta_real_z])


class PublishedWhere:
    """Encoders, STN head, reconstructor, and the two discriminators that judge theta."""

    has_density = False
    terms = (
        *("d_stn", "d_where", "g_stn", "g_where", "coord", "stn_theta"),
        *("where_kl", "where_recon", "where_vae_recon", "overlap"),
    )

    def __init__(self, options: Options, networks: nn.ModuleDict, maps: Maps):
        self.networks, self.maps = networks, maps

    def forward(self, views: Views, noise: Noise, update: int) -> PublishedPaths:
        """Paths 1, 2 and 5 with the noise of update 0 or 1; 2 and 5 share one batched call."""
        networks, drawn = self.networks, noise.updates[update]
        # Path 1 (supervised, x+) apart, because its encoder is trained by a backward pass of its own.
        encoder = networks["where_encoder"]
        mu, logvar = networks["where_encoder_sup"](views.batch.theta[:, :, None, None])
        z_sup = mu + drawn.eps_where * torch.exp(logvar / 2)
        real_features = encoder.scene_features(views.real_small)
        cond_features = encoder.scene_features(views.cond_small)
        theta_vae = networks["stn"](encoder([real_features], z_sup))
        embedding = encoder([real_features, cond_features], noise.z_spatial.repeat(2, 1, 1, 1))
        theta_real_z, theta = networks["stn"](embedding).chunk(2)
        real_z, cond_z = encoder.estimate_noise(embedding, drawn.keep_where.flatten(0, 1)).chunk(2)
        return PublishedPaths(
            theta=theta,
            theta_vae=theta_vae,
            theta_real_z=theta_real_z,
            mu=mu,
            logvar=logvar,
            cond_z=cond_z,
            real_z=real_z,
            recon=networks["where_reconstructor"](embedding),
            cond_boxed=views.cond_small.paste(self.maps.box(theta, self.maps.small)),
        )

    def d_losses(self, views: Views, paths: PublishedPaths) -> dict[str, Tensor]:
        """Losses of D stn and D where: real against 1, the detached fakes against 0."""
        d_stn, d_where = self.networks["d_stn"], self.networks["d_where"]
        theta, fakes = views.batch.theta, paths.thetas().detach()
        real_box = self.maps.box(theta, self.maps.small)
        return {
            "d_stn": gan_loss(d_stn(theta[:, :, None, None]), True)
            + 3 * gan_loss(d_stn(fakes[:, :, None, None]), False),  # a term for each of the three paths
            "d_where": gan_loss(d_where(boxed_planes(views.real_small.paste(real_box))), True)
            + gan_loss(d_where(boxed_planes(paths.cond_boxed.detach())), False),
        }

    def g_losses(self, views: Views, noise: Noise, paths: PublishedPaths) -> dict[str, Tensor]:
        d_stn, d_where = self.networks["d_stn"], self.networks["d_where"]
        target, reconstructor = self.maps.target, self.networks["where_reconstructor"]
        # Both paths' means at once: twice the mean over both.
        scenes = 2 * reconstructor.loss(paths.recon, views.real_small.joined(views.cond_small))
        return {
            "g_stn": 3 * gan_loss(d_stn(paths.thetas()[:, :, None, None]), True),
            "g_where": gan_loss(d_where(boxed_planes(paths.cond_boxed)), True),
            "coord": coord_loss(paths.theta),
            "stn_theta": stn_theta_loss(paths.theta, target.max_width_ratio, target.max_height_ratio),
            "where_recon": scenes
            + F.l1_loss(paths.cond_z, noise.z_spatial)
            + F.l1_loss(paths.real_z, noise.z_spatial),
            "where_vae_recon": F.l1_loss(paths.theta_vae, views.batch.theta),
            "where_kl": kl_loss(paths.mu, paths.logvar),
            "overlap": box_overlap(paths.cond_boxed.mask, views.batch.cond.labels_small),
        }

    def on(self, labels: Tensor, ids: Tensor, temperature: float = 1.0) -> "PublishedPlaces":
        """The module on scenes: channels (1 or B,h,w) uint8 and ids int32; InputError for a temperature."""
        check_temperature(self, temperature)
        return PublishedPlaces(self, labels, ids)

    @torch.no_grad()
    def reconstruct(self, labels: Tensor, ids: Tensor, theta: Tensor) -> Tensor:
        """theta (B,6) as path 1 gives it back, with mu for z."""
        encoder = self.networks["where_encoder"]
        mu, _ = self.networks["where_encoder_sup"](theta[:, :, None, None])
        return self.networks["stn"](encoder([encoder.scene_features(self.maps.canvas(labels, ids))], mu))


class PublishedPlaces:
    """The published where module on a scene."""

    def __init__(self, where: PublishedWhere, labels: Tensor, ids: Tensor):
        self.where, self.labels, self.ids = where, labels, ids

    @cached_property
    def features(self) -> Tensor:
        encoder = self.where.networks["where_encoder"]
        return encoder.scene_features(self.where.maps.canvas(self.labels, self.ids))

    @torch.no_grad()
    def sample(self, z_spatial: Tensor) -> Tensor:
        """theta (B,6) for z (B,z_spatial,1,1): path 5 without dropout."""
        networks = self.where.networks
        return networks["stn"](networks["where_encoder"]([self.features], z_spatial))

    @torch.no_grad()
    def score(self, theta: Tensor) -> Tensor:
        """How real D where finds each box of theta (B,6) on the scene, (B,) in 0..1.

        The sigmoid of its mean logit over the patches; comparable within one checkpoint only.
        """
        maps = self.where.maps
        labels, ids = (tensor.expand(len(theta), -1, -1) for tensor in (self.labels, self.ids))
        boxed = maps.canvas(labels, ids).paste(maps.box(theta, maps.small))
        return self.where.networks["d_where"](boxed_planes(boxed)).mean((1, 2, 3)).sigmoid()


def boxed_planes(canvas: Canvas) -> Tensor:
    """What D where sees (B,32,h,w): the planes of a scene with a box on it, and the box mask."""
    return torch.cat([canvas.planes(), canvas.mask], 1)


def box_overlap(box: Tensor, labels: Tensor) -> Tensor:
    """Fraction of box masks (B,1,h,w) in [0,1] that lies on things of labels (B,h,w); scalar mean.

    Logged only: discriminators see a box in place of what it covers, so nothing keeps it clear of cars.
    """
    covered = (box[:, 0] * (labels >= FIRST_THING_CHANNEL)).sum((1, 2))
    return (covered / box.sum((1, 2, 3)).clamp(min=1)).mean()


# ---- the density of places, trained by likelihood -----------------------------------------------


@dataclass(frozen=True)
class DensityPaths:
    """What the density of places answers: path 5, and the likelihood of real places."""

    theta: Tensor | None  # (B,6) the predicted place on x, if shapes are drawn; without gradient
    nll_foot: Tensor  # scalars, nats, means over the places of this update
    nll_size: Tensor
    overlap: Tensor | None  # likewise, expected fraction of a box that lies on things


class DensityWhere:
    """One network, which gives the density of all places of each class in a scene.

    z and theta determine each other.
    """

    has_density = True
    terms = ("where_nll_foot", "where_nll_size", "overlap")

    def __init__(self, options: Options, networks: nn.ModuleDict, maps: Maps):
        self.networks, self.maps = networks, maps
        self.number = 0  # of the class whose places are drawn, see `WhereWhat.of_class`
        self.draws_shapes = options.what != "none"
        if not self.draws_shapes:  # worked out for all places, it takes a third of an iteration
            self.terms = tuple(name for name in self.terms if name != "overlap")
        self.clear_weight = options.clear_weight

    def forward(self, views: Views, noise: Noise, update: int) -> DensityPaths:
        """Path 5 if shapes are drawn, and the likelihood of the places of update 0 or 1."""
        batch, theta, overlap = views.batch, None, None
        places, labels = batch.places, batch.places.labels[:, update]
        density = self._density_of(self._planes(labels).flatten(0, 1))
        nll_foot, nll_size = density.losses(
            places.boxes[:, update], places.known[:, update], places.classes[:, update]
        )
        if self.draws_shapes:
            with torch.no_grad():
                theta = self.density(batch.cond.labels_small).theta_of_z(noise.z_spatial.flatten(1))
                overlap = density.overlap(_things(labels))
            theta = theta.to(batch.theta.dtype)
        return DensityPaths(theta, nll_foot, nll_size, overlap)

    def d_losses(self, views: Views, paths: DensityPaths) -> dict[str, Tensor]:
        return {}

    def g_losses(self, views: Views, noise: Noise, paths: DensityPaths) -> dict[str, Tensor]:
        terms = {
            "where_nll_foot": paths.nll_foot,
            "where_nll_size": paths.nll_size,
            "overlap": paths.overlap,
        }
        return {name: terms[name] for name in self.terms}

    def _planes(self, labels: Tensor) -> Tensor:
        """What the network says (B,C,5,h,w) of small maps, channels (B,h,w) uint8, for each of C classes."""
        return full_precision(self.networks["place_density"](labels))

    def _density_of(self, planes: Tensor) -> PlaceDensity:
        return PlaceDensity.of_planes(planes, self.maps.small[1] / self.maps.small[0])

    def learnt_density(self, labels: Tensor) -> PlaceDensity:
        """What likelihood trains: the density of places of a class in small maps, channels (B,h,w) uint8."""
        return self._density_of(self._planes(labels)[:, self.number])

    def density(self, labels: Tensor, temperature: float = 1.0) -> PlaceDensity:
        """What places are drawn from: the learnt density where boxes fit, kept clear of things.

        labels (B,h,w) uint8. A temperature below 1 gathers places where the density is high.
        """
        fitting = self.learnt_density(labels).that_fit()
        return fitting.clear_of(_things(labels), self.clear_weight).at_temperature(temperature)

    def on(self, labels: Tensor, ids: Tensor | None = None, temperature: float = 1.0) -> "PlacesOnDensity":
        """The density on scenes, channels (1 or B,h,w) uint8; it has no use for ids."""
        with torch.no_grad():
            return PlacesOnDensity(self.density(labels, temperature))


def _things(labels: Tensor) -> Tensor:
    """Where small maps, channels (B,h,w) uint8, show things: bool."""
    return labels >= FIRST_THING_CHANNEL


@dataclass(frozen=True)
class PlacesOnDensity:
    """The density of places of a class in a scene, or in B."""

    density: PlaceDensity

    @torch.no_grad()
    def sample(self, z_spatial: Tensor) -> Tensor:
        """theta (B,6) float32 for z (B,4,1,1)."""
        return self.density.theta_of_z(z_spatial.flatten(1)).float()

    @torch.no_grad()
    def score(self, theta: Tensor) -> Tensor:
        """How likely the feet of theta (B,6) are, (B,), the likeliest in the scene being 1."""
        return self.density.likelihood(theta)


def check_temperature(where: PublishedWhere | DensityWhere, temperature: float) -> None:
    """Raise InputError for a temperature that can't be used, or not with this module."""
    if not 0 < temperature <= MAX_TEMPERATURE:
        raise InputError(
            f"--temperature must be above 0 and at most {MAX_TEMPERATURE}, not {temperature:g} (1 is the"
            " learnt distribution)"
        )
    if temperature != 1 and not where.has_density:
        raise InputError(
            "--temperature: the published where module has none; leave it out, or take a checkpoint trained"
            " with --where distribution"
        )


Places = PublishedPlaces | PlacesOnDensity
WHERE_MODULES = {"published": PublishedWhere, "distribution": DensityWhere}  # by option where
