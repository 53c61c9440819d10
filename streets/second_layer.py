"""What a scene shows without one of its instances: the second layer of the painter's order."""

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from data.erasures import Erasure
from data.writer import LabelledPolygon, instance_values


def two_topmost(
    objects: list[LabelledPolygon], pairs: list[int], width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """`data.writer.topmost` of the objects, and what is topmost without the instance that is.

    Both (height, width) int32 indices into `objects`, -1 for none; the second one means something only where
    the first one is an instance. pairs: a number for each object; objects with the same one other than 0 are
    taken away together.
    """
    image = Image.new("I", (width, height), 0)
    draw = ImageDraw.Draw(image)
    beneath = np.full((height, width), -1, np.int32)
    units = np.append(-1, units_of(pairs))
    for number, thing in enumerate(objects, 1):
        corners = thing.polygon
        if not thing.is_instance:  # what it covers shows nowhere once an instance is drawn on top of it
            if thing.label_id >= 0:
                draw.polygon(corners.ravel().tolist(), fill=number)
            continue
        (x0, y0), (x1, y1) = corners.min(0).tolist(), (corners.max(0) + 1).tolist()
        covered = np.asarray(image.crop((x0, y0, x1, y1)), np.int32)
        draw.polygon(corners.ravel().tolist(), fill=number)
        drawn = np.asarray(image.crop((x0, y0, x1, y1)), np.int32) == number
        drawn &= units[covered] != units[number]  # beneath the other one of a pair is what was beneath that
        beneath[y0:y1, x0:x1][drawn] = covered[drawn] - 1
    return np.asarray(image, np.int32) - 1, beneath


def units_of(pairs: list[int]) -> np.ndarray:
    """A number (N,) for each object that only the other one of its pair shares: the first one's index."""
    first: dict[int, int] = {}
    return np.array([first.setdefault(pair, i) if pair else i for i, pair in enumerate(pairs)], int)


def _present(indices: np.ndarray) -> np.ndarray:
    """The indices >= 0 that occur in an array of them, rising."""
    return np.flatnonzero(np.bincount(indices.ravel() + 1)[1:])


def erasures_of(
    objects: list[LabelledPolygon], pairs: list[int], top: np.ndarray, beneath: np.ndarray
) -> list[Erasure]:
    """One erasure for each visible instance, or pair, given `two_topmost` of the objects.

    Instances have the ids that they get when only visible objects are counted; what appears from behind
    counts after those.
    """
    visible = _present(top)
    instances = [i for i in visible.tolist() if objects[i].is_instance]
    is_instance = np.zeros(len(objects) + 1, bool)  # the last one is for -1
    is_instance[instances] = True
    of_instance = is_instance[top]
    appearing = np.setdiff1d(_present(beneath[of_instance]), visible)
    order = np.concatenate([visible, appearing])
    values = np.zeros(len(objects) + 1, np.uint16)
    values[order] = instance_values([objects[i] for i in order])

    units = units_of(pairs)
    unit_map = np.where(of_instance, np.append(units, -1)[top] + 1, 0)
    erasures = []
    for unit, window in enumerate(ndimage.find_objects(unit_map)):
        if window is None:
            continue
        mask = unit_map[window] == unit + 1
        shown = np.where(mask, values[beneath[window]], 0).astype(np.uint16)
        removed = tuple(values[[i for i in instances if units[i] == unit]].tolist())
        erasures.append(Erasure(removed, window[1].start, window[0].start, mask, shown))
    return erasures
