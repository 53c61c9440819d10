"""sd_inpaint and sdxl_blend: the object repainted by a text-guided diffusion model of the diffusers library.

sd_inpaint is Stable Diffusion with an inpainting network, which sees the mask. sdxl_blend is blended latent
diffusion on the SDXL base, which knows of no mask: from `strength` of the noise on, the surroundings are put
back after each step. Both get the same care around the model (docs/synthesis.md#diffusion): a window with
some context, so that a small object fills a good part of the model's image; the mask widened by one latent
pixel, so that no seam of the old object stays; one torch generator for each sample.
"""

import dataclasses
import importlib
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from augment.paint.backends import Request
from augment.paint.blend import resize
from distributed import choose_device
from support.errors import InputError
from support.settings import setting

VERSION = "1"

LATENT = 8  # pixels of the model's image to a latent pixel
_CONTEXT = 1.5  # side of the window, in longer sides of the object
_REMEDY = "python -m pip install -r requirements-diffusion.txt"
_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class DiffusionSettings:
    """The settings of both; what each starts from is in `DEFAULTS`."""

    model: str = setting("", "id on the Hugging Face hub, or a local folder with model_index.json")
    revision: str = setting("main", "branch, tag or commit on the hub")
    variant: str = setting("", "of the weight files, such as fp16; none: the plain ones")
    offline: bool = setting(False, "take the model from the local cache only (as with HF_HUB_OFFLINE=1)")
    dtype: str = setting("fp16", "numbers of the model; on a CPU always fp32", tuple(_DTYPES))
    device: str = setting("auto", "auto, cpu, cuda or cuda:N")
    batch_size: int = setting(
        4, "samples painted at once, of all objects of a frame; no sample depends on it", min=1
    )
    attention_slicing: bool = setting(False, "less memory, a little slower")
    size: int = setting(512, "longer side of the model's image, pixels, a multiple of 8", min=LATENT)
    min_side: int = setting(128, "least side of the window enlarged to `size`, pixels of the frame", min=1)
    steps: int = setting(50, "steps of the solver", min=1)
    guidance: float = setting(7.5, "how far the prompt is followed")
    strength: float = setting(1.0, "fraction of the noise, and of the steps, gone through", above=0, max=1)

    def __post_init__(self):
        if self.size % LATENT:
            raise ValueError(f"size must be a multiple of {LATENT}")
        if self.steps >= 1 and 0 < self.strength <= 1 and int(self.steps * self.strength) < 1:
            raise ValueError("steps * strength must be at least 1")


DEFAULTS = {
    "sd_inpaint": DiffusionSettings("stabilityai/stable-diffusion-2-inpainting"),
    "sdxl_blend": DiffusionSettings(
        "stabilityai/stable-diffusion-xl-base-1.0", size=1024, min_side=256, guidance=5.0, strength=0.75
    ),
}
_PIPELINES = {
    "sd_inpaint": "StableDiffusionInpaintPipeline",
    "sdxl_blend": "StableDiffusionXLInpaintPipeline",
}


