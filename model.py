"""The joint where/what model: its paths and losses, and sampling.

Beside docs/model.md: `where.py` and `what.py` hold the two modules with their paths and terms, `losses.py`
the objective, `training.py` the update. `sample` draws a new object; nothing else does.
Shapes: B images a batch, h x w the small map, H x W the big map, cy x cx the compact mask.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from data.labels import TargetClass
from layers.place_density import PLACE_PLANES
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
        if len(self.targets) > 1:
            names = ", ".join(target.name for target in self.targets)
            raise InputError(f"the checkpoint has places of {names}: say which with --target_class")
        return self.targets[0]

    def of_class(self, name: str) -> "WhereWhat":
        """The model for one of its classes alone, with the same networks. InputError if it lacks it."""
        names = [target.name for target in self.targets]
        if name not in names:
            raise InputError(
                f"--target_class {name}: the checkpoint has places of {', '.join(names)} only; choose of"
                " these, or take another checkpoint"
            )
        model, number = copy.copy(self), names.index(name)
        if len(names) > 1:
            model.targets = self.targets[number : number + 1]
            model.maps, model.where = copy.copy(self.maps), copy.copy(self.where)
            model.maps.target, model.where.number = model.target, number
        return model

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
def sample(model: WhereWhat, scene: SceneMaps, z_spatial: Tensor, z_appr: Tensor) -> SampledObjects:
    """Path 5 alone, without dropout: one new object in each scene, from z (B,z_dim,1,1)."""
    theta = model.where.on(scene.labels_small, scene.ids_small).sample(z_spatial)
    compact = model.what.sample(scene.labels_big, scene.ids_big, theta, z_appr)
    result = model.maps.compose(model.maps.canvas(scene.labels_big, scene.ids_big), compact, theta)
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


@torch.no_grad()
def take_weights(model: WhereWhat, path: str | Path) -> None:
    """Give a model the weights of a checkpoint's networks, averaged ones where it has them: `--init`.

    Networks and classes of places that the checkpoint lacks keep their start. Raises InputError if it can't
    be read, has none of the model's networks, or has them in other sizes.
    """
    source = load_model(path, model.device)
    shared = [name for name in model.networks if name in source.networks]
    try:
        for name in shared:
            weights = source.networks[name].state_dict()
            if name == "place_density":
                weights |= _planes_by_class(model, source)
            model.networks[name].load_state_dict(weights)
    except RuntimeError:  # they have other shapes
        shared = []
    if not shared:
        theirs = source.options
        raise InputError(
            f"--init {path}: its networks are others: where {theirs.where}, what {theirs.what}, small maps of"
            f" {theirs.image_sizex_small}x{theirs.image_sizey_small}, where_dim {theirs.where_dim}, gf_dim"
            f" {theirs.gf_dim}; make them agree"
        )


def _planes_by_class(model: WhereWhat, source: WhereWhat) -> dict[str, Tensor]:
    """The last layer of a model's density, each class as in `source`, if it is there, else as it is."""
    last = {}
    for part in ("planes.weight", "planes.bias"):
        ours, theirs = (
            of.networks["place_density"].state_dict()[part].unflatten(0, (-1, PLACE_PLANES))
            for of in (model, source)
        )
        rows = [
            theirs[source.targets.index(target)] if target in source.targets else ours[number]
            for number, target in enumerate(model.targets)
        ]
        last[part] = torch.stack(rows).flatten(0, 1)
    return last
