"""What a model learns from in the maps of one image: maps at working size, usable instances, compact masks.

Pure functions on arrays. `loader/cache.py` calls them once for each image.
"""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from data.labels import FIRST_SINGLE_ID, TargetClass


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
