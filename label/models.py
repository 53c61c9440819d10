"""Segmenters of the library transformers: Mask2Former and OneFormer, panoptic, and SegFormer, semantic."""

import hashlib
import logging
import os
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch.nn.functional import interpolate

from convert.mapping import is_thing
from convert.source import Segments
from distributed import choose_device
from label.segments import class_scores, likeliest, of_classes, of_masks
from support.errors import InputError
from support.files import listed, read_json

# The licence of its weights, and of the data that it learnt from: docs/label.md#the-model
DEFAULT_MODEL = "facebook/mask2former-swin-large-cityscapes-panoptic"
DEFAULT_REVISION = "544d76fe93971ee046dacae19b6d4f6ecb5d9088"
PANOPTIC, PIECES = "panoptic", "connected pieces"  # how instances are told apart
HEADS = {
    "mask2former": "Mask2FormerForUniversalSegmentation",
    "oneformer": "OneFormerForUniversalSegmentation",
    "segformer": "SegformerForSemanticSegmentation",
}
_TASK = "the task is {}"  # what a OneFormer is told
_FILES = ["*.json", "*.txt", "*.safetensors"]  # of a model on the hub
_OLD_WEIGHTS = "*.bin"  # where there are no others
_LIBRARY = "python -m pip install -r requirements-diffusion.txt"


class Segmenter(Protocol):
    """Finds the segments of a picture."""

    def __call__(self, rgb: np.ndarray, left_out: frozenset[int]) -> Segments:
        """Segments of a picture (H,W,3) uint8 RGB; classes `left_out` are not found."""


@dataclass(frozen=True)
class About:
    """What is known of a model before it is loaded.

    names: of its classes; told_apart: PANOPTIC or PIECES; facts: what decides its output, as JSON has it.
    """

    names: dict[int, str]
    told_apart: str
    facts: dict


class Model(Protocol):
    """A segmenter that is not loaded yet; goes to other processes."""

    name: str  # for messages

    def about(self) -> About: ...

    def load(self, labels: dict[str, str]) -> Segmenter:
        """labels: Cityscapes label of each class by its name."""


@dataclass(frozen=True)
class PretrainedModel:
    """A model on the hub or in a folder.

    semantic: only the class of each pixel counts, so that instances are connected pieces.
    """

    name: str = DEFAULT_MODEL
    revision: str = ""
    offline: bool = False
    device: str = "auto"
    semantic: bool = False

    def about(self) -> About:
        """Raises InputError if there is no such model, or if it is of another kind."""
        folder, (head, names) = self._folder(), self._config()
        from_hub = not Path(self.name).is_dir()
        facts = {"model": self.name, "revision": folder.name} if from_hub else {"model": _digest(folder)}
        facts |= {"head": head, "library": f"transformers {_transformers().__version__}"}
        facts |= {"device": choose_device(self.device).type}
        return About(names, PIECES if self._in_pieces(head) else PANOPTIC, facts)

    def load(self, labels: dict[str, str]) -> Segmenter:
        """Raises InputError if it can't be loaded or has no room."""
        head, names = self._config()
        things = frozenset(number for number, name in names.items() if is_thing(labels[name]))
        network = _loaded(self.name, self._folder(), head, str(choose_device(self.device)))
        return partial(network.segments, things=things, pieces=self._in_pieces(head))

    def _in_pieces(self, head: str) -> bool:
        return self.semantic or head == "segformer"

    def _config(self) -> tuple[str, dict[int, str]]:
        """Its head, one of HEADS, and the names of its classes."""
        config = read_json(self._folder() / "config.json", "the configuration of a model")
        head, built = config.get("model_type"), config.get("architectures") or []
        if head not in HEADS or HEADS[head] not in built:
            raise InputError(
                f"--model {self.name}: is a {' '.join(built) or head}; take a {', '.join(HEADS.values())}"
            )
        try:
            return head, {int(number): str(name) for number, name in config["id2label"].items()}
        except (KeyError, ValueError, AttributeError):
            raise InputError(
                f"--model {self.name}: its config.json names no classes (id2label); take another model"
            ) from None

    def _folder(self) -> Path:
        """Where the files of the model lie."""
        folder = Path(self.name)
        if folder.is_dir():
            if not (folder / "config.json").is_file():
                raise InputError(
                    f"--model {folder}: has no config.json; give the folder that save_pretrained wrote"
                )
            return folder
        if folder.is_absolute() or self.name.startswith(".") or self.name.count("/") != 1:
            raise InputError(f"--model {folder}: no such folder; give that of a model, or an ID of the hub")
        revision = self.revision or (DEFAULT_REVISION if self.name == DEFAULT_MODEL else "main")
        return _fetched(self.name, revision, self.offline)


# ---- files --------------------------------------------------------------------------------------


def _transformers():
    """The library. Raises InputError if it is missing."""
    try:
        import transformers
    except ImportError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"--model: a library is missing ({reason}); install it with: {_LIBRARY}") from None
    return transformers


