"""Who uses the street: parked and moving vehicles, two-wheelers, riders and pedestrians.

Lengths are metres; places and sides as in `streets.layout`, headings as in `streets.vehicles`.
"""

from dataclasses import dataclass

import numpy as np

from data.camera import Camera
from streets.layout import Population, beside_crossing, build_frontage, draw_street, furnish, lay_ground
from streets.scenery import Card, Thing
from streets.silhouettes import Shape, make_person, make_rider, united
from streets.two_wheelers import make_bicycle, make_motorcycle
from streets.vehicles import draw_vehicle, make_vehicle


@dataclass(frozen=True)
class Traffic:
    """How many of what is rare in a street there are on average, beside what the lanes bring."""

    trucks: float = 0.0  # that have the street before anyone else
    buses: float = 0.0
    trams: float = 0.0
    riders: float = 1.2
    bicycles: float = 1.3  # places where some are parked
    motorcycles: float = 0.6


USUAL = Traffic()
MIXED = Traffic(trucks=0.6, buses=0.6, trams=0.6, riders=2.4, bicycles=2.0, motorcycles=1.6)


def _add_vehicle(rng, town: Population, label: str, right: float, ahead: float, heading: float) -> None:
    """Place a vehicle unless it would touch another one or reach behind the camera."""
    vehicle = make_vehicle(rng, label, right, ahead, heading)
    corners = vehicle.footprint()
    radius = 1.9 if label == "car" else vehicle.size[0] / 2
    if corners[:, 2].min() < 4.0 or not town.is_free(right, ahead, radius):
        return
    shape = draw_vehicle(vehicle, town.camera)
    low, high = shape.outline.min(0), shape.outline.max(0)
    if high[0] < 0 or low[0] > town.width:
        return
    town.things.append(Thing(ahead, label, shape))
    town.shadows.append(vehicle.footprint(0.12))
    forward = np.array([np.sin(heading), np.cos(heading)]) * vehicle.size[0] / 3
    town.places += [(right + s * forward[0], ahead + s * forward[1], 1.1) for s in (-1, 0, 1)]
    town.covers.append((ahead, np.concatenate([low, high])))


def large_vehicles(rng: np.random.Generator, town: Population, traffic: Traffic) -> None:
    """Trucks, buses and trams in the lanes, which others then leave their room."""
    street = town.street
    for label, wanted in (("train", traffic.trams), ("bus", traffic.buses), ("truck", traffic.trucks)):
        for _ in range(rng.poisson(wanted)):
            ahead = float(np.exp(rng.uniform(np.log(14), np.log(70))))
            oncoming = street.oncoming and rng.random() < 0.5
            right = street.middle(ahead) + (-3.3 if oncoming else 0.0)
            _add_vehicle(rng, town, label, right, ahead, street.turn(ahead) + (np.pi if oncoming else 0.0))


def drive_and_park(rng: np.random.Generator, town: Population) -> None:
    """Parked rows, traffic in both directions, cross traffic, larger vehicles, a far group of cars."""
    street = town.street
    for side in (-1, 1):
        if not street.parked[side > 0]:
            continue
        ahead, last = rng.uniform(7, 16), rng.uniform(70, 125)
        fill = rng.uniform(0.55, 0.95)
        while ahead < last:
            if rng.random() < fill and not beside_crossing(street, ahead, 5):
                heading = street.turn(ahead) + (np.pi if rng.random() < (0.8 if side < 0 else 0.1) else 0)
                label = "truck" if rng.random() < 0.004 and ahead > 25 else "car"
                right = street.at(side, -1.1 + rng.normal(0, 0.08), ahead)
                _add_vehicle(rng, town, label, right, ahead, heading)
            ahead += rng.uniform(5.3, 6.6)
    lanes = [(0.0, 0.0)]
    if street.oncoming:
        lanes.append((-3.3, np.pi))
        if street.edge[0] - 2.1 * street.parked[0] > 8:
            lanes.append((-6.6, np.pi))
    for lane, heading in lanes:
        ahead = rng.uniform(10, 65)
        while ahead < 130:
            kind = rng.random()
            label = "truck" if kind < 0.008 else "bus" if kind < 0.013 else "train" if kind < 0.018 else "car"
            place = ahead + {"car": 0, "train": 22}.get(label, 12)
            _add_vehicle(rng, town, label, street.middle(place) + lane, place, heading + street.turn(place))
            ahead += rng.gamma(2.0, 9.0) + 6.5
    if street.crossing and rng.random() < 0.6:
        for _ in range(int(rng.integers(1, 4))):
            heading = rng.choice((-1, 1)) * np.pi / 2
            near, far = street.crossing
            lane = near + (0.3 if heading > 0 else 0.7) * (far - near)
            right = rng.uniform(-0.5, 0.5) * lane
            _add_vehicle(rng, town, "car", right, lane + rng.normal(0, 0.3), heading + rng.normal(0, 0.08))
    if rng.random() < 0.3:
        _far_cars(rng, town)


