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

    def frame(self, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
        """Image (H,W,3) uint8 and instance map (H,W) uint16 of a frame.

        Raises InputError if one is bad, or if sizes differ.
        """
        read = partial(self._read, root=frame.root)
        rgb, ids = frame.read_image(read=read), frame.read_instance_ids(read)
        return fitting(frame.image_path, rgb, ids.shape), ids

    def objects(self, frame: Frame, shape: tuple[int, int]) -> list[LabelledPolygon] | None:
        """The polygons of a frame of shape (H,W), None if it has none. InputError if the file is bad."""
        return frame.read_polygons(shape, partial(self._read, root=frame.root))
