"""A collection of instances to show: what is known of them, as a table, and how their shapes are compared.

The bank of a data set is one, a folder of cut-outs another; the choice of cut-outs reads no more of it than
this.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import name2label

from augment.paint.cutout import Cutout

GRID = 32  # shapes are compared at this size
# Parts of an instance that may stand for one that is occluded or cut off in part: x0, y0, x1, y1 in its box.
PARTS = (
    (0.0, 0.0, 1.0, 1.0),
    *((0.0, 0.0, fraction, 1.0) for fraction in (0.8, 0.6, 0.4)),
    *((1 - fraction, 0.0, 1.0, 1.0) for fraction in (0.8, 0.6, 0.4)),
    *((0.0, 0.0, 1.0, fraction) for fraction in (0.8, 0.6)),
)
_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)  # by byte


@dataclass(frozen=True)
class Table:
    """The chosen instances, one a row, in the order of their frames."""

    frame: np.ndarray  # (n,) names of frames; empty: unknown
    instance_id: np.ndarray  # (n,) int32
    size: np.ndarray  # (n,2) int32, width and height of the stored image, pixels
    aspect: np.ndarray  # (n,) float32, width / height of the box in its frame
    solidity: np.ndarray  # (n,) float32, area / area of the convex hull, 0..1
    covered: np.ndarray  # (n,) float32, fraction of the outline that something in front takes, 0..1
    cut: np.ndarray  # (n,4) bool, whether the frame cuts it off left, top, right, below
    whole: np.ndarray  # (n,) bool, nothing cuts or covers it (and what it rides), and it stands on the ground
    box: np.ndarray  # (n,4) int32, x0, y0, x1, y1 (half-open) in its frame, pixels
    frame_size: np.ndarray  # (n,2) int32, width and height of its frame, pixels; 0: unknown, as is the box
    camera: np.ndarray  # (n,4) float32, fx, u0, fy and row of the horizon, pixels; NaN: no camera is known
    light: np.ndarray  # (n,3) float32, `light_around` it, Lab; NaN: unknown
    shape: np.ndarray  # (n,GRID*GRID/8) uint8, the mask stretched to GRID x GRID, packed
    ridden: np.ndarray  # (n,) int32, instance id of the two-wheeler that a rider is shown with, else 0

    def rows_of(self, class_name: str) -> np.ndarray:
        """The rows of a class."""
        return np.flatnonzero(self.instance_id // 1000 == name2label[class_name].id)

    def known_light(self, row: int) -> np.ndarray | None:
        """The light of a row, None where it is unknown."""
        return None if np.isnan(self.light[row]).any() else self.light[row]


@dataclass(frozen=True)
class Shelf:
    """The m instances of a class, ready to be compared."""

    rows: np.ndarray  # (m,) of the table
    keys: np.ndarray  # (m,) "frame name/instance id", or the name of a file
    shapes: np.ndarray  # (len(PARTS),m,GRID*GRID/8) uint8, packed: each part stretched to the grid
    areas: np.ndarray  # (len(PARTS),m) float32, ones in `shapes`

    def overlaps(self, mask: np.ndarray) -> np.ndarray:
        """Intersection over union of each part of each instance with a mask (GRID,GRID) bool.

        (len(PARTS),m) float32. Counted in packed bits: a product of matrices wakes threads that then wait.
        """
        ones = cv2.LUT((self.shapes & np.packbits(mask)).reshape(-1, self.shapes.shape[2]), _ONES)
        common = cv2.reduce(ones, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32F).reshape(self.areas.shape)
        return common / np.maximum(self.areas + np.float32(mask.sum()) - common, 1)


@dataclass(frozen=True)
class Kind:
    """What instances of a collection have in common that stand on one shelf."""

    name: str  # of the shelf
    places: str  # class whose places it takes
    label: str  # official name of its label in the maps
    height: tuple[float, float] | None = None  # metres, min and max; None: as the class

    @property
    def is_of_the_class(self) -> bool:
        """Whether it is what stands at such places otherwise."""
        return self.label == self.places


class Collection(Protocol):
    """Instances to show, one a row of a table."""

    table: Table
    kinds: tuple[Kind, ...]
    shelf: Callable[[str], Shelf]  # the instances of a kind, by its name
    cutout: Callable[[int], Cutout]  # an instance as it is, by its row


def shelf_of(table: Table, class_name: str) -> Shelf:
    """The instances of a class on their shelf."""
    rows = table.rows_of(class_name)
    names = zip(table.frame[rows], table.instance_id[rows], strict=True)
    return shelf_of_rows(table, rows, [f"{frame}/{instance_id}" for frame, instance_id in names])


def shelf_of_rows(table: Table, rows: np.ndarray, keys: list[str]) -> Shelf:
    """Some rows (m,) of a table on a shelf, with their keys."""
    shapes = np.unpackbits(table.shape[rows], axis=1).reshape(-1, GRID, GRID)
    parts = np.empty((len(PARTS), len(rows), GRID * GRID), bool)
    for part, (x0, y0, x1, y1) in zip(parts, np.rint(np.array(PARTS) * GRID).astype(int), strict=True):
        for row, shape in zip(part, shapes, strict=True):
            row[:] = grid_of(shape[y0:y1, x0:x1]).ravel()
    return Shelf(rows, np.array(keys, str), np.packbits(parts, axis=2), parts.sum(2, dtype=np.float32))


def grid_of(mask: np.ndarray) -> np.ndarray:
    """A mask (h,w) bool, cut to its box, stretched to (GRID,GRID) bool."""
    shrunk = cv2.resize(np.uint8(mask) * 255, (GRID, GRID), interpolation=cv2.INTER_AREA)
    return shrunk >= 128
