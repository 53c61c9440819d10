"""Where a model would place objects in an image, as a heat map and as the image of it."""

import cv2
import numpy as np
import torch

from augment.placement.places import column, working_maps
from augment.placement.scene import EditedImage
from data.geometry import boxes_of_theta, whole_pixels
from model import WhereWhat
from support.seeds import normal

BATCH = 25  # places asked for at once
PLACES = 200  # drawn, where a model has no density


@torch.no_grad()
def density_of_feet(model: WhereWhat, image: EditedImage, temperature: float = 1.0) -> np.ndarray | None:
    """Probability that the foot is in each cell (h,w) float64, 1 in all; None: the model has no density."""
    if not model.where.has_density:
        return None
    labels, _ = working_maps(image.label_ids, image.instance_ids, model.maps.small, model.device)
    return model.where.density(labels, temperature).mass()[0].cpu().numpy()


def heat_map(model: WhereWhat, image: EditedImage) -> np.ndarray:
    """How often an object stands at each pixel of an image, (H,W), at least 0 and without a unit.

    The density of feet; of a model without one, how many of PLACES boxes cover the pixel.
    """
    height, width = image.label_ids.shape
    mass = density_of_feet(model, image)
    if mass is not None:
        return cv2.resize(mass, (width, height))
    boxes, _ = draw_places(model, image, PLACES, 0)
    return coverage(boxes, width, height)


def draw_places(
    model: WhereWhat, image: EditedImage, count: int, seed: int, temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n,4) in pixels of the image and their scores (n,) in 0..1 for n = count draws of z_spatial.

    The noise of draw k follows from (seed, name of the image, k).
    """
    device = model.device
    height, width = image.label_ids.shape
    maps = working_maps(image.label_ids, image.instance_ids, model.maps.small, device)
    where = model.where.on(*maps, temperature)
    z = normal(seed, image.name, range(count), "heatmap", model.options.z_dim_spatial)
    boxes, scores = [], []
    for first in range(0, count, BATCH):
        theta = where.sample(column(z[first : first + BATCH], device))
        scores.append(where.score(theta).double().cpu().numpy())
        boxes.append(boxes_of_theta(theta.cpu().numpy(), width, height))
    return np.concatenate(boxes), np.concatenate(scores)


def coverage(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """How many of the boxes (n,4) cover each pixel: (height, width) int32."""
    steps = np.zeros((height + 1, width + 1), np.int32)
    edges = whole_pixels(boxes).clip(0, [width, height, width, height])
    for x0, y0, x1, y1 in edges:
        steps[y0, x0] += 1
        steps[y0, x1] -= 1
        steps[y1, x0] -= 1
        steps[y1, x1] += 1
    return steps.cumsum(0).cumsum(1)[:height, :width].astype(np.int32)


def heat_over(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A heat map (h,w) >= 0, black to yellow, over a greyed image (h,w,3) uint8 RGB, rare places too."""
    fraction = np.sqrt(heat / heat.max()) if heat.max() > 0 else np.zeros(heat.shape)
    scene = image.astype(np.float32)
    grey = 0.25 * scene + 0.35 * scene.mean(2, keepdims=True)
    colours = cv2.applyColorMap((fraction * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    weight = np.minimum(fraction * 3, 0.85)[..., None]
    return (grey * (1 - weight) + colours * weight).astype(np.uint8)
