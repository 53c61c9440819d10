"""The square context crop around an instance: what a back end sees, and the way back into the frame."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Crop:
    """A square window of a frame, in pixels of the frame; padded only where the frame is smaller than it."""

    x0: int
    y0: int
    width: int
    height: int
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)  # pixels: left, top, right, bottom

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 (half-open) of what lies in the frame."""
        return self.x0, self.y0, self.x0 + self.width, self.y0 + self.height

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the frame: `box` as an index."""
        return np.s_[self.y0 : self.y0 + self.height, self.x0 : self.x0 + self.width]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of what `cut` gives, pixels."""
        left, top, right, bottom = self.pad
        return self.width + left + right, self.height + top + bottom

    def cut(self, array: np.ndarray, *, mirror: bool = True) -> np.ndarray:
        """The crop of a frame (H,W) or (H,W,C) of any dtype: (size, size[, C]), a copy.

        mirror: whether the padding reflects the frame; else it is 0, which is right for masks.
        """
        left, top, right, bottom = self.pad
        pads = [(top, bottom), (left, right)] + [(0, 0)] * (array.ndim - 2)
        return np.pad(self.inside(array), pads, mode="symmetric" if mirror else "constant")

    def inside(self, array: np.ndarray) -> np.ndarray:
        """What `cut` gives without the padding: (height, width[, C]), at `box`, a copy."""
        return array[self.window].copy()

    def back(self, patch: np.ndarray) -> np.ndarray:
        """The part of a patch (size, size[, C]) that lies in the frame: (height, width[, C]), at `box`.

        Raises ValueError for a patch of another size.
        """
        if patch.shape[:2] != self.size[::-1]:
            raise ValueError(f"a patch of shape {patch.shape} does not fit a crop of {self.size}")
        left, top = self.pad[:2]
        return patch[top : top + self.height, left : left + self.width]


def context_crop(
    box: tuple[int, int, int, int], frame_size: tuple[int, int], margin: float = 0.25, min_side: int = 1
) -> Crop:
    """The square around a box, shifted inside the frame.

    box: half-open x0, y0, x1, y1, pixels. frame_size: (width, height). margin: context on each side of the
    longer side of the box, as a fraction of that side; min_side: side of the square, pixels, that tiny boxes
    get too. Less of both where the frame has no room. Centred on the box unless the border is in the way.
    Only a box longer than the frame's shorter side needs padding.
    """
    x0, y0, x1, y1 = box
    longer = max(x1 - x0, y1 - y0)
    side = min(max(longer + 2 * round(margin * longer), min_side), max(longer, min(frame_size)))
    start_x, width, left, right = _along(x0, x1, side, frame_size[0])
    start_y, height, top, bottom = _along(y0, y1, side, frame_size[1])
    return Crop(start_x, start_y, width, height, (left, top, right, bottom))


def _along(low: int, high: int, side: int, length: int) -> tuple[int, int, int, int]:
    """Start, extent inside the frame, and padding before and after, along one axis."""
    if side > length:
        before = (side - length) // 2
        return 0, length, before, side - length - before
    start = min(max((low + high - side) // 2, 0), length - side)
    return start, side, 0, 0