class Diffusion:
    """See the module. One for each process that has a GPU: the model is loaded when it is made."""

    def __init__(self, name: str, settings: DiffusionSettings, db_root: Path | None, split: str):
        """Raises InputError if a library is missing or the model can't be loaded."""
        self.name, self.version, self.settings = name, VERSION, settings
        self.device = choose_device(settings.device)
        self.dtype = "fp32" if self.device.type == "cpu" else settings.dtype
        self.pipeline, library = load(name, settings, self.dtype)
        try:
            self.pipeline.to(self.device)
        except torch.cuda.OutOfMemoryError:
            raise InputError(
                f"backend {name}: {settings.model} does not fit into the memory of {self.device}; choose"
                " dtype fp16 or another device"
            ) from None
        self.pipeline.set_progress_bar_config(disable=True)
        if settings.attention_slicing:
            self.pipeline.enable_attention_slicing()
        params = dataclasses.asdict(settings)
        self.details = {
            "model": params.pop("model"),
            "revision": params.pop("revision"),
            "library": f"diffusers {library}",
            "params": params | {"dtype": self.dtype, "device": self.device.type},
        }

    @staticmethod
    def defaults(name: str) -> DiffusionSettings:
        return DEFAULTS[name]

    def fill(self, request: Request) -> list[np.ndarray]:
        """See `Backend`. Around the mask the model's own image stays, for the colour match."""
        return self.fill_all([request])[0]

    def fill_all(self, requests: list[Request]) -> list[list[np.ndarray]]:
        """`fill` for several objects; samples of all that the model sees at one size share batches."""
        by_size: dict[tuple[int, ...], list[_WantedImage]] = {}
        for request in requests:
            view = _ModelInput.of(request, self.settings)
            wanted = [_WantedImage(request, view, sample) for sample in range(request.count)]
            by_size.setdefault(view.mask.shape, []).extend(wanted)
        images: dict[int, list[np.ndarray]] = {id(request): [] for request in requests}
        for wanted in by_size.values():
            for start in range(0, len(wanted), self.settings.batch_size):
                batch = wanted[start : start + self.settings.batch_size]
                for one, painted in zip(batch, self._paint(batch), strict=True):
                    images[id(one.request)].append(one.view.put_back(one.request.rgb, painted))
        return [images[id(request)] for request in requests]

    def _paint(self, batch: list["_WantedImage"]) -> np.ndarray:
        """Images (n,height,width,3) uint8 of samples that the model sees at one size."""
        height, width = batch[0].view.mask.shape
        try:
            painted = self.pipeline(
                prompt=[one.request.prompts[one.number] for one in batch],
                negative_prompt=[one.request.negative for one in batch],
                image=[Image.fromarray(one.view.image) for one in batch],
                mask_image=[Image.fromarray(one.view.mask * 255) for one in batch],
                height=height,
                width=width,
                num_inference_steps=self.settings.steps,
                guidance_scale=self.settings.guidance,
                strength=self.settings.strength,
                generator=[one.generator() for one in batch],
                output_type="np",
            ).images
        except torch.cuda.OutOfMemoryError:
            raise InputError(
                f"backend {self.name}: not enough memory on {self.device}; choose a smaller batch_size,"
                " attention_slicing: true, or dtype fp16"
            ) from None
        return np.uint8(np.clip(np.nan_to_num(painted), 0, 1) * 255 + 0.5)


# ---- the model ----------------------------------------------------------------------------------


def load(name: str, settings: DiffusionSettings, dtype: str) -> tuple[object, str]:
    """The pipeline of a back end, on the CPU, and the version of diffusers.

    Raises InputError, in one line with the remedy, if a library is missing, if there is no such model, or if
    the model is of another kind.
    """
    try:
        import diffusers

        importlib.import_module("transformers")  # pipelines fail late and at length without it
        pipeline_type = getattr(diffusers, _PIPELINES[name])
    except (ImportError, RuntimeError) as error:  # diffusers wraps what fails in its lazy imports
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"backend {name}: a library is missing ({reason}); install it with: {_REMEDY}"
        ) from None
    folder = Path(settings.model)
    local = folder.is_dir()
    if local and not (folder / "model_index.json").is_file():
        raise InputError(
            f"backend {name}: {folder} has no model_index.json; give the folder of a diffusers model"
        )
    if not local and (folder.is_absolute() or settings.model.startswith(".")):
        raise InputError(f"backend {name}: {folder}: no such folder; set model to a local folder or a hub id")
    offline = settings.offline or os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "on", "yes", "true")
    options = {"torch_dtype": _DTYPES[dtype], "local_files_only": local or offline}
    if not local:
        options["revision"] = settings.revision
    if settings.variant:
        options["variant"] = settings.variant
    if name == "sd_inpaint":  # it would blacken images that it takes for something else
        options |= {"safety_checker": None, "requires_safety_checker": False}
    try:
        with warnings.catch_warnings():  # dtype replaces torch_dtype, but older versions know only that
            warnings.simplefilter("ignore", FutureWarning)
            pipeline = pipeline_type.from_pretrained(settings.model, **options)
    except Exception as error:  # anything from a network error to a damaged file
        reason = " ".join(str(error).split())[:200]
        if local:
            remedy = "copy the folder again, or set model to another"
        elif offline:
            remedy = f"load it once with a network: hf download {settings.model}; or set model to a folder"
        else:
            remedy = "check model and revision and the network, or set model to a local folder"
        raise InputError(f"backend {name}: can't load {settings.model} ({reason}); {remedy}") from None
    of_xl = getattr(pipeline.unet.config, "addition_embed_type", None) == "text_time"
    if of_xl != (name == "sdxl_blend"):
        kind = "an SDXL base" if name == "sdxl_blend" else "a Stable Diffusion (not SDXL) inpainting"
        raise InputError(
            f"backend {name}: {settings.model} is a model of another kind; set model to {kind} model"
        )
    return pipeline, diffusers.__version__


