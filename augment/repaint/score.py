"""How good synthetic frames are, measured sample by sample without weights.

Three questions (docs/synthesis.md#scores): is what lies outside the mask preserved, how much has changed
inside, and what would the published evaluation say, which compares whole patches, object included, with the
original crop and so rewards not editing.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy.ndimage import uniform_filter

from augment.crops import Crop
from augment.paint.blend import resize
from augment.repaint.inputs import Inputs
from augment.repaint.select import Source
from data.images import decode_png
from support.files import read_bytes

SSIM_WINDOW = 7  # pixels, uniform weights; K1 .01, K2 .03, sample covariance, grey 0..255
GREY = 128  # of what is outside the mask in the images for networks

NUMBERS = {
    "outside_psnr": "dB, edited frame against raw frame, all pixels outside the mask",
    "outside_ssim": "the same on the crop, windows of 7x7 pixels without masked ones",
    "patch_outside_psnr": "dB, the back end's patch before pasting against the crop, outside the mask",
    "patch_outside_ssim": "the same, windows of 7x7 pixels without masked ones",
    "inside_change": "mean absolute difference of the masked pixels, 0..255, edited against raw frame",
    "whole_patch_psnr_bgr": "dB, published: patch against crop, object included",
    "whole_patch_ssim_gray_7x7": "published: patch against crop, object included",
}


@dataclass(frozen=True)
class ScoredSample:
    """An integrated sample and where its files are."""

    out: Path
    source: Source
    integrated: dict  # its line in the stage integrate
    generated: dict  # its line in the stage generate
    images: bool = False  # whether networks want to see it


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 arrays of a shape; inf if equal, nan if empty."""
    if not one.size:
        return math.nan
    error = np.mean(np.square(one.astype(np.float64) - other), dtype=np.float64)
    return 20 * math.log10(255 / math.sqrt(error)) if error else math.inf


def ssim_map(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Structural similarity of two grey images (h,w) uint8 at each 7x7 window inside them: (h-6,w-6) float64.

    Empty if an image is smaller than a window.
    """
    if min(one.shape) < SSIM_WINDOW:
        return np.empty((0, 0))
    x, y = one.astype(np.float64), other.astype(np.float64)
    count = SSIM_WINDOW**2
    mean_x, mean_y, xx, yy, xy = (uniform_filter(a, SSIM_WINDOW) for a in (x, y, x * x, y * y, x * y))
    unbiased = count / (count - 1)
    var_x, var_y = unbiased * (xx - mean_x**2), unbiased * (yy - mean_y**2)
    covariance = unbiased * (xy - mean_x * mean_y)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    ratio = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    ratio /= (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    edge = SSIM_WINDOW // 2
    return ratio[edge:-edge, edge:-edge]


def outside_ssim(one: np.ndarray, other: np.ndarray, mask: np.ndarray) -> float:
    """Mean structural similarity of grey images over windows without a masked pixel; nan if there is none."""
    similarity = ssim_map(one, other)
    if not similarity.size:
        return math.nan
    kernel = np.ones((SSIM_WINDOW, SSIM_WINDOW), np.uint8)
    edge = SSIM_WINDOW // 2
    free = cv2.dilate(mask.view(np.uint8), kernel)[edge:-edge, edge:-edge] == 0
    return float(similarity[free].mean()) if free.any() else math.nan


def grey(rgb: np.ndarray) -> np.ndarray:
    """(h,w) uint8 of RGB (h,w,3) uint8."""
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)


def measure(sample: ScoredSample) -> dict:
    """All NUMBERS of a sample, and, if asked for, "real" and "made": see `object_image`.

    Raises InputError for a file that is missing or bad.
    """
    line = sample.integrated
    raw, ids = Inputs().frame(sample.source.frame)
    panorama = next(path for path in line["outputs"] if path.startswith("panorama/"))
    edited = _made(sample.out / panorama)
    mask = ids == line["instance_id"]
    crop = Crop(**line["crop"])
    patch = _made(sample.out / next(iter(sample.generated["outputs"])))
    original, crop_mask, edited_crop = crop.cut(raw), crop.cut(mask, mirror=False), crop.cut(edited)
    whole = ssim_map(grey(patch), grey(original))
    found = {
        "outside_psnr": psnr(edited[~mask], raw[~mask]),
        "outside_ssim": outside_ssim(grey(edited_crop), grey(original), crop_mask),
        "patch_outside_psnr": psnr(patch[~crop_mask], original[~crop_mask]),
        "patch_outside_ssim": outside_ssim(grey(patch), grey(original), crop_mask),
        "inside_change": float(np.abs(edited[mask].astype(np.int16) - raw[mask]).mean()),
        "whole_patch_psnr_bgr": psnr(patch, original),
        "whole_patch_ssim_gray_7x7": float(whole.mean()) if whole.size else math.nan,
    }
    if sample.images:
        found["real"] = object_image(raw, mask, line["bbox"])
        found["made"] = object_image(edited, mask, line["bbox"])
    return found


def _made(path: Path) -> np.ndarray:
    return decode_png(path, read_bytes(path), ("8-bit RGB",), "it was written so")


def object_image(rgb: np.ndarray, mask: np.ndarray, box: list[int]) -> np.ndarray:
    """An object as networks judge it: (299,299,3) uint8, cut to its box, square, grey outside its mask."""
    x0, y0, x1, y1 = box
    window = np.s_[y0:y1, x0:x1]
    side = max(x1 - x0, y1 - y0)
    square = np.full((side, side, 3), GREY, np.uint8)
    left, top = (side - (x1 - x0)) // 2, (side - (y1 - y0)) // 2
    inner = square[top : top + y1 - y0, left : left + x1 - x0]
    inner[mask[window]] = rgb[window][mask[window]]
    return resize(square, 299, 299)


class Mean:
    """A mean over samples, some infinite (identical images) or undefined (nothing to compare)."""

    def __init__(self):
        self.sum, self.count, self.identical, self.undefined = 0.0, 0, 0, 0

    def add(self, value: float) -> None:
        """Add a sample's number."""
        if math.isnan(value):
            self.undefined += 1
        elif math.isinf(value):
            self.identical += 1
        else:
            self.sum += value
            self.count += 1

    def to_json(self) -> dict:
        """mean: of all samples, "inf" if any is infinite as in the published program, None if there is none;
        finite_mean: of the finite ones; samples by kind."""
        finite = self.sum / self.count if self.count else None
        return {
            "mean": "inf" if self.identical else finite,
            "finite_mean": finite,
            "samples": self.count + self.identical,
            "identical": self.identical,
            "undefined": self.undefined,
        }

    def __str__(self) -> str:
        finite = f"{self.sum / self.count:.4g}" if self.count else ""
        if not self.identical:
            return finite or "no sample"
        same = f"inf ({self.identical} of {self.count + self.identical} identical"
        return same + (f"; the others {finite})" if finite else ")")
