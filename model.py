"""The joint where/what model: what flows through one step, the losses, one training step, and sampling.

Read from top to bottom: data that travel, the five forward paths (spec section 6), the losses
(section 7), the update (section 8), and `sample`, the only door for pictures, evaluation and insertion.
Shapes: B images a batch, h x w the small map, H x W the big map, cy x cx the compact mask.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.labels import FIRST_THING_CHANNEL, TARGET_CLASSES
from layers.canvas import Canvas
from layers.place_density import PlaceDensity
from loader.noise import HalfNoise, Noise
from loader.pairs import Batch, Scene
from networks import build_networks, edge_map, full_precision, no_autocast, place, place_box, place_code
from options import Options, from_dict
from support.checkpoints import PACKED, find_checkpoint, load_checkpoint
from support.errors import InputError

G_NETWORKS = (
    "where_encoder",
    "where_reconstructor",
    "stn",
    "what_encoder",
    "generator",
    "what_reconstructor",
)
SUP_NETWORKS = ("where_encoder_sup", "what_encoder_sup")
WHERE_NETWORKS = ("place_density",)
D_NETWORKS = ("d_stn", "d_where", "d_obj", "d_what")
# What sampling and its scores need, and what evaluation shows masks again with.
SAMPLING_NETWORKS = (
    *("where_encoder", "stn", "d_where", "where_encoder_sup"),  # where = published
    *("place_density", "what_encoder", "generator", "d_obj", "what_encoder_sup"),
)

# g_loss is the sum of these terms with these weights (spec section 7), as far as a model has them.
G_WEIGHTS = {
    "g_stn": 1.0,
    "g_where": 1.0,
    "g_obj": 1.0,
    "g_what": 1.0,
    "coord": 1.0,
    "stn_theta": 1.0,
    "where_recon": 10.0,
    "what_recon": 10.0,
    "where_vae_recon": 10.0,
    "what_vae_recon": 10.0,
    "where_nll_foot": 1.0,  # the two that train the density of places
    "where_nll_size": 1.0,
}
D_NAMES = ("d_stn", "d_where", "d_obj", "d_what")
LOSS_NAMES = (
    *D_NAMES,
    *("g_stn", "g_where", "g_obj", "g_what", "coord", "stn_theta", "where_kl", "what_kl"),
    *("where_recon", "what_recon", "where_vae_recon", "what_vae_recon", "overlap", "g_total"),
    *("where_nll_foot", "where_nll_size"),
)
# Terms that belong to the published where module alone, and those that train it through theta.
PUBLISHED_WHERE_LOSSES = ("where_kl", "where_recon", "where_vae_recon")
THETA_LOSSES = ("d_stn", "g_stn", "d_where", "g_where", "coord", "stn_theta")


def loss_names(options: Options) -> tuple[str, ...]:
    """The terms of LOSS_NAMES that a model of these options has."""
    if options.where == "published":
        left_out = {"where_nll_foot", "where_nll_size"}
    else:
        left_out = {*PUBLISHED_WHERE_LOSSES, *(() if options.joint_weight else THETA_LOSSES)}
    return tuple(name for name in LOSS_NAMES if name not in left_out)


# ---- maps ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Views:
    """What a step derives from the batch alone, once for both halves (no parameters, no gradient)."""

    batch: Batch
    real_small: Canvas  # x+ as the where module sees it
    cond_small: Canvas  # x likewise
    real_boxed_big: Canvas  # x+ with the real box: the what module's input
    cond_big: Canvas  # x


@dataclass(frozen=True)
class Paths:
    """Outputs of the five forward paths (spec section 6).

    Option where = distribution has no paths 1 and 2: z and theta determine each other. In their place it has
    the likelihood of real places.
    """

    theta: Tensor  # (B,6) path 5: the predicted place on x
    box_small: Tensor  # (B,1,h,w) the predicted box
    cond_boxed_small: Canvas  # x with the predicted box
    cond_boxed_big: Canvas  # the what module's input of path 5
    newobj: Tensor  # (B,1,cy,cx) path 5: the predicted shape
    obj_vae: Tensor  # path 3
    obj_real_z: Tensor  # path 4
    what_mu: Tensor  # (B,z_appr,1,1) path 3
    what_logvar: Tensor
    cond_z_appr: Tensor  # (B,z_appr,1,1) estimate of z_appr, path 5
    real_z_appr: Tensor  # path 4
    recon_big: Tensor  # (2B,g,H/2,W/2) features of the reconstructions, path 4, then path 5
    result_big: Canvas  # x with the new object and its edge

    # ---- the published where module
    theta_vae: Tensor | None = None  # (B,6) path 1
    theta_real_z: Tensor | None = None  # (B,6) path 2
    where_mu: Tensor | None = None  # (B,z_spatial,1,1) path 1
    where_logvar: Tensor | None = None
    cond_z_spatial: Tensor | None = None  # (B,z_spatial,1,1) estimate of z_spatial, path 5
    real_z_spatial: Tensor | None = None  # path 2
    recon_small: Tensor | None = None  # (2B,g,h/2,w/2) features of the reconstructions, path 2, then path 5

    # ---- the density of places
    nll_foot: Tensor | None = None  # scalars, nats, means over the places of this half
    nll_size: Tensor | None = None
    density_overlap: Tensor | None = None  # expected share of boxes on things in this half's maps

    def thetas(self) -> Tensor:
        """All predicted places (n*B,6), path 5 first."""
        return torch.cat([t for t in (self.theta, self.theta_vae, self.theta_real_z) if t is not None])


class WhereWhat(nn.Module):
    """The networks and the paths through them."""

    def __init__(self, options: Options):
        super().__init__()
        self.options = options
        self.loss_names = loss_names(options)
        self.temperature = 1.0  # of the density of places that is sampled from
        self.target = TARGET_CLASSES[options.target_class]
        self.networks = build_networks(options)
        self.small = (options.image_sizey_small, options.image_sizex_small)
        self.big = (options.image_sizey_big, options.image_sizex_big)
        self.compact = (options.compact_sizey, options.compact_sizex)
        if options.channels_last:
            for parameter in self.parameters():
                if parameter.dim() == 4:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def autocast(self) -> torch.autocast:
        """The context of a forward pass and its losses, by option precision."""
        device = self.device.type
        dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[self.options.precision]
        return torch.autocast(device if dtype else "cpu", dtype, enabled=dtype is not None)

    def parameters_of(self, names: Iterable[str]) -> list[nn.Parameter]:
        """The parameters of those of these networks that the model has."""
        return [p for name in names if name in self.networks for p in self.networks[name].parameters()]

    def compile_networks(self) -> None:
        """Compile each network for itself; the first step then takes minutes, later ones less time."""
        for network in self.networks.values():
            network.compile(dynamic=False)  # sizes never change within a run

    def place_numbers(self, theta: Tensor) -> Tensor:
        """The numbers (B,6) that stand for theta in losses, encoder and discriminator."""
        return place_code(theta) if self.options.theta_space == "box" else theta

    def box(self, theta: Tensor, size: tuple[int, int]) -> Tensor:
        """Box mask (B,1,*size) of theta (B,6)."""
        return place_box(theta, size, self.compact, self.options.box_ramp)

    def draw(self, embedding: Tensor) -> Tensor:
        """Compact masks (B,1,cy,cx) in [0,1] of what embeddings (B,embed_big,1,1)."""
        return full_precision(self.networks["generator"](embedding)).sigmoid()

    def canvas(self, labels: Tensor, ids: Tensor) -> Canvas:
        """A scene from channels (B,h,w) uint8 and instance ids (B,h,w) int32."""
        edge = (edge_map(ids[:, None]) > 0).to(next(self.parameters()).dtype)
        return Canvas(labels, edge, self.target.channel)

    def compose(self, scene: Canvas, compact: Tensor, theta: Tensor) -> Canvas:
        """A scene (H x W) with a compact mask (B,1,cy,cx) placed on it and its edge drawn."""
        mask = place(compact, theta, tuple(scene.labels.shape[1:]))
        return replace(scene, mask=mask, drawn=edge_map(mask))

    def views(self, batch: Batch) -> Views:
        real, cond = batch.real, batch.cond
        return Views(
            batch,
            real_small=self.canvas(real.labels_small, real.ids_small),
            cond_small=self.canvas(cond.labels_small, cond.ids_small),
            real_boxed_big=self.canvas(real.labels_big, real.ids_big).paste(self.box(batch.theta, self.big)),
            cond_big=self.canvas(cond.labels_big, cond.ids_big),
        )

    # ---- the density of places (option where = distribution)

    def learnt_density(self, labels: Tensor) -> PlaceDensity:
        """What likelihood trains: the density of places in small maps, channels (B,h,w) uint8."""
        planes = full_precision(self.networks["place_density"](labels))
        return PlaceDensity.of_planes(planes, self.small[1] / self.small[0])

    def density(self, labels: Tensor) -> PlaceDensity:
        """What places are drawn from: the learnt density where boxes fit, kept clear of things."""
        things = labels >= FIRST_THING_CHANNEL
        fitting = self.learnt_density(labels).that_fit()
        return fitting.clear_of(things, self.options.clear_weight).at_temperature(self.temperature)

    def theta_of_z(self, labels: Tensor, z_spatial: Tensor) -> Tensor:
        """theta (B,6) float64 for z (B,4), on small maps of channels (B or 1,h,w) uint8."""
        return self.density(labels).theta_of_z(z_spatial)

    def z_of_theta(self, labels: Tensor, theta: Tensor) -> Tensor:
        """The inverse: z (B,4) float64 of places theta (B,6) whose boxes lie in the image."""
        return self.density(labels).z_of_theta(theta)

    # ---- the paths

    def where_published(self, views: Views, noise: Noise, half: HalfNoise) -> dict[str, Tensor]:
        """Fields of Paths by the published where module: paths 1, 2 and 5; 2 and 5 share one batched call."""
        networks = self.networks
        # Path 1 (supervised, x+) apart, because its encoder is trained by a backward pass of its own.
        encoder = networks["where_encoder"]
        where_mu, where_logvar = networks["where_encoder_sup"](
            self.place_numbers(views.batch.theta)[:, :, None, None]
        )
        z_sup = where_mu + half.eps_where * torch.exp(where_logvar / 2)
        real_features = encoder.scene_features(views.real_small)
        cond_features = encoder.scene_features(views.cond_small)
        theta_vae = networks["stn"](encoder([real_features], z_sup))
        embedding = encoder([real_features, cond_features], noise.z_spatial.repeat(2, 1, 1, 1))
        theta_real_z, theta = networks["stn"](embedding).chunk(2)
        real_z_spatial, cond_z_spatial = encoder.estimate_noise(
            embedding, half.keep_where.flatten(0, 1)
        ).chunk(2)
        return {
            "theta": theta,
            "theta_vae": theta_vae,
            "theta_real_z": theta_real_z,
            "where_mu": where_mu,
            "where_logvar": where_logvar,
            "cond_z_spatial": cond_z_spatial,
            "real_z_spatial": real_z_spatial,
            "recon_small": networks["where_reconstructor"](embedding),
        }

    def where_distribution(self, views: Views, noise: Noise, half: int) -> dict[str, Tensor]:
        """Fields of Paths by the density of places: path 5, and the likelihood of the places of this half."""
        joint, places = self.options.joint_weight, views.batch.places
        with torch.set_grad_enabled(torch.is_grad_enabled() and joint > 0):
            theta = self.theta_of_z(views.batch.cond.labels_small, noise.z_spatial.flatten(1))
        theta = theta.to(views.batch.theta.dtype)
        theta = theta.detach() + joint * (theta - theta.detach()) if theta.requires_grad else theta
        density = self.learnt_density(places.labels[:, half])
        nll_foot, nll_size = density.losses(places.boxes[:, half], places.known[:, half])
        overlap = density.overlap(places.labels[:, half] >= FIRST_THING_CHANNEL)
        return {"theta": theta, "nll_foot": nll_foot, "nll_size": nll_size, "density_overlap": overlap}

    def forward(self, views: Views, noise: Noise, half: int) -> Paths:
        """The paths of half 0 or 1 of a step; paths 4 and 5 share one batched call of each network."""
        networks, half_noise = self.networks, noise.halves[half]
        if self.options.where == "published":
            where = self.where_published(views, noise, half_noise)
        else:
            where = self.where_distribution(views, noise, half)
        theta = where["theta"]

        # the predicted box on x, at both sizes; theta keeps its gradient: what trains where
        box_small = self.box(theta, self.small)
        cond_boxed_small = views.cond_small.paste(box_small)
        cond_boxed_big = views.cond_big.paste(self.box(theta, self.big))

        # what: path 3 (supervised, x+); path 4 (z, x+) and path 5 (z, x with the predicted box)
        encoder = networks["what_encoder"]
        what_mu, what_logvar = networks["what_encoder_sup"](views.batch.compact)
        z_sup = what_mu + half_noise.eps_what * torch.exp(what_logvar / 2)
        real_features = encoder.scene_features(views.real_boxed_big)
        cond_features = encoder.scene_features(cond_boxed_big)
        obj_vae = self.draw(encoder([real_features], z_sup))
        embedding = encoder([real_features, cond_features], noise.z_appr.repeat(2, 1, 1, 1))
        obj_real_z, newobj = self.draw(embedding).chunk(2)
        real_z_appr, cond_z_appr = encoder.estimate_noise(
            embedding, half_noise.keep_what.flatten(0, 1)
        ).chunk(2)
        recon_big = networks["what_reconstructor"](embedding)
        result_big = self.compose(views.cond_big, newobj, theta)

        return Paths(
            **where,
            box_small=box_small,
            cond_boxed_small=cond_boxed_small,
            cond_boxed_big=cond_boxed_big,
            newobj=newobj,
            obj_vae=obj_vae,
            obj_real_z=obj_real_z,
            what_mu=what_mu,
            what_logvar=what_logvar,
            cond_z_appr=cond_z_appr,
            real_z_appr=real_z_appr,
            recon_big=recon_big,
            result_big=result_big,
        )


# ---- losses -------------------------------------------------------------------------------------


def gan_loss(logits: Tensor, real: bool) -> Tensor:
    """BCE of sigmoid(logits) against 1 (real) or 0, mean over batch and patches; scalar."""
    logits = full_precision(logits)
    return F.softplus(-logits if real else logits).mean()


def coord_loss(theta: Tensor) -> Tensor:
    """The whole compact source must lie inside the image (spec section 7); per sample, then mean. Scalar.

    Over the grid, X from -1 to 1, t11*X + t13 reaches t13 - |t11| and t13 + |t11|: no grid is needed.
    """
    scale, shift = theta[:, 0::4], theta[:, 2::3]  # (B,2): x and y
    return (F.relu(1 + shift - scale.abs()) + F.relu(1 - shift - scale.abs())).sum(1).mean()


def stn_theta_loss(theta: Tensor, max_width_ratio: float, max_height_ratio: float) -> Tensor:
    """Boxes not too small and not flipped: bounds on t11 and t22; per sample, then mean. Scalar."""
    t11, t22 = theta[:, 0], theta[:, 4]
    too_small = F.relu(t11 - max_width_ratio) + F.relu(t22 - max_height_ratio)
    return (too_small + F.relu(-t11) + F.relu(-t22)).mean()


def overlap_loss(box: Tensor, labels: Tensor) -> Tensor:
    """Share of box masks (B,1,h,w) in [0,1] that falls on things of labels (B,h,w); scalar mean.

    Not published, and without weight by default (option overlap_weight): discriminators see a box in place
    of what it covers, so nothing else tells the model to keep clear of cars.
    """
    things = labels >= FIRST_THING_CHANNEL
    covered = (box[:, 0] * things).sum((1, 2))
    return (covered / box.sum((1, 2, 3)).clamp(min=1)).mean()


def kl_loss(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL divergence of N(mu, exp(logvar)) from N(0, 1), mean over batch and dimensions; scalar."""
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).mean()


