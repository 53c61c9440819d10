"""Reading what a frame is made from, and remembering the digest of each file for the manifest."""

from functools import partial
from pathlib import Path

import numpy as np

from data.frame import Frame
from data.images import fitting
from data.writer import LabelledPolygon
from support.files import digest, read_bytes


class Inputs:
    """Files read for a frame; `digests` has their SHA-256 by path below the input's root."""

    def __init__(self):
        self.digests: dict[str, str] = {}

    def _read(self, path: Path, root: Path) -> bytes:
        content = read_bytes(path)
        self.digests[path.relative_to(root).as_posix()] = digest(content)
        return content

    def instance_ids(self, frame: Frame) -> np.ndarray:
        """The instance map (H,W) uint16 of a frame. Raises InputError if it is bad."""
        return frame.read_instance_ids(partial(self._read, root=frame.root))

    def frame(self, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
        """Image (H,W,3) uint8 and instance map of a frame. InputError if one is bad, or if sizes differ."""
        rgb = frame.read_image(read=partial(self._read, root=frame.root))
        ids = self.instance_ids(frame)
        return fitting(frame.image_path, rgb, ids.shape), ids

    def objects(self, frame: Frame, shape: tuple[int, int]) -> list[LabelledPolygon] | None:
        """The polygons of a frame of shape (H,W), None if it has none. InputError if the file is bad."""
        return frame.read_polygons(shape, partial(self._read, root=frame.root))
