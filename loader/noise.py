"""All noise of a training step, drawn apart from it: a step is a function of weights, batch and noise."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from loader.pairs import STEP_NOISE, Tensors
from options import Options

DROPOUT = 0.4  # fraction of embedding channels that the noise heads do not see in training


@dataclass(frozen=True)
class UpdateNoise(Tensors):
    """Noise of one of the two G-side updates of a step; index 0 of `keep_*` is x+ (real), 1 is x (cond)."""

    eps_where: Tensor  # (B,z_spatial,1,1) normal, sampling noise of the supervised where encoder
    eps_what: Tensor  # (B,z_appr,1,1) normal, sampling noise of the supervised what encoder
    keep_where: Tensor  # (2,B,embed_small,1,1) dropout masks, 0 or 1/(1-DROPOUT)
    keep_what: Tensor  # (2,B,embed_big,1,1)


@dataclass(frozen=True)
class Noise(Tensors):
    """All noise of one step, so that a step is a function of weights, batch and noise."""

    z_spatial: Tensor  # (B,z_spatial,1,1) normal
    z_appr: Tensor  # (B,z_appr,1,1) normal
    updates: tuple[UpdateNoise, UpdateNoise]


def draw_noise(options: Options, positions: Iterable[int]) -> Noise:
    """Noise for the samples at these global positions (0, 1, 2, ... through the whole training), on the CPU.

    It depends on random_seed and on the position alone: not on batch size, number of processes or resumes.
    """
    normal_sizes = [options.z_dim_spatial, options.z_dim_appr] * 3
    keep_sizes = [options.embed_dim_small] * 2 + [options.embed_dim_big] * 2
    normals, keeps = [], []
    for position in positions:
        rng = np.random.default_rng([options.random_seed, STEP_NOISE, position])
        normals.append(rng.standard_normal(sum(normal_sizes), dtype=np.float32))
        seen = rng.random(2 * sum(keep_sizes), dtype=np.float32) >= DROPOUT
        keeps.append(seen.astype(np.float32) / np.float32(1 - DROPOUT))
    z_spatial, z_appr, *eps = _columns(normals, normal_sizes)
    columns = _columns(keeps, keep_sizes * 2)
    keep = [torch.stack(pair) for pair in zip(columns[::2], columns[1::2], strict=True)]
    updates = (UpdateNoise(*eps[:2], *keep[:2]), UpdateNoise(*eps[2:], *keep[2:]))
    return Noise(z_spatial, z_appr, updates)


def _columns(rows: list[np.ndarray], sizes: list[int]) -> list[Tensor]:
    """Rows (one a sample) cut into pieces of these sizes, each (B,size,1,1)."""
    return list(torch.from_numpy(np.stack(rows))[:, :, None, None].split(sizes, dim=1))
