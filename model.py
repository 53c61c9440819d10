"""The joint where/what model: its paths and losses, and sampling.

Beside docs/model.md: `where.py` and `what.py` hold the two modules with their paths and terms, `losses.py`
the objective, `training.py` the update. `sample` draws a new object; nothing else does.
Shapes: B images a batch, h x w the small map, H x W the big map, cy x cx the compact mask.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from data.labels import TargetClass
from loader.noise import Noise
from loader.pairs import Batch, SceneMaps
from losses import objective, total
from networks import build_networks
from options import Options, from_dict
from support.checkpoints import PACKED, find_checkpoint, load_checkpoint
from support.errors import InputError
from views import Maps, Views
from what import WHAT_MODULES, WhatPaths
from where import WHERE_MODULES, DensityPaths, PublishedPaths

# What sampling and its scores need, and what evaluation shows masks again with.
SAMPLING_NETWORKS = (
    *("where_encoder", "stn", "d_where", "where_encoder_sup"),  # where = published
    *("place_density", "what_encoder", "generator", "d_obj", "what_encoder_sup"),
)


@dataclass(frozen=True)
class Paths:
    """Outputs of the forward paths: five with the published where module."""

    where: PublishedPaths | DensityPaths
    what: WhatPaths | None


class WhereWhat(nn.Module):
    """A where module and a what module, joined by theta; with option what = none the first alone."""

    def __init__(self, options: Options):
        super().__init__()
        self.options = options
        self.networks = build_networks(options)
        self.maps = Maps(options, self.networks)
        self.where = WHERE_MODULES[options.where](options, self.networks, self.maps)
        self.what = WHAT_MODULES[options.what](options, self.networks, self.maps)
        self.targets = options.targets
        self.objective = objective(options)
        terms = {*self.where.terms, *self.what.terms}
        self.loss_names = (*(name for name in LOSS_NAMES if name in terms), "g_total")
        if options.channels_last:
            for parameter in self.parameters():
                if parameter.dim() == 4:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    @property
    def target(self) -> TargetClass:
        """Its only class. Raises InputError if it has several."""
        return self.target_named("")

    def target_named(self, name: str) -> TargetClass:
        """One of its classes by name; "": the only one.

        Raises InputError for one that it lacks, and for "" if it has several.
        """
        names = [target.name for target in self.targets]
        if not name and len(names) > 1:
            raise InputError(
                f"the checkpoint has places of {', '.join(names)}: say which with --target_class"
            )
        if name and name not in names:
            raise InputError(f"--target_class {name}: the checkpoint lacks it, it has {', '.join(names)}")
        return self.targets[names.index(name) if name else 0]

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def parameters_of(self, names: Iterable[str]) -> list[nn.Parameter]:
        """The parameters of those of these networks that the model has."""
        return [p for name in names if name in self.networks for p in self.networks[name].parameters()]

    def autocast(self) -> torch.autocast:
        """The context of a forward pass and its losses, by option precision."""
        half = self.options.precision == "bf16"
        return torch.autocast(self.device.type if half else "cpu", torch.bfloat16, enabled=half)

    def views(self, batch: Batch) -> Views:
        return self.maps.views(batch)

    def forward(self, views: Views, noise: Noise, update: int) -> Paths:
        """All paths, with the noise of update 0 or 1 of a step."""
        with self.autocast():
            where = self.where.forward(views, noise, update)
            return Paths(where, self.what.forward(views, where.theta, noise, update))

    def d_losses(self, views: Views, paths: Paths) -> dict[str, Tensor]:
        """The loss of each discriminator, by name."""
        with self.autocast():
            return self.where.d_losses(views, paths.where) | self.what.d_losses(views, paths.what)

    def g_losses(self, views: Views, noise: Noise, paths: Paths) -> dict[str, Tensor]:
        """All other terms by name, and `g_total`, which trains G."""
        with self.autocast():
            terms = self.where.g_losses(views, noise, paths.where)
            terms |= self.what.g_losses(views, noise, paths.what)
        return terms | {"g_total": total(terms, self.objective["g"])}


LOSS_NAMES = (  # in the order of a log line
    *("d_stn", "d_where", "d_obj", "d_what", "g_stn", "g_where", "g_obj", "g_what"),
    *("coord", "stn_theta", "where_kl", "what_kl"),
    *("where_recon", "what_recon", "where_vae_recon", "what_vae_recon"),
    *("overlap", "where_nll_foot", "where_nll_size"),
)


# ---- sampling -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class SampledObjects:
    """New objects for B scenes."""

    theta: Tensor  # (B,6)
    compact: Tensor  # (B,1,cy,cx) in [0,1]
    planes: Tensor  # (B,31,H,W) the big map with the object put on, and its edge


@torch.no_grad()
def sample(
    model: WhereWhat,
    scene: SceneMaps,
    z_spatial: Tensor,
    z_appr: Tensor,
    target: TargetClass | None = None,
) -> SampledObjects:
    """Path 5 alone, without dropout: one new object in each scene, from z (B,z_dim,1,1).

    target: its class; may be left out if the model has a single one.
    """
    theta = model.where.on(scene.labels_small, scene.ids_small, target=target).sample(z_spatial)
    compact = model.what.sample(scene.labels_big, scene.ids_big, theta, z_appr)
    canvas = model.maps.canvas(scene.labels_big, scene.ids_big, target)
    result = model.maps.compose(canvas, compact, theta)
    return SampledObjects(theta, compact, result.planes())


def load_model(path: str | Path, device: torch.device | str = "cpu") -> WhereWhat:
    """The model of a checkpoint (a file, a run folder: its newest, or builtin:NAME), rebuilt from it alone.

    Takes the averaged weights where the run kept some (option average_decay). A packed model has no networks
    that only training needs. Raises InputError if there is no checkpoint or if it can't be read.
    """
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
    return model.requires_grad_(False)
