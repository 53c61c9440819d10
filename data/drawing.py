"""Maps as images for people: large enough to see, with the new object outlined."""

import cv2
import numpy as np

OUTLINE = (255, 255, 0)  # in no scene and in few of the official colours


def enlarged(image: np.ndarray, min_width: int) -> np.ndarray:
    """An image or map (h,w,...), its pixels repeated as often as it takes to be min_width pixels wide."""
    times = max(1, -(-min_width // image.shape[1]))
    return np.ascontiguousarray(image.repeat(times, 0).repeat(times, 1))


def outline(image: np.ndarray, mask: np.ndarray) -> None:
    """Draw a line of one pixel around a mask (h,w) bool on an image (h,w,3) uint8 RGB, in place."""
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    image[grown & ~mask] = OUTLINE
