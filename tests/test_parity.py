"""The port against numbers of the published arithmetic, every file of the parity folder.

The folder is ../shared/parity, or PARITY_DIR; without one these tests are skipped.

The published numbers are float32, and the step amplifies rounding: Adam's first steps have the size of
the learning rate whatever the size of a gradient, and a box's edge has a gradient in single pixels only. The
published arithmetic itself (tests/plain.py), run in float64 or with another convolution library, is
13% away from its own float32 gradient norms after one update. So the comparison stands on three legs:
  1. in float64, where rounding plays no part, port and published arithmetic agree through all halves and
     iterations of the file's own inputs;
  2. the published arithmetic in float32 and
  3. the port in float32 give the file's numbers within `tolerance`, widened after the first
     half by what float32 rounding does to the published arithmetic there (float32 against float64, measured
     in the same run, never from the file; for the port twice that, its own rounding and the file's).
"""

import os
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from data.labels import TARGET_CLASSES
from loader.noise import Noise, UpdateNoise
from loader.pairs import Batch, SceneMaps
from model import WhereWhat
from networks import GROUPS, edge_map, place
from options import PRESETS, Options
from tests.plain import PlainWhereWhat
from tests.published import published_names
from training import Optimisers, d_step, g_step
from where import boxed_planes

PARITY = Path(os.environ.get("PARITY_DIR", Path(__file__).parents[2] / "shared" / "parity"))
FILES = sorted(PARITY.glob("*.npz"))
pytestmark = pytest.mark.skipif(not FILES, reason=f"no parity numbers (*.npz) in {PARITY}; set PARITY_DIR")

PUBLISHED_LOSSES = {
    name: f"{name}_loss" for name in WhereWhat(Options(**PRESETS["tiny"])).loss_names if name != "overlap"
} | {"where_kl": "where_KL_loss", "what_kl": "what_KL_loss", "g_total": "g_loss"}


def as_tensor(numbers, name: str) -> torch.Tensor:
    return torch.from_numpy(np.array(numbers[name]))


def build(numbers, *, plain: bool = False) -> WhereWhat:
    """The model with the file's first weights; for the plain step in the published layout of maps."""
    sizes = {name: int(numbers[f"meta/{name}"]) for name in _META}
    options = Options(**sizes, target_class=class_of(numbers), channels_last=not plain)
    model = WhereWhat(options)
    ours = dict(model.networks.named_parameters())
    with torch.no_grad():
        for name, published in published_names(model.networks).items():
            ours[name].copy_(as_tensor(numbers, f"init/{published}"))
    assert model.target.max_width_ratio == float(numbers["meta/max_width_ratio"])
    return model


def class_of(numbers) -> str:
    """Name of the class that the file inserts."""
    channel = int(numbers["meta/target_channel"])
    return next(name for name, target in TARGET_CLASSES.items() if target.channel == channel)


_META = ("gf_dim", "df_dim", "embed_dim_small", "embed_dim_big")


def read_batch(numbers, iteration: int) -> Batch:
    def scene(which):
        maps = (
            as_tensor(numbers, f"it{iteration}/in/{which}_{kind}_{size}")[None]
            for size in ("small", "big")
            for kind in ("seg", "ins")
        )
        return SceneMaps(*maps)

    compact = as_tensor(numbers, f"it{iteration}/in/compact")[None, None].float() / 255
    return Batch(scene("real"), scene("cond"), compact, as_tensor(numbers, f"it{iteration}/in/theta")[None])


def read_noise(numbers, iteration: int, model: WhereWhat) -> Noise:
    """The file's noise; dropout was off: every channel is kept."""
    sizes = model.options.embed_dim_small, model.options.embed_dim_big
    updates = tuple(
        UpdateNoise(
            as_tensor(numbers, f"it{iteration}/half{update}/in/eps_where"),
            as_tensor(numbers, f"it{iteration}/half{update}/in/eps_what"),
            *(torch.ones(2, 1, size, 1, 1) for size in sizes),
        )
        for update in (0, 1)
    )
    z_spatial, z_appr = (as_tensor(numbers, f"it{iteration}/in/{name}") for name in ("z_spatial", "z_appr"))
    return Noise(z_spatial, z_appr, updates)


