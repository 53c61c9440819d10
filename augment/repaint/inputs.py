"""Reading what a stage works on, and remembering the digest of each file for the manifest."""

import json
from pathlib import Path

import cv2
import numpy as np

from augment.repaint.select import Source
from data.cityscapes import how_to_void, void_labels
from data.labels import FIRST_PLATE, LABEL_OF_VALUE, conversion_needed, foreign_labels, without_void
from data.writer import LabelledPolygon, instance_values, polygons_from_json
from support.errors import InputError
from support.files import digest

_PNG_END = b"IEND\xaeB`\x82"


class Inputs:
    """Files read for an item; `digests` has their SHA-256 by path.

    Paths that begin with work/ are below OUT, all others below the input's root.
    """

    def __init__(self, out: Path):
        self.out = Path(out)
        self.digests: dict[str, str] = {}

    def _read(self, path: Path, root: Path) -> bytes:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: can't be read ({error.strerror or error})") from None
        self.digests[path.relative_to(root).as_posix()] = digest(content)
        return content

    def picture(self, source: Source) -> np.ndarray:
        """The picture (H,W,3) uint8 RGB of a frame. Raises InputError if it is bad."""
        path = source.path(".png")
        image = _decoded(path, self._read(path, source.root))
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise InputError(f"{path}: not an 8-bit RGB PNG")
        return image

    def instance_ids(self, source: Source) -> np.ndarray:
        """The instance map (H,W) uint16 of a frame. Raises InputError if it is bad."""
        path = source.path("_instanceIds.png")
        ids = _decoded(path, self._read(path, source.root))
        if ids.ndim != 2 or ids.dtype != np.uint16:
            raise InputError(f"{path}: not a 16-bit grey PNG, which an instance map is")
        if void := void_labels(path):
            _, ids = without_void(LABEL_OF_VALUE[ids], ids, void)
        if labels := foreign_labels(ids):
            raise InputError(f"{path}: {conversion_needed(labels, how_to_void(path))}")
        return np.where(ids < FIRST_PLATE, ids, np.uint16(0))

    def frame(self, source: Source) -> tuple[np.ndarray, np.ndarray]:
        """Picture and instance map of a frame. Raises InputError if one is bad or their sizes differ."""
        rgb, ids = self.picture(source), self.instance_ids(source)
        if rgb.shape[:2] != ids.shape:
            sizes = " and ".join(f"{shape[1]}x{shape[0]}" for shape in (rgb.shape, ids.shape))
            path = source.path(".png")
            raise InputError(f"{path}: picture and instance map differ in size, {sizes} pixels")
        return rgb, ids

    def objects(self, source: Source) -> list[LabelledPolygon] | None:
        """The polygons of a frame, None if it has none. Raises InputError if the file is bad."""
        path = source.path("_polygons.json")
        if not path.exists():
            return None
        try:
            objects, _, _ = polygons_from_json(json.loads(self._read(path, source.root)))
            for thing in objects:
                if not len(thing.polygon):
                    raise ValueError("an object without points")
            instance_values(objects)  # ValueError for an unknown label
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{path}: not a file of polygons ({reason})") from None
        return objects

    def made(self, path: str) -> np.ndarray:
        """A PNG of an earlier stage, by its path below OUT. Raises InputError if it is bad."""
        return _decoded(self.out / path, self._read(self.out / path, self.out))


def _decoded(path: Path, content: bytes) -> np.ndarray:
    """The image in a PNG file: grey as it is, colours as RGB."""
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED) if content else None
    if image is None or _PNG_END not in content[-32:]:  # some versions decode what is there of a cut file
        raise InputError(f"{path}: damaged, or no PNG; fetch it again")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if image.ndim == 3 and image.shape[2] == 3 else image
