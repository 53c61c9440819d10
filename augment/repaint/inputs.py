"""Reading what a stage works on, and remembering the digest of each file for the manifest."""

from functools import partial
from pathlib import Path

import numpy as np

from augment.repaint.select import Source
from data.images import decode_png, fitting
from data.writer import LabelledPolygon
from support.files import digest, read_bytes


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

    def instance_ids(self, source: Source) -> np.ndarray:
        """The instance map (H,W) uint16 of a frame. Raises InputError if it is bad."""
        return source.frame.read_instance_ids(partial(self._read, root=source.root))

    def frame(self, source: Source) -> tuple[np.ndarray, np.ndarray]:
        """Picture (H,W,3) uint8 and instance map of a frame. InputError if one is bad, or if sizes differ."""
        rgb = source.frame.read_image(read=partial(self._read, root=source.root))
        ids = self.instance_ids(source)
        return fitting(source.frame.image_path, rgb, ids.shape), ids

    def objects(self, source: Source, shape: tuple[int, int]) -> list[LabelledPolygon] | None:
        """The polygons of a frame of shape (H,W), None if it has none. InputError if the file is bad."""
        return source.frame.read_polygons(shape, partial(self._read, root=source.root))

    def made(self, path: str) -> np.ndarray:
        """A PNG of an earlier stage, by its path below OUT. Raises InputError if it is bad."""
        content = self._read(self.out / path, self.out)
        return decode_png(self.out / path, content, ("8-bit RGB", "8-bit grey"), "it was written so")