def planes(scene) -> torch.Tensor:
    """(B,31,h,w) of the port's canvas, or what the plain version holds already."""
    return scene if isinstance(scene, torch.Tensor) else scene.planes()


def output_tensors(model: WhereWhat, paths, plain: bool) -> dict[str, torch.Tensor]:
    """Our outputs of one update under the published names."""
    where, what, maps = paths.where, paths.what, model.maps
    mask = place(what.newobj, where.theta, maps.big)
    boxed_small = where.cond_boxed if plain else boxed_planes(where.cond_boxed)

    def reconstructions(module, value):  # of x+ and x; the port's paths end before the last layer
        if plain:
            return [logits.sigmoid() for logits in value]
        return model.networks[f"{module}_reconstructor"].layers[-1](value).sigmoid().chunk(2)

    real_recon_small, cond_recon_small = reconstructions("where", where.recon)
    real_recon_big, cond_recon_big = reconstructions("what", what.recon)

    return {
        "stn_theta": where.theta,
        "stn_theta_where_sup": where.theta_vae,
        "stn_theta_using_z": where.theta_real_z,
        "recon_z_spatial": where.cond_z,
        "recon_real_z_spatial": where.real_z,
        "recon_z_appr": what.cond_z,
        "recon_real_z_appr": what.real_z,
        "where_sup_mu": where.mu,
        "where_sup_logvar": where.logvar,
        "real_ins_mu": what.mu,
        "real_ins_logvar": what.logvar,
        "newobj": what.newobj,
        "sup_newobj_using_reparam": what.obj_vae,
        "sup_newobj_using_z_appr": what.obj_real_z,
        "bb_transformed_small": boxed_small[:, 31:],
        "bb_transformed_big": maps.box(where.theta, maps.big),
        "newobj_transformed_big": mask,
        "newobj_on_seg_big": planes(what.result)[:, :30],
        "newobj_on_edge_big": planes(what.result)[:, 30:],
        "bb_on_seg_small": boxed_small[:, :30],
        "bb_on_edge_small": boxed_small[:, 30:31],
        "cond_recon_small": cond_recon_small,
        "real_recon_small": real_recon_small,
        "cond_recon_big": cond_recon_big,
        "real_recon_big": real_recon_big,
    }


def input_tensors(model: WhereWhat, batch: Batch, views) -> dict[str, torch.Tensor]:
    """What a step derives from the batch alone, under the published names."""
    mask = place(batch.compact, batch.theta, model.maps.big)
    real_edge_big = (edge_map(batch.real.ids_big[:, None]) > 0).float()
    real_seg_big = torch.nn.functional.one_hot(batch.real.labels_big.long(), 30).permute(0, 3, 1, 2)
    on_seg = real_seg_big * (1 - mask)
    on_seg[:, model.target.channel] += mask[:, 0]
    return {
        "real_bb_transformed_small": model.maps.box(batch.theta, model.maps.small),
        "real_bb_transformed_big": model.maps.box(batch.theta, model.maps.big),
        "real_ins_transformed_big": mask,
        "real_edge_small": planes(views.real_small)[:, 30:],
        "real_edge_big": real_edge_big,
        "bb_on_real_edge_big": planes(views.real_boxed_big)[:, 30:],
        "ins_on_real_seg_big": on_seg,
        "ins_on_real_edge_big": real_edge_big * (1 - mask),
    }


def biases_before_norm(model: WhereWhat) -> set[str]:
    """Biases that instance norm removes: their true gradient is zero, the files hold rounding noise."""
    modules = model.networks.named_modules()
    return {f"{name}.bias" for name, module in modules if getattr(module, "norm", False)}


@cache
def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as numbers:
        return dict(numbers)