@cache
def _fetched(name: str, revision: str, offline: bool) -> Path:
    """The folder of a model of the hub, fetched if it is not there yet. InputError if there is none."""
    _transformers()
    from huggingface_hub import snapshot_download

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of each new try
    offline = offline or os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "on", "yes", "true")
    fetch = partial(snapshot_download, name, revision=revision, local_files_only=offline)
    try:
        folder = Path(fetch(allow_patterns=_FILES))
        if not offline and not listed(folder, "*.safetensors"):
            fetch(allow_patterns=[_OLD_WEIGHTS])
    except Exception as error:  # anything from a network error to a wrong name
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"--model {name}: is not on this machine and can't be fetched ({reason}); load it once where"
            f" there is a network (hf download {name} --revision {revision}), or give a model's folder as"
            " --model"
        ) from None
    return folder


@cache
def _digest(folder: Path) -> str:
    """SHA-256 of the files of a model in a folder."""
    sha = hashlib.sha256()
    for path in (path for pattern in (*_FILES, _OLD_WEIGHTS) for path in listed(folder, pattern)):
        sha.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(2**24):
                sha.update(block)
    return sha.hexdigest()


# ---- the network --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    """A loaded model with what prepares pictures for it; task: the tokens that a OneFormer is given."""

    name: str
    model: torch.nn.Module
    prepare: object
    task: torch.Tensor | None
    device: str

    @torch.inference_mode()
    def segments(
        self, rgb: np.ndarray, left_out: frozenset[int], *, things: frozenset[int], pieces: bool
    ) -> Segments:
        """See `Segmenter`. things: classes with instances; pieces: these are the connected pieces."""
        told = {} if self.task is None else {"task_inputs": ["panoptic"]}
        inputs = self.prepare(images=rgb, return_tensors="pt", **told)
        given = {
            name: inputs[name].to(self.device) for name in ("pixel_values", "pixel_mask") if name in inputs
        }
        if self.task is not None:
            given["task_inputs"] = self.task.to(self.device)
        try:
            outputs = self.model(**given)
            enlarge = partial(_enlarged, padded=given["pixel_values"].shape[-2:], size=rgb.shape[:2])
            if (mask := given.get("pixel_mask")) is not None:
                enlarge = partial(enlarge, filled=(int(mask[0].any(1).sum()), int(mask[0].any(0).sum())))
            if "logits" in outputs:
                return of_classes(likeliest(outputs.logits[0].float(), enlarge, left_out), things)
            classes, masks = outputs.class_queries_logits[0].float(), outputs.masks_queries_logits[0].float()
            if pieces:
                return of_classes(likeliest(class_scores(classes, masks), enlarge, left_out), things)
            return of_masks(classes, masks, enlarge, left_out)
        except torch.cuda.OutOfMemoryError:
            raise InputError(
                f"--model {self.name}: not enough memory on {self.device} for a picture of"
                f" {rgb.shape[1]}x{rgb.shape[0]} pixels; give fewer --num_workers, or --device cpu"
            ) from None


def _enlarged(
    scores: torch.Tensor,
    padded: tuple[int, int],
    size: tuple[int, int],
    filled: tuple[int, int] | None = None,
) -> torch.Tensor:
    """A map (h,w) of the network at the size (H,W) of the picture.

    padded: the size of what the network was given, of which `filled` rows and columns show the picture.
    """
    whole = scores[None, None]
    if filled is not None and filled != tuple(padded):
        whole = interpolate(whole, padded, mode="bilinear", align_corners=False)
        whole = whole[..., : filled[0], : filled[1]]
    return interpolate(whole, size, mode="bilinear", align_corners=False)[0, 0]


@cache
def _loaded(name: str, folder: Path, head: str, device: str) -> Network:
    """A model from its files. Raises InputError if they are damaged or not whole."""
    library = _transformers()
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    one = head == "oneformer"
    # A OneFormer's list of classes lies elsewhere on the hub, and only training needs it.
    settings = {"class_info_file": None} if one else {}
    try:
        prepare = library.AutoImageProcessor.from_pretrained(folder, local_files_only=True, **settings)
        model, report = getattr(library, HEADS[head]).from_pretrained(
            folder, local_files_only=True, output_loading_info=True, **({"is_training": False} if one else {})
        )
        task = _task_tokens(library, folder, model.config.task_seq_len) if one else None
    except Exception as error:  # anything from a missing file to a damaged one
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"--model {name}: can't be loaded ({reason}); copy its folder again") from None
    if missing := sorted(set(report["missing_keys"]) & dict(model.named_parameters()).keys()):
        raise InputError(f"--model {name}: its weights lack {missing[0]}; take a model that is whole")
    try:
        return Network(name, model.eval().to(device), prepare, task, device)
    except torch.cuda.OutOfMemoryError:
        raise InputError(
            f"--model {name}: does not fit into the memory of {device}; choose another"
        ) from None


def _task_tokens(library, folder: Path, length: int) -> torch.Tensor:
    """The task in numbers (1,length), 0 behind its end."""
    tokenizer = library.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    text = tokenizer([_TASK.format("panoptic")], padding="max_length", max_length=length, truncation=True)
    return torch.tensor(text["input_ids"]) * torch.tensor(text["attention_mask"])
