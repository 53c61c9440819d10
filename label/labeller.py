"""One picture: what the segmenter finds in it, annotated things above that, and the files of its frame."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from convert.frame import Maps, maps_of
from convert.mapping import VOID, is_thing
from convert.source import Category, Segments
from data.camera import Camera
from data.frame import CAMERA_KIND, IMAGE_KIND
from data.images import read_mask
from engine.records import WorkItem
from label.annotations import Annotated, Thing
from label.classes import labels_of_model
from label.models import Model, Segmenter
from label.pictures import read_picture
from support.errors import InputError
from support.files import digest

EGO = "ego vehicle"


@dataclass(frozen=True)
class Wanted:
    """What is the same for all pictures.

    names and labels: classes of the model by number, and what they are; own and own_labels: the same of the
    categories that are annotated, in their order; camera: field of view and pitch in degrees, between them
    the height in metres.
    """

    model: Model
    told_apart: str
    names: dict[int, str]
    labels: dict[str, str]
    own: list[str] = field(default_factory=list)
    own_labels: dict[str, str] = field(default_factory=dict)
    ego: str = ""
    camera: tuple[float, float, float] | None = None

    @classmethod
    def of_model(cls, model: Model, known: dict[str, str], **more) -> "Wanted":
        """With the labels of a model's classes; known: see `known_labels`; more: what else is wanted.

        Raises InputError if there is no such model, or if its classes are not enough.
        """
        about = model.about()
        names = [name for _, name in sorted(about.names.items())]
        return cls(model, about.told_apart, about.names, labels_of_model(names, known, model.name), **more)

    @cached_property
    def categories(self) -> dict[int, Category]:
        """The model's classes, behind them those that are annotated, and the own vehicle."""
        named = [(name, self.labels[name]) for _, name in sorted(self.names.items())]
        numbers = [*sorted(self.names), *range(self.first_own, self.first_own + len(self.own) + 1)]
        named += [(self.own_name(name), self.own_labels[name]) for name in self.own] + [(EGO, EGO)]
        return {
            number: Category(name, is_thing(label))
            for number, (name, label) in zip(numbers, named, strict=True)
        }

    @property
    def first_own(self) -> int:
        """The number of the first category that is annotated."""
        return max(self.names) + 1

    @staticmethod
    def own_name(name: str) -> str:
        """How the report calls a category that is annotated, beside the model's class of that name."""
        return f"{name} (annotated)"

    @cached_property
    def mapping(self) -> dict[str, str]:
        """Label by the name of a category."""
        own = {self.own_name(name): label for name, label in self.own_labels.items()}
        return self.labels | own | {EGO: EGO}

    @cached_property
    def left_out(self) -> frozenset[int]:
        """The model's classes whose things somebody has annotated."""
        annotated = {label for label in self.own_labels.values() if is_thing(label)}
        return frozenset(number for number, name in self.names.items() if self.labels[name] in annotated)

    def settings(self, facts: dict) -> dict:
        """What decides the content of the files but for the pictures, as JSON has it; facts: of the model.

        Splits may come one after the other.
        """
        labels = {name: label for name, label in self.labels.items() if label != VOID}
        ego = digest(Path(self.ego).read_bytes()) if self.ego else None
        content = {"segmenter": facts, "instances": self.told_apart, "classes": labels}
        content |= {"annotated": self.own_labels or None, "ego": ego, "camera": self.camera}
        return json.loads(json.dumps(content))


@dataclass
class Labeller:
    """What labels pictures: `engine.tree.Make`. The task of an item: `Picture`, `Annotated` or None."""

    wanted: Wanted
    segmenter: Segmenter

    @classmethod
    def of(cls, wanted: Wanted) -> "Labeller":
        """With the model loaded."""
        torch.set_num_threads(1)  # with more, sums come out otherwise on another machine
        return cls(wanted, wanted.model.load(wanted.labels))

    @cached_property
    def ego(self) -> np.ndarray | None:
        """Where the own vehicle is, (H,W) bool."""
        return read_mask(Path(self.wanted.ego)) if self.wanted.ego else None

    def __call__(self, item: WorkItem, write: Callable) -> list[dict]:
        """Write the files of a picture; what the line says of it. OSError where writing fails."""
        picture, annotated = item.task
        try:
            rgb, png = read_picture(picture.path)
            maps = self.maps(rgb, annotated)
        except (InputError, ValueError) as error:
            reason = str(error) if isinstance(error, InputError) else f"{picture.path}: {error}"
            return [{"status": "failed", "reason": reason}]
        frame = picture.frame
        files = {frame.place(IMAGE_KIND, ".png"): png}
        files |= frame.annotation(maps.label_ids, maps.instance_ids, maps.objects)
        if self.wanted.camera:
            height, width = maps.label_ids.shape
            content = camera_of(width, height, *self.wanted.camera).to_json()
            files[frame.place(CAMERA_KIND, ".json")] = json.dumps(content, indent=1).encode()
        facts = {"instances": self.wanted.told_apart, "counts": maps.counts}
        return [facts | {"outputs": write(files)}]

    def maps(self, rgb: np.ndarray, annotated: Annotated | None = None) -> Maps:
        """The maps of a picture (H,W,3) uint8 RGB.

        Raises ValueError for an annotation that can't mean this picture, for another size than that of the
        own vehicle's mask, and for too many instances of a class.
        """
        height, width = rgb.shape[:2]
        if annotated and annotated.size not in (None, (width, height)):
            said = "x".join(map(str, annotated.size))
            raise ValueError(f"has {width}x{height} pixels upright, but its annotation says {said}")
        if self.ego is not None and self.ego.shape != (height, width):
            said = "x".join(map(str, self.ego.shape[::-1]))
            raise ValueError(f"has {width}x{height} pixels, but --ego {said}; give pictures of one size")
        segments = self.segmenter(rgb, self.wanted.left_out)
        if annotated:
            segments = self._with_own(segments, annotated.things)
        if self.ego is not None:
            category = self.wanted.first_own + len(self.wanted.own)
            segments = _above(segments, self.ego, category)
        return maps_of(segments, self.wanted.categories, self.wanted.mapping)

    def _with_own(self, segments: Segments, things: tuple[Thing, ...]) -> Segments:
        """Segments with annotated things above them, smaller ones above larger."""
        labels = [self.wanted.own_labels[name] for name in self.wanted.own]
        meant = [thing for thing in things if labels[thing.category] != VOID]
        masks = [(thing.drawn(*segments.keys.shape), thing) for thing in meant]
        for mask, thing in sorted(masks, key=lambda pair: -np.count_nonzero(pair[0])):
            if mask.any():
                category = self.wanted.first_own + thing.category
                segments = _above(segments, mask, category, single=not thing.crowd)
        return segments


def _above(segments: Segments, mask: np.ndarray, category: int, *, single: bool = False) -> Segments:
    """Segments with one more where a mask (H,W) bool is, whose key is the largest."""
    key = max(max(segments.of_key, default=0), int(segments.keys.max())) + 1
    return Segments(np.where(mask, np.int32(key), segments.keys), segments.of_key | {key: (category, single)})


def camera_of(width: int, height: int, view: float, above: float, pitch: float) -> Camera:
    """A camera with the picture's middle as its principal point.

    view: degrees across the longer side; above: metres above the ground; pitch: degrees downwards.
    """
    focal = max(width, height) / 2 / np.tan(np.radians(view) / 2)
    return Camera(float(focal), float(focal), width / 2, height / 2, above, float(np.radians(pitch)))
