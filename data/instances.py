"""What a model learns from in the maps of one image: maps at working size, usable instances, compact masks.

Pure functions on arrays. `loader/cache.py` calls them once for each image.
"""

from collections import Counter
from dataclasses import dataclass, field

import cv2
import numpy as np
from PIL import Image
from scipy import ndimage

from data.labels import FIRST_SINGLE_ID, GROUND, TargetClass, ids_of

SMALLEST_PLACE = 1 / 32  # height of an instance whose place can be learnt from, fraction of the image
PLACE_GRID = (4096, 2048)  # width and height of the grid that places are measured on, whatever the map's size
CONTACT_ROWS = 0.05  # the lowest rows of an instance, fraction of its height
CONTACT_SEEN = 0.5  # of the pixels right below them must be ground

(RIDER,) = ids_of("rider")
TWO_WHEELERS = ids_of("bicycle", "motorcycle")


def resize_nearest(array: np.ndarray, width: int, height: int) -> np.ndarray:
    """(H,W) of any dtype -> (height, width): output pixel i takes source pixel floor((i + 0.5) * in / out).

    That is Pillow's NEAREST to the last pixel: like Pillow it adds up the steps, which decides the ties.
    """
    rows, columns = _nearest(array.shape[0], height), _nearest(array.shape[1], width)
    return array[rows[:, None], columns[None, :]]


def _nearest(size_in: int, size_out: int) -> np.ndarray:
    step = size_in / size_out
    return np.add.accumulate(np.array([step / 2] + [step] * (size_out - 1))).astype(np.intp)


@dataclass(frozen=True)
class Instance:
    """One usable instance of a frame, measured on the big map (docs/model.md#usable-instances)."""

    instance_id: int
    area: int  # pixels
    box: tuple[int, int, int, int]  # x0, y0, x1, y1: first and last column and row, pixels
    theta: np.ndarray = field(compare=False)  # (6,) float32, follows from the box and the size of the map


def theta_of_box(box: tuple[int, int, int, int], width: int, height: int) -> np.ndarray:
    """theta (6,) float32 = (t11, 0, t13, 0, t22, t23) of a box on a map of `width` x `height` pixels.

    The box is where |t11*x + t13| <= 1 and |t22*y + t23| <= 1, in coordinates -1..1 over the map.
    """
    x0, y0, x1, y1 = box
    left, right = 2 * x0 / width - 1, 2 * (x1 + 1) / width - 1
    top, bottom = 2 * y0 / height - 1, 2 * (y1 + 1) / height - 1
    t11, t13 = 2 / (right - left), 1 - 2 * right / (right - left)
    t22, t23 = 2 / (bottom - top), 1 - 2 * bottom / (bottom - top)
    return np.array([t11, 0, t13, 0, t22, t23], np.float32)


def in_fractions(box: tuple[int, int, int, int], width: int, height: int) -> tuple[float, ...]:
    """x0, y0, x1, y1 of a box of first and last pixels, half-open, in fractions of a map's size."""
    x0, y0, x1, y1 = box
    return x0 / width, y0 / height, (x1 + 1) / width, (y1 + 1) / height


def usable_instances(
    channels_small: np.ndarray,
    ids_small: np.ndarray,
    ids_big: np.ndarray,
    target: TargetClass,
    *,
    group_instances: bool = True,
) -> list[Instance]:
    """Instances of `target` worth learning from, by rising id (docs/model.md#usable-instances).

    Args:
      channels_small: (h,w) uint8 channels 0..29; ids_small: (h,w) uint16 instance ids.
      ids_big: (H,W) uint16 instance ids, on which area and box are measured.
      group_instances: a group region (id < 1000) may pass as an instance, as in the published program.
    """
    height, width = ids_big.shape
    areas = np.bincount(ids_big.ravel(), minlength=2**16)
    found = []
    for instance_id in np.unique(ids_small[channels_small == target.channel]).tolist():
        area = int(areas[instance_id])
        if area <= width * height * target.min_size_percent / 100:
            continue
        if instance_id < FIRST_SINGLE_ID and not group_instances:
            continue
        x0, y0, x1, y1 = box = bounding_box(ids_big == instance_id)
        w, h = x1 + 1 - x0, y1 + 1 - y0
        if (
            area / (w * h) > target.min_area_ratio
            and max(h / w, w / h) < target.max_aspect_ratio
            and width / w < target.max_width_ratio
            and height / h < target.max_height_ratio
        ):
            found.append(Instance(instance_id, area, box, theta_of_box(box, width, height)))
    return found


