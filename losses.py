"""The objective: every loss term, its weight, and which networks learn from it (docs/model.md#losses)."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from networks import full_precision, no_autocast
from options import Options


def objective(options: Options) -> dict[str, dict[str, float]]:
    """The weight of each term, for each group of networks (networks.GROUPS) that learns from it.

    A model whose where module lacks a term leaves it out of the sum.
    """
    return {
        "d": {"d_stn": 1, "d_where": 1, "d_obj": 1, "d_what": 1},
        "sup": {
            "what_kl": options.what_kl_weight,
            "what_vae_recon": 1,
            "where_kl": 1,
            "where_vae_recon": 1,
        },
        "g": {
            "g_stn": 1,
            "g_where": 1,
            "g_obj": 1,
            "g_what": 1,
            "coord": 1,
            "stn_theta": 1,
            "where_recon": 10,
            "what_recon": 10,
            "where_vae_recon": 10,
            "what_vae_recon": 10,
            "where_nll_foot": 1,  # these two train the density of places, and nothing else does
            "where_nll_size": 1,
        },
    }


def total(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The weighted sum of those of these terms that there are; scalar."""
    return sum(weight * terms[name] for name, weight in weights.items() if name in terms)


# ---- terms --------------------------------------------------------------------------------------


def gan_loss(logits: Tensor, real: bool) -> Tensor:
    """BCE of sigmoid(logits) against 1 (real) or 0, mean over batch and patches; scalar."""
    logits = full_precision(logits)
    return F.softplus(-logits if real else logits).mean()


def coord_loss(theta: Tensor) -> Tensor:
    """The box of theta (B,6) must lie inside the image; mean over samples, scalar.

    Over the grid, X from -1 to 1, t11*X + t13 reaches t13 - |t11| and t13 + |t11|: no grid is needed.
    """
    scale, shift = theta[:, 0::4], theta[:, 2::3]  # (B,2): x and y
    return (F.relu(1 + shift - scale.abs()) + F.relu(1 - shift - scale.abs())).sum(1).mean()


def stn_theta_loss(theta: Tensor, max_width_ratio: float, max_height_ratio: float) -> Tensor:
    """Boxes not too small and not flipped: bounds on t11 and t22; mean over samples, scalar."""
    t11, t22 = theta[:, 0], theta[:, 4]
    too_small = F.relu(t11 - max_width_ratio) + F.relu(t22 - max_height_ratio)
    return (too_small + F.relu(-t11) + F.relu(-t22)).mean()


def kl_loss(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL divergence of N(mu, exp(logvar)) from N(0, 1), mean over batch and dimensions; scalar."""
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).mean()


def mask_loss(masks: Tensor, target: Tensor, kind: str) -> Tensor:
    """Compact masks (B,1,cy,cx) in [0,1] against others, by option mask_loss: mean over pixels, scalar."""
    with no_autocast(masks):  # which BCE of probabilities refuses
        return F.l1_loss(masks, target) if kind == "l1" else F.binary_cross_entropy(masks, target)
