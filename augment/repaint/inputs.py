"""Reading what a stage works on, and remembering the digest of each file for the manifest."""

from pathlib import Path

import numpy as np

from augment.repaint.select import Source
from data.cityscapes import fitting, how_to_void, void_labels
from data.images import decode_image, decode_instance_map, decode_png
from data.labels import FIRST_PLATE, LABEL_OF_VALUE, conversion_needed, foreign_labels, without_void
from data.writer import LabelledPolygon, instance_values, polygons_from_json
from support.errors import InputError
from support.files import digest, parse_json, read_bytes


class Inputs:
    """Files read for an item; `digests` has their SHA-256 by path.

    Paths that begin with work/ are below OUT, all others below the input's root.
    """

    def __init__(self, out: Path):
        self.out = Path(out)
        self.digests: dict[str, str] = {}

    def _read(self, path: Path, root: Path) -> bytes:
        content = read_bytes(path)
        self.digests[path.relative_to(root).as_posix()] = digest(content)
        return content

    def picture(self, source: Source) -> np.ndarray:
        """The picture (H,W,3) uint8 RGB of a frame. Raises InputError if it is bad."""
        path = source.picture
        return decode_image(path, self._read(path, source.root))

    def instance_ids(self, source: Source) -> np.ndarray:
        """The instance map (H,W) uint16 of a frame. Raises InputError if it is bad."""
        path = source.path("_instanceIds.png")
        ids = decode_instance_map(path, self._read(path, source.root))
        if void := void_labels(path):
            _, ids = without_void(LABEL_OF_VALUE[ids], ids, void)
        if labels := foreign_labels(ids):
            raise InputError(f"{path}: {conversion_needed(labels, how_to_void(path))}")
        return np.where(ids < FIRST_PLATE, ids, np.uint16(0))

    def frame(self, source: Source) -> tuple[np.ndarray, np.ndarray]:
        """Picture and instance map of a frame. Raises InputError if one is bad or their sizes differ."""
        rgb, ids = self.picture(source), self.instance_ids(source)
        return fitting(source.picture, rgb, ids.shape), ids

    def objects(self, source: Source) -> list[LabelledPolygon] | None:
        """The polygons of a frame, None if it has none. Raises InputError if the file is bad."""
        path = source.path("_polygons.json")
        if not path.exists():
            return None
        content = parse_json(path, self._read(path, source.root), "a file of polygons")
        try:
            objects, _, _ = polygons_from_json(content)
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
        content = self._read(self.out / path, self.out)
        return decode_png(self.out / path, content, ("8-bit RGB", "8-bit grey"), "it was written so")
