"""What stands still in a street: buildings, trees, hedges, fences, poles, signs and small furniture.

Every function returns `Thing`s, already projected.
"""

from dataclasses import dataclass

import numpy as np

from data.camera import Camera
from streets.silhouettes import Shape, clipped, ellipse, pick

NEAREST = 2.0  # metres: nothing is projected closer to the camera than this

_FACADES = np.array(
    [[168, 156, 138], [150, 138, 124], [186, 178, 166], [132, 110, 96], [142, 92, 76], [170, 148, 112]]
    + [[120, 122, 124], [160, 164, 166], [176, 140, 110], [104, 100, 96], [190, 186, 176], [116, 84, 70]]
)
_LEAVES = np.array([[46, 62, 34], [56, 74, 38], [38, 52, 32], [70, 84, 44], [60, 66, 36]])
_METAL = np.array([[104, 108, 108], [128, 130, 128], [74, 78, 78], [90, 96, 88]])
_BOARDS = np.array([[58, 62, 66], [120, 60, 50], [60, 80, 110], [150, 140, 110], [86, 92, 84], [40, 42, 44]])


@dataclass(frozen=True)
class Thing:
    """One object: distance ahead in metres (painter's key), label, looks; flat if it is a patch of ground.

    pair: number that a rider and the two-wheeler share; 0 for what is there on its own.
    """

    ahead: float
    label: str
    shape: Shape
    flat: bool = False
    pair: int = 0


@dataclass(frozen=True)
class Card:
    """A place where flat things stand upright and face the camera; points are x right, y up, metres."""

    camera: Camera
    right: float
    ahead: float

    def project(self, points: np.ndarray) -> np.ndarray:
        """Image points of flat points (..., 2)."""
        street = np.empty((*points.shape[:-1], 3))
        street[..., 0] = self.right + points[..., 0]
        street[..., 1] = points[..., 1]
        street[..., 2] = self.ahead
        return self.camera.project(street)

    def stand(self, shape: Shape) -> Shape:
        """Put a flat figure on the ground: the same shape in image pixels."""
        sizes = [len(part) for part in shape.parts]
        *parts, outline = np.split(
            self.project(np.concatenate([*shape.parts, shape.outline])), np.cumsum(sizes)
        )
        return Shape(parts, shape.colours, outline)

    def thing(self, label: str, outline: np.ndarray, colour, details=(), nearer: float = 0.0) -> Thing:
        """A flat thing in one colour with details (polygons, colour) on top, `nearer` by so many metres."""
        layers = [(self.project(points), paint) for points, paint in ((outline, colour), *details)]
        return Thing(self.ahead - nearer, label, painted(layers))


def painted(layers: list[tuple[np.ndarray, np.ndarray]]) -> Shape:
    """A shape of layers (polygons, colour); the first is its outline."""
    return Shape([points for points, _ in layers], clipped([colour for _, colour in layers]), layers[0][0])


def rectangle(x0: float, x1: float, y0: float, y1: float) -> np.ndarray:
    """Its corners (4, 2) float."""
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float)


def quads(*corners: tuple) -> np.ndarray:
    """Quadrangles (n, 4, 2) from four corners (x, y), each (n,) or the same for all."""
    return np.stack([np.stack(np.broadcast_arrays(*corner), 1) for corner in corners], 1)


