"""Which cut-out of a collection is shown where an object is wanted.

Chosen is among those that nothing cuts or covers, that need not be enlarged much, and that the image does not
show yet; the likelier, the better shape, light and view fit. The view is how far away and in which direction
an instance was seen: a car at the left shows its right side.
"""

from dataclasses import dataclass

import numpy as np

from augment.paint.backends import CannotFillError
from augment.paint.collection import Collection, Table
from data.camera import Camera

MAX_ENLARGEMENT = 1.5
# What makes an instance unfit, in units of the intersection over union of the two shapes.
_ASPECT = 0.6  # for each factor e between the aspects of the boxes
_ENLARGED = 0.3  # for each factor 2 of enlargement
_LIGHT = 0.4  # for a difference of 50 in L around the two
_DISTANCE = {True: 0.3, False: 0.05}  # for each factor e between the distances; vehicles, others
_BEARING = {True: 2.0, False: 0.1}  # for each radian between the directions
_TEMPERATURE = 0.15  # of the draw: a fit worse by this much is drawn e times less often
_LEAST_SLOPE = 0.005  # below the horizon; what is further away counts as there
_VEHICLES = ("car", "truck", "bus", "train", "caravan", "trailer", "motorcycle", "bicycle")


@dataclass(frozen=True)
class Wish:
    """What is to be shown."""

    class_name: str
    box: np.ndarray  # (4,) x0, y0, x1, y1, pixels of the image: its foot and height are kept
    aspect: float  # width / height
    silhouette: np.ndarray | None  # (GRID,GRID) bool, `grid_of` the mask in its box; None: no wish
    light: np.ndarray | None  # (3,) `light_around` the place; None: unknown
    camera: Camera | None
    size: tuple[int, int]  # width and height of the image, pixels
    frame: str  # name of the image: what stands in it itself is not shown once more


@dataclass(frozen=True)
class Choice:
    """An instance of a collection, and how it is shown."""

    row: int
    key: str  # "frame name/instance id"
    mirrored: bool


def choose(collection: Collection, wish: Wish, shown: set[str], rng: np.random.Generator) -> Choice:
    """The instance to show; not one of the keys `shown`.

    Raises CannotFillError if none is left.
    """
    table, shelf = collection.table, collection.shelf(wish.class_name)
    height = wish.box[3] - wish.box[1]
    new = np.array([key not in shown for key in shelf.keys.tolist()], bool)
    enlargement = height / table.size[shelf.rows, 1]
    fit = table.whole[shelf.rows] & new & (table.frame[shelf.rows] != wish.frame)
    fit &= enlargement <= MAX_ENLARGEMENT
    if not fit.any():
        raise CannotFillError(f"cutout: no {wish.class_name} that is whole, large enough and not shown yet")
    rows = shelf.rows[fit]
    cost = _ASPECT * np.abs(np.log(table.aspect[rows] / wish.aspect))
    cost += _ENLARGED * np.log2(np.maximum(enlargement[fit], 1))
    if wish.light is not None:
        cost += _LIGHT * np.nan_to_num(np.abs(table.light[rows, 0] - wish.light[0])) / 50
    costs = np.stack([cost, cost])  # as it is, mirrored
    vehicle = wish.class_name in _VEHICLES
    slopes, bearings = views(table, rows, wish)
    slope, bearing = view_of(wish)
    costs += _DISTANCE[vehicle] * np.abs(np.log(slopes / slope))
    costs += _BEARING[vehicle] * np.abs(np.stack([bearings, -bearings]) - bearing)
    if wish.silhouette is not None:
        for mirrored, mask in enumerate((wish.silhouette, wish.silhouette[:, ::-1])):
            costs[mirrored] -= shelf.overlaps(np.ascontiguousarray(mask))[0, fit]
    # Noise of every instance on the shelf is drawn, so that it does not depend on which of them are left.
    noise = rng.gumbel(size=(2, len(shelf.rows)))[:, fit]
    chosen = int(np.argmin(costs / _TEMPERATURE - noise))
    mirrored, one = divmod(chosen, len(rows))
    return Choice(int(rows[one]), str(shelf.keys[fit][one]), bool(mirrored))


# ---- from where it is seen ----------------------------------------------------------------------


def view_of(wish: Wish) -> tuple[float, float]:
    """Tangent below the horizon of the foot of what is wanted, and its bearing, radians to the right."""
    x0, _, x1, y1 = wish.box
    slope, bearing = _seen(np.array([(x0 + x1) / 2]), np.array([y1]), _camera_of(wish)[None])
    return float(slope[0]), float(bearing[0])


def views(table: Table, rows: np.ndarray, wish: Wish) -> tuple[np.ndarray, np.ndarray]:
    """The same (n,), (n,) of rows of a table where they stood.

    Where no camera is known, that of the wish stands in for it, brought to the size of their frames.
    """
    scale = table.frame_size[rows] / wish.size
    stand_in = _camera_of(wish) * np.repeat(scale, 2, 1)
    cameras = np.where(np.isnan(table.camera[rows]), stand_in, table.camera[rows])
    boxes = table.box[rows]
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
