"""Metrics of compact masks: spread, precision and recall, Frechet distance, likeness to training masks.

Pure functions; what each metric is: docs/evaluation.md#definitions. A shape is a mask reduced to 32x32 and
flattened: (1024,) bool.
"""

import cv2
import numpy as np

SHAPE_SIZE = 32  # pixels each way
COMPONENTS = 64  # principal components of the training shapes that make the fixed feature
NEIGHBOURS = 3  # k of the manifolds in precision and recall


def shapes_of(masks: np.ndarray) -> np.ndarray:
    """Shapes (N,1024) bool of masks (N,cy,cx) bool: averaged over areas to 32x32, then cut at one half."""
    shapes = np.empty((len(masks), SHAPE_SIZE, SHAPE_SIZE), bool)
    for shape, mask in zip(shapes, masks, strict=True):
        size = (SHAPE_SIZE, SHAPE_SIZE)
        shape[:] = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) >= 0.5
    return shapes.reshape(len(masks), -1)


def mask_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU (N,M) of each of the masks (N,P) bool with each of (M,P) bool; two empty ones have 1."""
    first, second = first.astype(np.float32), second.astype(np.float32)
    common = first @ second.T
    union = first.sum(1)[:, None] + second.sum(1)[None, :] - common
    return np.where(union > 0, common / np.maximum(union, 1), 1)


def mask_spread(masks: np.ndarray) -> float:
    """Mean over pairs of 1 - IoU of masks (K,P) bool; NaN for fewer than two."""
    pairs = np.triu_indices(len(masks), 1)
    return float((1 - mask_iou(masks, masks))[pairs].mean()) if len(pairs[0]) else float("nan")


def nearest_iou(shapes: np.ndarray, training_shapes: np.ndarray) -> np.ndarray:
    """IoU (N,) of each shape (N,P) with the most similar of the training shapes (M,P)."""
    chunks = [mask_iou(shapes[i : i + 256], training_shapes).max(1) for i in range(0, len(shapes), 256)]
    return np.concatenate(chunks)


class ShapeFeature:
    """The fixed feature: coordinates along the first 64 principal components of the training shapes."""

    def __init__(self, training_shapes: np.ndarray):
        """training_shapes (M,P) bool; of fewer than 64 there are as many components as shapes."""
        data = training_shapes.astype(np.float64)
        self.mean = data.mean(0)
        covariance = (data - self.mean).T @ (data - self.mean)
        _, vectors = np.linalg.eigh(covariance)  # by rising eigenvalue
        self.components = vectors[:, ::-1][:, : min(COMPONENTS, len(data))]

    def __call__(self, shapes: np.ndarray) -> np.ndarray:
        """Features (N,64) of shapes (N,P)."""
        return (shapes - self.mean) @ self.components


def precision_recall(real: np.ndarray, made: np.ndarray) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019) of features made (N,D) against real (M,D).

    Precision: fraction of the made points that lie within some real point's distance to its k-th nearest real
    point; recall: the same the other way round. NaN unless both samples hold more than k = 3 points.
    """
    k = NEIGHBOURS
    if min(len(real), len(made)) <= k:
        return float("nan"), float("nan")
    between = _distances(made, real)  # (N,M)
    real_radius = np.sort(_distances(real, real), 1)[:, k]  # column 0 is the point itself
    made_radius = np.sort(_distances(made, made), 1)[:, k]
    precision = (between <= real_radius[None, :]).any(1).mean()
    recall = (between <= made_radius[:, None]).any(0).mean()
    return float(precision), float(recall)


def _distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    squares = np.square(first).sum(1)[:, None] + np.square(second).sum(1)[None, :] - 2 * first @ second.T
    # The product leaves rounding noise where points are equal; rounded, equal points have distance 0.
    return np.sqrt(squares.clip(min=0).round(9))


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Frechet distance (the squared one, as in FID) of the normal laws that fit two samples (N,D), (M,D).

    NaN for samples of fewer than two.
    """
    if min(len(first), len(second)) < 2:
        return float("nan")
    difference = first.mean(0) - second.mean(0)
    covariances = [np.atleast_2d(np.cov(sample, rowvar=False)) for sample in (first, second)]
    values, vectors = np.linalg.eigh(covariances[0])
    root = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
    cross = np.linalg.eigvalsh(root @ covariances[1] @ root).clip(min=0)
    traces = np.trace(covariances[0]) + np.trace(covariances[1])
    return float(difference @ difference + traces - 2 * np.sqrt(cross).sum())
