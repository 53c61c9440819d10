"""The back ends that fill an instance's mask with pixels, behind one interface.

What each does: docs/synthesis.md#back-ends.

    backend = make_backend("swap", settings, db_root, "train")
    request = Request(rgb, mask, "car", "aachen_000000_000019/26001", ("a red car", "a white car"), "", seed)
    first, second = backend.fill(request)

A back end from outside is named as module:Class. The class is made and asked for its settings as those here
are (`Backend`). `swap`, `recolor` and `cv_inpaint` need no weights; `sd_inpaint` and `sdxl_blend` need
those of requirements-diffusion.txt, and nothing of them is imported before they are made.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np

from augment.options import BACKENDS, is_own
from support.errors import InputError
from support.settings import changed, checked

_CLASSES = {  # module here and class of each of BACKENDS
    "swap": ("swap", "Swap"),
    "recolor": ("recolor", "Recolor"),
    "cv_inpaint": ("inpaint", "Inpaint"),
    "sd_inpaint": ("diffusion", "Diffusion"),
    "sdxl_blend": ("diffusion", "Diffusion"),
}


class CannotFillError(Exception):
    """Why a back end has nothing for this object; no fault of the program, the caller skips it."""


@dataclass(frozen=True)
class Request:
    """One object to paint, and how often."""

    rgb: np.ndarray  # (h,w,3) uint8 RGB, the crop around the object
    mask: np.ndarray  # (h,w) bool, the pixels to paint, at least one
    class_name: str  # official label name, such as "car"
    source: str  # "frame name/instance id" of what stands there, or of a new object
    prompts: tuple[str, ...]  # one for each sample wanted
    negative: str
    seed: int  # everything random follows from it and the number of the sample
    # Seed of the image and number 1, 2, ... of a new object in it: a back end that shows instances of the
    # data set deals them out to the objects of an image, so that they look different. None: no such number.
    deal: tuple[int, int] | None = None

    @property
    def count(self) -> int:
        """Samples wanted."""
        return len(self.prompts)

    def generator(self, sample: int) -> np.random.Generator:
        """The random numbers of sample 0, 1, ...; they do not depend on `count`."""
        return np.random.default_rng(self.sample_seed(sample))

    def sample_seed(self, sample: int) -> int:
        """A seed of 64 bits for sample 0, 1, ..."""
        return int.from_bytes(blake2b(f"{self.seed} {sample}".encode(), digest_size=8).digest(), "big")


class Backend(Protocol):
    """What the pipeline knows of a back end.

    Its class is called as Class(name, settings, db_root, split) in each process that paints, and has a static
    method defaults(name) that returns its settings with their defaults, a frozen dataclass.
    """

    name: str
    version: str
    details: dict  # for the manifest: model, revision, parameters

    def fill(self, request: Request) -> list[np.ndarray]:
        """`request.count` images (h,w,3) uint8, of which only masked pixels are meant to be used.

        Outside the mask they hold the crop as it was, except that the diffusion back ends leave their own
        surroundings there, which tell how far their colours have drifted.
        Sample n depends on the request and its own prompt alone, never on how many are wanted. Raises
        CannotFillError to skip the object.
        """
        ...


def fill_all(backend: Backend, requests: list[Request]) -> list[list[np.ndarray] | Exception]:
    """What a back end makes of each request, or why it makes nothing of it.

    One that has a method `fill_all` itself paints them together, to fill its batches.
    """
    if len(requests) > 1 and hasattr(backend, "fill_all"):
        try:
            return backend.fill_all(requests)
        except Exception:  # whose fault it is shows one by one
            pass
    return [_filled(backend, request) for request in requests]


def _filled(backend: Backend, request: Request) -> list[np.ndarray] | Exception:
    try:
        images = backend.fill(request)
        shapes = [image.shape for image in images]
        if shapes != [request.rgb.shape] * request.count:
            raise ValueError(f"{backend.name} gave images of {shapes} instead of {request.rgb.shape}")
        return images
    except Exception as error:  # a back end may fail in its own ways; the other requests go on
        return error


def make_backend(name: str, settings: dict, db_root: Path | str | None, split: str) -> Backend:
    """A back end by name, from the settings of a YAML file's section; cheap for those without weights.

    `swap` opens its bank of instances here, and builds it first if it isn't there: see `prepare_backend`.
    With db_root None no data set is looked at: the bank is taken as it is.
    Raises InputError for an unknown name or setting, a missing library, or a model that can't be loaded.
    """
    root = None if db_root is None else Path(db_root)
    return _maker(name)(name, settings_of(name, settings), root, split)


def settings_of(name: str, settings: dict):
    """The settings of a back end as its own dataclass, those not given as it has them by default.

    Makes and loads nothing. Raises InputError for an unknown back end or setting and for unusable values.
    """
    source = f"backend {name}"
    return checked(changed(_maker(name).defaults(name), settings, source), source)


def prepare_backend(
    name: str, settings: dict, db_root: Path, split: str, map_function: Callable = map
) -> None:
    """Do once, before workers call `make_backend`, what they all need: the bank of `swap`.

    map_function may spread the work over processes. Raises InputError as `make_backend` does.
    """
    wanted = settings_of(name, settings)
    if name == "swap":
        _maker(name).prepare(wanted, Path(db_root), split, map_function)


def _maker(name: str) -> type:
    if is_own(name):
        return _own(name)
    if name not in BACKENDS:
        raise InputError(f"back end '{name}' is unknown: choose {', '.join(BACKENDS)}, or module:Class")
    module, class_name = _CLASSES[name]
    return getattr(import_module(f"{__name__}.{module}"), class_name)


def _own(name: str) -> type:
    """The class named as module:Class. InputError if there is none, or if it is no back end."""
    module, class_name = name.split(":")
    try:
        maker = getattr(import_module(module), class_name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"back end {name}: {error}; the module must be importable from here") from None
    lacking = [method for method in ("defaults", "fill") if not callable(getattr(maker, method, None))]
    if lacking:
        raise InputError(f"back end {name}: has no {' and no '.join(lacking)}, see docs/synthesis.md")
    return maker
