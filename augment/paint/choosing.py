"""Which cut-out of a collection is shown where an object is wanted.

Chosen is among those that nothing cuts or covers, that need not be enlarged much, and that the image does not
show yet; the likelier, the better shape, light and view fit. The view is how far away and in which direction
an instance was seen: a car at the left shows its right side.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from augment.paint.backends import CannotFillError
from augment.paint.collection import Collection, Kind, Table
from data.camera import Camera

MAX_ENLARGEMENT = 1.5
# What makes an instance unfit, in units of the intersection over union of the two shapes.
_ASPECT = 0.6  # for each factor e between the aspects of the boxes
_ENLARGED = 0.3  # for each factor 2 of enlargement
_LIGHT = 0.4  # for a difference of 50 in L around the two
_DISTANCE = {True: 0.4, False: 0.05}  # for each factor e between the distances; vehicles, others
_BEARING = {True: 4.0, False: 0.1}  # for each radian between the directions
_TEMPERATURE = 0.25  # of the draw: a fit worse by this much is drawn e times less often
_LEAST_SLOPE = 0.005  # below the horizon; what is further away counts as there
_VEHICLES = ("car", "truck", "bus", "train", "caravan", "trailer", "motorcycle", "bicycle", "rider")


@dataclass(frozen=True)
class Wish:
    """What is to be shown."""

    class_name: str  # or the name of a kind
    box: np.ndarray  # (4,) x0, y0, x1, y1, pixels of the image: its foot and height are kept
    aspect: float | None  # width / height; None: no wish
    silhouette: np.ndarray | None  # (GRID,GRID) bool, `grid_of` the mask in its box; None: no wish
    light: np.ndarray | None  # (3,) `light_around` the place; None: unknown
    camera: Camera | None
    size: tuple[int, int]  # width and height of the image, pixels
    frame: str  # name of the image: what stands in it itself is not shown once more


@dataclass(frozen=True)
class Choice:
    """An instance of a collection, and how it is shown."""

    row: int
    key: str  # of `Shelf.keys`
    mirrored: bool


def draw_kind(
    collections: Iterable[Collection], class_name: str, shown: set[str], rng: np.random.Generator
) -> tuple[Collection, Kind]:
    """What stands at a place of a class: each instance that is not `shown` yet is as likely as any other.

    Raises CannotFillError if none is left.
    """
    found, left = [], []
    for collection in collections:
        for kind in collection.kinds:
            if kind.places == class_name:
                found.append((collection, kind))
                left.append(np.count_nonzero(_free(collection, kind.name, shown)))
    if not sum(left):
        raise CannotFillError(f"cutout: no {class_name} that is whole and not shown yet")
    there = np.flatnonzero(left)
    if len(there) == 1:
        return found[there[0]]
    return found[rng.choice(len(found), p=np.divide(left, sum(left)))]


def wish_of_kind(wish: Wish, kind: Kind, rng: np.random.Generator) -> Wish:
    """The wish for an object of a kind.

    If it has a height in metres of its own, and a camera tells what that is at the foot, it is as high as
    drawn from there. What is not of the class need not have its shape.
    """
    x0, y0, x1, y1 = wish.box
    if kind.height and wish.camera and np.isfinite(wish.camera.ground_depth(y1)):
        top = wish.camera.top_row(rng.uniform(*kind.height), y1)
        half = (x1 - x0) / (y1 - y0) * (y1 - top) / 2
        wish = replace(wish, box=np.array([(x0 + x1) / 2 - half, top, (x0 + x1) / 2 + half, y1]))
    if not kind.is_of_the_class:
        wish = replace(wish, aspect=None, silhouette=None)
    return replace(wish, class_name=kind.name)


def choose(collection: Collection, wish: Wish, shown: set[str], rng: np.random.Generator) -> Choice:
    """The instance to show; not one of the keys `shown`.

    Raises CannotFillError if none is left.
    """
    table, shelf = collection.table, collection.shelf(wish.class_name)
    height = wish.box[3] - wish.box[1]
    enlargement = height / table.size[shelf.rows, 1]
    fit = _free(collection, wish.class_name, shown) & (table.frame[shelf.rows] != wish.frame)
    fit &= enlargement <= MAX_ENLARGEMENT
    if not fit.any():
        raise CannotFillError(f"cutout: no {wish.class_name} that is whole, large enough and not shown yet")
    rows = shelf.rows[fit]
    cost = _ENLARGED * np.log2(np.maximum(enlargement[fit], 1))
    if wish.aspect is not None:
        cost += _ASPECT * np.abs(np.log(table.aspect[rows] / wish.aspect))
    if wish.light is not None:
        cost += _LIGHT * np.nan_to_num(np.abs(table.light[rows, 0] - wish.light[0])) / 50
    costs = np.stack([cost, cost])  # as it is, mirrored
    vehicle = wish.class_name in _VEHICLES
    slopes, bearings = views(table, rows, wish)
    slope, bearing = view_of(wish)
    costs += _DISTANCE[vehicle] * np.nan_to_num(np.abs(np.log(slopes / slope)))
    costs += _BEARING[vehicle] * np.nan_to_num(np.abs(np.stack([bearings, -bearings]) - bearing))
    if wish.silhouette is not None:
        for mirrored, mask in enumerate((wish.silhouette, wish.silhouette[:, ::-1])):
            costs[mirrored] -= shelf.overlaps(np.ascontiguousarray(mask))[0, fit]
    # Noise of every instance on the shelf is drawn, so that it does not depend on which of them are left.
    noise = rng.gumbel(size=(2, len(shelf.rows)))[:, fit]
    chosen = int(np.argmin(costs / _TEMPERATURE - noise))
    mirrored, one = divmod(chosen, len(rows))
    return Choice(int(rows[one]), str(shelf.keys[fit][one]), bool(mirrored))


def _free(collection: Collection, name: str, shown: set[str]) -> np.ndarray:
    """Which instances of a shelf (m,) nothing cuts or covers and are not shown already: bool."""
    shelf = collection.shelf(name)
    new = np.array([key not in shown for key in shelf.keys.tolist()], bool)
    return collection.table.whole[shelf.rows] & new


# ---- from where it is seen ----------------------------------------------------------------------


def view_of(wish: Wish) -> tuple[float, float]:
    """Tangent below the horizon of the foot of what is wanted, and its bearing, radians to the right."""
    x0, _, x1, y1 = wish.box
    slope, bearing = _seen(np.array([(x0 + x1) / 2]), np.array([y1]), _camera_of(wish)[None])
    return float(slope[0]), float(bearing[0])


def views(table: Table, rows: np.ndarray, wish: Wish) -> tuple[np.ndarray, np.ndarray]:
    """The same (n,), (n,) of rows of a table where they stood; NaN where that is unknown.

    Where no camera is known, that of the wish stands in for it, brought to the size of their frames.
    """
    scale = table.frame_size[rows] / wish.size
    stand_in = _camera_of(wish) * np.repeat(scale, 2, 1)
    cameras = np.where(np.isnan(table.camera[rows]), stand_in, table.camera[rows])
    boxes = np.where(table.frame_size[rows, :1] > 0, table.box[rows], np.nan)
    return _seen((boxes[:, 0] + boxes[:, 2]) / 2, boxes[:, 3], cameras)


def _camera_of(wish: Wish) -> np.ndarray:
    """fx, u0, fy and row of the horizon (4,) of the image, if need be those of a usual street camera."""
    width, height = wish.size
    if wish.camera is None:
        return np.array([width, width / 2, width, 0.42 * height])
    return np.array([wish.camera.fx, wish.camera.u0, wish.camera.fy, wish.camera.horizon])


def _seen(columns: np.ndarray, feet: np.ndarray, cameras: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    fx, u0, fy, horizon = cameras.T
    return np.maximum((feet - horizon) / fy, _LEAST_SLOPE), np.arctan2(columns - u0, fx)