def _far_cars(rng: np.random.Generator, town: Population) -> None:
    """Distant cars that cannot be told apart: one group."""
    ahead, layers = rng.uniform(95, 125), []
    start = rng.uniform(-8, 4)
    for number in range(int(rng.integers(3, 6))):
        right = town.street.middle(ahead) + start + number * 1.7
        car = make_vehicle(rng, "car", right, ahead + number * 2, rng.choice((0, np.pi, 1.3)))
        shape = draw_vehicle(car, town.camera)
        layers += zip(shape.parts, shape.colours, strict=True)
    town.things.append(Thing(ahead, "cargroup", united(layers)))


def _stand(
    town: Population, label: str, shape: Shape, right: float, ahead: float, width: float, pair: int = 0
) -> None:
    town.things.append(Thing(ahead, label, Card(town.camera, right, ahead).stand(shape), pair=pair))
    town.places.append((right, ahead, width / 2))
    turn = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    disc = np.stack([right + np.cos(turn) * width * 0.6, np.zeros(12), ahead + np.sin(turn) * 0.25], 1)
    town.shadows.append(disc)


def _standing_height(rng: np.random.Generator) -> float:
    if rng.random() < 0.06:
        return rng.uniform(1.2, 1.48)
    return float(np.clip(rng.normal(1.71, 0.085), 1.5, 1.93))


def _is_occluded(town: Population, right: float, ahead: float) -> bool:
    """Whether nearer vehicles cover more than about a third of a person at this place."""
    foot, top = town.camera.project(np.array([[right, 0.0, ahead], [right, 1.7, ahead]]))
    half = 0.2 * town.camera.fx / ahead
    for z, (x0, y0, x1, y1) in town.covers:
        across = min(x1, foot[0] + half) - max(x0, foot[0] - half)
        down = min(y1, foot[1]) - max(y0, top[1])
        if z < ahead and across > 0 and down > 0 and across * down > 0.35 * 2 * half * (foot[1] - top[1]):
            return True
    return False


def _spot(rng: np.random.Generator, town: Population, near: float, far: float) -> tuple[float, float] | None:
    """A free place for a person between two distances, mostly on a sidewalk; None if there is none."""
    street = town.street
    side = int(rng.choice((-1, 1)))
    ahead = float(np.exp(rng.uniform(np.log(near), np.log(far))))
    kind = rng.random()
    inner, outer = street.walk(side)
    lawn = street.lawn(side)
    if kind < 0.8 and not (street.crossing and street.crossing[0] < ahead < street.crossing[1]):
        right = street.at(side, rng.uniform(inner + 0.4, outer - 0.2), ahead)
    elif kind < 0.83 and lawn[1] > lawn[0]:
        right = street.at(side, rng.uniform(*lawn), ahead)
    elif kind < 0.92 and street.zebra is not None and near < street.zebra + 3 and street.zebra < far:
        ahead = street.zebra + rng.uniform(0.4, 3.2)
        right = street.middle(ahead) + rng.uniform(-street.edge[0], street.edge[1])
    else:
        right = street.at(side, -rng.uniform(0.2, 2.4), ahead)
    if not town.in_view(right, ahead, 0.012) or not town.is_free(right, ahead, 0.28):
        return None
    return float(right), ahead


def _person(rng: np.random.Generator, town: Population, right: float, ahead: float) -> None:
    along = town.street.turn(ahead) + (np.pi if rng.random() < 0.5 else 0)
    heading = along + rng.normal(0, 0.35) if rng.random() < 0.6 else rng.uniform(0, 2 * np.pi)
    _stand(town, "person", make_person(rng, _standing_height(rng), heading), right, ahead, 0.5)


