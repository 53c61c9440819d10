"""What the page shows: the scene with its objects, the density over it, the scene as it was."""

import hashlib
from pathlib import Path

import cv2
import numpy as np

from augment.placement.heat import heat_map, heat_over
from augment.placement.scene import EditedImage
from data.drawing import outline
from data.writer import colour_map
from demo.state import State, Wishes
from demo.studio import Studio
from support.files import write_atomic

LARGEST_WIDTH = 1024  # pixels; larger images travel too slowly
THUMBNAIL_WIDTH = 256  # pixels
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 90]


def shown(image: EditedImage) -> np.ndarray:
    """An image as people see it, (h,w,3) uint8: its RGB pixels, else its label map in official colours."""
    rgb = image.rgb if image.rgb is not None else colour_map(image.label_ids)[..., :3]
    return _resized(np.ascontiguousarray(rgb))


def thumbnail(image: EditedImage) -> np.ndarray:
    """A small image (h,w,3) uint8 of an image, THUMBNAIL_WIDTH wide."""
    rgb = shown(image)
    size = THUMBNAIL_WIDTH, max(round(rgb.shape[0] * THUMBNAIL_WIDTH / rgb.shape[1]), 1)
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)


def scene_image(studio: Studio, state: State, wishes: Wishes, opacity: float) -> np.ndarray:
    """The scene (h,w,3) uint8 with a line around the chosen object.

    opacity 0..1: of the density of places for the next object of the class, painted over it.
    """
    image = state.image
    rgb = shown(image)
    height, width = rgb.shape[:2]
    if opacity > 0:
        model = studio.inserter_for(image, wishes).models[wishes.class_name]
        heat = cv2.resize(heat_map(model, image), (width, height))
        rgb = cv2.addWeighted(rgb, 1 - opacity, heat_over(rgb, heat), opacity, 0)
    if state.chosen is not None:
        mask = (image.inserted == state.chosen + 1).astype(np.float32)
        rgb = rgb.copy()
        outline(rgb, _resized(mask) > 0.5)
    return rgb


def before_and_after(state: State) -> tuple[np.ndarray, np.ndarray]:
    """The scene without and with its new objects, each (h,w,3) uint8."""
    return shown(state.steps[0]), shown(state.image)


def jpeg_file(rgb: np.ndarray, folder: Path) -> str:
    """The path of a JPEG of an image (h,w,3) uint8 RGB in a folder, named by its content.

    Written whole and once: given arrays, gradio writes the same file anew each time an image is shown again,
    and a browser that reads it meanwhile gets nothing.
    """
    jpeg = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), _JPEG)[1].tobytes()
    path = folder / f"{hashlib.blake2b(jpeg, digest_size=16).hexdigest()}.jpeg"
    if not path.exists():
        write_atomic(path, jpeg)
    return str(path)


def in_scene(state: State, x: float, y: float) -> tuple[float, float]:
    """The middle of pixel x, y of the shown image, in pixels of the scene.

    The middle, because between two cells of the density a place has no one z.
    """
    width = state.image.label_ids.shape[1]
    scale = max(width / LARGEST_WIDTH, 1)
    return (x + 0.5) * scale, (y + 0.5) * scale


def _resized(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    if width <= LARGEST_WIDTH:
        return image
    size = LARGEST_WIDTH, max(round(height * LARGEST_WIDTH / width), 1)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
