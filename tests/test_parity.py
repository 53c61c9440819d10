"""The port against numbers of the published arithmetic (spec section 10), every file of the parity folder.

The folder is ../shared/parity, or PARITY_DIR; without one these tests are skipped.
"""

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from data.pairs import Batch, Scene
from model import (
    D_NAMES,
    G_NETWORKS,
    LOSS_NAMES,
    SUP_NETWORKS,
    HalfNoise,
    Noise,
    Optimisers,
    WhereWhat,
    d_losses,
    g_update,
    set_gradients,
)
from networks import edge_map, place, published_names
from options import Options

PARITY = Path(os.environ.get("PARITY_DIR", Path(__file__).parents[2] / "shared" / "parity"))
FILES = sorted(PARITY.glob("*.npz"))
pytestmark = pytest.mark.skipif(not FILES, reason=f"no parity numbers (*.npz) in {PARITY}; set PARITY_DIR")

PUBLISHED_LOSSES = {name: f"{name}_loss" for name in LOSS_NAMES} | {
    "where_kl": "where_KL_loss",
    "what_kl": "what_KL_loss",
    "g_total": "g_loss",
}


def as_tensor(numbers, name: str) -> torch.Tensor:
    return torch.from_numpy(np.array(numbers[name]))


def build(numbers) -> WhereWhat:
    options = Options(**{name: int(numbers[f"meta/{name}"]) for name in _META})
    model = WhereWhat(options)
    ours = dict(model.networks.named_parameters())
    with torch.no_grad():
        for name, published in published_names(model.networks).items():
            ours[name].copy_(as_tensor(numbers, f"init/{published}"))
    assert model.target.channel == int(numbers["meta/target_channel"])
    assert model.target.max_width_ratio == float(numbers["meta/max_width_ratio"])
    return model


_META = ("gf_dim", "df_dim", "embed_dim_small", "embed_dim_big")


def read_batch(numbers, iteration: int) -> Batch:
    def scene(which):
        maps = (
            as_tensor(numbers, f"it{iteration}/in/{which}_{kind}_{size}")[None]
            for size in ("small", "big")
            for kind in ("seg", "ins")
        )
        return Scene(*maps)

    compact = as_tensor(numbers, f"it{iteration}/in/compact")[None, None].float() / 255
    return Batch(scene("real"), scene("cond"), compact, as_tensor(numbers, f"it{iteration}/in/theta")[None])


def read_noise(numbers, iteration: int, model: WhereWhat) -> Noise:
    """The file's noise; dropout was off: every channel is kept."""
    sizes = model.options.embed_dim_small, model.options.embed_dim_big
    halves = tuple(
        HalfNoise(
            as_tensor(numbers, f"it{iteration}/half{half}/in/eps_where"),
            as_tensor(numbers, f"it{iteration}/half{half}/in/eps_what"),
            *(torch.ones(2, 1, size, 1, 1) for size in sizes),
        )
        for half in (0, 1)
    )
    z_spatial, z_appr = (as_tensor(numbers, f"it{iteration}/in/{name}") for name in ("z_spatial", "z_appr"))
    return Noise(z_spatial, z_appr, halves)


def output_tensors(model: WhereWhat, paths) -> dict[str, torch.Tensor]:
    """Our outputs of one half under the published names."""
    mask = place(paths.newobj, paths.theta, model.big)
    return {
        "stn_theta": paths.theta,
        "stn_theta_where_sup": paths.theta_vae,
        "stn_theta_using_z": paths.theta_real_z,
        "recon_z_spatial": paths.cond_z_spatial,
        "recon_real_z_spatial": paths.real_z_spatial,
        "recon_z_appr": paths.cond_z_appr,
        "recon_real_z_appr": paths.real_z_appr,
        "where_sup_mu": paths.where_mu,
        "where_sup_logvar": paths.where_logvar,
        "real_ins_mu": paths.what_mu,
        "real_ins_logvar": paths.what_logvar,
        "newobj": paths.newobj,
        "sup_newobj_using_reparam": paths.obj_vae,
        "sup_newobj_using_z_appr": paths.obj_real_z,
        "bb_transformed_small": paths.box_small,
        "bb_transformed_big": model.box(paths.theta, model.big),
        "newobj_transformed_big": mask,
        "newobj_on_seg_big": paths.result_big[:, :30],
        "newobj_on_edge_big": paths.result_big[:, 30:],
        "bb_on_seg_small": paths.cond_boxed_small[:, :30],
        "bb_on_edge_small": paths.cond_boxed_small[:, 30:],
        "cond_recon_small": paths.cond_recon_small.sigmoid(),
        "real_recon_small": paths.real_recon_small.sigmoid(),
        "cond_recon_big": paths.cond_recon_big.sigmoid(),
        "real_recon_big": paths.real_recon_big.sigmoid(),
    }