def mask_loss(masks: Tensor, target: Tensor, kind: str) -> Tensor:
    """Compact masks (B,1,cy,cx) in [0,1] against others, by option mask_loss: mean over pixels, scalar."""
    with no_autocast(masks):  # which BCE of probabilities refuses
        return F.l1_loss(masks, target) if kind == "l1" else F.binary_cross_entropy(masks, target)


def boxed_planes(canvas: Canvas) -> Tensor:
    """What D where sees (B,32,h,w): the planes of a scene with a box on it, and the box mask."""
    return torch.cat([canvas.planes(), canvas.mask], 1)


def _against(discriminator: nn.Module, fakes: Tensor, count: int, real: bool) -> Tensor:
    """Sum over `count` fakes, stacked along the batch, of their mean GAN loss."""
    return count * gan_loss(discriminator(fakes), real)


def d_losses(model: WhereWhat, views: Views, paths: Paths) -> dict[str, Tensor]:
    """Losses of the four discriminators: real against 1 and the (detached) fakes against 0."""
    networks, batch = model.networks, views.batch
    masks = torch.cat([paths.newobj, paths.obj_vae, paths.obj_real_z]).detach()
    # As published, the real sample's edge is cut by the instance but its own edge is not drawn.
    real_what = views.real_boxed_big.paste(place(batch.compact, batch.theta, model.big))
    losses = {}
    if "d_stn" in networks:
        thetas = paths.thetas().detach()
        count = len(thetas) // len(batch.theta)
        real_place, fake_places = model.place_numbers(torch.cat([batch.theta, thetas]))[
            :, :, None, None
        ].split([len(batch.theta), len(thetas)])
        real_where = boxed_planes(views.real_small.paste(model.box(batch.theta, model.small)))
        fake_where = boxed_planes(paths.cond_boxed_small.detach())
        losses["d_stn"] = gan_loss(networks["d_stn"](real_place), True)
        losses["d_stn"] = losses["d_stn"] + _against(networks["d_stn"], fake_places, count, False)
        losses["d_where"] = gan_loss(networks["d_where"](real_where), True)
        losses["d_where"] = losses["d_where"] + gan_loss(networks["d_where"](fake_where), False)
    return losses | {
        "d_obj": gan_loss(networks["d_obj"](batch.compact), True)
        + _against(networks["d_obj"], masks, 3, False),
        "d_what": gan_loss(networks["d_what"](real_what), True)
        + gan_loss(networks["d_what"](paths.result_big.detach()), False),
    }


