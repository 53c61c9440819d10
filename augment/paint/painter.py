"""RGB for inserted objects: what `scripts.insert --render` paints on an image.

`cutout` shows instances of a bank or of a folder as they are (`augment.paint.cutout`). The back ends of
`augment.paint.backends` get the whole mask that the what module drew, also where something hides it, so that
a person behind a car is a whole person, of whom the visible part is pasted. A soft contact shadow falls on
the ground; other things keep their pixels to the bit. Several objects are painted one after another on the
same image.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from cityscapesscripts.helpers.labels import id2label

from augment.compose import Composed, shadow_ground
from augment.crops import context_crop
from augment.options import WITH_WEIGHTS, SynthOptions
from augment.paint.backends import (
    Backend,
    CannotFillError,
    Request,
    make_backend,
    prepare_backend,
    settings_of,
)
from augment.paint.blend import CLOSED_BELOW, contrast_at, in_shadow, match_colours, paste, shadow_of
from augment.paint.choosing import Choice, Wish, choose, draw_kind, wish_of_kind
from augment.paint.collection import Collection, Kind
from augment.paint.cutout import VERSION as CUTOUT_VERSION
from augment.paint.cutout import Placed, blend, place_in
from augment.paint.folder import CutoutFolder
from augment.paint.prompts import Prompts, draw_prompts, load_prompts
from data.geometry import MaskPatch
from data.instances import bounding_box
from data.labels import FIRST_SINGLE_ID
from data.writer import colour_map
from support.errors import InputError
from support.files import digest
from support.seeds import generator, seed_of

RENDERERS = ("none", "overlay", "cutout", "swap", "recolor", "sd_inpaint", "sdxl_blend")
WITH_BANK = ("swap", "recolor", "cutout")  # they show instances of the data set
WITHOUT_BACKEND = ("none", "overlay", "cutout")  # nothing of --render_config counts for them
_FEATHER_FRACTION = 0.03  # of the side of a square of the object's area: the soft edge of a small object


@dataclass(frozen=True)
class Rendering:
    """How a run paints; everything that a worker must know."""

    name: str  # one of RENDERERS except "none", or module:Class
    # Back end's settings, prompts, crop, feather and colour match count here.
    options: SynthOptions = field(default_factory=SynthOptions)
    shadow: float = 0.5  # how dark the contact shadow is at most, 0..1
    db_root: str = ""  # where the instances to show come from; empty: the bank is taken as it is
    split: str = ""
    bank: str = ""  # file of these instances
    device: str = "cpu"  # for models, where their settings do not say otherwise
    cutouts: CutoutFolder | None = field(default=None, compare=False)  # what `cutout` shows instead
    beside: bool = False  # whether it shows the instances of the data set, too

    def check(self) -> None:
        """Raises InputError for bad settings of the back end or bad prompts; nothing is loaded."""
        if self.name not in WITHOUT_BACKEND:
            settings_of(self.name, self.options.backend_settings)
            load_prompts(self.options.prompts)

    def prepare(self, map_function: Callable) -> None:
        """Make the bank once, before workers want it. InputError if the data offer nothing to show."""
        if self.needs_bank:
            prepare_backend("swap", self._settings("swap"), Path(self.db_root), self.split, map_function)

    @property
    def needs_bank(self) -> bool:
        """Whether instances of the data set are shown."""
        return self.name in WITH_BANK and (self.cutouts is None or self.beside)

    def check_classes(self, names: Iterable[str]) -> None:
        """Raises InputError if there can be nothing to show at the places of one of these classes."""
        if self.cutouts is None or self.beside:
            return
        for name in names:
            if not any(kind.places == name for kind in self.cutouts.kinds):
                raise InputError(
                    f"--cutouts {self.cutouts.root}: nothing in it takes the places of a {name}; add a folder"
                    f" {name}, see docs/insertion.md, or leave that class out, --classes"
                )

    def make(self, name: str) -> Backend:
        """The back end, or `swap` underneath it. Raises InputError if it can't be made."""
        return make_backend(name, self._settings(name), self.db_root or None, self.split)

    def _settings(self, name: str) -> dict:
        settings = self.options.backend_settings if name == self.name else {}
        if name == "swap":
            return settings | {"bank": self.bank}
        return ({"device": self.device} if name in WITH_WEIGHTS else {}) | settings

    def to_json(self) -> dict:
        """All that decides what is painted, as insert.json shows it."""
        shown = {"backend": self.name}
        if self.name == "overlay":
            return shown
        if self.name == "cutout":
            shown |= {"version": CUTOUT_VERSION, "shadow": self.shadow}
            if self.cutouts is not None:
                shown |= {"cutouts": self.cutouts.digest, "beside": self.beside}
            return shown
        options = self.options
        prompts = digest(Path(options.prompts).read_bytes()) if options.prompts else None
        settings = {key: value for key, value in options.backend_settings.items() if key != "bank"}
        names = ("style", "margin", "min_crop", "colour_match", "feather")
        shown |= {"settings": settings, "prompts": prompts, "shadow": self.shadow}
        return shown | {name: getattr(options, name) for name in names}


