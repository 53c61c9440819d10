"""An image that objects are inserted into: its maps as they are read, changed and written.

Reads one frame of a Cityscapes tree, or takes an image that is in memory already, puts objects on it one
after another, and makes the contents of the frame's files in the new tree. No model here.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from cityscapesscripts.helpers.labels import name2label

from augment.compose import compose, contact_rows, occluded_part
from augment.paint.backends import CannotFillError
from augment.paint.painter import NewObject, Painter, Shown
from augment.placement.filters import Filters, mask_rejection
from augment.tree_extras import BESIDE
from data.camera import Camera
from data.coco import rle_of
from data.frame import CAMERA_KIND, COLOR, IMAGE_KIND, INSTANCES, LABELS, POLYGONS, Frame
from data.geometry import MaskPatch
from data.images import is_plain_png
from data.labels import TARGET_CLASSES
from data.outlines import Outlines
from data.writer import INSTANCES_OF_A_CLASS, encode_png
from support.errors import InputError
from support.files import read_bytes


@dataclass
class EditedImage:
    """An image at its own size H x W that objects are inserted into one after another.

    The arrays it is made of are not copied, and never written to: each object makes new ones.
    """

    name: str  # with a seed it decides everything random
    label_ids: np.ndarray  # (H,W) uint8
    instance_ids: np.ndarray  # (H,W) uint16
    rgb: np.ndarray | None = None  # (H,W,3) uint8, where objects are painted
    camera: Camera | None = None
    outlines: Outlines | None = None  # where the source has polygons
    feet: np.ndarray = field(init=False)  # (H,W) int32, `contact_rows`
    inserted: np.ndarray = field(init=False)  # (H,W) uint8, 1, 2, ... where an inserted object is seen
    new_ids: list[int] = field(default_factory=list)  # of the inserted objects 1, 2, ...
    ridden_ids: dict[int, int] = field(default_factory=dict)  # of what new riders ride, by their number
    new_masks: list[MaskPatch] = field(default_factory=list)  # theirs, occluded parts included
    taken: dict[str, set[int]] = field(default_factory=dict)  # numbers of instances, by class
    shown: dict[str, Shown] = field(default_factory=dict)  # what new objects show of collections, by key

    def __post_init__(self):
        self.feet = contact_rows(self.label_ids, self.instance_ids)
        self.inserted = np.zeros(self.label_ids.shape, np.uint8)

    def copy(self) -> "EditedImage":
        """The image as it is now, whatever is inserted into this one later."""
        other = copy.copy(self)
        for name in ("feet", "inserted", "new_ids", "ridden_ids", "new_masks", "shown"):
            setattr(other, name, getattr(self, name).copy())
        other.taken = {name: set(numbers) for name, numbers in self.taken.items()}
        return other

    def new_id(self, name: str) -> int | None:
        """A free instance id of a label: after the highest in use, or else the lowest; None if all are taken.

        Numbers are never used twice. A label without instances has none: its objects carry the label's id.
        """
        label_id = name2label[name].id
        if not name2label[name].hasInstances:
            return label_id
        if name not in self.taken:
            numbers = np.unique(self.instance_ids[self.instance_ids // 1000 == label_id] % 1000)
            # The official tools count occluded instances of the polygons too.
            listed = self.outlines.count(name) if self.outlines is not None else 0
            self.taken[name] = {*numbers.tolist(), *range(listed)}
        taken = self.taken[name]
        number = max(taken, default=-1) + 1
        if number >= INSTANCES_OF_A_CLASS:
            number = min(set(range(INSTANCES_OF_A_CLASS)) - taken, default=None)
        return None if number is None else label_id * 1000 + number

    def ids_of(self, number: int) -> tuple[int, ...]:
        """The instance ids of inserted object 1, 2, ...: one, or of a rider its own and the two-wheeler's."""
        ridden = self.ridden_ids.get(number)
        return (self.new_ids[number - 1],) if ridden is None else (self.new_ids[number - 1], ridden)

    def put(
        self,
        name: str,
        patch: MaskPatch,
        filters: Filters,
        paint: Callable | None = None,
        ridden: tuple[str, np.ndarray] | None = None,
    ) -> tuple[str | None, dict]:
        """Put an object of a label on the image, unless a filter rejects it.

        paint: `Painter.paint`, where the image has RGB pixels. An object that it can't paint
        is not put on the maps either, as if a filter "render" rejected it. ridden: label of the two-wheeler
        below a rider, and what of the patch's mask (h,w) is its; both are one object with two instances.

        Returns the filter that rejects it or None, and what is known of the object; later ones may cover
        parts of it, which `seen` tells. The label must have a free id.
        """
        if not patch.mask.any():
            return "visible", {}
        occluded = occluded_part(patch, self.feet)
        if reason := mask_rejection(patch, occluded, self.label_ids, self.feet, filters):
            return reason, {}
        visible = patch.mask & ~occluded
        parts = (
            {name: patch.mask} if ridden is None else {name: patch.mask & ~ridden[1], ridden[0]: ridden[1]}
        )
        if not all((visible & part).any() for part in parts.values()):
            return "visible", {}
        ids, number = [self.new_id(label) for label in parts], len(self.new_ids) + 1
        visible_limit = filters.visible_limit(self.label_ids.size)
        composed = compose(
            self.label_ids, self.instance_ids, patch, occluded, name2label[name].id, ids[0], visible_limit
        )
        if ridden is not None:
            composed.label_ids[patch.window][visible & ridden[1]] = name2label[ridden[0]].id
            composed.instance_ids[patch.window][visible & ridden[1]] = ids[1]
        new_before = {*self.new_ids, *self.ridden_ids.values()}
        if self._hides_inserted(patch, visible, visible_limit) or new_before.intersection(composed.dropped):
            return "covers_inserted", {}
        if composed.dropped and not filters.may_hide:
            return "hides", {}
        rendered = {}
        if paint is not None:
            others = self.inserted > 0
            new = NewObject(name, self.name, ids[0], number, patch, occluded, composed, others)
            try:
                self.rgb, facts = paint(self.rgb, new)
            except CannotFillError:
                return "render", {}
            rendered = {"render": facts}
        if self.outlines is not None:
            outlines = self.outlines.without(composed.dropped, self.instance_ids)
            if ridden is not None:  # the rider's outline lies on that of both
                outlines = outlines.insert(ridden[0], patch, occluded)
            rider = MaskPatch(parts[name], patch.x0, patch.y0)
            self.outlines = outlines.insert(name, rider, occluded & parts[name])
        self.label_ids, self.instance_ids = composed.label_ids, composed.instance_ids
        self.feet[patch.window][visible] = patch.foot
        self.feet[composed.given_back] = 0
        self.inserted[patch.window][visible] = number
        self.new_ids.append(ids[0])
        self.new_masks.append(patch)
        for label, new_id in zip(parts, ids, strict=True):
            if label in self.taken:
                self.taken[label].add(new_id % 1000)
        facts = {"instance_id": ids[0], "inserted_value": number, "dropped": list(composed.dropped)}
        if ridden is not None:
            self.ridden_ids[number] = ids[1]
            facts |= {"ridden": {"class": ridden[0], "instance_id": ids[1]}}
        return None, facts | rendered

    def put_cutout(self, shown: Shown, filters: Filters, painter: Painter) -> tuple[str | None, dict]:
        """Put an instance as it is on the image, as `put` does; it is among those shown then."""
        kind, patch = shown.kind, shown.placed.patch
        ridden = None if shown.ridden is None else (shown.ridden, shown.placed.ridden)
        if any(self.new_id(label) is None for label in (kind.label, shown.ridden) if label):
            return "no_free_id", {}
        reason, facts = self.put(kind.label, patch, filters, partial(painter.paste, shown), ridden)
        if reason is None:
            self.shown[shown.choice.key] = shown
            facts |= {} if kind.is_of_the_class else {"label": kind.label}
        return reason, facts

    def _hides_inserted(self, patch: MaskPatch, visible: np.ndarray, visible_limit: int) -> bool:
        """Whether too little is left of an earlier new object below the `visible` (h,w) part of a patch."""
        covered = np.bincount(self.inserted[patch.window][visible])
        return any(
            count and np.count_nonzero(self.inserted == number) - count < visible_limit
            for number, count in enumerate(covered[1:].tolist(), 1)
        )

    def seen(self, number: int) -> dict:
        """What can be seen of inserted object 1, 2, ... as the image is now, for the manifest."""
        mask = self.new_masks[number - 1]
        visible = MaskPatch(self.inserted[mask.window] == number, mask.x0, mask.y0)
        pixels = int(np.count_nonzero(visible.mask))
        return {
            "amodal": rle_of(mask, self.label_ids.shape),
            "extent": list(visible.box),
            "pixels": pixels,
            "hidden_pixels": int(np.count_nonzero(mask.mask)) - pixels,
        }