def g_losses(model: WhereWhat, views: Views, noise: Noise, paths: Paths) -> dict[str, Tensor]:
    """The terms of G_WEIGHTS that the model has, and `overlap`, by name."""
    networks, batch = model.networks, views.batch
    masks = torch.cat([paths.newobj, paths.obj_vae, paths.obj_real_z])
    what_loss = networks["what_reconstructor"].loss
    losses = {}
    if "d_stn" in networks:
        thetas = paths.thetas()
        places = model.place_numbers(thetas)[:, :, None, None]
        max_ratios = model.target.max_width_ratio, model.target.max_height_ratio
        losses |= {
            "g_stn": _against(networks["d_stn"], places, len(thetas) // len(paths.theta), True),
            "g_where": gan_loss(networks["d_where"](boxed_planes(paths.cond_boxed_small)), True),
            "coord": coord_loss(paths.theta),
            "stn_theta": stn_theta_loss(paths.theta, *max_ratios),
        }
    if "place_density" in networks:
        losses |= {"where_nll_foot": paths.nll_foot, "where_nll_size": paths.nll_size}
        losses["overlap"] = paths.density_overlap
    else:
        where_loss = networks["where_reconstructor"].loss
        # Both paths' means at once: twice the mean over both.
        where_recon = 2 * where_loss(paths.recon_small, views.real_small.joined(views.cond_small))
        place_numbers = (model.place_numbers(theta) for theta in (paths.theta_vae, batch.theta))
        losses |= {
            "where_recon": where_recon
            + F.l1_loss(paths.cond_z_spatial, noise.z_spatial)
            + F.l1_loss(paths.real_z_spatial, noise.z_spatial),
            "where_vae_recon": F.l1_loss(*place_numbers),
            "overlap": overlap_loss(paths.box_small, batch.cond.labels_small),
        }
    return losses | {
        "g_obj": _against(networks["d_obj"], masks, 3, True),
        "g_what": gan_loss(networks["d_what"](paths.result_big), True),
        # The target of path 5 depends on theta and is not detached, as published.
        "what_recon": 2 * what_loss(paths.recon_big, views.real_boxed_big.joined(paths.cond_boxed_big))
        + F.l1_loss(paths.cond_z_appr, noise.z_appr)
        + F.l1_loss(paths.real_z_appr, noise.z_appr),
        "what_vae_recon": mask_loss(paths.obj_vae, batch.compact, model.options.mask_loss),
    }


def kl_losses(paths: Paths) -> dict[str, Tensor]:
    losses = {"what_kl": kl_loss(paths.what_mu, paths.what_logvar)}
    if paths.where_mu is not None:
        losses["where_kl"] = kl_loss(paths.where_mu, paths.where_logvar)
    return losses


# ---- sampling -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """New objects for B scenes."""

    theta: Tensor  # (B,6)
    compact: Tensor  # (B,1,cy,cx) in [0,1]
    planes: Tensor  # (B,31,H,W) the big map with the object put on, and its edge


def load_model(path: str | Path, device: torch.device | str = "cpu", temperature: float = 1.0) -> WhereWhat:
    """The model of a checkpoint (a file, a run folder: its newest, or builtin:NAME), rebuilt from it alone.

    Takes the averaged weights where the run kept some (option average_decay). A packed model has no networks
    that only training needs. Below 1 the temperature of the
    density of places gathers places where it is high. Raises InputError if there is no checkpoint or if it
    can't be read, and for a temperature that can't be used.
    """
    if not 0 < temperature < math.inf:
        raise InputError(f"--temperature must be above 0, not {temperature:g} (1 is the learnt distribution)")
    path = find_checkpoint(path)
    state = load_checkpoint(path)
    with torch.device(device):
        model = WhereWhat(from_dict(state["options"], str(path)))
    weights = state["networks"] | state.get("averages", {})
    if path.suffix == PACKED:  # it lacks what only training needs
        for name in set(model.networks) - {key.split(".")[0] for key in weights}:
            del model.networks[name]
    try:
        model.networks.load_state_dict(weights)
    except RuntimeError:
        raise InputError(
            f"{path}: its networks are not those of its options; take another checkpoint"
        ) from None
    if temperature != 1 and model.options.where == "published":
        raise InputError(
            f"--temperature: {path} has the published where module, which has none; leave it out, or take a"
            " checkpoint trained with --where distribution"
        )
    model.temperature = temperature
    return model.requires_grad_(False)


@torch.no_grad()
def predict_places(model: WhereWhat, labels_small: Tensor, ids_small: Tensor, z_spatial: Tensor) -> Tensor:
    """The where module alone: theta (B,6) for small maps (1 or B,h,w) and z (B,z_spatial,1,1)."""
    if model.options.where == "distribution":
        return model.theta_of_z(labels_small, z_spatial.flatten(1)).float()
    encoder = model.networks["where_encoder"]
    features = encoder.scene_features(model.canvas(labels_small, ids_small))
    return model.networks["stn"](encoder([features], z_spatial))


@torch.no_grad()
def draw_shapes(
    model: WhereWhat, labels_big: Tensor, ids_big: Tensor, theta: Tensor, z_appr: Tensor
) -> Tensor:
    """The what module alone: compact masks (B,1,cy,cx) in [0,1] for theta (B,6) on big maps (B,H,W)."""
    boxed = model.canvas(labels_big, ids_big).paste(model.box(theta, model.big))
    encoder = model.networks["what_encoder"]
    return model.draw(encoder([encoder.scene_features(boxed)], z_appr))


@torch.no_grad()
def sample(model: WhereWhat, scene: Scene, z_spatial: Tensor, z_appr: Tensor) -> Sample:
    """Path 5 alone, without dropout: one new object in each scene, from z (B,z_dim,1,1)."""
    theta = predict_places(model, scene.labels_small, scene.ids_small, z_spatial)
    compact = draw_shapes(model, scene.labels_big, scene.ids_big, theta, z_appr)
    result = model.compose(model.canvas(scene.labels_big, scene.ids_big), compact, theta)
    return Sample(theta, compact, result.planes())
