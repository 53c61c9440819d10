"""Putting a repainted crop back into its frame: matching its colours, and pasting masked pixels only.

Images are uint8 RGB, masks bool; Lab is OpenCV's float Lab, L in 0..100, a and b about -127..127.
"""

import math

import cv2
import numpy as np

from data.geometry import MaskPatch, hull_of

_RING_FRACTION = 0.12  # width of the ring, in parts of the side of a square of the box's area
_RING_WIDTHS = (3, 40)  # its bounds, pixels
_ENOUGH = 5000  # pixels that tell the statistics of a larger ring
_MAX_SHIFT = np.array([20, 12, 12], np.float32)  # how far "ring" may move the mean of L, a, b
_MAX_GAIN = 1.25  # by how much it may stretch or squeeze their deviation
_LOW = 0.2  # lowest part of an object beside which the light is told
_LOW_WEIGHT = 0.6  # how much that counts
# Slope of log L of real persons over that of the light around them .8, of cars .6; of a and b .6 to .8.
_LIGHT_FRACTION = 0.8  # how much of the difference in light and tint between two places is made up for
_LIGHT_FACTORS = (1 / 3, 1.8)  # least and largest factor on L
CLOSED_BELOW = ("car", "truck", "bus", "train", "caravan", "trailer")  # the ground below them is dark
_UNDER = 1.6  # how dark, as a factor on the darkest part of the contact shadow
_UNDER_HEIGHT = 0.3  # lowest part of a vehicle that its wheels are in
_MIDDLE = 40.0  # L of a usual surface
_MAX_TINT = 8.0  # largest shift of a and b


# ---- colours ------------------------------------------------------------------------------------


def ring_of(mask: np.ndarray) -> np.ndarray:
    """The pixels around a mask (h,w) bool, as a mask of the same shape; a pixel's width is left between.

    Empty if the mask is empty or fills its image.
    """
    if not mask.any() or mask.all():
        return np.zeros_like(mask)
    x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
    width = float(np.clip(_RING_FRACTION * math.sqrt(w * h), *_RING_WIDTHS))
    reach = math.ceil(width) + 1
    window = np.s_[max(y - reach, 0) : y + h + reach, max(x - reach, 0) : x + w + reach]
    ring = np.zeros_like(mask)
    away = cv2.distanceTransform((~mask[window]).view(np.uint8), cv2.DIST_L2, 3)
    ring[window] = (away > 1.5) & (away <= width + 1.5)
    return ring


def to_lab(rgb: np.ndarray) -> np.ndarray:
    """Lab (...,3) float32 of RGB (h,w,3) or (n,3) uint8."""
    image = rgb.reshape(1, -1, 3) if rgb.ndim == 2 else rgb
    return cv2.cvtColor(np.float32(image) / 255, cv2.COLOR_RGB2LAB).reshape(rgb.shape)


def from_lab(lab: np.ndarray) -> np.ndarray:
    """RGB uint8 of Lab (h,w,3) or (n,3) float32; colours beyond the gamut are clipped."""
    image = lab.reshape(1, -1, 3) if lab.ndim == 2 else lab
    rgb = cv2.cvtColor(np.float32(image), cv2.COLOR_LAB2RGB).reshape(lab.shape)
    return np.uint8(np.clip(rgb, 0, 1) * 255 + 0.5)


