"""Cars, vans, trucks, buses and trams: side profiles extruded to simple bodies and seen by the camera.

A profile is a convex polygon in the vehicle's side view: x along the length from -0.5 (rear) to 0.5 (front),
y in fractions of the height. Solids are listed in painting order. The silhouette is the outline of all
projected parts, so front, rear, side and three-quarter views come from the same body.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from data.camera import Camera
from streets.silhouettes import Shape, clipped, union_outline

PAINT = np.array(
    [[28, 29, 32], [60, 62, 66], [120, 124, 128], [176, 178, 180], [208, 210, 212]]
    + [[30, 42, 78], [112, 22, 26], [44, 70, 110], [40, 66, 52], [150, 140, 120]]
    + [[90, 94, 100], [18, 18, 20], [170, 60, 40]]
)
_GLASS = np.array([44, 52, 58])
_RUBBER = np.array([22, 22, 24])
_ANGLES = np.linspace(0, 2 * np.pi, 16, endpoint=False)


@dataclass(frozen=True)
class Solid:
    """One convex part of a body: its profile, which edges of it are glass, and the glass on its sides."""

    along: tuple[float, ...]
    up: tuple[float, ...]
    glass_edges: tuple[int, ...] = ()
    side_glass: tuple[tuple[tuple[float, float], ...], ...] = ()
    shade: float = 1.0


@dataclass(frozen=True)
class Body:
    """A kind of vehicle, by default a car: length, width, height in metres; spread: how much they vary
    (standard deviation, fraction).

    wheels: places along the length (-0.5..0.5), wheel_radius in metres; taper: width of the roof over that of
    the belt; nose: width at the ends over that amidships; lamps: lower and upper edge, fraction of the
    height.
    """

    size: tuple[float, float, float]
    taper: float
    nose: float
    solids: tuple[Solid, ...]
    spread: float = 0.05
    wheels: tuple[float, ...] = (-0.3, 0.31)
    wheel_radius: float = 0.32
    lamps: tuple[float, float] = (0.5, 0.62)


def _side_windows(*areas: tuple[float, float, float, float, float, float]) -> tuple:
    """Windows from (rear bottom x, rear top x, front top x, front bottom x, bottom y, top y)."""
    return tuple(((rb, low), (rt, high), (ft, high), (fb, low)) for rb, rt, ft, fb, low, high in areas)


_SEDAN = Body(
    size=(4.5, 1.8, 1.45),
    taper=0.72,
    nose=0.86,
    lamps=(0.5, 0.6),
    solids=(
        Solid(
            (-0.49, -0.5, -0.485, -0.34, 0.22, 0.44, 0.5, 0.49),
            (0.2, 0.44, 0.63, 0.67, 0.66, 0.56, 0.42, 0.18),
        ),
        Solid(
            (-0.38, -0.24, -0.15, 0.0, 0.08, 0.27),
            (0.64, 0.96, 1.0, 1.0, 0.965, 0.64),
            glass_edges=(0, 4),
            side_glass=_side_windows(
                (-0.3, -0.2, -0.06, -0.06, 0.68, 0.93), (-0.03, -0.03, 0.06, 0.19, 0.68, 0.93)
            ),
        ),
    ),
)
_HATCHBACK = Body(
    size=(3.95, 1.72, 1.48),
    spread=0.06,
    wheels=(-0.31, 0.31),
    wheel_radius=0.31,
    taper=0.74,
    nose=0.87,
    solids=(
        Solid((-0.48, -0.5, -0.49, 0.25, 0.45, 0.5, 0.49), (0.2, 0.42, 0.62, 0.64, 0.55, 0.42, 0.18)),
        Solid(
            (-0.485, -0.43, -0.36, -0.15, 0.05, 0.11, 0.31),
            (0.6, 0.9, 0.985, 1.0, 0.98, 0.95, 0.62),
            glass_edges=(0, 5),
            side_glass=_side_windows(
                (-0.38, -0.34, -0.12, -0.12, 0.66, 0.92), (-0.09, -0.09, 0.08, 0.23, 0.66, 0.92)
            ),
        ),
    ),
)
_ESTATE = Body(
    size=(4.6, 1.8, 1.5),
    taper=0.75,
    nose=0.87,
    solids=(
        Solid((-0.49, -0.5, -0.49, 0.22, 0.44, 0.5, 0.49), (0.2, 0.42, 0.62, 0.64, 0.55, 0.42, 0.18)),
        Solid(
            (-0.485, -0.43, -0.36, -0.1, 0.0, 0.06, 0.26),
            (0.6, 0.93, 0.985, 1.0, 0.985, 0.955, 0.62),
            glass_edges=(0, 5),
            side_glass=_side_windows(
                (-0.42, -0.39, -0.27, -0.27, 0.67, 0.92),
                (-0.25, -0.25, -0.08, -0.08, 0.67, 0.92),
                (-0.05, -0.05, 0.05, 0.19, 0.67, 0.92),
            ),
        ),
    ),
)
_SUV = Body(
    size=(4.5, 1.86, 1.68),
    wheel_radius=0.36,
    taper=0.8,
    nose=0.9,
    solids=(
        Solid((-0.48, -0.5, -0.49, 0.26, 0.46, 0.5, 0.49), (0.17, 0.42, 0.62, 0.66, 0.58, 0.44, 0.16)),
        Solid(
            (-0.485, -0.44, -0.38, -0.1, 0.02, 0.1, 0.28),
            (0.6, 0.92, 0.985, 1.0, 0.985, 0.95, 0.64),
            glass_edges=(0, 5),
            side_glass=_side_windows(
                (-0.4, -0.36, -0.12, -0.12, 0.67, 0.91), (-0.09, -0.09, 0.07, 0.21, 0.67, 0.91)
            ),
        ),
    ),
)
_VAN = Body(
    size=(5.0, 1.92, 1.98),
    wheels=(-0.3, 0.33),
    wheel_radius=0.33,
    taper=0.88,
    nose=0.92,
    lamps=(0.36, 0.46),
    solids=(
        Solid((-0.49, -0.5, -0.495, 0.36, 0.48, 0.5, 0.49), (0.16, 0.4, 0.55, 0.56, 0.46, 0.34, 0.15)),
        Solid(
            (-0.495, -0.48, -0.46, -0.3, 0.12, 0.2, 0.4),
            (0.5, 0.93, 0.98, 1.0, 1.0, 0.97, 0.54),
            glass_edges=(5,),
            side_glass=_side_windows((0.05, 0.05, 0.16, 0.31, 0.6, 0.88)),
        ),
    ),
)
_TRUCK = Body(
    size=(7.6, 2.4, 3.2),
    spread=0.1,
    wheels=(-0.32, 0.38),
    wheel_radius=0.46,
    taper=0.97,
    nose=1.0,
    lamps=(0.16, 0.22),
    solids=(
        Solid((-0.5, -0.5, 0.49, 0.49), (0.12, 0.26, 0.26, 0.12), shade=0.4),
        Solid(
            (0.27, 0.27, 0.3, 0.42, 0.45, 0.495, 0.5, 0.27),
            (0.2, 0.84, 0.88, 0.88, 0.84, 0.5, 0.14, 0.14),
            glass_edges=(4,),
            side_glass=_side_windows((0.33, 0.33, 0.42, 0.46, 0.54, 0.78)),
        ),
        Solid((-0.5, -0.5, 0.24, 0.24), (0.24, 1.0, 1.0, 0.24), shade=1.25),
    ),
)
_BUS = Body(
    size=(11.8, 2.5, 3.05),
    spread=0.04,
    wheels=(-0.24, 0.3),
    wheel_radius=0.47,
    taper=0.96,
    nose=0.97,
    lamps=(0.16, 0.24),
    solids=(
        Solid(
            (-0.49, -0.5, -0.495, -0.48, 0.47, 0.49, 0.5, 0.495),
            (0.1, 0.3, 0.94, 1.0, 1.0, 0.92, 0.3, 0.1),
            glass_edges=(5,),
            side_glass=_side_windows(
                *((x, x, x + 0.13, x + 0.13, 0.42, 0.82) for x in np.linspace(-0.47, 0.33, 6).tolist())
            ),
        ),
    ),
)
_TRAM = Body(
    size=(24.0, 2.4, 3.3),
    spread=0.04,
    wheels=(-0.35, 0.0, 0.35),
    wheel_radius=0.3,
    taper=0.96,
    nose=0.97,
    lamps=(0.16, 0.22),
    solids=(
        Solid(
            (-0.495, -0.5, -0.49, -0.48, 0.48, 0.49, 0.5, 0.495),
            (0.08, 0.35, 0.95, 1.0, 1.0, 0.95, 0.35, 0.08),
            glass_edges=(1, 5),
            side_glass=_side_windows(
                *((x, x, x + 0.065, x + 0.065, 0.4, 0.78) for x in np.linspace(-0.47, 0.4, 12).tolist())
            ),
        ),
    ),
)
BODIES = {
    "car": (_SEDAN, _HATCHBACK, _HATCHBACK, _ESTATE, _SUV, _VAN),
    "truck": (_TRUCK,),
    "bus": (_BUS,),
    "train": (_TRAM,),
}


@dataclass(frozen=True)
class Vehicle:
    """A body with its own size (length, width, height in metres), place on the ground, heading and paint.

    heading in radians: 0 drives away from the camera, pi comes towards it, +pi/2 drives to the right.
    """

    body: Body
    size: tuple[float, float, float]
    right: float
    ahead: float
    heading: float
    paint: np.ndarray

    def to_street(self, points: np.ndarray) -> np.ndarray:
        """Street points (..., 3) in metres of vehicle points (..., 3): right, up, forward in metres."""
        cos, sin = np.cos(self.heading), np.sin(self.heading)
        street = np.array(points, float)
        street[..., 0] = self.right + points[..., 0] * cos + points[..., 2] * sin
        street[..., 2] = self.ahead - points[..., 0] * sin + points[..., 2] * cos
        return street

    def footprint(self, margin: float = 0.0) -> np.ndarray:
        """Corners (4, 3) on the ground, grown by a margin in metres."""
        half_length, half_width = self.size[0] / 2 + margin, self.size[1] / 2 + margin
        corners = np.array([[-1.0, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]]) * (half_width, 0, half_length)
        return self.to_street(corners)


def make_vehicle(rng: np.random.Generator, label: str, right: float, ahead: float, heading: float) -> Vehicle:
    """A vehicle of a label ("car", "truck", "bus", "train") with a drawn body, size and colour."""
    bodies = BODIES[label]
    body = bodies[rng.integers(len(bodies))]
    length, width, height = np.array(body.size) * (1 + np.clip(rng.normal(0, body.spread, 3), -0.12, 0.12))
    paint = PAINT[rng.integers(len(PAINT))] + rng.normal(0, 8) + rng.normal(0, 3, 3)
    return Vehicle(body, (length, width, height), right, ahead, heading, paint)


def _side(vehicle: Vehicle, profile: np.ndarray, sign: float, out: float = 0.0) -> np.ndarray:
    """Street points (n, 3) of a profile (n, 2) on the right (+1) or left (-1) side.

    The body is narrower at sill, roof and both ends.
    """
    rise = np.interp(profile[:, 1], [0.15, 0.4, 0.62, 1.0], [0.93, 1.0, 0.98, vehicle.body.taper])
    ends = np.interp(np.abs(profile[:, 0]), [0.38, 0.5], [1.0, vehicle.body.nose])
    half_width = rise * ends * vehicle.size[1] / 2
    across, up, along = sign * (half_width + out), profile[:, 1], profile[:, 0]
    return np.stack([across, up * vehicle.size[2], along * vehicle.size[0]], 1)


def draw_vehicle(vehicle: Vehicle, camera: Camera) -> Shape:
    """The vehicle in image pixels. All of it must be ahead of the camera."""
    parts: list[np.ndarray] = []  # in the vehicle's frame; projected together at the end
    colours: list[np.ndarray] = []

    def paint(points: np.ndarray, colour: np.ndarray) -> None:
        parts.append(points)
        colours.append(colour)

    body = vehicle.body
    cos, sin = np.cos(vehicle.heading), np.sin(vehicle.heading)
    # The camera in the vehicle's own frame decides which faces it sees.
    eye_right = -vehicle.right * cos + vehicle.ahead * sin
    eye_ahead = -vehicle.right * sin - vehicle.ahead * cos
    near_side = 1.0 if eye_right > 0 else -1.0
    sees_side = abs(eye_right) > vehicle.size[1] / 2
    glare = 0.75 + 0.25 * abs(sin)

    for sign in (-near_side, near_side):
        for wheel in body.wheels:
            faces = _disc(vehicle, wheel, sign, 1.0), _disc(vehicle, wheel, sign, 1.0, 0.22)
            paint(np.concatenate(faces), _RUBBER)
    for solid in body.solids:
        profile = np.stack([solid.along, solid.up], 1)
        right_side, left_side = _side(vehicle, profile, 1.0), _side(vehicle, profile, -1.0)
        if sees_side:
            paint(right_side if near_side > 0 else left_side, vehicle.paint * solid.shade * glare)
        quads = np.stack([right_side, left_side, np.roll(left_side, -1, 0), np.roll(right_side, -1, 0)], 1)
        edges, middles = quads[:, 3] - quads[:, 0], quads.mean(1)
        # Profiles run clockwise seen from the right: outward is to the left of each edge.
        up, forward = edges[:, 2], -edges[:, 1]
        faces_us = up * (camera.height - middles[:, 1]) + forward * (eye_ahead - middles[:, 2]) > 0
        light = 1.12 - 0.25 * np.abs(forward) / (np.hypot(up, forward) + 1e-9) * (1.15 if cos > 0 else 0.9)
        for i in np.flatnonzero(faces_us):
            paint(quads[i], vehicle.paint * (solid.shade * light[i]))
            if i in solid.glass_edges:
                paint(quads[i] * 0.86 + middles[i] * 0.14, _GLASS * (1.5 if up[i] > 0 else 1.0))
        if sees_side:
            for window in solid.side_glass:
                paint(_side(vehicle, np.array(window), near_side, 0.005), _GLASS)
    if sees_side:
        for wheel in body.wheels:
            paint(_disc(vehicle, wheel, near_side, 1.0), _RUBBER)
            paint(_disc(vehicle, wheel, near_side, 0.6), np.array([112, 112, 114]))
    _paint_end(vehicle, eye_ahead, paint)

    image = camera.project(vehicle.to_street(np.concatenate(parts)))
    polygons = np.split(image, np.cumsum([len(part) for part in parts])[:-1])
    for tyre in range(2 * len(body.wheels)):  # the hull of its faces
        polygons[tyre] = cv2.convexHull(polygons[tyre].astype(np.float32))[:, 0].astype(float)
    return Shape(polygons, clipped(colours), union_outline(polygons))


def _paint_end(vehicle: Vehicle, eye_ahead: float, paint) -> None:
    """Lamps, plate and dark lower bumper on the front or rear, whichever faces the camera."""
    end = 1.0 if eye_ahead > 0 else -1.0
    if abs(eye_ahead) < vehicle.size[0] / 2:
        return
    low, high = (edge * vehicle.size[2] for edge in vehicle.body.lamps)
    half, z = vehicle.size[1] / 2 * vehicle.body.nose, end * vehicle.size[0] * 0.503
    lamp = np.array([230, 230, 220]) if end > 0 else np.array([150, 24, 22])

    def rectangle(x0: float, x1: float, y0: float, y1: float) -> np.ndarray:
        return np.array([[x0, y0, z], [x1, y0, z], [x1, y1, z], [x0, y1, z]])

    for sign in (-1.0, 1.0):
        paint(rectangle(sign * half * 0.62, sign * half * 0.96, low, high), lamp)
    middle = low * 0.6 + high * 0.1
    paint(rectangle(-half * 0.6, half * 0.6, middle * 0.55, middle * 0.8), _RUBBER * 1.4)
    paint(rectangle(-0.26, 0.26, middle * 0.95, middle * 0.95 + 0.12), np.array([206, 206, 200]))


def _disc(vehicle: Vehicle, along: float, sign: float, fraction: float, inset: float = 0.0) -> np.ndarray:
    """A wheel's face (16, 3): `fraction` of its radius, `inset` metres from the vehicle's side."""
    radius = vehicle.body.wheel_radius
    points = np.empty((len(_ANGLES), 3))
    points[:, 0] = sign * (vehicle.size[1] / 2 * 0.97 - inset)
    points[:, 1] = radius + np.sin(_ANGLES) * radius * fraction
    points[:, 2] = along * vehicle.size[0] + np.cos(_ANGLES) * radius * fraction
    return points
