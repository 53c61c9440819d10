"""Bringing one silhouette onto another by a smooth displacement, and continuing texture over what is left."""

import cv2
import numpy as np

_GRID = 64  # cells along the longer side of the working grid
_STEPS = 40
_SMOOTH = 4.0  # deviation of the Gaussian over the displacement, cells
_FURTHEST = 5.0  # largest displacement, cells
_SOFT_FRACTION = 0.05  # reach of the blur of continued texture, in parts of the shorter side
_PAD = 6  # cells around the boxes, so that the distances outside are known too
_MIN_SIDE = 12  # pixels; below it there is nothing to see


def displacement(source: np.ndarray, target: np.ndarray) -> np.ndarray | None:
    """Where to look in the source for each pixel of the target, relative to it: (h,w,2) float32, x and y.

    source, target: masks (h,w) bool. Follows the signed distances to the two outlines, smoothed, so that
    nearby pixels move together; None for silhouettes that are tiny, empty or alike.
    """
    h, w = target.shape
    if min(h, w) < _MIN_SIDE or not source.any() or not target.any() or (source == target).all():
        return None
    cell = max(h, w) / _GRID
    size = max(8, round(w / cell)), max(8, round(h / cell))
    wanted, given = (_signed_distance(mask, size) for mask in (target, source))
    columns, rows = np.meshgrid(
        np.arange(wanted.shape[1], dtype=np.float32), np.arange(wanted.shape[0], dtype=np.float32)
    )
    u = np.zeros((*wanted.shape, 2), np.float32)
    for _ in range(_STEPS):
        moved = cv2.remap(
            given, columns + u[..., 0], rows + u[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        gy, gx = np.gradient(moved)
        difference = np.clip(wanted - moved, -2, 2)
        scale = 0.5 * difference / (gx * gx + gy * gy + 0.1)
        u += np.stack([scale * gx, scale * gy], 2)
        u = cv2.GaussianBlur(u, (0, 0), _SMOOTH)
        np.clip(u, -_FURTHEST, _FURTHEST, out=u)
    u = u[_PAD:-_PAD, _PAD:-_PAD] * np.float32([w / size[0], h / size[1]])
    return cv2.resize(u, (w, h), interpolation=cv2.INTER_LINEAR)


def _signed_distance(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Distance in cells to the outline, positive inside, of a mask shrunk to `size`, with _PAD around it."""
    shrunk = cv2.resize(np.uint8(mask) * 255, size, interpolation=cv2.INTER_AREA)
    shrunk = cv2.copyMakeBorder(shrunk, *(_PAD,) * 4, cv2.BORDER_CONSTANT)
    inside = np.uint8(shrunk >= 128)
    inner = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
    outer = cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
    return np.where(inside > 0, inner - 0.5, 0.5 - outer)


def continue_texture(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """An image (h,w,3) uint8 whose pixels are good on `known` (h,w) bool, made good everywhere: a copy.

    A missing pixel takes the one as far inside the known region as it lies outside, mirrored at the
    outline, which continues texture instead of smearing it; the nearest one where that falls outside.
    """
    missing = ~known
    if not missing.any() or not known.any():
        return image.copy()
    away, labels = cv2.distanceTransformWithLabels(
        np.uint8(missing), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    position = np.zeros(labels.max() + 1, np.int64)
    known_at = np.flatnonzero(known)
    position[labels.ravel()[known_at]] = known_at
    h, w = known.shape
    rows, columns = np.nonzero(missing)
    near_rows, near_columns = np.divmod(position[labels[missing]], w)
    far_rows = np.clip(2 * near_rows - rows, 0, h - 1)
    far_columns = np.clip(2 * near_columns - columns, 0, w - 1)
    good = known[far_rows, far_columns]
    result = image.copy()
    result[missing] = image[np.where(good, far_rows, near_rows), np.where(good, far_columns, near_columns)]
    # Neighbours may have taken pixels far from each other: the further out, the softer.
    reach = max(1, round(_SOFT_FRACTION * min(h, w)))
    softness = np.minimum(away[missing] / (2 * reach), 1)[:, None]
    near, far = (cv2.blur(result, (2 * n + 1,) * 2)[missing] for n in (1, reach))
    result[missing] = np.uint8(near * (1 - softness) + far * softness + 0.5)
    return result
