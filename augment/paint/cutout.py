"""Cut-outs: instances as they are, with their own outline and pixels, put on other images.

    cutout = bank.cutout(row)
    placed = place(cutout, (foot_x, foot_y), height, mirrored, (width, height_of_image))
    window = placed.around
    painted = blend(image, placed, occluded, shadow_ground(label_ids[window]), shadow)

Where a cut-out comes from (a bank, a folder of files) is not known here, nor who chose the place. H x W is
the size of the image.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from augment.compose import one_piece
from augment.paint.blend import in_shadow, light_at, relit, resize, shadow_of
from augment.paint.registration import continue_texture
from augment.paint.sharpness import as_soft_as, inner, softness_around
from data.geometry import MaskPatch, whole_pixels
from data.instances import bounding_box

VERSION = "1"  # of what decides the pixels
_RIM_FRACTION = 0.004  # rim inside an annotated outline that may show what was behind it, in parts of h + w
_RIM_WIDTHS = (2, 4)  # its bounds, pixels
# A pixel of the rim is its own if it is so far from what was behind, of the way to the core.
_OWN_FRACTION = 0.75
_OWN_DISTANCE = 20.0  # the same where no core is near, in levels of RGB
_AROUND = 0.5  # what is beside an object that tells how sharp a place is, in parts of its longer side
_AROUND_WIDTHS = (40, 96)  # its bounds, pixels
_EDGE_FRACTION, _MAX_EDGE = 0.012, 0.8  # deviation of the soft edge, of the side of a square as large; pixels


@dataclass(frozen=True)
class Cutout:
    """An instance as it is, cut to its box."""

    rgb: np.ndarray  # (h,w,3) uint8, its own colours, continued beyond its outline
    alpha: np.ndarray  # (h,w) uint8, 255 inside its outline, 0 outside
    light: np.ndarray | None  # (3,) float32, `light_around` it where it stood; None: unknown
    ridden: np.ndarray | None = None  # (h,w) bool, of a rider: what of the outline is the two-wheeler's


@dataclass(frozen=True)
class Placed:
    """A cut-out at a place of an image."""

    patch: MaskPatch  # its outline there, one piece, inside the image; may be empty
    rgb: np.ndarray  # (h,w,3) uint8, in the window of the patch
    alpha: np.ndarray  # (h,w) float32, 0..1, 0 outside the outline
    box: tuple[int, int, int, int]  # x0, y0, x1, y1 (half-open) of the whole outline, also beyond the image
    light: np.ndarray | None  # that of the cut-out
    enlargement: float  # height there / height of the cut-out
    ridden: np.ndarray | None = None  # (h,w) bool, that of the cut-out, in the window of the patch

    @property
    def around(self) -> tuple[slice, slice]:
        """The window of the image that tells how a place looks, and that its shadow lies in."""
        margin = int(np.clip(round(_AROUND * max(self.patch.mask.shape)), *_AROUND_WIDTHS))
        return tuple(slice(max(one.start - margin, 0), one.stop + margin) for one in self.patch.window)


# ---- cutting ------------------------------------------------------------------------------------


def cut_out(
    rgb: np.ndarray, mask: np.ndarray, light: np.ndarray | None, ridden: np.ndarray | None = None
) -> Cutout:
    """The cut-out of an instance, mask (h,w) bool, from the image around it, (h,w,3) uint8.

    ridden: (h,w) bool, the mask of the two-wheeler below a rider, which is cut out with the rider.

    The rim of an annotated outline shows in part what was behind it. Pixels there that look like what is
    outside give way to the instance's own colours, which are continued over all that is not its own.
    """
    unit = mask if ridden is None else mask | ridden
    outline = one_piece(unit)
    x, y, w, h = cv2.boundingRect(outline.view(np.uint8))
    window = np.s_[y : y + h, x : x + w]
    own = own_pixels(rgb, outline & unit)
    colours = continue_texture(rgb[window], own[window])
    ridden = None if ridden is None else ridden_part(outline[window], mask[window])
    return Cutout(colours, np.uint8(outline[window]) * 255, light, ridden)


def ridden_part(outline: np.ndarray, rider: np.ndarray) -> np.ndarray:
    """What of an outline (h,w) bool is not the rider's, which is one piece without holes: (h,w) bool."""
    return outline & ~one_piece(outline & rider)