def usable_places(label_ids: np.ndarray, instance_ids: np.ndarray, target: TargetClass) -> list[Instance]:
    """Single instances of `target` whose places are worth learning from, of any size, by rising id.

    label_ids (H,W) uint8, instance_ids (H,W) uint16: full-size maps. Areas and boxes are in pixels of a map
    of PLACE_GRID (docs/model.md#usable-places).
    """
    height, width = instance_ids.shape
    first = target.label_id * FIRST_SINGLE_ID
    areas = np.bincount(instance_ids.ravel(), minlength=2**16)[first : first + FIRST_SINGLE_ID]
    of_class = np.where(instance_ids // FIRST_SINGLE_ID == target.label_id, instance_ids - first + 1, 0)
    windows = ndimage.find_objects(of_class.astype(np.int32), FIRST_SINGLE_ID)
    to_grid = np.array(PLACE_GRID) / (width, height)
    found = []
    for number in np.flatnonzero(areas).tolist():
        rows, columns = windows[number]
        h, w, area = rows.stop - rows.start, columns.stop - columns.start, int(areas[number])
        if (
            h >= SMALLEST_PLACE * height
            and area / (w * h) > target.min_area_ratio
            and max(h / w, w / h) < target.max_aspect_ratio
            and _contact_seen(label_ids, of_class == number + 1, (rows, columns), target)
        ):
            low = np.rint((columns.start, rows.start) * to_grid).astype(int).tolist()
            high = (np.rint((columns.stop, rows.stop) * to_grid).astype(int) - 1).tolist()
            box, area = (*low, *high), round(area * to_grid.prod())
            found.append(Instance(first + number, area, box, theta_of_box(box, *PLACE_GRID)))
    return found


def _contact_seen(
    label_ids: np.ndarray, mask: np.ndarray, window: tuple[slice, slice], target: TargetClass
) -> bool:
    """Whether ground is right below the lowest rows of a mask (H,W) bool in a window of label ids (H,W).

    A rider meets it by the two-wheeler.
    """
    rows, columns = window
    lowest = slice(rows.stop - max(round(CONTACT_ROWS * (rows.stop - rows.start)), 1), rows.stop)
    part = mask[lowest, columns]
    if rows.stop == len(label_ids):
        return False
    last = lowest.stop - np.argmax(part[::-1], 0)  # the row below the lowest pixel of each column
    below = label_ids[last, np.arange(columns.start, columns.stop)][part.any(0)]
    meets = np.isin(below, [*GROUND, *(TWO_WHEELERS if target.label_id == RIDER else ())])
    return bool(meets.mean() >= CONTACT_SEEN)


def bounding_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 (first and last column and row) of the True pixels of a mask (H,W), at least one."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def compact_mask(instance_ids: np.ndarray, instance_id: int, width: int, height: int) -> np.ndarray:
    """One instance of a full-resolution map, cut to its box and resized: (height, width) uint8, 0..255.

    Pillow's bilinear averages over all source pixels when it shrinks, hence the grey values.
    """
    mask = instance_ids == instance_id
    x0, y0, x1, y1 = bounding_box(mask)
    cut = mask[y0 : y1 + 1, x0 : x1 + 1].astype(np.uint8) * 255
    return np.asarray(Image.fromarray(cut).resize((width, height), Image.Resampling.BILINEAR))


def rides(instance_ids: np.ndarray) -> list[tuple[int, int]]:
    """Each rider of a map (H,W) uint16 with the two-wheeler that it touches most; each is taken once."""
    touching: Counter[tuple[int, int]] = Counter()
    values = np.flatnonzero(np.bincount(instance_ids.ravel()))
    for rider in values[values // 1000 == RIDER].tolist():
        x0, y0, x1, y1 = bounding_box(instance_ids == rider)
        around = instance_ids[max(y0 - 1, 0) : y1 + 2, max(x0 - 1, 0) : x1 + 2]
        touched = around[cv2.dilate(np.uint8(around == rider), np.ones((3, 3), np.uint8)) > 0]
        for other in touched[np.isin(touched // 1000, TWO_WHEELERS)].tolist():
            touching[rider, other] += 1
    found: list[tuple[int, int]] = []
    taken: set[int] = set()
    for pair, _ in sorted(touching.items(), key=lambda item: (-item[1], item[0])):
        if taken.isdisjoint(pair):
            found.append(pair)
            taken.update(pair)
    return found
