"""What the page shows: the scene with its objects, the density over it, the scene as it was."""

import cv2
import numpy as np

from augment.insert.heat import heat_map, heat_over
from augment.insert.scene import EditedImage
from data.pictures import outline
from data.writer import colour_map
from demo.state import State, Wishes
from demo.studio import Studio

LARGEST_WIDTH = 1024  # pixels; larger pictures travel too slowly
THUMBNAIL_WIDTH = 256  # pixels


def shown(image: EditedImage) -> np.ndarray:
    """An image as people see it, (h,w,3) uint8: its picture, else its label map in the official colours."""
    picture = image.rgb if image.rgb is not None else colour_map(image.label_ids)[..., :3]
    return _resized(np.ascontiguousarray(picture))


def thumbnail(image: EditedImage) -> np.ndarray:
    """A small picture (h,w,3) uint8 of an image, THUMBNAIL_WIDTH wide."""
    picture = shown(image)
    size = THUMBNAIL_WIDTH, max(round(picture.shape[0] * THUMBNAIL_WIDTH / picture.shape[1]), 1)
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def scene_picture(studio: Studio, state: State, wishes: Wishes, opacity: float) -> np.ndarray:
    """The scene (h,w,3) uint8 with a line around the chosen object.

    opacity 0..1: of the density of places for the next object of the class, painted over it.
    """
    image = state.image
    picture = shown(image)
    height, width = picture.shape[:2]
    if opacity > 0:
        model = studio.inserter_for(image, wishes).models[wishes.class_name]
        heat = cv2.resize(heat_map(model, image), (width, height))
        picture = cv2.addWeighted(picture, 1 - opacity, heat_over(picture, heat), opacity, 0)
    if state.chosen is not None:
        mask = (image.inserted == state.chosen + 1).astype(np.float32)
        picture = picture.copy()
        outline(picture, _resized(mask) > 0.5)
    return picture


def before_and_after(state: State) -> tuple[np.ndarray, np.ndarray]:
    """The scene without and with its new objects, each (h,w,3) uint8."""
    return shown(state.steps[0]), shown(state.image)


def in_scene(state: State, x: float, y: float) -> tuple[float, float]:
    """The middle of pixel x, y of the shown picture, in pixels of the scene.

    The middle, because between two cells of the density a place has no one z.
    """
    width = state.image.label_ids.shape[1]
    scale = max(width / LARGEST_WIDTH, 1)
    return (x + 0.5) * scale, (y + 0.5) * scale


def _resized(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    if width <= LARGEST_WIDTH:
        return picture
    size = LARGEST_WIDTH, max(round(height * LARGEST_WIDTH / width), 1)
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