def input_tensors(model: WhereWhat, batch: Batch, views) -> dict[str, torch.Tensor]:
    """What a step derives from the batch alone, under the published names."""
    mask = place(batch.compact, batch.theta, model.big)
    real_edge_big = (edge_map(batch.real.ids_big[:, None]) > 0).float()
    real_seg_big = torch.nn.functional.one_hot(batch.real.labels_big.long(), 30).permute(0, 3, 1, 2)
    on_seg = real_seg_big * (1 - mask)
    on_seg[:, model.target.channel] += mask[:, 0]
    return {
        "real_bb_transformed_small": model.box(batch.theta, model.small),
        "real_bb_transformed_big": model.box(batch.theta, model.big),
        "real_ins_transformed_big": mask,
        "real_edge_small": views.real_small[:, 30:],
        "real_edge_big": real_edge_big,
        "bb_on_real_edge_big": views.real_boxed_big[:, 30:],
        "ins_on_real_seg_big": on_seg,
        "ins_on_real_edge_big": real_edge_big * (1 - mask),
    }


def assert_tensors(numbers, prefix: str, tensors: dict[str, torch.Tensor], relative: float) -> None:
    found = {key.removeprefix(prefix).partition(".")[0] for key in numbers if key.startswith(prefix)}
    found = {name for name in found if "/" not in name}
    assert found == set(tensors)  # every tensor that the file holds is compared
    for name, tensor in tensors.items():
        tensor = tensor.detach()
        if f"{prefix}{name}" in numbers:
            expected = as_tensor(numbers, f"{prefix}{name}")
            torch.testing.assert_close(
                tensor, expected, rtol=relative, atol=1e-5, msg=lambda text, name=name: f"{prefix}{name}: {text}"
            )
        sums = {".sum": tensor.double().sum(), ".sq": tensor.double().square().sum()}
        for suffix, value in sums.items():
            if f"{prefix}{name}{suffix}" in numbers:
                expected = float(numbers[f"{prefix}{name}{suffix}"])
                assert value.item() == pytest.approx(expected, rel=relative, abs=1e-5), f"{prefix}{name}{suffix}"


def biases_before_norm(model: WhereWhat) -> set[str]:
    """Biases that instance norm removes: their true gradient is zero, the files hold rounding noise."""
    names = set()
    for name, module in model.networks.named_modules():
        if isinstance(module, torch.nn.Sequential):
            for index, (layer, after) in enumerate(zip(module, module[1:], strict=False)):
                if hasattr(layer, "bias") and isinstance(after, torch.nn.InstanceNorm2d):
                    names.add(f"{name}.{index}.bias")
    return names


@cache
def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as numbers:
        return dict(numbers)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_parity(path):
    numbers = load(path)
    model = build(numbers)
    optimisers = Optimisers(model)
    left_out = biases_before_norm(model)
    assert len(left_out) > 20
    published = published_names(model.networks)
    compared = 0
    iterations = 1 + max(int(key[2 : key.index("/")]) for key in numbers if key.startswith("it"))
    for iteration in range(iterations):
        batch = read_batch(numbers, iteration)
        noise = read_noise(numbers, iteration, model)
        views = model.views(batch)
        assert_tensors(numbers, f"it{iteration}/", input_tensors(model, batch, views), 1e-4)
        for index, half in enumerate(noise.halves):
            first = iteration == 0 and index == 0
            prefix = f"it{iteration}/half{index}/"
            paths = model(views, noise, half)
            assert_tensors(numbers, prefix, output_tensors(model, paths), 1e-4 if first else 2e-3)
            if index == 0:
                losses = d_losses(model, views, paths)
                set_gradients(sum(losses[name] for name in D_NAMES), optimisers.d)
                optimisers.d.step()
            losses |= g_update(model, optimisers, views, noise, paths)
            for name, published_name in PUBLISHED_LOSSES.items():
                expected = float(numbers[f"{prefix}loss/{published_name}"])
                relative = 1e-4 if first else 1e-3
                assert losses[name].item() == pytest.approx(expected, rel=relative, abs=1e-5), prefix + name
            for name, parameter in model.networks.named_parameters():
                key = f"{prefix}gradnorm/{published[name]}"
                if name.partition(".")[0] in (*G_NETWORKS, *SUP_NETWORKS) and name not in left_out:
                    expected = float(numbers[key])
                    relative = 1e-3 if iteration == 0 else 5e-3
                    norm = parameter.grad.norm().item()
                    assert norm == pytest.approx(expected, rel=relative, abs=1e-7), key
                    compared += 1
        for name, parameter in model.networks.named_parameters():
            if name not in left_out:
                total, norm = numbers[f"it{iteration}/param/{published[name]}"]
                assert parameter.norm().item() == pytest.approx(float(norm), rel=2e-3, abs=1e-5), name
                slack = 2e-3 * float(norm)
                assert parameter.sum().item() == pytest.approx(float(total), rel=2e-3, abs=slack), name
    assert compared > 100


def test_every_published_parameter_is_mapped():
    numbers = load(FILES[0])
    init = {key.removeprefix("init/") for key in numbers if key.startswith("init/")}
    unused = {"where_encoder_sup/conv1.0.weight", "where_encoder_sup/conv1.0.bias"}
    assert set(published_names(build(numbers).networks).values()) == init - unused
