"""An image that objects are inserted into: its maps as they are read, changed and written.

Reads one frame of a Cityscapes tree, or takes an image that is in memory already, puts objects on it one
after another, and makes the contents of the frame's files in the new tree. No model here.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from augment.compose import compose, contact_rows, hidden_part
from augment.insert.gates import Gates, mask_refusal
from augment.paint.backends import CannotFillError
from augment.paint.painter import NewObject
from augment.tree import BESIDE
from data.camera import Camera, camera_of, camera_path
from data.cityscapes import (
    INSTANCE_ENDING,
    LABEL_ENDING,
    Frame,
    picture_path,
    read_maps,
    read_picture,
    void_file,
    void_labels,
)
from data.coco import rle_of
from data.geometry import Patch
from data.images import is_plain_png
from data.labels import TARGET_CLASSES
from data.outlines import Outlines
from data.writer import (
    INSTANCES_OF_A_CLASS,
    annotation_files,
    colour_map,
    encode_png,
    instance_values,
    polygons_from_json,
)
from support.errors import InputError
from support.files import read_bytes, read_json


@dataclass
class EditedImage:
    """An image at its own size H x W that objects are inserted into one after another."""

    name: str  # with a seed it decides everything random
    label_ids: np.ndarray  # (H,W) uint8
    instance_ids: np.ndarray  # (H,W) uint16
    feet: np.ndarray  # (H,W) int32, `contact_rows`
    inserted: np.ndarray  # (H,W) uint8, 1, 2, ... where an inserted object is seen
    rgb: np.ndarray | None = None  # (H,W,3) uint8, where objects are painted
    camera: Camera | None = None
    outlines: Outlines | None = None  # where the source has polygons
    new_ids: list[int] = field(default_factory=list)  # of the inserted objects 1, 2, ...
    new_masks: list[Patch] = field(default_factory=list)  # theirs, hidden parts included
    taken: dict[str, set[int]] = field(default_factory=dict)  # numbers of instances, by class

    @classmethod
    def of_maps(
        cls,
        name: str,
        label_ids: np.ndarray,
        instance_ids: np.ndarray,
        rgb: np.ndarray | None = None,
        camera: Camera | None = None,
        outlines: Outlines | None = None,
    ) -> "EditedImage":
        """An image as it is before anything is inserted: label map (H,W) uint8, instance map (H,W) uint16.

        The arrays are not copied, and never written to: each object makes new ones.
        """
        feet, inserted = contact_rows(label_ids, instance_ids), np.zeros(label_ids.shape, np.uint8)
        return cls(name, label_ids, instance_ids, feet, inserted, rgb, camera, outlines)

    def copy(self) -> "EditedImage":
        """The image as it is now, whatever is inserted into this one later."""
        return replace(
            self,
            feet=self.feet.copy(),
            inserted=self.inserted.copy(),
            new_ids=list(self.new_ids),
            new_masks=list(self.new_masks),
            taken={name: set(numbers) for name, numbers in self.taken.items()},
        )

    def new_id(self, name: str) -> int | None:
        """A free instance id of a class: after the highest in use, or else the lowest; None if all are taken.

        Numbers are never used twice.
        """
        label_id = TARGET_CLASSES[name].label_id
        if name not in self.taken:
            numbers = np.unique(self.instance_ids[self.instance_ids // 1000 == label_id] % 1000)
            # The official tools count hidden instances of the polygons too.
            listed = self.outlines.count(name) if self.outlines is not None else 0
            self.taken[name] = {*numbers.tolist(), *range(listed)}
        taken = self.taken[name]
        number = max(taken, default=-1) + 1
        if number >= INSTANCES_OF_A_CLASS:
            number = min(set(range(INSTANCES_OF_A_CLASS)) - taken, default=None)
        return None if number is None else label_id * 1000 + number

    def put(
        self, name: str, patch: Patch, gates: Gates, paint: Callable | None = None
    ) -> tuple[str | None, dict]:
        """Put an object of a class on the image, unless a rule forbids it.

        paint: `Painter.paint`, where the image has a picture. An object that it can't paint
        is not put on the maps either, as if a rule "render" forbade it.

        Returns the rule broken or None, and what is known of the object; later ones may cover parts of it,
        which `seen` tells. The class must have a free id.
        """
        if not patch.mask.any():
            return "visible", {}
        hidden = hidden_part(patch, self.feet)
        if reason := mask_refusal(patch, hidden, self.label_ids, self.feet, gates):
            return reason, {}
        label_id, new_id, number = TARGET_CLASSES[name].label_id, self.new_id(name), len(self.new_ids) + 1
        least = gates.least_visible(self.label_ids.size)
        composed = compose(self.label_ids, self.instance_ids, patch, hidden, label_id, new_id, least)
        if any(instance_id in self.new_ids for instance_id in composed.dropped):
            return "covers_inserted", {}
        if composed.dropped and not gates.may_hide:
            return "hides", {}
        rendered = {}
        if paint is not None:
            new = NewObject(name, self.name, new_id, number, patch, hidden, composed)
            try:
                self.rgb, facts = paint(self.rgb, new)
            except CannotFillError:
                return "render", {}
            rendered = {"render": facts}
        visible = patch.mask & ~hidden
        if self.outlines is not None:
            kept = self.outlines.without(composed.dropped, self.instance_ids)
            self.outlines = kept.insert(name, patch, hidden)
        self.label_ids, self.instance_ids = composed.label_ids, composed.instance_ids
        self.feet[patch.window][visible] = patch.foot
        self.feet[composed.given_back] = 0
        self.inserted[patch.window][visible] = number
        self.new_ids.append(new_id)
        self.new_masks.append(patch)
        self.taken[name].add(new_id % 1000)
        facts = {"instance_id": new_id, "inserted_value": number, "dropped": list(composed.dropped)}
        return None, facts | rendered

    def seen(self, number: int) -> dict:
        """What can be seen of inserted object 1, 2, ... as the image is now, for the manifest."""
        mask = self.new_masks[number - 1]
        visible = Patch(self.inserted[mask.window] == number, mask.x0, mask.y0)
        pixels = int(np.count_nonzero(visible.mask))
        return {
            "amodal": rle_of(mask, self.label_ids.shape),
            "extent": list(visible.box),
            "pixels": pixels,
            "hidden_pixels": int(np.count_nonzero(mask.mask)) - pixels,
        }


def read_image(frame: Frame, *, rgb: bool = False, camera: str = "auto") -> EditedImage:
    """An image from its source files, with its picture if `rgb`; camera: one of CAMERA_CHOICES.

    Raises InputError, naming the file, if one is bad.
    """
    label_ids, instance_ids = read_maps(frame)
    rows, columns = label_ids.shape
    path = annotation_path(frame, "_polygons.json")
    outlines = None
    if path.exists():
        content = read_json(path, "a file of polygons")
        try:
            objects, width, height = polygons_from_json(content)
            if any(len(thing.polygon) < 2 for thing in objects):
                raise ValueError("a polygon of fewer than two points")
            instance_values(objects)  # ValueError for an unknown label, or for more than a class can number
            outlines = Outlines(tuple(objects))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{path}: not a file of polygons ({reason}); copy it from the archive") from None
        if (height, width) != label_ids.shape:
            raise InputError(f"{path}: made for {width}x{height} pixels, unlike the maps beside it")
    return EditedImage.of_maps(
        frame.name,
        label_ids.copy(),
        instance_ids.copy(),
        read_picture(frame, label_ids.shape) if rgb else None,
        camera_of(frame, columns, rows, camera),
        outlines,
    )


def count_instances(instance_ids: np.ndarray) -> dict[str, int]:
    """Instances of each insertable class on a map (H,W) uint16."""
    labels = np.flatnonzero(np.bincount(instance_ids.ravel(), minlength=2**16)[1000:]) // 1000 + 1
    return {name: int((labels == target.label_id).sum()) for name, target in TARGET_CLASSES.items()}


# ---- files --------------------------------------------------------------------------------------


def single_frame(image: str, instances: str | None) -> Frame:
    """The frame of a label map given by file, its instance map beside it unless given too.

    Raises InputError for a file that isn't there.
    """
    label_path = Path(image).absolute()
    kind = Frame("", label_path, label_path).kind
    name = label_path.name.removesuffix(f"_{kind}{LABEL_ENDING}").removesuffix(".png")
    beside = label_path.with_name(f"{name}_{kind}{INSTANCE_ENDING}")
    instance_path = Path(instances).absolute() if instances else beside
    for path, option in ((label_path, "--image"), (instance_path, "--instances")):
        if not path.is_file():
            raise InputError(f"{option} {path}: no such file")
    return Frame(name, label_path, instance_path)


def annotation_path(frame: Frame, ending: str) -> Path:
    """Another annotation file of a frame, such as ending "_polygons.json"."""
    return frame.label_path.with_name(f"{frame.name}_{frame.kind}{ending}")


def city_of(frame: Frame) -> str:
    """The folder of a frame: as in its tree, or for a file outside a tree the first part of its name."""
    return frame.label_path.absolute().parent.name if frame.root else frame.name.split("_")[0]


def name_in_tree(frame: Frame, beside: bool) -> tuple[str, str]:
    """City and name of a frame's image in the new tree: its own, or CITYins where it lies beside it."""
    city, name = city_of(frame), frame.name
    if not beside:
        return city, name
    # A data set may have names of its own, without the city, or with underscores in it.
    first = city if name.startswith(f"{city}_") else name.split("_")[0]
    return city + BESIDE, first + BESIDE + name.removeprefix(first)


