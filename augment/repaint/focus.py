"""Focused cropping: a random 2:1 window around an edited instance (docs/synthesis.md#focus-crops).

The published program draws a multiple n of the smallest area that holds the instance, and a place, again and
again until both fit. Here the same distribution is drawn at once: P(n) restricted to the multiples that fit
and renormalised, then x and y uniform on the integers at which the window holds the instance.
"""

import math
from dataclasses import dataclass

import numpy as np

_MEAN_MULTIPLE = 3  # n = max(1, ceil(N(3, 1)))
_MULTIPLES = 12  # larger ones have a probability below 1e-16


@dataclass(frozen=True)
class Window:
    """Pixels x0 <= x < x0 + width, y0 <= y < y0 + height of a frame; width is 2 * height."""

    x0: int
    y0: int
    width: int
    height: int
    multiple: int  # n: the area as a multiple of the smallest one, before rounding

    def cut(self, frame: np.ndarray) -> np.ndarray:
        """What of a frame (H,W) or (H,W,C) it shows: (height,width[,C]), a view."""
        return frame[self.y0 : self.y0 + self.height, self.x0 : self.x0 + self.width]


def multiple_probabilities() -> np.ndarray:
    """P(n) (12,) float64 for n = 1, 2, ..., 12, where all multiples fit; sums to 1."""
    up_to = [0.5 * (1 + math.erf((n - _MEAN_MULTIPLE) / math.sqrt(2))) for n in range(1, _MULTIPLES + 1)]
    return np.diff([0.0, *up_to[:-1], 1.0])


def draw_window(
    box: tuple[int, int, int, int], frame_size: tuple[int, int], rng: np.random.Generator
) -> Window | None:
    """A random window that holds a box and lies inside its frame; None if no 2:1 window does both.

    box: half-open x0, y0, x1, y1 in pixels, not empty and inside the frame; frame_size: width, height.
    None never comes on 2:1 frames. Raises ValueError for a box that is empty or leaves the frame.
    """
    x0, y0, x1, y1 = box
    frame_width, frame_height = frame_size
    if not (0 <= x0 < x1 <= frame_width and 0 <= y0 < y1 <= frame_height):
        raise ValueError(f"box {box} is empty or not inside a frame of {frame_width}x{frame_height} pixels")
    width, height = x1 - x0, y1 - y0
    smallest = width * math.ceil(width / 2) if width > 2 * height else 2 * height**2  # area in pixels

    multiples = np.arange(1, _MULTIPLES + 1)
    heights = np.ceil(np.sqrt(multiples * smallest / 2)).astype(int)
    fits = (
        (multiples * smallest <= frame_width * frame_height)
        & (2 * heights <= frame_width)
        & (heights <= frame_height)
    )
    if not fits.any():
        return None
    probabilities = np.where(fits, multiple_probabilities(), 0)
    multiple = int(rng.choice(multiples, p=probabilities / probabilities.sum()))
    side = int(heights[multiple - 1])
    return Window(
        x0=int(rng.integers(max(0, x1 - 2 * side), min(x0, frame_width - 2 * side), endpoint=True)),
        y0=int(rng.integers(max(0, y1 - side), min(y0, frame_height - side), endpoint=True)),
        width=2 * side,
        height=side,
        multiple=multiple,
    )
