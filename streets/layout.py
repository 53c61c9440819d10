"""Drawing a street at random: its course and cross-section, and what stands, drives and walks in it.

Lengths are metres; `right` is measured from the camera, `ahead` along its view; side is -1 (left) or 1.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from data.camera import Camera
from streets import scenery
from streets.scenery import NEAREST, Card, Thing, painted, quads, rectangle
from streets.silhouettes import pick

FARTHEST = 150.0  # metres: where the street ends and the skyline stands
_FRONTAGE_NEAREST = 5.0  # metres: nearer houses are outside the view, and their roofs behind the image plane
_STATIONS = np.geomspace(NEAREST, FARTHEST, 26)

_ASPHALT = np.array([[92, 92, 94], [104, 102, 100], [84, 85, 88], [112, 110, 106]])
_PAVING = np.array([[136, 132, 126], [150, 144, 138], [124, 118, 114], [144, 128, 120]])
_GRASS = np.array([[86, 100, 56], [98, 106, 62], [80, 90, 58]])
_PAINT = np.array([206, 206, 200])


@dataclass(frozen=True)
class Street:
    """Course and cross-section. Pairs are (left, right).

    bearing, curve: slope of the course and its change per metre; oncoming: traffic in both directions;
    edge: from the camera to the kerb; sidewalk, verge: widths outside it, before the frontage begins;
    lawn_first: the verge lies between road and sidewalk; crossing: (near, far) of a cross street or None;
    zebra: where one begins or None; parked: cars along the kerb; parking_label: on a strip labelled parking;
    frontage: "houses", "green" or "mixed"; green: how leafy the street is, 0..1.
    """

    bearing: float
    curve: float
    oncoming: bool
    edge: tuple[float, float]
    sidewalk: tuple[float, float]
    verge: tuple[float, float]
    lawn_first: tuple[bool, bool]
    crossing: tuple[float, float] | None
    zebra: float | None
    parked: tuple[bool, bool]
    parking_label: tuple[bool, bool]
    frontage: tuple[str, str]
    green: float

    def middle(self, ahead):
        """How far right the ego lane has moved at a distance ahead."""
        bent = np.minimum(ahead, 90.0)
        return self.bearing * ahead + self.curve * (0.5 * bent**2 + bent * (ahead - bent))

    def at(self, side: int, out: float, ahead):
        """Right coordinate of a point `out` metres outside the kerb of a side (negative: on the road)."""
        return self.middle(ahead) + side * (self.edge[side > 0] + out)

    def turn(self, ahead: float) -> float:
        """Heading of the street in radians at a distance ahead."""
        return float(np.arctan(self.bearing + self.curve * min(ahead, 90.0)))

    def walk(self, side: int) -> tuple[float, float]:
        """Inner and outer edge of the sidewalk, metres outside the kerb."""
        inner = self.verge[side > 0] if self.lawn_first[side > 0] else 0.0
        return inner, inner + self.sidewalk[side > 0]

    def lawn(self, side: int) -> tuple[float, float]:
        """Inner and outer edge of the verge, metres outside the kerb; equal if there is none."""
        inner = 0.0 if self.lawn_first[side > 0] else self.sidewalk[side > 0]
        return inner, inner + self.verge[side > 0]


def draw_street(rng: np.random.Generator) -> Street:
    """A street at random."""
    green = rng.uniform(0, 1) ** 1.5
    parked = (bool(rng.random() < 0.55), bool(rng.random() < 0.45))
    oncoming = bool(rng.random() < 0.75)
    left = rng.uniform(5.0, 10.0) if oncoming else rng.uniform(2.0, 4.0)
    right = rng.uniform(1.7, 4.6)
    edge = (left + 2.1 * parked[0], max(right, rng.uniform(3.6, 5.5)) if parked[1] else right)
    crossing = None
    if rng.random() < 0.5:
        near = rng.uniform(12, 55)
        crossing = (near, near + rng.uniform(8, 16))
    zebra = None
    if crossing and rng.random() < 0.6:
        zebra = crossing[0] - 4.5
    elif rng.random() < 0.3:
        zebra = rng.uniform(8, 30)
    kinds = ("houses", "mixed", "green")

    def kind() -> str:
        return kinds[int(np.clip(rng.normal(green * 2, 0.6), 0, 2) + 0.5)]

    return Street(
        bearing=rng.normal(0, 0.03),
        curve=rng.normal(0, 0.0012) if rng.random() < 0.5 else 0.0,
        oncoming=oncoming,
        edge=edge,
        sidewalk=(rng.uniform(2.0, 5.0), rng.uniform(2.0, 5.0)),
        verge=tuple(rng.uniform(1.0, 5.0) if rng.random() < 0.25 + 0.4 * green else 0.0 for _ in range(2)),
        lawn_first=(bool(rng.random() < 0.6), bool(rng.random() < 0.6)),
        crossing=crossing,
        zebra=zebra,
        parked=parked,
        parking_label=tuple(bool(rng.random() < 0.15) for _ in range(2)),
        frontage=(kind(), kind()),
        green=green,
    )


@dataclass
class Population:
    """What has been placed so far: things to draw, shadows on the ground (n, 3), and who stands where."""

    street: Street
    camera: Camera
    width: int  # of the image, pixels
    ground: list[Thing] = field(default_factory=list)
    things: list[Thing] = field(default_factory=list)
    shadows: list[np.ndarray] = field(default_factory=list)
    places: list[tuple[float, float, float]] = field(default_factory=list)  # right, ahead, radius
    covers: list[tuple[float, np.ndarray]] = field(default_factory=list)  # ahead, box of a vehicle in pixels

    def is_free(self, right: float, ahead: float, radius: float) -> bool:
        """Whether a disc on the ground touches nothing placed before."""
        return all((right - x) ** 2 + (ahead - z) ** 2 > (radius + r) ** 2 for x, z, r in self.places)

    def in_view(self, right: float, ahead: float, margin: float = 0.0) -> bool:
        """Whether a place on the ground lies between left and right image edge, less a margin (0..0.5)."""
        u = self.camera.u0 + self.camera.fx * right / ahead
        return margin * self.width < u < (1 - margin) * self.width


def _ground(label: str, camera: Camera, corners: np.ndarray, colour, details=()) -> Thing:
    """A patch of ground from (n, 2) corners (right, ahead), all beyond the nearest distance."""

    def lay(points: np.ndarray) -> np.ndarray:
        street = np.zeros((*points.shape[:-1], 3))
        street[..., 0], street[..., 2] = points[..., 0], points[..., 1]
        return camera.project(street)

    layers = [(lay(corners), colour), *((lay(part), paint) for part, paint in details if len(part))]
    return Thing(FARTHEST, label, painted(layers), flat=True)


def _band(street: Street, side: int, inner: float, outer: float, near: float, far: float) -> np.ndarray:
    """Corners (n, 2) of a strip along the street between two distances outside the kerb."""
    between = _STATIONS[np.searchsorted(_STATIONS, near, "right") : np.searchsorted(_STATIONS, far)]
    ahead = np.concatenate([[near], between, [far]])
    inside = np.stack([street.at(side, inner, ahead), ahead], 1)
    outside = np.stack([street.at(side, outer, ahead), ahead], 1)
    return np.concatenate([inside, outside[::-1]])


def _stretches(street: Street, side: int) -> list[tuple[float, float]]:
    """Intervals ahead that the cross street leaves to sidewalk and frontage."""
    if street.crossing is None:
        return [(NEAREST, FARTHEST)]
    wide = street.sidewalk[side > 0]
    return [(NEAREST, street.crossing[0] - wide), (street.crossing[1] + wide, FARTHEST)]


def _markings(rng: np.random.Generator, street: Street) -> list[tuple[np.ndarray, np.ndarray]]:
    """Lane lines, zebra and stop line as (polygons, colour)."""
    lines = []
    left, right = street.edge
    offsets = [-rng.uniform(1.6, 2.0)]
    if left > 7.5:
        offsets.append(offsets[0] - rng.uniform(3.0, 3.4))
    if right > 5:
        offsets.append(rng.uniform(1.6, 2.0))
    dash, gap = (3.0, 6.0) if rng.random() < 0.6 else (6.0, 4.0)
    for offset in offsets:
        start = np.arange(NEAREST + rng.uniform(0, dash + gap), 90, dash + gap)
        if street.crossing:
            start = start[(start + dash < street.crossing[0]) | (start > street.crossing[1])]
        x0, x1 = street.middle(start) + offset, street.middle(start + dash) + offset
        near, far = (
            ((x0 - 0.07, start), (x0 + 0.07, start)),
            ((x1 + 0.07, start + dash), (x1 - 0.07, start + dash)),
        )
        lines.append((quads(*near, *far), _PAINT))
    if rng.random() < 0.4:
        for side in (-1, 1):
            out = -2.3 if street.parked[side > 0] else -0.35
            lines.append((_band(street, side, out, out + 0.12, NEAREST, 90.0), _PAINT * 0.95))
    if street.zebra is not None:
        bars = np.arange(-left + 0.3, right - 0.5, 1.0) + street.middle(street.zebra)
        z0, z1 = street.zebra, street.zebra + 3.5
        zebra = quads((bars, z0), (bars + 0.5, z0), (bars + 0.5, z1), (bars, z1))
        lines.append((zebra, _PAINT * 0.98))
        if street.zebra > 8:
            stop = rectangle(-1.7, right - 0.3, z0 - 1.4, z0 - 1.0)
            lines.append((stop + (street.middle(street.zebra), 0), _PAINT))
    return lines


def lay_ground(rng: np.random.Generator, town: Population) -> None:
    """Road, sidewalks, verges, parking strips and cross street, in painting order."""
    street, camera = town.street, town.camera
    asphalt, paving, grass = pick(rng, _ASPHALT, 6), pick(rng, _PAVING, 6), pick(rng, _GRASS, 6)
    wide = rectangle(-90, 90, NEAREST, FARTHEST)
    base, paint = ("terrain", grass) if rng.random() < street.green * 0.6 else ("sidewalk", paving)
    town.ground.append(_ground(base, camera, wide, paint))
    for side in (-1, 1):
        inner, outer = street.walk(side)
        lawn = street.lawn(side)
        for near, far in _stretches(street, side):
            if far <= near + 1:
                continue
            joints = np.arange(near, min(far, 40.0), 1.5)
            x0, x1 = street.at(side, inner, joints), street.at(side, outer, joints)
            seams = quads((x0, joints), (x1, joints), (x1, joints + 0.04), (x0, joints + 0.04))
            walk = _band(street, side, inner, outer, near, far)
            town.ground.append(_ground("sidewalk", camera, walk, paving, [(seams, paving * 0.86)]))
            if lawn[1] > lawn[0]:
                town.ground.append(_ground("terrain", camera, _band(street, side, *lawn, near, far), grass))
            kerb = _band(street, side, 0, 0.16, near, far)
            town.ground.append(_ground("sidewalk", camera, kerb, paving * 1.12))
    if street.crossing:
        near, far = street.crossing
        for side in (-1, 1):
            walk = street.sidewalk[side > 0]
            x0, x1 = street.at(side, 0.0, near), side * 90.0
            corner, lane = rectangle(x0, x1, near - walk, far + walk), rectangle(x0 - side, x1, near, far)
            town.ground.append(_ground("sidewalk", camera, corner, paving))
            town.ground.append(_ground("road", camera, lane, asphalt))
    left, right = (np.stack([street.at(side, 0.0, _STATIONS), _STATIONS], 1) for side in (-1, 1))
    road = np.concatenate([left, right[::-1]])
    patch_at = rng.uniform(6, 30)
    patch = np.array([[-1.2, 0], [0.9, 0.3], [1.1, 4], [-1.0, 3.6]]) + (rng.uniform(-2, 2), patch_at)
    town.ground.append(
        _ground("road", camera, road, asphalt, [(patch, asphalt * 0.9), *_markings(rng, street)])
    )
    for side in (-1, 1):
        if street.parked[side > 0] and street.parking_label[side > 0]:
            for near, far in _stretches(street, side):
                if far > near + 8:
                    band = _band(street, side, -2.2, 0, near, min(far, 90.0))
                    town.ground.append(_ground("parking", camera, band, asphalt * 0.94))
    if rng.random() < 0.45:  # a refuge in the middle of the road, or a patch nobody can name
        z = rng.uniform(15, 60)
        x = street.middle(z) - rng.uniform(2.0, 3.0)
        island = rectangle(x - 0.8, x + 0.5, z, z + 9)
        label = ("sidewalk", "ground", "terrain")[rng.integers(3)]
        town.ground.append(_ground(label, camera, island, paving if label != "terrain" else grass))


def build_frontage(rng: np.random.Generator, town: Population) -> None:
    """Houses, walls, fences, hedges and tree masses along both sides, and the skyline."""
    street, camera = town.street, town.camera
    town.things += scenery.skyline(rng, camera, FARTHEST + 5, street.green * 0.7)
    for side in (-1, 1):
        kind = street.frontage[side > 0]
        out = street.sidewalk[side > 0] + street.verge[side > 0]  # metres from the kerb to the houses
        for number, (near, far) in enumerate(_stretches(street, side)):
            ahead = near = max(near, _FRONTAGE_NEAREST)
            while ahead < far - 3:
                length = rng.uniform(9, 24)
                end = min(ahead + length, far)
                # A house seen across the cross street closes the gap on its side.
                end_wall = 70.0 if number == 1 and ahead == near else 12.0
                green = kind == "green" or (kind == "mixed" and rng.random() < 0.5)
                if green:
                    _green_lot(rng, town, side, out, ahead, end)
                    if end_wall > 12:
                        across = street.at(side, out + 3, ahead) + side * np.linspace(0, 60, 14)
                        line = np.stack([across, np.full(14, end)], 1)
                        town.things.append(scenery.strip(rng, camera, line, "vegetation", rng.uniform(6, 13)))
                else:
                    start, stop = street.at(side, out, ahead), street.at(side, out, end)
                    house = scenery.building(rng, camera, (start, ahead), (stop, end), side, end_wall)
                    town.things.append(house)
                    if rng.random() < 0.5:
                        z = rng.uniform(max(ahead, 6), max(end, 6.5))
                        town.things.append(
                            scenery.facade_sign(rng, Card(camera, street.at(side, out - 0.4, z), z))
                        )
                ahead = end


def _green_lot(
    rng: np.random.Generator, town: Population, side: int, out: float, near: float, far: float
) -> None:
    """A plot without a house at the street: tall greenery behind a hedge, fence, wall or bushes."""
    street = town.street
    ahead = np.linspace(near, far, max(int((far - near) / 1.5), 3))
    back = np.stack([street.at(side, out + 4, ahead), ahead], 1)
    town.things.append(scenery.strip(rng, town.camera, back, "vegetation", rng.uniform(6, 15)))
    front = np.stack([street.at(side, out, ahead), ahead], 1)
    kind = rng.random()
    if kind < 0.3:
        town.things.append(scenery.strip(rng, town.camera, front, "vegetation", rng.uniform(0.8, 2.0)))
    elif kind < 0.55:
        town.things.append(scenery.strip(rng, town.camera, front, "fence", rng.uniform(0.9, 1.6)))
    elif kind < 0.75:
        town.things.append(scenery.strip(rng, town.camera, front, "wall", rng.uniform(0.8, 2.0)))
    else:
        for z in rng.uniform(max(near, 5.0), max(far, 6.0), 3):
            town.things.append(scenery.bush(rng, Card(town.camera, street.at(side, out + 0.8, z), z)))


def beside_crossing(street: Street, ahead: float, margin: float) -> bool:
    """Whether a distance ahead lies in the cross street or within a margin of it."""
    return street.crossing is not None and street.crossing[0] - margin < ahead < street.crossing[1] + margin


def furnish(rng: np.random.Generator, town: Population) -> None:
    """Trees, lamps, signs, lights, bollards, bins and boards on the sidewalks."""
    street = town.street
    for side in (-1, 1):
        inner, outer = street.walk(side)
        lawn = street.lawn(side)
        if rng.random() < 0.25 + 0.5 * street.green:
            step, out = rng.uniform(8, 16), sum(lawn) / 2 if lawn[1] > lawn[0] else 0.7
            for z in np.arange(rng.uniform(9, 16), 110, step):
                if not beside_crossing(street, z, 3) and rng.random() < 0.85:
                    _plant(rng, town, scenery.tree, street.at(side, out, z), z, 0.4)
        for z in np.arange(rng.uniform(8, 30), 120, rng.uniform(20, 32)):
            _plant(rng, town, scenery.lamp_post, street.at(side, 0.4, z), z, 0.3)
        for z in np.exp(rng.uniform(np.log(9), np.log(80), rng.poisson(2.2))):
            _plant(rng, town, scenery.sign_post, street.at(side, 0.45, z), z, 0.3)
        for z in np.exp(rng.uniform(np.log(9), np.log(60), rng.poisson(1.4))):
            right = street.at(side, rng.choice((inner + 0.6, outer - 0.4)), z)
            _plant(rng, town, scenery.furniture, right, z, 0.8)
        if rng.random() < 0.2:
            for z in np.arange(rng.uniform(7, 25), rng.uniform(25, 60), 1.8):
                _plant(rng, town, scenery.bollard, street.at(side, 0.3, z), z, 0.2)
        if street.crossing and rng.random() < 0.65:
            for z in (street.crossing[0] - 1.0, street.crossing[1] + 1.0):
                _plant(rng, town, scenery.traffic_light, street.at(side, 0.5, z), z, 0.3)


def _plant(
    rng: np.random.Generator, town: Population, make: Callable, right: float, ahead: float, radius: float
) -> None:
    """What make(rng, card) draws, unless it would touch something; drawn from `rng` in any case."""
    things = make(rng, Card(town.camera, right, ahead))
    if ahead > 5 and town.is_free(right, ahead, radius * 0.5):
        town.things += things
        town.places.append((right, ahead, radius))