@cache
def run(path: Path, plain: bool, dtype: torch.dtype, nudge: int = 0) -> dict[tuple, np.ndarray]:
    """All that the file knows of, computed: {(iteration, update, kind, published name): value}.

    A `nudge` (a seed) first moves each weight by at most 1e-6 of itself.

    Kinds: input, tensor, loss, gradnorm, param. Tensors that the file holds as sums only are (sum, sum of
    squares); update is -1 for what belongs to the whole iteration.
    """
    numbers = load(path)
    torch.set_default_dtype(dtype)
    try:
        return dict(_run(numbers, plain, dtype, nudge))
    finally:
        torch.set_default_dtype(torch.float32)


def _run(numbers, plain: bool, dtype: torch.dtype, nudge: int):
    model = build(numbers, plain=plain).to(dtype)
    generator = torch.Generator().manual_seed(nudge)
    for parameter in model.parameters() if nudge else ():
        parameter.data *= 1 + (torch.rand(parameter.shape, generator=generator) - 0.5) * 2e-6
    step = PlainWhereWhat(model) if plain else model
    optimisers = Optimisers(model)
    published, left_out = published_names(model.networks), biases_before_norm(model)
    for iteration in range(1 + max(int(key[2 : key.index("/")]) for key in numbers if key.startswith("it"))):
        batch = read_batch(numbers, iteration).apply(lambda t: t.to(dtype) if t.is_floating_point() else t)
        noise = cast(read_noise(numbers, iteration, model), dtype)
        views = step.views(batch)
        for name, tensor in input_tensors(model, batch, views).items():
            yield (iteration, -1, "input", name), like_file(numbers, f"it{iteration}/{name}", tensor)
        for index, drawn in enumerate(noise.updates):
            prefix = f"it{iteration}/half{index}/"
            if index == 0:
                losses = {}
            if plain:
                paths, terms = step.update_step(optimisers, views, noise, drawn, update_d=index == 0)
                outputs = output_tensors(model, paths, plain)
                losses |= terms
            else:
                paths = model(views, noise, index)
                outputs = output_tensors(model, paths, plain)
                if index == 0:
                    losses |= model.d_losses(views, paths)
                    d_step(model, optimisers, losses)
                terms = model.g_losses(views, noise, paths)
                g_step(model, optimisers, terms)
                losses |= terms
            for name, tensor in outputs.items():
                yield (iteration, index, "tensor", name), like_file(numbers, prefix + name, tensor)
            for name, published_name in PUBLISHED_LOSSES.items():
                yield (iteration, index, "loss", published_name), np.array(losses[name].item())
            for name, parameter in model.networks.named_parameters():
                if name.partition(".")[0] in (*GROUPS["g"], *GROUPS["sup"]) and name not in left_out:
                    key = (iteration, index, "gradnorm", published[name])
                    yield key, np.array(parameter.grad.norm().item())
        for name, parameter in model.networks.named_parameters():
            if name not in left_out:
                total, norm = parameter.sum().item(), parameter.norm().item()
                yield (iteration, -1, "param", published[name]), np.array([total, norm])


def cast(noise: Noise, dtype: torch.dtype) -> Noise:
    updates = tuple(UpdateNoise(*(t.to(dtype) for t in vars(one).values())) for one in noise.updates)
    return Noise(noise.z_spatial.to(dtype), noise.z_appr.to(dtype), updates)


def like_file(numbers, key: str, tensor: torch.Tensor) -> np.ndarray:
    """The whole tensor if the file holds it, else its sum and sum of squares."""
    if key in numbers:
        return tensor.detach().double().numpy()
    return np.array([tensor.detach().double().sum().item(), tensor.detach().double().square().sum().item()])


def in_file(numbers, key: tuple) -> np.ndarray:
    iteration, update, kind, name = key
    prefix = f"it{iteration}/" + (f"half{update}/" if update >= 0 else "")
    if kind in ("loss", "gradnorm", "param"):
        return np.asarray(numbers[f"{prefix}{kind}/{name}"], np.float64)
    if prefix + name in numbers:
        return np.asarray(numbers[prefix + name], np.float64)
    return np.array([numbers[f"{prefix}{name}.sum"], numbers[f"{prefix}{name}.sq"]], np.float64)


