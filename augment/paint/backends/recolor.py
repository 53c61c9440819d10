"""recolor: the same object in another colour, its shading kept.

The colour is the first colour word of the prompt ("a red car"), else drawn. What is no paint keeps its
colour: what is much darker than the object's middle (tyres, windows), lamps, number plates, people's heads.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from augment.paint.backends import Request
from augment.paint.blend import from_lab, ring_of, ring_statistics, to_lab
from support.settings import setting

VERSION = "1"

# L, a, b of the middle of a painted surface in daylight.
COLOURS = {
    "red": (34, 42, 26),
    "orange": (54, 30, 42),
    "yellow": (72, 2, 48),
    "green": (31, -19, 10),
    "blue": (29, 5, -28),
    "purple": (28, 18, -16),
    "brown": (31, 10, 15),
    "beige": (66, 2, 13),
    "white": (80, 0, 1),
    "silver": (64, -1, -1),
    "grey": (46, 0, 0),
    "black": (14, 0, 0),
}
_SPELLINGS = {"gray": "grey", "violet": "purple"}
_WORD = re.compile("|".join((*COLOURS, *_SPELLINGS)).join((r"\b(", r")\b")), re.IGNORECASE)
_HEAD = {"person": 0.16, "rider": 0.2}  # fraction of the height of the box
_DAYLIGHT = 50.0  # L of surroundings in which the table holds; darker ones dim it
_MAX_CAST = 5.0  # tint of the surroundings that the paint takes on, a and b
_MAX_LIGHTENED = 35.0  # a black object has no shading left that white paint could show
_MIN_CHANGE = 18.0  # distance in Lab between the object's colour and a drawn one


@dataclass(frozen=True)
class RecolorSettings:
    """The settings of `recolor`."""

    strength: float = setting(0.85, "how far the colour goes towards the wanted one", above=0, max=1)


class Recolor:
    """See the module."""

    def __init__(self, name: str, settings: RecolorSettings, db_root: Path | None, split: str):
        self.name, self.version, self.settings = name, VERSION, settings
        self.details = {"params": {"strength": settings.strength}}

    @staticmethod
    def defaults(name: str) -> RecolorSettings:
        return RecolorSettings()

    def fill(self, request: Request) -> list[np.ndarray]:
        """See `Backend`. Samples whose prompts have the same colour word differ only by a shade."""
        lab = to_lab(request.rgb[request.mask])
        weight = paint_weight(lab, request.mask, request.class_name)
        middle = np.average(lab, axis=0, weights=weight + 1e-6)
        light = ring_statistics(request.rgb, ring_of(request.mask))
        dimmed, cast = 1.0, 0.0
        if light is not None:
            dimmed = float(np.clip(light[0, 0] / _DAYLIGHT, 0.5, 1.0))
            cast = np.clip(0.5 * light[0, 1:], -_MAX_CAST, _MAX_CAST)
        images = []
        for sample, prompt in enumerate(request.prompts):
            wanted = wanted_colour(prompt, middle, request.generator(sample)) * dimmed
            wanted[1:] += cast
            wanted[0] = min(wanted[0], middle[0] + _MAX_LIGHTENED)
            image = request.rgb.copy()
            image[request.mask] = repaint(lab, weight * self.settings.strength, middle, wanted)
            images.append(image)
        return images


def wanted_colour(prompt: str, middle: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lab (3,) float32: the colour the prompt names, else one unlike `middle`; with a little variation."""
    if found := _WORD.search(prompt):
        word = found[0].lower()
        colour = np.array(COLOURS[_SPELLINGS.get(word, word)])
    else:
        colours = np.array(list(COLOURS.values()))
        unlike = np.linalg.norm(colours - middle, axis=1) > _MIN_CHANGE
        colour = rng.choice(colours[unlike])
    return np.float32(colour + rng.normal(0, (3, 2, 2)))


def paint_weight(lab: np.ndarray, mask: np.ndarray, class_name: str) -> np.ndarray:
    """How much of a pixel is paint: (n,) float32 in 0..1; lab (n,3) of the n pixels of mask (h,w) bool."""
    light = lab[:, 0]
    middle = np.median(lab, axis=0)
    weight = np.clip((light / max(middle[0], 1) - 0.3) / 0.3, 0.15, 1)
    # Dark clothes and paint have no darker part.
    weight = np.maximum(weight, np.clip((20 - middle[0]) / 10, 0, 1))
    weight *= np.clip((102 - light) / 10, 0, 1)
    if class_name in _HEAD:
        x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
        rows = np.nonzero(mask)[0]
        neck = y + _HEAD[class_name] * h
        weight *= np.clip((rows - neck) / max(0.04 * h, 1) + 0.5, 0, 1)
    else:  # lamps and number plates; clothes may have several colours
        unlike = np.linalg.norm(lab[:, 1:] - middle[1:], axis=1)
        weight *= np.clip((40 - unlike) / 20, 0, 1)
    return np.float32(weight)


def repaint(lab: np.ndarray, weight: np.ndarray, middle: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """RGB (n,3) uint8 of pixels (n,3) Lab whose paint goes from `middle` to `wanted`, shading kept.

    Colour is strongest where the paint is, and fades with the light as that of a real surface does.
    """
    shading = lab[:, 0] / max(middle[0], 5)
    # Black paint still has highlights, white paint still has shadows: contrast follows the root of L.
    contrast = np.sqrt(max(wanted[0], 8) / max(middle[0], 8))
    painted = np.empty_like(lab)
    painted[:, 0] = np.clip(wanted[0] + (lab[:, 0] - middle[0]) * min(contrast, 1.3), 0, 100)
    painted[:, 1:] = wanted[1:] * np.clip(shading, 0.2, 1.4)[:, None] + 0.3 * (lab[:, 1:] - middle[1:])
    return from_lab(lab + weight[:, None] * (painted - lab))