def sources_of(frame: Frame, rgb: bool) -> dict[str, Path]:
    """The files that an image of the new tree is made from, by name; rgb: with its picture."""
    paths = [frame.label_path, frame.instance_path]
    paths += [annotation_path(frame, ending) for ending in ("_polygons.json", "_color.png")]
    paths += [camera_path(frame), void_file(frame.label_path)]
    if rgb:
        paths.append(picture_path(frame))
    return {path.name: path for path in paths if path}


def contents(image: EditedImage, frame: Frame, split: str, beside: bool) -> dict[str, bytes | Path]:
    """The files of a frame's image by their place below OUT: new content, or the source file to copy.

    An image without a new object is copied as it is, but for pixels that its data set calls void; where the
    source's frames lie beside the new ones it has no files.
    """
    city, name = name_in_tree(frame, beside)
    stem = f"{frame.kind}/{split}/{city}/{name}_{frame.kind}"
    files: dict[str, bytes | Path] = {}
    if beside and not image.new_ids:
        return files
    if image.new_ids:
        objects = list(image.outlines.objects) if image.outlines is not None else None
        made = annotation_files(image.label_ids, image.instance_ids, objects)
        files |= {stem + ending: content for ending, content in made.items()}
    else:
        files[stem + "_color.png"] = encode_png(colour_map(image.label_ids))
        for ending in ("_color.png", "_polygons.json"):
            if (path := annotation_path(frame, ending)).exists():
                files[stem + ending] = path
        as_read = void_labels(frame.label_path)
        files[stem + LABEL_ENDING] = encode_png(image.label_ids) if as_read else frame.label_path
        files[stem + INSTANCE_ENDING] = encode_png(image.instance_ids) if as_read else frame.instance_path
    files[f"inserted/{split}/{city}/{name}_inserted.png"] = encode_png(image.inserted)
    if camera := camera_path(frame):
        files[f"camera/{split}/{city}/{name}_camera.json"] = camera
    if image.rgb is not None:
        source = None if image.new_ids else picture_path(frame)
        picture = read_bytes(source) if source else b""
        if not is_plain_png(picture):
            picture = encode_png(image.rgb)
        files[f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png"] = picture
    return files
