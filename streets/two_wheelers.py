"""Bicycles and motorcycles as flat cut-outs: tubes and wheels in three dimensions, turned by a heading.

Points are metres: right, above ground, ahead of the middle of the machine. Headings as in `streets.vehicles`.
"""

import cv2
import numpy as np

from streets.silhouettes import CLOTHES, UNIT_CIRCLE, Shape, capsules, pick, stand_on_ground


def _turned(points: np.ndarray, heading: float) -> np.ndarray:
    """Seen from the front of the scene: points (..., 3) right, up, ahead of a thing with this heading."""
    image = np.empty((*points.shape[:-1], 2))
    image[..., 0] = points[..., 0] * np.cos(heading) + points[..., 2] * np.sin(heading)
    image[..., 1] = points[..., 1]
    return image


def _wheel(ahead: float, radius: float, width: float, heading: float) -> np.ndarray:
    """Outline of a wheel whose hub is `ahead` metres before the middle of the vehicle."""
    rim = np.zeros((2, len(UNIT_CIRCLE), 3))
    rim[:, :, 2] = ahead + UNIT_CIRCLE[:, 0] * radius
    rim[:, :, 1] = radius + UNIT_CIRCLE[:, 1] * radius
    rim[0, :, 0], rim[1, :, 0] = -width / 2, width / 2
    flat = _turned(rim.reshape(-1, 3), heading).astype(np.float32)
    return cv2.convexHull(flat)[:, 0].astype(float)


def _tubes(lines: np.ndarray, radius: float, heading: float) -> list[np.ndarray]:
    ends = _turned(lines, heading)
    size = np.full(len(lines), radius)
    return list(capsules(ends[:, 0], ends[:, 1], size, size))


_BICYCLE_FRAME = np.array(
    [
        [[0, 0.34, -0.52], [0, 0.3, -0.02]],
        [[0, 0.3, -0.02], [0, 0.92, -0.2]],
        [[0, 0.3, -0.02], [0, 0.72, 0.36]],
        [[0, 0.72, -0.15], [0, 0.74, 0.36]],
        [[0, 0.34, -0.52], [0, 0.72, -0.15]],
        [[0, 0.34, 0.53], [0, 1.0, 0.36]],
        [[-0.28, 1.02, 0.3], [0.28, 1.02, 0.3]],
        [[-0.07, 0.95, -0.24], [0.05, 0.95, -0.12]],
    ]
)


def make_bicycle(rng: np.random.Generator, heading: float) -> Shape:
    """A bicycle, about 1.7 m long and 1.05 m high; wheels are filled discs, as annotators draw them."""
    scale = rng.uniform(0.92, 1.05)
    paint = pick(rng, CLOTHES, 20)
    wheels = [_wheel(-0.52, 0.34, 0.05, heading), _wheel(0.53, 0.34, 0.05, heading)]
    inner = [wheel * 0.84 + wheel.mean(0) * 0.16 for wheel in wheels]
    tubes = _tubes(_BICYCLE_FRAME, 0.03, heading)
    dark = np.array([34, 34, 36])
    colours = [dark] * 2 + [np.array([92, 92, 92])] * 2 + [paint] * 6 + [dark] * 2
    layers = list(zip([*wheels, *inner, *tubes], colours, strict=True))
    if rng.random() < 0.35:  # basket or box on the carrier
        box = np.array([[-0.16, 0.72], [0.16, 0.72], [0.2, 0.98], [-0.2, 0.98]])
        shift = rng.choice((-0.5, 0.48)) * np.sin(heading)
        layers.append((box + (shift, 0), dark * 1.6))
    return stand_on_ground(layers, scale)


_MOTORCYCLE_BODY = np.array(
    [
        [[0, 0.5, -0.55], [0, 0.62, 0.1]],
        [[0, 0.8, -0.75], [0, 0.76, -0.05]],
        [[0, 0.72, 0.0], [0, 0.86, 0.35]],
        [[0, 0.45, -0.1], [0, 0.5, 0.3]],
        [[0, 0.34, 0.68], [0, 0.95, 0.42]],
        [[0, 0.9, 0.42], [0, 1.12, 0.36]],
    ]
)


def make_motorcycle(rng: np.random.Generator, heading: float) -> Shape:
    """A motorcycle or scooter, about 2 m long and 1.2 m high."""
    paint = pick(rng, CLOTHES, 24)
    dark = np.array([30, 30, 32])
    wheels = [_wheel(-0.66, 0.31, 0.14, heading), _wheel(0.7, 0.31, 0.12, heading)]
    hubs = [wheel * 0.5 + wheel.mean(0) * 0.5 for wheel in wheels]
    body = _tubes(_MOTORCYCLE_BODY, rng.uniform(0.1, 0.15), heading)
    bar = _tubes(np.array([[[-0.36, 1.05, 0.3], [0.36, 1.05, 0.3]]]), 0.035, heading)
    belly = _wheel(0.05, 0.27, 0.34, heading) + (0, 0.12)
    colours = [dark] * 2 + [np.array([120, 120, 124])] * 2 + [dark * 1.8]
    colours += [paint, dark, paint, paint * 0.7, dark, paint, dark]
    layers = list(zip([*wheels, *hubs, belly, *body, *bar], colours, strict=True))
    if rng.random() < 0.3:  # top case
        case = np.array([[-0.2, 0.82], [0.2, 0.82], [0.2, 1.14], [-0.2, 1.14]])
        layers.append((case + (-0.8 * np.sin(heading), 0), dark * 1.3))
    return stand_on_ground(layers, rng.uniform(0.92, 1.06))
