"""How sharp a part of a picture is, and making a pasted object as sharp as what is beside it.

Sharpness is told by the strongest edges: how much of their gradient is left after a blur of one pixel.
Much is left of what is blurred already. What is shown has an influence too: real persons and cars differ
from what is beside them by .06 on average, one way or the other, so that only more than that is mended.
"""

import cv2
import numpy as np

TOLERANCE = 0.1  # difference in softness that real instances have from what is beside them, too
_EDGES = 0.9  # quantile of the gradients above which they count
_ENOUGH, _PLENTY = 100, 10000  # pixels; fewer tell nothing, of twice as many every second is looked at
_BLURS = (0.4, 0.6, 0.8, 1.0, 1.3, 1.6)  # deviations tried, pixels
_SHARPENINGS = (0.4, 0.8, 1.2)  # factors tried, of what a blur of one pixel takes away


def softness(grey: np.ndarray, area: np.ndarray) -> float | None:
    """How soft a picture (h,w) float32 is on an area (h,w) bool, about .5 to 1; None: too few pixels."""
    if np.count_nonzero(area) < _ENOUGH:
        return None
    pixels = np.flatnonzero(area)
    pixels = pixels[:: max(1, len(pixels) // _PLENTY)]
    gradients = _gradients(grey).ravel()[pixels]
    strongest = int(_EDGES * len(gradients))
    strong = gradients >= max(np.partition(gradients, strongest)[strongest], 1e-3)
    if not strong.any():
        return None
    blurred = _gradients(cv2.GaussianBlur(grey, (5, 5), 1.0)).ravel()[pixels]
    return float(blurred[strong].sum() / gradients[strong].sum())


def _gradients(grey: np.ndarray) -> np.ndarray:
    across, down = cv2.Sobel(grey, cv2.CV_32F, 1, 0, ksize=1), cv2.Sobel(grey, cv2.CV_32F, 0, 1, ksize=1)
    # Not cv2.magnitude: the last bit of what it says depends on where in memory the arrays are.
    return np.sqrt(across * across + down * down)


def as_soft_as(rgb: np.ndarray, area: np.ndarray, wanted: float | None) -> np.ndarray:
    """An object (h,w,3) uint8, its inner pixels area (h,w) bool, no sharper or softer than what is wanted.

    Blurred or sharpened, as little as is needed, where it differs by more than TOLERANCE.
    """
    found = softness(_grey(rgb), area)
    if wanted is None or found is None or abs(found - wanted) <= TOLERANCE:
        return rgb
    if found < wanted:
        tried = (cv2.GaussianBlur(rgb, (0, 0), deviation) for deviation in _BLURS)
    else:
        blurred = cv2.GaussianBlur(rgb, (5, 5), 1.0)
        tried = (cv2.addWeighted(rgb, 1 + factor, blurred, -factor, 0) for factor in _SHARPENINGS)
    result = rgb
    for result in tried:
        if abs(softness(_grey(result), area) - wanted) <= TOLERANCE:
            break
    return result


def softness_around(rgb: np.ndarray, mask: np.ndarray) -> float | None:
    """`softness` of an image (h,w,3) uint8 beside an object, mask (h,w) bool."""
    return softness(_grey(rgb), cv2.dilate(mask.view(np.uint8), np.ones((5, 5), np.uint8)) == 0)


def inner(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask (h,w) bool that are not at its edge."""
    border = {"borderType": cv2.BORDER_CONSTANT, "borderValue": 0}
    return cv2.erode(mask.view(np.uint8), np.ones((5, 5), np.uint8), **border) > 0


def _grey(rgb: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
