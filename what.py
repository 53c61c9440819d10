"""What stands there: the what module draws a compact mask into a box on a big map.

Shapes: B images a batch, H x W the big map, cy x cx the compact mask.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers.canvas import Canvas
from loader.noise import Noise
from losses import gan_loss, kl_loss, mask_loss
from networks import full_precision, place
from options import Options
from views import Maps, Views


@dataclass(frozen=True)
class WhatPaths:
    """What the what module answers: paths 3, 4 and 5 (docs/model.md#paths)."""

    newobj: Tensor  # (B,1,cy,cx) in [0,1], path 5: the predicted shape
    obj_vae: Tensor  # path 3
    obj_real_z: Tensor  # path 4
    mu: Tensor  # (B,z_appr,1,1) path 3
    logvar: Tensor
    cond_z: Tensor  # (B,z_appr,1,1) estimate of z_appr, path 5
    real_z: Tensor  # path 4
    recon: Tensor  # (2B,g,H/2,W/2) features of the reconstructions, path 4, then path 5
    cond_boxed: Canvas  # x with the predicted box: the input of path 5
    result: Canvas  # x with the new object and its edge

    def masks(self) -> Tensor:
        """All predicted shapes (3B,1,cy,cx)."""
        return torch.cat([self.newobj, self.obj_vae, self.obj_real_z])


class What:
    """Encoders, generator, reconstructor, and the two discriminators that judge shapes and results."""

    draws_shapes = True
    terms = ("d_obj", "d_what", "g_obj", "g_what", "what_kl", "what_recon", "what_vae_recon")

    def __init__(self, options: Options, networks: nn.ModuleDict, maps: Maps):
        self.networks, self.maps, self.mask_loss = networks, maps, options.mask_loss

    def draw(self, embedding: Tensor) -> Tensor:
        """Compact masks (B,1,cy,cx) in [0,1] of embeddings (B,embed_big,1,1)."""
        return full_precision(self.networks["generator"](embedding)).sigmoid()

    def forward(self, views: Views, theta: Tensor, noise: Noise, update: int) -> WhatPaths:
        """Paths 3, 4 and 5 with the noise of update 0 or 1; 4 and 5 share one batched call.

        theta (B,6) is the where module's place on x; it keeps its gradient: what trains where.
        """
        networks, drawn = self.networks, noise.updates[update]
        cond_boxed = views.cond_big.paste(self.maps.box(theta, self.maps.big))
        encoder = networks["what_encoder"]
        mu, logvar = networks["what_encoder_sup"](views.batch.compact)
        z_sup = mu + drawn.eps_what * torch.exp(logvar / 2)
        real_features = encoder.scene_features(views.real_boxed_big)
        cond_features = encoder.scene_features(cond_boxed)
        obj_vae = self.draw(encoder([real_features], z_sup))
        embedding = encoder([real_features, cond_features], noise.z_appr.repeat(2, 1, 1, 1))
        obj_real_z, newobj = self.draw(embedding).chunk(2)
        real_z, cond_z = encoder.estimate_noise(embedding, drawn.keep_what.flatten(0, 1)).chunk(2)
        return WhatPaths(
            newobj=newobj,
            obj_vae=obj_vae,
            obj_real_z=obj_real_z,
            mu=mu,
            logvar=logvar,
            cond_z=cond_z,
            real_z=real_z,
            recon=networks["what_reconstructor"](embedding),
            cond_boxed=cond_boxed,
            result=self.maps.compose(views.cond_big, newobj, theta),
        )

    def d_losses(self, views: Views, paths: WhatPaths) -> dict[str, Tensor]:
        """Losses of D obj and D what: real against 1, the detached fakes against 0."""
        d_obj, d_what, batch = self.networks["d_obj"], self.networks["d_what"], views.batch
        # As published, the real sample's edge is cut by the instance but its own edge is not drawn.
        real = views.real_boxed_big.paste(place(batch.compact, batch.theta, self.maps.big))
        return {
            "d_obj": gan_loss(d_obj(batch.compact), True)
            + 3 * gan_loss(d_obj(paths.masks().detach()), False),  # a term for each of the three paths
            "d_what": gan_loss(d_what(real), True) + gan_loss(d_what(paths.result.detach()), False),
        }

    def g_losses(self, views: Views, noise: Noise, paths: WhatPaths) -> dict[str, Tensor]:
        networks = self.networks
        # The target of path 5 depends on theta and is not detached, as published.
        scenes = views.real_boxed_big.joined(paths.cond_boxed)
        return {
            "g_obj": 3 * gan_loss(networks["d_obj"](paths.masks()), True),
            "g_what": gan_loss(networks["d_what"](paths.result), True),
            "what_recon": 2 * networks["what_reconstructor"].loss(paths.recon, scenes)
            + F.l1_loss(paths.cond_z, noise.z_appr)
            + F.l1_loss(paths.real_z, noise.z_appr),
            "what_vae_recon": mask_loss(paths.obj_vae, views.batch.compact, self.mask_loss),
            "what_kl": kl_loss(paths.mu, paths.logvar),
        }

    @torch.no_grad()
    def sample(self, labels: Tensor, ids: Tensor, theta: Tensor, z_appr: Tensor) -> Tensor:
        """Compact masks (B,1,cy,cx) in [0,1] for theta (B,6) on big maps, channels (B,H,W) and ids."""
        return self.draw(self._embedding(labels, ids, theta, z_appr))

    @torch.no_grad()
    def reconstruct(self, labels: Tensor, ids: Tensor, theta: Tensor, compact: Tensor) -> Tensor:
        """Compact masks (B,1,cy,cx) as path 3 gives them back, with mu for z."""
        mu, _ = self.networks["what_encoder_sup"](compact)
        return self.draw(self._embedding(labels, ids, theta, mu))

    def _embedding(self, labels: Tensor, ids: Tensor, theta: Tensor, z_appr: Tensor) -> Tensor:
        boxed = self.maps.canvas(labels, ids).paste(self.maps.box(theta, self.maps.big))
        encoder = self.networks["what_encoder"]
        return encoder([encoder.scene_features(boxed)], z_appr)

    @torch.no_grad()
    def score(self, compact: Tensor) -> Tensor:
        """How real D obj finds compact masks (B,1,cy,cx), (B,) in 0..1."""
        return self.networks["d_obj"](compact).mean((1, 2, 3)).sigmoid()


class NoWhat:
    """No what module: places alone are learnt, and shapes are taken from elsewhere."""

    draws_shapes = False
    terms = ()

    def __init__(self, options: Options, networks: nn.ModuleDict, maps: Maps):
        self.maps = maps

    def forward(self, views: Views, theta: None, noise: Noise, update: int) -> None:
        return None

    def d_losses(self, views: Views, paths: None) -> dict[str, Tensor]:
        return {}

    def g_losses(self, views: Views, noise: Noise, paths: None) -> dict[str, Tensor]:
        return {}

    def sample(self, labels: Tensor, ids: Tensor, theta: Tensor, z_appr: Tensor) -> Tensor:
        """Compact masks (B,1,cy,cx) of ones for theta (B,6): sample grids show the boxes."""
        return theta.new_ones(len(theta), 1, *self.maps.compact)


WHAT_MODULES = {"published": What, "none": NoWhat}  # by option what