def tolerance(key: tuple) -> float:
    """Relative tolerance, tighter before the first update than after it."""
    iteration, update, kind, _ = key
    first = iteration == 0 and update <= 0
    if kind == "gradnorm":
        return 1e-3 if iteration == 0 else 5e-3
    if kind == "loss":
        return 1e-4 if first else 1e-3
    return 1e-4 if first and kind != "param" else 2e-3


def distance(a: np.ndarray, b: np.ndarray, key: tuple) -> float:
    """Largest difference relative to b, forgiving 1e-5 absolute.

    After the first update a tensor's differences are relative to its largest element, since rounding puts
    the same error on small and large ones; a parameter's sum is relative to its norm, since it cancels.
    """
    iteration, update, kind, _ = key
    scale = np.abs(b)
    if kind == "param":
        scale = scale[1]
    elif kind == "tensor" and (iteration, update) > (0, 0) and b.size > 2:
        scale = scale.max()
    absolute = 1e-7 if kind == "gradnorm" else 1e-5
    return float((np.maximum(np.abs(a - b) - absolute, 0) / np.maximum(scale, 1e-12)).max())


def rounding(path: Path) -> dict[tuple, float]:
    """What float32 rounding does to the published arithmetic, at most: by iteration, update and kind.

    One run is not enough to know: Adam's first step is the sign of a gradient, so that a single rounding may
    tip what follows or not. Four more runs start from weights that are off by 1e-6, about as far as float32
    puts the tensors of a forward pass off.
    """
    exact = run(path, True, torch.float64)
    worst: dict[tuple, float] = {}
    for nudge in range(5):
        for key, value in run(path, True, torch.float32, nudge).items():
            worst[key[:3]] = max(worst.get(key[:3], 0.0), distance(value, exact[key], key))
    return worst


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_port_equals_published_arithmetic_in_double_precision(path):
    port, published = run(path, False, torch.float64), run(path, True, torch.float64)
    assert set(port) == set(published) and len(port) > 300
    for key, value in port.items():
        assert distance(value, published[key], key) < 1e-7, key


@pytest.mark.slow
@pytest.mark.parametrize("plain", [True, False], ids=["published_arithmetic", "port"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_numbers_of_the_file(path, plain):
    numbers, slack = load(path), rounding(path)
    rounding_fraction = 2  # of the computed numbers and of those in the file
    computed = run(path, plain, torch.float32)
    assert len(computed) > 300
    found = {key for key in numbers if key.startswith("it") and "/in/" not in key}
    for key, value in computed.items():
        iteration, update, kind, _ = key
        expected = in_file(numbers, key)
        allowed = tolerance(key)
        if kind in ("gradnorm", "param") or (iteration, update) > (0, 0):
            allowed += rounding_fraction * slack[key[:3]]
        assert distance(value, expected, key) <= allowed, (key, value, expected, allowed)
    names = {name for _, _, kind, name in computed if kind in ("input", "tensor")}
    held = {
        key.rpartition("/")[2].partition(".")[0]
        for key in found
        if not re.search("/(loss|gradnorm|param)/", key)
    }
    assert names == held  # every tensor that the file holds was compared


@pytest.mark.parametrize("name", ["person", "car", "bicycle"])
def test_a_file_says_which_class_it_inserts(name):
    target = TARGET_CLASSES[name]
    meta = {"meta/target_channel": target.channel, "meta/max_width_ratio": target.max_width_ratio}
    assert build(load(FILES[0]) | meta).target == target


def test_every_published_parameter_is_mapped():
    numbers = load(FILES[0])
    init = {key.removeprefix("init/") for key in numbers if key.startswith("init/")}
    unused = {"where_encoder_sup/conv1.0.weight", "where_encoder_sup/conv1.0.bias"}
    assert set(published_names(build(numbers).networks).values()) == init - unused