def _grid(across: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Rectangles (n * m, 4, 2) from intervals across (n, 2) and up (m, 2)."""
    left, right = (np.repeat(across[:, i], len(up)) for i in (0, 1))
    low, high = (np.tile(up[:, i], len(across)) for i in (0, 1))
    return quads((left, low), (right, low), (right, high), (left, high))


def _windows(rng: np.random.Generator, wall: float, storeys: int, storey: float, ground: float) -> np.ndarray:
    """Window rectangles (n, 4, 2) of a facade `wall` metres long."""
    pitch, fraction = rng.uniform(2.0, 3.6), rng.uniform(0.36, 0.62)
    columns = max(int(wall / pitch), 1)
    centre = (np.arange(columns) + 0.5) * wall / columns
    half = pitch * fraction / 2
    floors = ground + np.arange(storeys) * storey
    sill, lintel = rng.uniform(0.2, 0.3) * storey, rng.uniform(0.78, 0.88) * storey
    return _grid(np.stack([centre - half, centre + half], 1), np.stack([floors + sill, floors + lintel], 1))


def building(
    rng: np.random.Generator,
    camera: Camera,
    near: tuple[float, float],
    far: tuple[float, float],
    side: float,
    end_wall: float,
) -> Thing:
    """A house whose front runs from `near` to `far` (right, ahead) on a side (-1 left, +1 right).

    end_wall: length in metres of the wall that faces the camera at the near end.
    """
    storeys = int(rng.integers(3, 8))
    storey, ground = rng.uniform(2.9, 3.5), rng.uniform(3.2, 4.2)
    height = ground + storeys * storey + rng.uniform(0.2, 1.0)
    colour = pick(rng, _FACADES)
    start, end = np.array(near), np.array(far)
    length = float(np.hypot(*(end - start)))

    def on_front(points: np.ndarray) -> np.ndarray:
        along = start + (points[..., :1] / length) * (end - start)
        return camera.project(np.stack([along[..., 0], points[..., 1], along[..., 1]], -1))

    def on_end(points: np.ndarray) -> np.ndarray:
        return Card(camera, *near).project(points * (side, 1.0))

    roof = rng.uniform(1.5, 4.0) if rng.random() < 0.5 else 0.0
    outline = np.concatenate(
        [
            on_front(np.array([[length, 0.0], [0.0, 0.0]])),
            on_end(np.array([[end_wall, 0.0], [end_wall, height], [end_wall * 0.5, height + roof]])),
            on_front(np.array([[0.0, height], [length, height]])),
        ]
    )
    layers = [(outline, colour), (on_end(rectangle(0, end_wall, 0, height)), colour * 0.86)]
    if roof:
        slope = np.array([[0.0, height], [end_wall * 0.5, height + roof], [end_wall, height]])
        layers.append((on_end(slope), np.array([96, 66, 56]) * rng.uniform(0.7, 1.1)))
    if near[1] < 90:
        glass = np.array([62, 70, 78]) * rng.uniform(0.7, 1.3)
        has_shops = rng.random() < 0.6
        rows = (storeys, storey, ground) if has_shops else (storeys + 1, storey, ground - storey)
        windows = _windows(rng, length, *rows)
        frames = windows + (windows - windows.mean(1, keepdims=True)) * 0.22
        bright = rng.random(len(windows)) < rng.uniform(0.05, 0.4)
        layers.append((on_front(frames), colour * rng.choice((0.8, 1.18))))
        layers.append((on_front(windows[~bright]), glass))
        layers.append((on_front(windows[bright]), glass * 0.5 + np.array([96, 92, 84])))
        if end_wall > 3:
            layers.append((on_end(_windows(rng, end_wall, *rows)), glass * 0.9))
        if has_shops:  # glass front under a coloured fascia
            columns = max(int(length / 4.5), 1)
            left = (np.arange(columns) + 0.1) * length / columns
            shops = _grid(np.stack([left, left + 0.8 * length / columns], 1), np.array([[0.3, ground * 0.7]]))
            fascia = rectangle(0, length, ground * 0.74, ground * 0.9)
            layers.append((on_front(fascia), pick(rng, _BOARDS, 24)))
            layers.append((on_front(shops), glass * rng.uniform(0.6, 1.2)))
        layers.append((on_front(rectangle(0, length, height - 0.5, height)), colour * 0.72))
    return Thing(far[1], "building", painted([layer for layer in layers if len(layer[0])]))


def _bumpy(rng: np.random.Generator, points: int, rough: float) -> np.ndarray:
    """Radii (points,) around 1 of a leafy outline."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    order = np.arange(2, 9)[:, None]
    waves = np.cos(order * angle + rng.uniform(0, 2 * np.pi, (7, 1))) / order**0.7
    return 1 + rough * (rng.normal(0, 1, (7, 1)) * waves).sum(0) + rng.normal(0, rough * 0.5, points)


def tree(rng: np.random.Generator, card: Card) -> list[Thing]:
    """Trunk and crown, 6 to 13 m high; both are vegetation."""
    leaves = pick(rng, _LEAVES)
    trunk, bole = rng.uniform(0.12, 0.26), rng.uniform(2.2, 4.0)
    radius = rng.uniform(1.7, 3.6)
    tall = radius * rng.uniform(0.9, 1.5)
    stem = np.array([[-1.3, 0], [1.3, 0], [0.9, 0.3], [0.7, bole + tall], [-0.7, bole + tall], [-0.9, 0.3]])
    angle = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    crown = np.stack([np.cos(angle) * radius, np.sin(angle) * tall], 1) * _bumpy(rng, 36, 0.09)[:, None]
    crown += (rng.normal(0, 0.3), bole + tall * 0.9)
    lit = crown * (0.72, 0.6) + (-0.15 * radius, (bole + tall * 0.9) * 0.4 + 0.2 * tall)
    tufts = np.stack([ellipse(0, 0, radius * 0.2, radius * 0.16)] * 14)
    centre, reach = crown.mean(0), rng.uniform(0, 0.75, (14, 1)) ** 0.5
    turn = rng.uniform(0, 2 * np.pi, 14)
    tufts = tufts + (centre + reach * np.stack([np.cos(turn) * radius, np.sin(turn) * tall], 1))[:, None]

    bark = np.array([62, 54, 46]) * rng.uniform(0.7, 1.2)
    details = [(lit, leaves * 1.18)]
    details += [
        (tuft, leaves * light) for tuft, light in zip(tufts, rng.uniform(0.75, 1.35, 14), strict=True)
    ]
    return [
        card.thing("vegetation", stem * (trunk, 1), bark),
        card.thing("vegetation", crown, leaves, details),
    ]


def bush(rng: np.random.Generator, card: Card) -> Thing:
    """A bush, 0.6 to 2 m high."""
    size = rng.uniform(0.5, 1.2)
    angle = np.linspace(0, np.pi, 18)
    dome = np.stack([np.cos(angle) * size * rng.uniform(0.9, 1.6), np.sin(angle) * size * 1.4], 1)
    dome *= _bumpy(rng, 18, 0.07)[:, None]
    dome[:, 1] = np.maximum(dome[:, 1], 0)
    leaves = pick(rng, _LEAVES)
    lit = dome * (0.7, 0.6) + (-0.1, 0.4 * size)
    return card.thing("vegetation", dome, leaves, [(lit, leaves * 1.2)])


def strip(rng: np.random.Generator, camera: Camera, line: np.ndarray, kind: str, height: float) -> Thing:
    """A wall, fence, hedge or tree mass along a ground line (n, 2) of (right, ahead), near to far."""
    top = np.full(len(line), height)
    if kind == "vegetation":
        top = height * np.clip(1 + rng.normal(0, 0.05 if height < 3 else 0.12, len(line)), 0.6, 1.4)
        colour = pick(rng, _LEAVES)
    else:
        colour = pick(rng, _METAL if kind != "wall" else _FACADES * 0.85)
    foot = np.stack([line[:, 0], np.zeros(len(line)), line[:, 1]], 1)
    head = np.stack([line[:, 0], top, line[:, 1]], 1)
    low, high = camera.project(foot), camera.project(head)
    layers = [(np.concatenate([low, high[::-1]]), colour)]
    if kind == "vegetation":
        middle = low * 0.45 + high * 0.55
        layers.append((np.concatenate([middle, high[::-1]]), colour * 1.2))
    elif kind == "fence":
        for fraction in (0.25, 0.6):
            lower = low * (1 - fraction) + high * fraction
            upper = low * (0.8 - fraction) + high * (0.2 + fraction)
            layers.append((np.concatenate([lower, upper[::-1]]), colour * 0.6))
    else:
        cap = low * 0.1 + high * 0.9
        layers.append((np.concatenate([cap, high[::-1]]), colour * 1.15))
    return Thing(float(line[-1, 1]), kind, painted(layers))


def _post(radius: float, height: float) -> np.ndarray:
    """The outline (4, 2) of a pole, a little thinner at its top."""
    return np.array([[-radius, 0], [radius, 0], [radius * 0.8, height], [-radius * 0.8, height]])


def lamp_post(rng: np.random.Generator, card: Card) -> list[Thing]:
    """A street lamp with an arm over the road, label pole."""
    height, radius = rng.uniform(5.5, 9.0), rng.uniform(0.06, 0.11)
    colour = pick(rng, _METAL)
    reach = -np.sign(card.right) * rng.uniform(0.8, 2.2)
    arm = np.array([[0, height - 0.25], [reach, height + 0.15], [reach, height + 0.32], [0, height]])
    return [card.thing("pole", _post(radius, height), colour), card.thing("pole", arm, colour * 0.9)]


def sign_post(rng: np.random.Generator, card: Card) -> list[Thing]:
    """A pole with one or two traffic signs, sometimes a large direction board."""
    height = rng.uniform(2.4, 3.4)
    things = [card.thing("pole", _post(0.045, height), pick(rng, _METAL))]
    y = height - 0.05
    for _ in range(int(rng.integers(1, 3))):
        kind, size = rng.random(), rng.uniform(0.24, 0.36)
        rim, inside = np.array([188, 36, 34]), np.array([226, 226, 222])
        if kind < 0.35:
            outer = ellipse(0, y, size, size)
            if rng.random() < 0.4:
                rim, inside = np.array([34, 78, 150]), np.array([40, 88, 164])
        elif kind < 0.6:
            outer = np.array([[-size * 1.1, y - size], [size * 1.1, y - size], [0, y + size]])
        elif kind < 0.75:
            outer = np.array([[0, y - size], [size, y], [0, y + size], [-size, y]])
            inside = np.array([224, 184, 40])
        else:
            wide = size * rng.uniform(0.8, 2.8 if rng.random() < 0.3 else 1.4)
            outer = rectangle(-wide, wide, y - size, y + size)
            rim, inside = inside, np.array([[34, 78, 150], [220, 180, 40], [226, 226, 222]])[rng.integers(3)]
        inner = outer * 0.72 + outer.mean(0) * 0.28
        things.append(card.thing("traffic sign", outer, rim, [(inner, inside)], nearer=0.05))
        y -= 2 * size + 0.06
    return things


def traffic_light(rng: np.random.Generator, card: Card) -> list[Thing]:
    """A pole with a signal head; tall ones carry a second head over the road."""
    metal = pick(rng, _METAL)
    things = [card.thing("pole", _post(0.07, 3.3), metal)]
    heads = [(0.0, 2.5)]
    if rng.random() < 0.4:
        reach = -np.sign(card.right) * rng.uniform(2.0, 4.5)
        things.append(card.thing("pole", _post(0.09, 5.8), metal))
        beam = np.array([[0, 5.55], [reach, 5.7], [reach, 5.82], [0, 5.75]])
        things.append(card.thing("pole", beam, metal))
        heads.append((float(reach), 5.0))
    lit = int(rng.integers(3))
    for x, y in heads:
        case = rectangle(-0.17, 0.17, y, y + 0.95) + (x, 0)
        lamp = ellipse(x, y + 0.16 + 0.31 * lit, 0.11, 0.11)
        colour = np.array([[60, 220, 150], [240, 190, 50], [240, 60, 50]])[lit]
        things.append(
            card.thing("traffic light", case, np.array([28, 30, 28]), [(lamp, colour)], nearer=0.05)
        )
    return things


def bollard(rng: np.random.Generator, card: Card) -> list[Thing]:
    """A short post, 0.8 to 1.1 m high, label pole."""
    post = _post(rng.uniform(0.05, 0.09), rng.uniform(0.8, 1.1))
    return [card.thing("pole", post, pick(rng, _METAL))]


def furniture(rng: np.random.Generator, card: Card) -> list[Thing]:
    """A bin, cabinet, advertising column or board (static), or now and then something movable (dynamic)."""
    kind = rng.random()
    low, label = 0.0, "static"
    if kind < 0.35:
        half, high = rng.uniform(0.25, 0.6), rng.uniform(0.9, 1.4)
    elif kind < 0.55:
        half, high = rng.uniform(0.6, 0.8), rng.uniform(2.8, 3.6)
    elif kind < 0.8:
        half, low, high = rng.uniform(0.6, 1.4), rng.uniform(0.3, 0.7), rng.uniform(2.2, 2.8)
    else:
        half, high, label = rng.uniform(0.25, 0.5), rng.uniform(0.6, 1.1), "dynamic"
    across = half * np.array([-1, 1, 1, 0.9, -0.9, -1])
    outline = np.stack([across, np.array([low, low, high * 0.97, high, high, high * 0.97])], 1)
    colour = pick(rng, _BOARDS, 20)
    panel = rectangle(-half * 0.8, half * 0.8, high * 0.45, high * 0.92)
    if low > 0:  # a board stands on two legs
        left, right = (rectangle(x - 0.05, x + 0.05, 0, low) for x in (-half * 0.8, half * 0.8))
        outline = np.concatenate([left[:3], right[3:], right[:3], outline[2:], outline[:1], left[3:]])
    return [card.thing(label, outline, colour, [(panel, pick(rng, _FACADES, 30))])]


def facade_sign(rng: np.random.Generator, card: Card) -> Thing:
    """A sign that sticks out of a house, label static as annotators draw it."""
    low, half = rng.uniform(3.0, 5.5), rng.uniform(0.3, 0.7)
    box = rectangle(-half, half, low, low + rng.uniform(0.6, 2.4))
    return card.thing("static", box, pick(rng, _BOARDS, 30))


def skyline(rng: np.random.Generator, camera: Camera, ahead: float, green: float) -> list[Thing]:
    """What closes the view: far houses or trees over the whole width. green: fraction of trees, 0..1."""
    things = []
    x, reach = -0.55 * ahead, 0.55 * ahead
    while x < reach:
        wide, tall = rng.uniform(8, 22), rng.uniform(9, 24)
        if rng.random() < green:
            steps = np.linspace(0, wide, 12)
            top = tall * 0.8 * (1 + rng.normal(0, 0.08, 12))
            label, colour = "vegetation", pick(rng, _LEAVES) * 1.1 + 10
        else:
            label, colour = "building", pick(rng, _FACADES)
            if rng.random() < 0.6:
                steps, top = np.array([0, 0, 1, 1]) * wide, np.array([tall * 0.8, tall, tall, tall * 0.8])
            else:
                steps, top = np.array([0, 0, 0.5, 1, 1]) * wide, tall * np.array([0.7, 0.8, 1, 0.8, 0.7])
        edge = np.stack([x + steps, top], 1)
        details = []
        if label == "building":
            details.append((_windows(rng, wide, int(tall * 0.8 / 3.2), 3.2, 0.0) + (x, 0), colour * 0.62))
        outline = np.concatenate([edge, [[x + wide, 0.0], [x, 0.0]]])
        things.append(Card(camera, 0.0, ahead).thing(label, outline, colour, details))
        x += wide
    return things