def read_image(frame: Frame, *, rgb: bool = False, camera: str = "auto") -> EditedImage:
    """An image from its source files, with its RGB pixels if `rgb`; camera: one of CAMERA_CHOICES.

    Raises InputError, naming the file, if one is bad.
    """
    label_ids, instance_ids = frame.read_maps()
    rows, columns = label_ids.shape
    objects = frame.read_polygons(label_ids.shape)
    outlines = None if objects is None else Outlines(tuple(objects))
    pixels, known = frame.read_image(label_ids.shape) if rgb else None, frame.camera(columns, rows, camera)
    return EditedImage(frame.name, label_ids.copy(), instance_ids.copy(), pixels, known, outlines)


def count_instances(instance_ids: np.ndarray) -> dict[str, int]:
    """Instances of each insertable class on a map (H,W) uint16."""
    labels = np.flatnonzero(np.bincount(instance_ids.ravel(), minlength=2**16)[1000:]) // 1000 + 1
    return {name: int((labels == target.label_id).sum()) for name, target in TARGET_CLASSES.items()}


# ---- files --------------------------------------------------------------------------------------


def single_frame(image: str, instances: str | None) -> Frame:
    """The frame of a label map given by file, its instance map beside it unless given too.

    Raises InputError for a file that isn't there.
    """
    frame = Frame.of_maps(Path(image), Path(instances) if instances else None)
    for option, path, what in (
        ("--image", frame.label_path, "a scene's label map, labelIds.png"),
        ("--instances", frame.instance_path, "the instance map that belongs to --image"),
    ):
        if not path.is_file():
            raise InputError(f"{option} {path}: no such file; give {what}")
    return frame