# ---- what it sees -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ModelInput:
    """An object as the model sees it."""

    rows: slice  # of the crop
    columns: slice
    image: np.ndarray  # (height,width,3) uint8, at the model's size
    mask: np.ndarray  # (height,width) uint8, 0 or 1, one latent pixel wider all around

    @classmethod
    def of(cls, request: Request, settings: DiffusionSettings) -> "_ModelInput":
        rows, columns = window_of(request.mask, settings.min_side)
        rgb = np.ascontiguousarray(request.rgb[rows, columns])
        mask = np.ascontiguousarray(request.mask[rows, columns])
        size = working_size(mask.shape[1], mask.shape[0], settings.size)
        return cls(rows, columns, resize(rgb, *size), widen(mask, *size))

    def put_back(self, rgb: np.ndarray, painted: np.ndarray) -> np.ndarray:
        """The crop (h,w,3) uint8 with the model's image (height,width,3) in its window."""
        image = rgb.copy()
        height, width = image[self.rows, self.columns].shape[:2]
        image[self.rows, self.columns] = resize(painted, width, height)
        return image


@dataclass(frozen=True)
class _WantedImage:
    """One of the images that a request wants."""

    request: Request
    view: _ModelInput
    number: int

    def generator(self) -> torch.Generator:
        """Its random numbers, drawn on the CPU, so that a seed means the same everywhere."""
        return torch.Generator("cpu").manual_seed(self.request.sample_seed(self.number) % 2**63)


def window_of(mask: np.ndarray, min_side: int) -> tuple[slice, slice]:
    """Rows and columns that the model gets of a mask (h,w) bool: a square around it, as far as it goes."""
    x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
    side = max(min_side, round(_CONTEXT * max(w, h)))

    def along(low: int, extent: int, length: int) -> slice:
        part = min(side, length)
        start = min(max(low + (extent - part) // 2, 0), length - part)
        return slice(start, start + part)

    return along(y, h, mask.shape[0]), along(x, w, mask.shape[1])


def working_size(width: int, height: int, size: int) -> tuple[int, int]:
    """Width and height of the model's image: the longer one `size`, both multiples of LATENT."""
    scale = size / max(width, height)
    return tuple(max(LATENT, round(side * scale / LATENT) * LATENT) for side in (width, height))


def widen(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    """A mask (h,w) bool at the model's size, (height,width) uint8 0 or 1, one latent pixel wider all around.

    Every pixel that the mask touches counts, so that nothing vanishes.
    """
    shrinks = width < mask.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    scaled = np.uint8(cv2.resize(np.float32(mask), (width, height), interpolation=how) > 0)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * LATENT + 1,) * 2)
    return cv2.dilate(scaled, kernel)