def own_pixels(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Which pixels of an instance, mask (h,w) bool, show nothing of what was behind it: (h,w) bool.

    All of its core; of the rim those far enough from the colours outside, nearby. All if nothing is outside.
    """
    h, w = mask.shape
    width = _RIM_FRACTION * np.sum(mask.any(0)) + _RIM_FRACTION * np.sum(mask.any(1))
    reach = int(np.clip(round(width), *_RIM_WIDTHS))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1,) * 2)
    border = {"borderType": cv2.BORDER_CONSTANT, "borderValue": 1}
    core = cv2.erode(mask.view(np.uint8), kernel, **border) > 0  # what the frame cuts off has no rim there
    outside = cv2.dilate(mask.view(np.uint8), kernel) == 0
    rim = mask & ~core
    size = (4 * reach + 5,) * 2
    (within, near_core), (behind, near_outside) = (_means(rgb, area, size, rim) for area in (core, outside))
    away = np.linalg.norm(rgb[rim] - behind, axis=1)
    needed = np.where(near_core, _OWN_FRACTION * np.linalg.norm(within - behind, axis=1), _OWN_DISTANCE)
    own = core.copy()
    own[rim] = (away >= needed) | ~near_outside
    return own if own.any() else mask


def _means(
    rgb: np.ndarray, area: np.ndarray, size: tuple[int, int], at: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean colour (n,3) of an area (h,w) bool near each pixel of `at`, and whether it has a pixel there."""
    weight = cv2.blur(area.astype(np.float32), size, borderType=cv2.BORDER_CONSTANT)[at]
    total = cv2.blur(rgb * area[..., None].astype(np.float32), size, borderType=cv2.BORDER_CONSTANT)[at]
    return total / np.maximum(weight, 1e-6)[:, None], weight > 1e-6


# ---- placing ------------------------------------------------------------------------------------


def place_in(cutout: Cutout, box: np.ndarray, mirrored: bool, size: tuple[int, int]) -> Placed:
    """A cut-out with the foot and height of a box (4,); of a rider with a two-wheeler the rider has them.

    size: width and height of the image.
    """
    x0, y0, x1, y1 = box
    foot_x, foot_y, height = (x0 + x1) / 2, y1, y1 - y0
    if cutout.ridden is not None:
        all_height, all_width = cutout.alpha.shape
        left, top, right, bottom = bounding_box((cutout.alpha > 0) & ~cutout.ridden)
        scale = height / (bottom + 1 - top)
        aside = (all_width - left - right - 1) / 2
        foot_x += (-aside if mirrored else aside) * scale
        foot_y += (all_height - bottom - 1) * scale
        height = all_height * scale
    return place(cutout, (foot_x, foot_y), height, mirrored, size)


def place(
    cutout: Cutout, foot: tuple[float, float], height: float, mirrored: bool, size: tuple[int, int]
) -> Placed:
    """A cut-out with the middle of its lower edge at `foot`, as high as asked for, in whole pixels.

    foot: column and row (edges of pixels, as those of boxes), height in pixels; size: width and height of the
    image. Scaled by averaging where it shrinks. Its outline is where half of a pixel is covered; edges are
    smooth inside of it. What lies beyond the image is left out.
    """
    step = -1 if mirrored else 1
    rgb, alpha = (np.ascontiguousarray(array[:, ::step]) for array in (cutout.rgb, cutout.alpha))
    own_height, own_width = alpha.shape
    new_height = max(1, int(whole_pixels(np.float64(height))))
    new_width = max(1, round(own_width * new_height / own_height))
    shrinks = new_height < own_height
    rgb = resize(rgb, new_width, new_height)
    if not shrinks:  # no steps of enlarged pixels
        alpha = cv2.GaussianBlur(alpha, (0, 0), 0.6, borderType=cv2.BORDER_CONSTANT)
    alpha = cv2.resize(
        alpha, (new_width, new_height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    mask = one_piece(alpha >= 128)
    ridden = cutout.ridden
    x0, y0, x1, y1 = bounding_box(mask) if mask.any() else (0, 0, 0, -1)
    left = int(whole_pixels(np.float64(foot[0] - new_width / 2)))
    top = int(whole_pixels(np.float64(foot[1]))) - (y1 + 1)  # the lowest pixel stands at the foot
    rows = slice(max(-top, 0), max(min(new_height, size[1] - top), 0))
    columns = slice(max(-left, 0), max(min(new_width, size[0] - left), 0))
    inside = mask[rows, columns]
    outline = one_piece(inside)
    if ridden is not None:
        ridden = np.uint8(np.ascontiguousarray(ridden[:, ::step])) * 255
        ridden = cv2.resize(ridden, (new_width, new_height), interpolation=cv2.INTER_AREA) >= 128
        ridden = ridden_part(outline, ~ridden[rows, columns])
    patch = MaskPatch(outline, left + columns.start, top + rows.start)
    soft = _soft_edge(mask)[rows, columns] * inside
    box = left + x0, top + y0, left + x1 + 1, top + y1 + 1
    return Placed(patch, rgb[rows, columns], soft, box, cutout.light, new_height / own_height, ridden)


def _soft_edge(mask: np.ndarray) -> np.ndarray:
    """How much of each pixel of an outline (h,w) bool is the object's: (h,w) float32, 0..1, 0 outside of it.

    As through a lens, but inside the outline alone, so that no pixel outside changes.
    """
    deviation = min(_EDGE_FRACTION * np.sqrt(np.count_nonzero(mask)), _MAX_EDGE)
    padded = np.pad(mask, 4).astype(np.float32)
    if deviation < 0.2:
        return mask.astype(np.float32)
    blurred = cv2.GaussianBlur(padded, (0, 0), deviation)[4:-4, 4:-4]
    return np.clip(2 * blurred - 1, 0, 1) * mask


# ---- blending -----------------------------------------------------------------------------------


def blend(
    rgb: np.ndarray,
    placed: Placed,
    occluded: np.ndarray,
    ground: np.ndarray,
    shadow: float,
    *,
    under: bool = False,
) -> np.ndarray:
    """A copy of an image (H,W,3) uint8 with a placed cut-out on it, in the light and sharpness of the place.

    Args:
      occluded: (h,w) bool, what of the patch lies behind something.
      ground: bool, in the window `placed.around`, what its shadow may fall on.
      shadow: how dark it is at most, 0..1.
      under: whether it is dark between its wheels, too, see `shadow_of`.

    Changed are the visible pixels of its outline and pixels of the ground around its foot, no others.
    """
    patch, painted = placed.patch, rgb.copy()
    window = placed.around
    around = rgb[window]
    visible = patch.mask & ~occluded
    there = MaskPatch(patch.mask, patch.x0 - window[1].start, patch.y0 - window[0].start).window
    whole, seen = np.zeros(around.shape[:2], bool), np.zeros(around.shape[:2], bool)
    whole[there], seen[there] = patch.mask, visible
    pixels = relit(placed.rgb, placed.light, light_at(rgb, patch))
    pixels = as_soft_as(pixels, inner(patch.mask), softness_around(around, whole))
    # What shows through the soft edge is in the shadow, too.
    painted[window] = in_shadow(around, shadow_of(whole, shadow, under=under), ground | seen)
    alpha = placed.alpha[visible][:, None]
    beneath = painted[patch.window][visible]
    painted[patch.window][visible] = np.uint8(alpha * pixels[visible] + (1 - alpha) * beneath + 0.5)
    return painted