def ring_statistics(rgb: np.ndarray, ring: np.ndarray) -> np.ndarray | None:
    """Mean and deviation of L, a, b on a ring (h,w) bool: (2,3) float32; None for an empty ring."""
    rows, columns = np.nonzero(ring)
    if not len(rows):
        return None
    every = max(1, len(rows) // _ENOUGH)
    lab = to_lab(rgb[rows[::every], columns[::every]])
    return np.stack([lab.mean(0), lab.std(0)])


def light_around(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    """The light that an object stands in: Lab (3,) float32; mask (h,w) bool of an image (h,w,3) uint8.

    The mean on a ring around it, of which the part beside and below its lowest fifth counts most: that is
    ground in the same light, while what is behind the rest has a light of its own. Of real persons half of
    the variance of log L follows from this, .44 from the whole ring. None if there is no ring.
    """
    ring = ring_of(mask)
    rows = np.flatnonzero(mask.any(1))
    if not len(rows):
        return None
    split = rows[-1] + 1 - round(_LOW * len(rows))
    above, low = ring.copy(), ring
    above[split:], low[:split] = False, False
    means = [found[0] for part in (low, above) if (found := ring_statistics(rgb, part)) is not None]
    if len(means) == 2:
        return _LOW_WEIGHT * means[0] + (1 - _LOW_WEIGHT) * means[1]
    return means[0] if means else None


def light_at(rgb: np.ndarray, patch: MaskPatch) -> np.ndarray | None:
    """The same of a mask on a whole image (H,W,3) uint8; the mask must hold a pixel."""
    window, mask = patch.around(_RING_WIDTHS[1] + 2, rgb.shape[:2])
    return light_around(rgb[window], mask)


def contrast_at(rgb: np.ndarray, patch: MaskPatch) -> float | None:
    """Log of an object's mean L over that of the light around it; None: nothing is around it.

    patch: its visible pixels on an image (H,W,3) uint8.
    """
    light = light_at(rgb, patch)
    if light is None:
        return None
    own = to_lab(rgb[patch.window][patch.mask])[:, 0].mean()
    return float(np.log((own + 1) / (light[0] + 1)))  # 1 of 100: black has a contrast, too


def relit(rgb: np.ndarray, source: np.ndarray | None, light: np.ndarray | None) -> np.ndarray:
    """An image (h,w,3) uint8 from a place with one light, as it would look in another.

    source, light: `light_around` of the two places; None is unknown. L is multiplied, so that black stays
    black, and colourfulness with it, so that what gets brighter does not get pale.
    """
    if light is None or source is None:
        return rgb
    factor = (max(light[0], 1) / max(source[0], 1)) ** _LIGHT_FRACTION
    factor = np.clip(factor, *_LIGHT_FACTORS)
    chroma = (factor * _MIDDLE + 16) / (_MIDDLE + 16)  # as that of a surface in light of another strength
    tint = np.clip(_LIGHT_FRACTION * (light[1:] - source[1:]), -_MAX_TINT, _MAX_TINT)
    values = np.arange(256, dtype=np.float32)
    coloured = (values[:, None] - 128) * chroma + 128 + tint
    table = np.column_stack([values * factor, coloured])
    table = np.uint8(np.clip(table + 0.5, 0, 255))[None]
    lab = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2LAB)  # 8 bits are enough, and fast
    return cv2.cvtColor(cv2.LUT(lab, table), cv2.COLOR_LAB2RGB)


def match_colours(patch: np.ndarray, original: np.ndarray, mask: np.ndarray, mode: str) -> np.ndarray:
    """A repainted crop in the light and colours of the original one: (h,w,3) uint8.

    Args:
      patch: (h,w,3) uint8, what a back end made of `original`; its pixels outside the mask tell the shift.
      original: (h,w,3) uint8, the crop as it was; mask: (h,w) bool, the repainted pixels.
      mode: "ring" brings mean and deviation of Lab on a ring around the mask to the original's, within
        bounds; "legacy" is the published rule, which darkens by the mean difference outside the mask; "none"
        changes nothing (docs/synthesis.md#colours-and-pasting).

    A patch that equals the original on the ring (all weight-free back ends) comes back as it is.
    """
    if mode == "none":
        return patch
    if mode == "legacy":
        return _legacy(patch, original, mask)
    ring = ring_of(mask)
    if np.array_equal(patch[ring], original[ring]):
        return patch
    (mean, std), (wanted, wanted_std) = ring_statistics(patch, ring), ring_statistics(original, ring)
    gain = np.clip((wanted_std + 1) / (std + 1), 1 / _MAX_GAIN, _MAX_GAIN)
    target = mean + np.clip(wanted - mean, -_MAX_SHIFT, _MAX_SHIFT)
    return from_lab((to_lab(patch) - mean) * gain + target)


def _legacy(patch: np.ndarray, original: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """|patch - m| with m the mean difference outside the mask, rounded up: values below m are reflected."""
    patch = patch.astype(np.int32)
    difference = np.abs(patch - original)[~mask]
    m = math.ceil(difference.mean()) if difference.size else 0
    return np.abs(patch - m).astype(np.uint8)


# ---- pasting ------------------------------------------------------------------------------------


def paste(
    frame: np.ndarray, patch: np.ndarray, mask: np.ndarray, box: tuple[int, int, int, int], feather: float
) -> np.ndarray:
    """A copy of a frame (H,W,3) uint8 with the masked pixels of a patch on it; all others are bit-identical.

    Args:
      patch: (y1-y0,x1-x0,3) uint8.
      mask: (y1-y0,x1-x0) bool, the pixels to take from the patch.
      box: x0, y0, x1, y1 in pixels of the frame, half-open, inside of it.
      feather: width in pixels of the rim, inside the mask, where the patch fades into its surroundings. They
        are spread inwards from outside the mask, so that nothing of the old object shows in the rim. Pixels
        that the patch leaves as they are in the frame stay so: pasting a crop of the frame changes nothing.
    """
    x0, y0, x1, y1 = box
    result = frame.copy()
    window = result[y0:y1, x0:x1]
    if not mask.any():
        return result
    changed = mask & (patch != window).any(2)
    if feather > 0:
        patch = _faded(patch, window, mask, feather)
    window[changed] = patch[changed]
    return result


def in_shadow(rgb: np.ndarray, dark: np.ndarray, where: np.ndarray) -> np.ndarray:
    """A crop (h,w,3) uint8 darkened by the fractions dark (h,w) float32 where it says so, (h,w) bool."""
    rows, columns = np.flatnonzero(dark.any(1)), np.flatnonzero(dark.any(0))
    result = rgb.copy()
    if len(rows):
        window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        falls = dark[window] * where[window]
        result[window] = np.uint8(rgb[window] * (1 - falls[..., None]) + 0.5)
    return result


def shadow_of(mask: np.ndarray, strength: float, *, under: bool = False) -> np.ndarray:
    """How dark the contact shadow of an object, mask (h,w) bool, is on the ground: (h,w) float32, 0..1.

    A soft dark band along the lowest tenth of the object; what hangs higher casts none.

    strength: how dark it is at most, 0..1; under: whether it is dark between the wheels, too, as below a
    car (CLOSED_BELOW).
    """
    x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
    tenth = max(1, round(0.1 * h))
    low = y + h - (max(1, round(_UNDER_HEIGHT * h)) if under else tenth)
    down = max(1, round(0.02 * h))
    wide, high = max(0.05 * w, 0.7), max(0.025 * h, 0.7)  # deviations of the blur, pixels
    window = np.s_[
        low : y + h + down + round(3 * high), max(x - round(3 * wide), 0) : x + w + round(3 * wide)
    ]
    lowest = mask[window]
    foot = np.zeros(lowest.shape, np.float32)
    foot[down:] = lowest[: max(len(lowest) - down, 0)]
    foot[: y + h - tenth - low] = 0
    dark = cv2.GaussianBlur(foot, (0, 0), sigmaX=wide, sigmaY=high, borderType=cv2.BORDER_CONSTANT)
    dark *= strength / max(dark[~lowest].max(initial=0), 1e-6)
    np.minimum(dark, strength, out=dark)
    if under:
        dark = np.maximum(dark, min(_UNDER * strength, 1) * _underside(lowest, high))
    whole = np.zeros(mask.shape, np.float32)
    whole[window] = dark
    return whole


def _underside(lowest: np.ndarray, soft: float) -> np.ndarray:
    """How far each pixel lies in the hull of the lowest part of an object, (h,w) bool: (h,w) float32, 0..1.

    soft: deviation of the blur, pixels.
    """
    hull = hull_of(lowest).astype(np.float32)
    return cv2.GaussianBlur(hull, (0, 0), soft, borderType=cv2.BORDER_CONSTANT)


def resize(rgb: np.ndarray, width: int, height: int) -> np.ndarray:
    """An image (h,w,3) uint8 at another size: averaged where it shrinks, Lanczos where it grows."""
    if rgb.shape[:2] == (height, width):
        return rgb
    shrinks = width * height < rgb.shape[0] * rgb.shape[1]
    return cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4)


def _faded(patch: np.ndarray, around: np.ndarray, mask: np.ndarray, feather: float) -> np.ndarray:
    """The patch with its rim mixed with the mean of the pixels outside the mask nearby."""
    x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
    reach = math.ceil(feather) + 1
    window = np.s_[max(y - reach, 0) : y + h + reach, max(x - reach, 0) : x + w + reach]
    inside = mask[window]
    depth = cv2.distanceTransform(inside.view(np.uint8), cv2.DIST_L2, 3)  # 1 at the edge
    rim = inside & (depth <= feather)
    if inside.all() or not rim.any():
        return patch
    size = (2 * reach - 1,) * 2
    outside = (~inside).astype(np.float32)
    weight = cv2.blur(outside, size)
    spread = cv2.blur(around[window] * outside[..., None], size)[rim] / np.maximum(weight[rim, None], 1e-6)
    fraction = (depth[rim] / (feather + 1))[:, None]
    fraction[weight[rim] < 1e-6] = 1
    result = patch.copy()
    mixed = fraction * patch[window][rim] + (1 - fraction) * spread
    result[window][rim] = np.uint8(np.clip(mixed + 0.5, 0, 255))
    return result