@dataclass(frozen=True)
class NewObject:
    """An object that passed all filters, before it is put on the image."""

    class_name: str  # of its label
    frame_name: str
    instance_id: int
    number: int  # 1, 2, ... among the new objects of the frame
    patch: MaskPatch  # its whole mask
    occluded: np.ndarray  # (h,w) bool, what of the patch lies behind something
    composed: Composed  # the maps with the object on them
    others: np.ndarray  # (H,W) bool, where earlier new objects are seen

    @property
    def visible(self) -> MaskPatch:
        """What nothing hides."""
        return replace(self.patch, mask=self.patch.mask & ~self.occluded)


@dataclass(frozen=True)
class Shown:
    """An instance of a collection at the place of a new object."""

    choice: Choice
    kind: Kind
    placed: Placed
    ridden: str | None = None  # label of the two-wheeler that it is shown with


class Painter:
    """What a worker keeps to paint new objects with."""

    def __init__(self, rendering: Rendering, seed: int, *, repeats: bool = False):
        """Nothing is loaded yet. repeats: an image may show an instance of a collection twice."""
        self.rendering, self.seed, self.repeats = rendering, seed, repeats

    def with_seed(self, seed: int) -> "Painter":
        """One with another seed; nothing is loaded anew."""
        other = copy.copy(self)
        other.seed = seed
        return other

    @cached_property
    def backends(self) -> tuple[Backend, ...]:
        """What paints, one after another: recolor needs an object to give a colour to, that of `swap`."""
        name = self.rendering.name
        names = {"overlay": (), "cutout": (), "recolor": ("swap", "recolor")}.get(name, (name,))
        return tuple(self.rendering.make(one) for one in names)

    @cached_property
    def collections(self) -> tuple[Collection, ...]:
        """The instances to show as they are; none: the new objects' masks are filled instead."""
        if self.rendering.name != "cutout":
            return ()
        own = () if self.rendering.cutouts is None else (self.rendering.cutouts,)
        return (*own, self.rendering.make("swap").bank) if self.rendering.needs_bank else own

    @cached_property
    def prompts(self) -> Prompts:
        return load_prompts(self.rendering.options.prompts)

    def load(self) -> None:
        """Load what painting needs. Raises InputError: what is wrong with it is wrong with every object."""
        _ = self.backends, self.prompts, self.collections

    def choose(self, image_name: str, number: int, wish: Wish, shown: set[str]) -> Shown:
        """What the new object 1, 2, ... of an image shows, at its place; not one of the keys `shown`.

        Raises CannotFillError if there is nothing to show.
        """
        rng, shown = generator(self.seed, image_name, number, "cutout"), set() if self.repeats else shown
        collection, kind = draw_kind(self.collections, wish.class_name, shown, rng)
        wish = wish_of_kind(wish, kind, rng)
        choice = choose(collection, wish, shown, rng)
        cutout, ridden = collection.cutout(choice.row), int(collection.table.ridden[choice.row])
        if kind.label != "rider":  # all of it is one object
            cutout, ridden = replace(cutout, ridden=None), 0
        placed = place_in(cutout, wish.box, choice.mirrored, wish.size)
        return Shown(choice, kind, placed, id2label[ridden // FIRST_SINGLE_ID].name if ridden else None)

    def paste(self, shown: Shown, rgb: np.ndarray, new: NewObject) -> tuple[np.ndarray, dict]:
        """As `paint`, of an object whose patch is the outline of a cut-out."""
        if new.composed.given_back.any():
            rgb = self._without(rgb, new.composed.given_back, new.visible.on(rgb.shape[:2]))
        window, under = shown.placed.around, new.class_name in CLOSED_BELOW
        ground = shadow_ground(new.composed.label_ids[window]) & ~new.others[window]
        painted = blend(rgb, shown.placed, new.occluded, ground, self.rendering.shadow, under=under)
        facts = {"backend": "cutout", "version": CUTOUT_VERSION, "source": shown.choice.key}
        facts |= {"enlargement": shown.placed.enlargement, "mirrored": shown.choice.mirrored}
        facts |= {"contrast": contrast_at(painted, new.visible)}
        return painted, facts

    def paint(self, rgb: np.ndarray, new: NewObject) -> tuple[np.ndarray, dict]:
        """A copy of the image (H,W,3) uint8 with an object on it, and what the manifest says of it.

        Changed are the visible pixels of the object, pixels of the ground around its foot, and what the maps
        give back to the ground because the object left too little of a thing. Raises CannotFillError if there
        is nothing to paint it with, InputError if the back end fails.
        """
        if self.rendering.name == "overlay":
            painted, visible = rgb.copy(), new.visible.mask
            labels = new.composed.label_ids[new.patch.window][visible]
            painted[new.patch.window][visible] = colour_map(labels[None])[0, :, :3]
            return painted, {"backend": "overlay"}
        options, size = self.rendering.options, rgb.shape[1::-1]
        whole, seen = (patch.on(size[::-1]) for patch in (new.patch, new.visible))
        if new.composed.given_back.any():
            rgb = self._without(rgb, new.composed.given_back, seen)
        crop = context_crop(new.patch.box, size, options.margin, options.min_crop)
        key = f"{new.frame_name}/{new.instance_id}"
        seed = seed_of(self.seed, "render", key)
        prompts = draw_prompts(new.class_name, seed, self.prompts, options.style)
        negative = self.prompts.negative
        request = Request(
            crop.cut(rgb),
            crop.cut(whole, mirror=False),
            new.class_name,
            key,
            prompts,
            negative,
            seed,
            (seed_of(self.seed, "deal", new.frame_name), new.number),
        )
        image = self._fill(request)

        original, mask, seen = crop.inside(rgb), crop.inside(whole), crop.inside(seen)
        image = match_colours(crop.back(image), original, mask, options.colour_match)
        ground = shadow_ground(crop.inside(new.composed.label_ids)) & ~mask
        dark = shadow_of(mask, self.rendering.shadow, under=new.class_name in CLOSED_BELOW)
        shaded = rgb.copy()
        shaded[crop.window] = in_shadow(original, dark, ground)
        feather = min(options.feather, _FEATHER_FRACTION * np.sqrt(mask.sum()))
        painted = paste(shaded, image, seen, crop.box, feather)
        facts = {"backend": self.rendering.name, "prompt": prompts[0], "negative": negative, "seed": seed}
        facts["details"] = [
            {"name": backend.name, "version": backend.version} | backend.details for backend in self.backends
        ]
        return painted, facts

    def _fill(self, request: Request) -> np.ndarray:
        """The image of the crop that the back ends make."""
        for backend in self.backends:
            try:
                (image,) = backend.fill(request)
            except (CannotFillError, InputError):
                raise
            except Exception as error:  # it may fail in its own ways; other images go on
                text = " ".join(str(error).split())
                raise InputError(
                    f"{backend.name}, {request.source}: {type(error).__name__}: {text}"
                ) from error
            request = replace(request, rgb=image)
        return request.rgb

    def _without(self, rgb: np.ndarray, remains: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """A copy of the image with the remains (H,W) of things that an object covers painted over.

        What is under the object, `seen` (H,W), is no example for that: it is the same things.
        """
        x0, y0, x1, y1 = bounding_box(remains | seen)
        size = rgb.shape[1::-1]
        crop = context_crop((x0, y0, x1 + 1, y1 + 1), size, 0.5, self.rendering.options.min_crop)
        backend = make_backend("cv_inpaint", {}, None, self.rendering.split)
        gone = crop.cut(remains | seen, mirror=False)
        (filled,) = backend.fill(Request(crop.cut(rgb), gone, "", "", ("",), "", self.seed))
        return paste(rgb, crop.back(filled), crop.inside(remains), crop.box, 0)