def new_frame(frame: Frame, out: Path, split: str, beside: bool) -> Frame:
    """A source frame's counterpart in the tree OUT: of the same name, or CITYins where it lies beside it."""
    city, name = frame.city, frame.name
    if beside:
        # A data set may have names of its own, without the city, or with underscores in it.
        first = city if name.startswith(f"{city}_") else name.split("_")[0]
        city, name = city + BESIDE, first + BESIDE + name.removeprefix(first)
    return Frame(Path(out), split, city, name, frame.kind)


def sources_of(frame: Frame, rgb: bool) -> dict[str, Path]:
    """The files that an image of the new tree is made from, by name; rgb: with its RGB pixels."""
    paths = [frame.label_path, frame.instance_path]
    paths += [frame.annotation_path(ending) for ending in (POLYGONS, COLOR)]
    paths += [frame.camera_path, frame.void_path]
    if rgb:
        paths.append(frame.image_path)
    return {path.name: path for path in paths if path}


def contents(image: EditedImage, frame: Frame, new: Frame) -> dict[str, bytes | Path]:
    """The files of a frame's image, as `new_frame`, by their place: new content, or the source file to copy.

    An image without a new object is copied as it is, but for pixels that its data set calls void.
    """
    objects = None if image.outlines is None else list(image.outlines.objects)
    files: dict[str, bytes | Path] = {**new.annotation(image.label_ids, image.instance_ids, objects)}
    if not image.new_ids:
        kept = {ending: frame.annotation_path(ending) for ending in (COLOR, POLYGONS)}
        if not frame.void_labels():
            kept |= {LABELS: frame.label_path, INSTANCES: frame.instance_path}
        files |= {new.place(new.kind, ending): path for ending, path in kept.items() if path.exists()}
    files[new.place("inserted", ".png")] = encode_png(image.inserted)
    if camera := frame.camera_path:
        files[new.place(CAMERA_KIND, ".json")] = camera
    if image.rgb is not None:
        source = None if image.new_ids else frame.image_path
        rgb = read_bytes(source) if source else b""
        if not is_plain_png(rgb):
            rgb = encode_png(image.rgb)
        files[new.place(IMAGE_KIND, ".png")] = rgb
    return files