def people(rng: np.random.Generator, town: Population) -> None:
    """Pedestrians, some in groups, and far crowds that are one group."""
    near_wanted = int(rng.choice((1, 1, 1, 2, 2, 3)))
    for _ in range(near_wanted):
        for _ in range(24):
            spot = _spot(rng, town, 13.0, 25.0)
            if spot and not _is_occluded(town, *spot):
                _person(rng, town, *spot)
                if rng.random() < 0.25:
                    aside = rng.choice((-1, 1)) * rng.uniform(0.55, 0.75)
                    friend = spot[0] + aside, spot[1] + rng.uniform(-0.3, 0.3)
                    if town.is_free(*friend, 0.2):
                        _person(rng, town, *friend)
                break
    for _ in range(rng.poisson(10.5)):
        spot = _spot(rng, town, 38.0, 110.0)
        if spot is None:
            continue
        for _ in range(1 + (rng.random() < 0.25) * int(rng.integers(1, 3))):
            _person(rng, town, spot[0] + rng.normal(0, 0.3), spot[1] + rng.normal(0, 0.4))
    if rng.random() < 0.15:
        _crowd(rng, town)


def _crowd(rng: np.random.Generator, town: Population) -> None:
    side, ahead, layers = int(rng.choice((-1, 1))), rng.uniform(70, 110), []
    right = town.street.at(side, town.street.walk(side)[0] + 1.0, ahead)
    for number in range(int(rng.integers(3, 7))):
        person = make_person(rng, _standing_height(rng), rng.uniform(0, 2 * np.pi))
        moved = [part + (number * 0.33, 0) for part in person.parts]
        layers += zip(moved, person.colours, strict=True)
    _stand(town, "persongroup", united(layers), right, ahead, 1.5)


def riders(rng: np.random.Generator, town: Population, wanted: float) -> None:
    """Riders in the lanes, on bicycles and motorcycles; so many on average."""
    street = town.street
    for pair in range(1, rng.poisson(wanted) + 1):
        ahead = float(np.exp(rng.uniform(np.log(11), np.log(70))))
        side = int(rng.choice((-1, 1)))
        right = street.at(side, -rng.uniform(0.6, 3.0), ahead)
        if not town.in_view(right, ahead, 0.02) or not town.is_free(right, ahead, 0.8):
            continue
        heading = street.turn(ahead) + (np.pi if side < 0 else 0.0) + rng.normal(0, 0.25)
        if rng.random() < 0.2:
            heading += np.pi / 2
        motor = bool(rng.random() < 0.25)
        machine = make_motorcycle(rng, heading) if motor else make_bicycle(rng, heading)
        _stand(town, "motorcycle" if motor else "bicycle", machine, right, ahead, 1.2, pair)
        rider = make_rider(rng, rng.uniform(1.6, 1.85), heading, motor)
        rider_shape = Card(town.camera, right, ahead).stand(rider)
        town.things.append(Thing(ahead - 0.05, "rider", rider_shape, pair=pair))


def parked_two_wheelers(rng: np.random.Generator, town: Population, traffic: Traffic) -> None:
    """Bicycles and motorcycles on the sidewalks."""
    street = town.street
    for label, make, rate in (
        ("bicycle", make_bicycle, traffic.bicycles),
        ("motorcycle", make_motorcycle, traffic.motorcycles),
    ):
        for _ in range(rng.poisson(rate)):
            side = int(rng.choice((-1, 1)))
            ahead = float(np.exp(rng.uniform(np.log(10), np.log(50))))
            first = street.at(side, rng.uniform(*street.walk(side)), ahead)
            heading = rng.uniform(0, 2 * np.pi)
            for number in range(int(rng.choice((1, 1, 2, 3)))):
                right, z = first + number * rng.uniform(0.4, 0.8), ahead + number * 0.2
                if town.in_view(right, z) and town.is_free(right, z, 0.2):
                    _stand(town, label, make(rng, heading + rng.normal(0, 0.1)), right, z, 0.6)


def populate(
    rng: np.random.Generator,
    camera: Camera,
    width: int,
    *,
    with_people: bool = True,
    traffic: Traffic = USUAL,
) -> Population:
    """A whole street for an image so many pixels wide, with or without persons and riders."""
    town = Population(draw_street(rng), camera, width)
    lay_ground(rng, town)
    build_frontage(rng, town)
    if traffic != USUAL:
        large_vehicles(rng, town, traffic)
    drive_and_park(rng, town)
    furnish(rng, town)
    if with_people:
        riders(rng, town, traffic.riders)
    parked_two_wheelers(rng, town, traffic)
    if with_people:
        people(rng, town)
    return town
