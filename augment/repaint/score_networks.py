"""The metrics that need a network's weights, through torchmetrics (requirements-score.txt).

A metric whose library or weights are not at hand is the text "unavailable: ..." with what to do; never a
number, and nothing is fetched unless a model id is given and --offline is not.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from support.errors import InputError

INSTALL = "unavailable: pip install -r requirements-score.txt"
BATCH = 16  # images that go through a network at once
KID_SUBSET = 100  # images in each of KID's subsets, fewer if there are fewer

NUMBERS = {
    "fid": "Frechet distance of Inception features, masked objects before and after",
    "kid": "kernel distance of the same features, mean over subsets",
    "lpips_alex": "perceptual distance of each masked object before and after, AlexNet",
    "clip_text_image": "100 x cosine of prompt and masked object after, 0 or more",
}


@dataclass(frozen=True)
class Weights:
    """Where weights are; "" for none."""

    inception: str = ""  # file
    lpips: str = ""  # file
    clip: str = ""  # folder, or a model's id
    offline: bool = False


class Networks:
    """The metrics that can be had with what is at hand; add samples, then ask for `results`."""

    def __init__(self, weights: Weights):
        """Raises InputError for weights that are named but can't be loaded."""
        self.metrics: dict[str, object] = {}
        self.missing: dict[str, str] = {}
        self.pending: list[tuple[np.ndarray, np.ndarray, str]] = []
        self.count = 0
        inception = weights.inception, "--inception_weights", "torch-fidelity's Inception v3, .pth"
        clip = weights.clip, "--clip_model", "a folder such as clip-vit-base-patch32"
        makers = {
            "fid": (_fid, *inception),
            "kid": (_kid, *inception),
            "lpips_alex": (_lpips, weights.lpips, "--lpips_weights", "torchvision's AlexNet, .pth"),
            "clip_text_image": (_clip, *clip),
        }
        for name, (make, path, flag, what) in makers.items():
            if not path:
                self.missing[name] = f"unavailable: give {flag} ({what})"
                continue
            is_id = name == "clip_text_image" and not (weights.offline or os.environ.get("HF_HUB_OFFLINE"))
            if not Path(path).exists() and not is_id:
                raise InputError(f"{flag} {path}: no such file or folder; needed is {what}")
            try:
                self.metrics[name] = make(path)
            except ImportError:
                self.missing[name] = INSTALL
            except Exception as error:  # whatever a library has to say about a file
                reason = " ".join(str(error).split())[:200]
                raise InputError(f"{flag} {path}: can't be loaded ({reason}); needed is {what}") from None

    def add(self, real: np.ndarray, made: np.ndarray, prompt: str) -> None:
        """Add a sample: the object before and after (299,299,3) uint8, and what was asked for."""
        self.pending.append((real, made, prompt))
        if len(self.pending) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        import torch

        if not self.pending:
            return
        self.count += len(self.pending)
        real, made = (
            torch.from_numpy(np.stack([one[side] for one in self.pending])).permute(0, 3, 1, 2)
            for side in (0, 1)
        )
        with torch.inference_mode():
            for name, metric in self.metrics.items():
                if name in ("fid", "kid"):
                    metric.update(real, real=True)
                    metric.update(made, real=False)
                elif name == "lpips_alex":
                    metric.update(real.float() / 255, made.float() / 255)
                else:
                    metric.update(list(made), [prompt for _, _, prompt in self.pending])
        self.pending = []

    def results(self) -> dict[str, float | str]:
        """A number or "unavailable: ..." by name."""
        self._flush()
        found: dict[str, float | str] = {}
        for name in NUMBERS:
            if name in self.missing:
                found[name] = self.missing[name]
            elif self.count < (2 if name in ("fid", "kid") else 1):
                found[name] = "unavailable: there are too few samples"
            else:
                metric = self.metrics[name]
                if name == "kid":
                    metric.subset_size = min(KID_SUBSET, self.count)
                value = metric.compute()
                found[name] = float(value[0] if name == "kid" else value)
        return found


def _inception(path: str):
    from torchmetrics.image.fid import NoTrainInceptionV3

    try:
        extractor = NoTrainInceptionV3("inception-v3-compat", ["2048"], path)
    except ModuleNotFoundError as error:  # torch-fidelity
        raise ImportError(str(error)) from None
    extractor.num_features = 2048
    return extractor


def _fid(path: str):
    from torchmetrics.image.fid import FrechetInceptionDistance

    return FrechetInceptionDistance(_inception(path))


def _kid(path: str):
    from torchmetrics.image.kid import KernelInceptionDistance

    return KernelInceptionDistance(_inception(path), subset_size=KID_SUBSET)


def _lpips(path: str):
    import torch
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    from torchvision.models import AlexNet_Weights

    # torchvision looks for AlexNet under this name in the hub folder before it fetches anything.
    before = torch.hub.get_dir()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "checkpoints" / Path(AlexNet_Weights.IMAGENET1K_V1.url).name
        target.parent.mkdir()
        target.symlink_to(Path(path).absolute())
        torch.hub.set_dir(folder)
        try:
            return LearnedPerceptualImagePatchSimilarity("alex", normalize=True)
        finally:
            torch.hub.set_dir(before)


def _clip(path: str):
    import torch
    from torchmetrics.multimodal.clip_score import CLIPScore
    from transformers import CLIPModel, CLIPProcessor

    local = Path(path).exists()

    class Model(torch.nn.Module):
        """CLIP whose features are tensors: newer versions of transformers wrap them."""

        def __init__(self):
            super().__init__()
            self.inner = CLIPModel.from_pretrained(path, local_files_only=local).eval()
            self.config = self.inner.config

        def get_image_features(self, *inputs):
            return _tensor(self.inner.get_image_features(*inputs))

        def get_text_features(self, *inputs):
            return _tensor(self.inner.get_text_features(*inputs))

    return CLIPScore(lambda: (Model(), CLIPProcessor.from_pretrained(path, local_files_only=local)))


def _tensor(features):
    return getattr(features, "pooler_output", features)
