"""What annotation is made of: polygons, the label and instance maps that they draw, colours, PNG files.

One ordered list of polygons is the only source of a frame's ground truth. It is rasterised with Pillow as the
official tools do, so that `cityscapesscripts` rebuilds the same pixels from the JSON file.
"""

import struct
import zlib
from collections import Counter
from dataclasses import dataclass

import numpy as np
from cityscapesscripts.helpers.labels import id2label, name2label
from PIL import Image, ImageDraw

from data.labels import LABEL_OF_VALUE

INSTANCES_OF_A_CLASS = 1000  # on one image: instance ids are label * 1000 + number
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {1: 0, 3: 2, 4: 6}  # PNG's number for so many channels
_FILTER_SUB, _FILTER_UP = 1, 2


@dataclass(frozen=True)
class LabelledPolygon:
    """A label name (or name + "group") and its outline: (N, 2) integer pixel coordinates (x, y), N >= 3."""

    label: str
    polygon: np.ndarray

    @property
    def is_instance(self) -> bool:
        """Whether it gets a number of its own: a thing class and not a group."""
        return self.label in name2label and name2label[self.label].hasInstances and self.label_id >= 0

    @property
    def label_id(self) -> int:
        """The official label id; a group has its class's id. Raises ValueError for unknown names."""
        name = self.label
        if name not in name2label:
            name = name.removesuffix("group")
        if name not in name2label:
            raise ValueError(f"{self.label!r} is not a Cityscapes label")
        return name2label[name].id


def topmost(objects: list[LabelledPolygon], width: int, height: int) -> np.ndarray:
    """Index into `objects` of the topmost polygon of each pixel: (height, width) int32, -1 for none.

    Later objects cover earlier ones; licence plates (negative ids) are not drawn, as in the official tools.
    """
    mode = "L" if len(objects) < 256 else "I"  # a byte a pixel is drawn and read several times faster
    image = Image.new(mode, (width, height), 0)
    draw = ImageDraw.Draw(image)
    for number, thing in enumerate(objects, 1):
        if thing.label_id >= 0:
            draw.polygon(thing.polygon.ravel().tolist(), fill=number)
    return np.subtract(np.asarray(image), 1, dtype=np.int32)


def visible_only(top: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Indices of the objects that own at least one pixel of a `topmost` map, and the map renumbered to them.

    With `kept, top = visible_only(top)` the new map indexes `[objects[i] for i in kept]`.
    """
    seen = np.bincount(top.ravel() + 1)[1:] > 0
    renumbered = np.concatenate([[-1], np.cumsum(seen) - 1]).astype(np.int32)
    return np.flatnonzero(seen).tolist(), renumbered[top + 1]


def instance_values(objects: list[LabelledPolygon]) -> np.ndarray:
    """The value (N,) uint16 of each object in an instance map, by official counting.

    Instances are label * 1000 + k, k counting from 0 in list order within each class, occluded ones
    included; stuff and groups carry the bare label id, licence plates 0. ValueError for unknown labels, and
    for more than INSTANCES_OF_A_CLASS, the next of which would have the number of another class.
    """
    count: Counter[str] = Counter()
    values = []
    for thing in objects:
        value = max(thing.label_id, 0)
        if thing.is_instance:
            value = value * 1000 + count[thing.label]
            count[thing.label] += 1
        values.append(value)
    for label, number in count.items():
        if number > INSTANCES_OF_A_CLASS:
            raise ValueError(
                f"{number} objects of {label}, but instance maps have numbers for {INSTANCES_OF_A_CLASS} of a"
                " class: make groups of some, or leave them out"
            )
    return np.array(values, np.uint16)


def maps_of_topmost(objects: list[LabelledPolygon], top: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Label ids (H, W) uint8 and instance ids (H, W) uint16 of a `topmost` map; 0 where no object is."""
    values = np.append(np.uint16(0), instance_values(objects))
    return LABEL_OF_VALUE[values][top + 1], values[top + 1]


def rasterise(objects: list[LabelledPolygon], width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Label ids (height, width) uint8 and instance ids uint16 of a painter's-order list of polygons."""
    return maps_of_topmost(objects, topmost(objects, width, height))


_COLOUR_OF_ID = np.full((256, 4), (0, 0, 0, 255), np.uint8)  # label id -> official colour, opaque
for _id, _label in id2label.items():
    if _id >= 0:
        _COLOUR_OF_ID[_id, :3] = _label.color


def colour_map(label_ids: np.ndarray) -> np.ndarray:
    """Official colours (H, W, 4) uint8 RGBA of label ids (H, W) uint8."""
    return np.take(_COLOUR_OF_ID, label_ids, axis=0)  # ten times faster than indexing


def polygons_to_json(objects: list[LabelledPolygon], width: int, height: int) -> dict:
    """The content of a `polygons.json` file. The key "deleted" is never written (detectron2 skips on it)."""
    return {
        "imgHeight": height,
        "imgWidth": width,
        "objects": [{"label": thing.label, "polygon": thing.polygon.tolist()} for thing in objects],
    }


def polygons_from_json(content: dict) -> tuple[list[LabelledPolygon], int, int]:
    """Objects, width and height of a `polygons.json` content; objects marked deleted are left out."""
    objects = [
        LabelledPolygon(entry["label"], np.asarray(entry["polygon"], np.int32).reshape(-1, 2))
        for entry in content["objects"]
        if not entry.get("deleted")
    ]
    return objects, content["imgWidth"], content["imgHeight"]


def encode_png(image: np.ndarray, notes: dict[str, str] | None = None) -> bytes:
    """PNG bytes of (H, W) uint8 or uint16, (H, W, 3) RGB or (H, W, 4) RGBA uint8; else ValueError.

    notes: texts to keep before the pixels, by name, in ASCII.

    Rows are kept as differences, from the row above in maps and from the pixel before in images, and
    deflated at zlib's fastest level: in half the time that OpenCV takes, and hardly larger. (ISA-L is ten
    times as fast for maps, but gave other bytes for the same pixels once in some thousand files.)
    """
    channels = 1 if image.ndim == 2 else image.shape[2]
    if (
        image.dtype not in (np.uint8, *([np.uint16] if image.ndim == 2 else []))
        or channels not in _COLOUR_TYPES
    ):
        raise ValueError(f"no PNG for shape {image.shape}, dtype {image.dtype}")
    height, width = image.shape[:2]
    pixels = image.astype(">u2").view(np.uint8) if image.dtype == np.uint16 else image
    pixels = pixels.reshape(height, -1)
    rows = np.empty((height, pixels.shape[1] + 1), np.uint8)
    if channels == 3:
        rows[:, 0] = _FILTER_SUB
        rows[:, 1:4] = pixels[:, :3]
        np.subtract(pixels[:, 3:], pixels[:, :-3], out=rows[:, 4:])
    else:
        rows[:, 0] = _FILTER_UP
        rows[0, 1:] = pixels[0]
        np.subtract(pixels[1:], pixels[:-1], out=rows[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8 * image.itemsize, _COLOUR_TYPES[channels], 0, 0, 0)
    texts = ((b"tEXt", f"{name}\0{text}".encode("ascii")) for name, text in (notes or {}).items())
    chunks = (b"IHDR", header), *texts, (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")
    return _PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
