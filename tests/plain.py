"""The same step written the slow, obvious way: what the fast one is tested and timed against.

Enlarged sources with affine grid and grid_sample, four edge convolutions, tiled noise, one call of a
network for each path, sigmoids before BCE and L1. `PlainWhereWhat` shares weights with a `WhereWhat`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.labels import NUM_CHANNELS
from loader.noise import Noise, UpdateNoise
from loader.pairs import Batch, SceneMaps
from losses import total
from model import Paths, WhereWhat
from networks import ENLARGEMENT, SceneEncoder
from training import Optimisers
from what import WhatPaths
from where import PublishedPaths


def plain_edge_map(m: Tensor) -> Tensor:
    """Four 3x3 convolutions, one for each neighbour, on a map padded with its own border."""
    m = F.pad(m, (1, 1, 1, 1), mode="replicate")
    kernels = torch.zeros(4, 1, 3, 3, dtype=m.dtype, device=m.device)
    kernels[:, 0, 1, 1] = 1
    for index, (row, column) in enumerate([(1, 0), (1, 2), (0, 1), (2, 1)]):
        kernels[index, 0, row, column] = -1
    return F.conv2d(m, kernels).relu().amax(1, keepdim=True)


def plain_place(source: Tensor, theta: Tensor, size: tuple[int, int]) -> Tensor:
    enlarged = F.interpolate(source, scale_factor=ENLARGEMENT, mode="nearest")
    grid = F.affine_grid(theta.view(-1, 2, 3), [len(source), 1, *size], align_corners=True)
    return F.grid_sample(enlarged, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


def plain_coord_loss(theta: Tensor, size: tuple[int, int]) -> Tensor:
    grid = F.affine_grid(theta.view(-1, 2, 3), [len(theta), 1, *size], align_corners=True).flatten(1, 2)
    low, high = grid.amin(1), grid.amax(1)  # (B,2)
    return (F.relu(1 + low) + F.relu(1 - high)).sum(1).mean()


def plain_overlap(box: Tensor, planes: Tensor) -> Tensor:
    things = planes[:, NUM_CHANNELS - 10 : NUM_CHANNELS].sum(
        1, keepdim=True
    )  # the ten thing classes are last
    return torch.stack(
        [(b * t).sum() / b.sum().clamp(min=1) for b, t in zip(box, things, strict=True)]
    ).mean()


def plain_planes(labels: Tensor, ids: Tensor, dtype: torch.dtype) -> Tensor:
    seg = F.one_hot(labels.long(), NUM_CHANNELS).permute(0, 3, 1, 2).to(dtype)
    return torch.cat([seg, (plain_edge_map(ids[:, None].to(dtype)) > 0).to(dtype)], 1).contiguous()


def plain_paste(planes: Tensor, mask: Tensor, channel: int) -> Tensor:
    seg, edge = planes[:, :NUM_CHANNELS], planes[:, NUM_CHANNELS:]
    added = torch.cat(
        [mask if index == channel else torch.zeros_like(mask) for index in range(NUM_CHANNELS)], 1
    )
    return torch.cat([seg * (1 - mask) + added, edge * (1 - mask)], 1)


def plain_encode(encoder: SceneEncoder, planes: Tensor, z: Tensor) -> Tensor:
    tiled = z.expand(-1, -1, *planes.shape[2:])
    return encoder.head(encoder.body(encoder.first(torch.cat([planes, tiled], 1))))


def bce(logits: Tensor, target: float) -> Tensor:
    probability = logits.sigmoid()
    return F.binary_cross_entropy(probability, torch.full_like(probability, target))


@dataclass(frozen=True)
class PlainViews:
    """`views.Views` with all planes written out, each (B,31,h,w)."""

    batch: Batch
    real_small: Tensor
    cond_small: Tensor
    real_boxed_big: Tensor
    cond_big: Tensor


class PlainWhereWhat(nn.Module):
    """The five paths and the losses, one call at a time, with the weights of `model`."""

    def __init__(self, model: WhereWhat):
        super().__init__()
        self.model, self.networks, self.options = model, model.networks, model.options
        self.target, self.small, self.big = model.target, model.maps.small, model.maps.big
        self.noise_sizes = model.options.z_dim_spatial, model.options.z_dim_appr

    def box(self, theta: Tensor, size: tuple[int, int]) -> Tensor:
        ones = torch.ones(len(theta), 1, *self.model.maps.compact, dtype=theta.dtype, device=theta.device)
        return plain_place(ones, theta, size)

    def views(self, batch: Batch) -> PlainViews:
        dtype = batch.theta.dtype
        real_big = plain_planes(batch.real.labels_big, batch.real.ids_big, dtype)
        return PlainViews(
            batch,
            real_small=plain_planes(batch.real.labels_small, batch.real.ids_small, dtype),
            cond_small=plain_planes(batch.cond.labels_small, batch.cond.ids_small, dtype),
            real_boxed_big=plain_paste(real_big, self.box(batch.theta, self.big), self.target.channel),
            cond_big=plain_planes(batch.cond.labels_big, batch.cond.ids_big, dtype),
        )

    def forward(self, views: PlainViews, noise: Noise, drawn: UpdateNoise) -> Paths:
        networks, batch, channel = self.networks, views.batch, self.target.channel
        where, what = networks["where_encoder"], networks["what_encoder"]

        where_mu, where_logvar = networks["where_encoder_sup"](batch.theta[:, :, None, None])
        z = where_mu + drawn.eps_where * torch.exp(where_logvar / 2)
        theta_vae = networks["stn"](plain_encode(where, views.real_small, z))

        e = plain_encode(where, views.real_small, noise.z_spatial)
        real_z_spatial = where.estimate_noise(e, drawn.keep_where[0])
        real_recon_small = networks["where_reconstructor"].layers(e)
        theta_real_z = networks["stn"](e)

        what_mu, what_logvar = networks["what_encoder_sup"](batch.compact)
        z = what_mu + drawn.eps_what * torch.exp(what_logvar / 2)
        obj_vae = networks["generator"](plain_encode(what, views.real_boxed_big, z)).sigmoid()

        e = plain_encode(what, views.real_boxed_big, noise.z_appr)
        real_z_appr = what.estimate_noise(e, drawn.keep_what[0])
        obj_real_z = networks["generator"](e).sigmoid()
        real_recon_big = networks["what_reconstructor"].layers(e)

        e = plain_encode(where, views.cond_small, noise.z_spatial)
        cond_z_spatial = where.estimate_noise(e, drawn.keep_where[1])
        cond_recon_small = networks["where_reconstructor"].layers(e)
        theta = networks["stn"](e)
        box_small = self.box(theta, self.small)
        cond_boxed_small = plain_paste(views.cond_small, box_small, channel)
        cond_boxed_big = plain_paste(views.cond_big, self.box(theta, self.big), channel)
        e = plain_encode(what, cond_boxed_big, noise.z_appr)
        cond_z_appr = what.estimate_noise(e, drawn.keep_what[1])
        newobj = networks["generator"](e).sigmoid()
        cond_recon_big = networks["what_reconstructor"].layers(e)
        mask = plain_place(newobj, theta, self.big)
        result = plain_paste(views.cond_big, mask, channel)
        edge = result[:, NUM_CHANNELS:] + plain_edge_map(mask)
        result_big = torch.cat([result[:, :NUM_CHANNELS], edge], 1)

        where_paths = PublishedPaths(
            theta=theta,
            theta_vae=theta_vae,
            theta_real_z=theta_real_z,
            mu=where_mu,
            logvar=where_logvar,
            cond_z=cond_z_spatial,
            real_z=real_z_spatial,
            recon=(real_recon_small, cond_recon_small),  # apart, where the port has one batch
            cond_boxed=torch.cat([cond_boxed_small, box_small], 1),
        )
        what_paths = WhatPaths(
            newobj=newobj,
            obj_vae=obj_vae,
            obj_real_z=obj_real_z,
            mu=what_mu,
            logvar=what_logvar,
            cond_z=cond_z_appr,
            real_z=real_z_appr,
            recon=(real_recon_big, cond_recon_big),
            cond_boxed=cond_boxed_big,
            result=result_big,
        )
        return Paths(where_paths, what_paths)

    def sample(self, scene: SceneMaps, z_spatial: Tensor, z_appr: Tensor) -> Tensor:
        """Path 5 alone: the planes of the big map with a new object on them."""
        networks, channel, dtype = self.networks, self.target.channel, z_spatial.dtype
        small = plain_planes(scene.labels_small, scene.ids_small, dtype)
        big = plain_planes(scene.labels_big, scene.ids_big, dtype)
        theta = networks["stn"](plain_encode(networks["where_encoder"], small, z_spatial))
        boxed = plain_paste(big, self.box(theta, self.big), channel)
        newobj = networks["generator"](plain_encode(networks["what_encoder"], boxed, z_appr)).sigmoid()
        mask = plain_place(newobj, theta, self.big)
        result = plain_paste(big, mask, channel)
        edge = result[:, NUM_CHANNELS:] + plain_edge_map(mask)
        return torch.cat([result[:, :NUM_CHANNELS], edge], 1)

    def d_losses(self, views: PlainViews, paths: Paths) -> dict[str, Tensor]:
        batch, channel, where, what = views.batch, self.target.channel, paths.where, paths.what
        real_box = self.box(batch.theta, self.small)
        real_where = torch.cat([plain_paste(views.real_small, real_box, channel), real_box], 1)
        real_big = plain_planes(batch.real.labels_big, batch.real.ids_big, batch.theta.dtype)
        real_what = plain_paste(real_big, plain_place(batch.compact, batch.theta, self.big), channel)
        samples = {
            "d_stn": [
                t[:, :, None, None] for t in (batch.theta, where.theta, where.theta_vae, where.theta_real_z)
            ],
            "d_where": [real_where, where.cond_boxed],
            "d_obj": [batch.compact, what.newobj, what.obj_vae, what.obj_real_z],
            "d_what": [real_what, what.result],
        }
        return {
            name: bce(self.judge(name, real), 1.0)
            + sum(bce(self.judge(name, fake.detach()), 0.0) for fake in fakes)
            for name, (real, *fakes) in samples.items()
        }

    def judge(self, name: str, sample: Tensor) -> Tensor:
        """Logits of a discriminator; D what's own forward takes a Canvas, here it gets planes."""
        for layer in self.networks[name]:
            sample = layer(sample)
        return sample

    def g_losses(self, views: PlainViews, noise: Noise, paths: Paths) -> dict[str, Tensor]:
        batch, where, what = views.batch, paths.where, paths.what
        samples = {
            "stn": [t[:, :, None, None] for t in (where.theta, where.theta_vae, where.theta_real_z)],
            "where": [where.cond_boxed],
            "obj": [what.newobj, what.obj_vae, what.obj_real_z],
            "what": [what.result],
        }
        losses = {
            f"g_{name}": sum(bce(self.judge(f"d_{name}", fake), 1.0) for fake in fakes)
            for name, fakes in samples.items()
        }
        t11, t22 = where.theta[:, 0], where.theta[:, 4]
        widths, heights = self.target.max_width_ratio, self.target.max_height_ratio
        bounds = F.relu(t11 - widths) + F.relu(-t11) + F.relu(t22 - heights) + F.relu(-t22)
        kl = {
            f"{name}_kl": -0.5 * torch.mean(1 + logvar - mu**2 - logvar.exp())
            for name, mu, logvar in (("where", where.mu, where.logvar), ("what", what.mu, what.logvar))
        }
        return {
            **losses,
            **kl,
            "coord": plain_coord_loss(where.theta, self.big),
            "stn_theta": bounds.mean(),
            "where_recon": F.l1_loss(where.recon[0].sigmoid(), views.real_small)
            + F.l1_loss(where.recon[1].sigmoid(), views.cond_small)
            + F.l1_loss(where.cond_z, noise.z_spatial)
            + F.l1_loss(where.real_z, noise.z_spatial),
            "what_recon": F.l1_loss(what.recon[0].sigmoid(), views.real_boxed_big)
            + F.l1_loss(what.recon[1].sigmoid(), what.cond_boxed)
            + F.l1_loss(what.cond_z, noise.z_appr)
            + F.l1_loss(what.real_z, noise.z_appr),
            "where_vae_recon": F.l1_loss(where.theta_vae, batch.theta),
            "what_vae_recon": F.l1_loss(what.obj_vae, batch.compact),
            "overlap": plain_overlap(where.cond_boxed[:, NUM_CHANNELS + 1 :], views.cond_small),
        }

    def update_step(
        self, optimisers: Optimisers, views: PlainViews, noise: Noise, drawn: UpdateNoise, update_d: bool
    ) -> tuple[Paths, dict[str, Tensor]]:
        """One update of `train_step`: the paths and the loss terms; weights are updated."""
        paths = self(views, noise, drawn)
        losses = {}
        if update_d:
            losses |= self.d_losses(views, paths)
            optimisers.zero_grad("d")
            optimisers.backward(["d"], sum(losses.values()))
            optimisers.step("d")
        losses |= self.g_losses(views, noise, paths)
        losses["g_total"] = total(losses, self.model.objective["g"])
        supervised = sum(
            losses[name] for name in ("where_kl", "where_vae_recon", "what_kl", "what_vae_recon")
        )
        optimisers.zero_grad("sup", "g")
        optimisers.backward(["sup"], supervised, retain_graph=True)
        optimisers.backward(["g"], losses["g_total"])
        optimisers.step("sup", "g")
        return paths, losses


def plain_train_step(
    model: PlainWhereWhat, optimisers: Optimisers, batch: Batch, noise: Noise
) -> dict[str, Tensor]:
    """`train_step`, written plainly."""
    views = model.views(batch)
    losses = {}
    for index, drawn in enumerate(noise.updates):
        losses |= model.update_step(optimisers, views, noise, drawn, update_d=index == 0)[1]
    return {name: losses[name].detach() for name in model.model.loss_names}
