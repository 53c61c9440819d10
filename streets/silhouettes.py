"""People and riders as flat cut-outs: coloured parts in metres, and the outline of their union.

A person is a small jointed figure in three dimensions (right, up, ahead of its own body), turned by a
heading and seen from the side, so that one set of poses gives front, back and side views. All lengths
in the pose are fractions of the standing height.
"""

from dataclasses import dataclass

import cv2
import numpy as np

_OUTLINE_PIXELS = 200  # longer side of the canvas on which a union is taken
_SHIFT = 4  # fractional bits of cv2's polygon coordinates

_ARC = np.linspace(np.pi / 2, 3 * np.pi / 2, 6)  # half circle behind the start of a limb
_CAP = np.concatenate([_ARC, _ARC + np.pi])
_CIRCLE = np.linspace(0, 2 * np.pi, 20, endpoint=False)
UNIT_CIRCLE = np.stack([np.cos(_CIRCLE), np.sin(_CIRCLE)], 1)

SKIN = np.array([[224, 182, 152], [198, 150, 118], [160, 112, 82], [112, 76, 56], [236, 200, 176]])
HAIR = np.array([[42, 34, 30], [84, 58, 38], [150, 116, 70], [120, 116, 112], [26, 24, 26]])
CLOTHES = np.array(
    [[38, 40, 48], [60, 62, 70], [30, 44, 80], [96, 88, 78], [140, 40, 44]]
    + [[170, 164, 154], [58, 84, 60], [112, 78, 54], [60, 96, 140], [196, 190, 186]]
    + [[150, 120, 60], [78, 52, 86], [190, 92, 50], [24, 26, 30]]
)
TROUSERS = np.array([[36, 38, 46], [44, 56, 88], [70, 70, 74], [104, 92, 76], [26, 26, 30], [62, 76, 108]])


Layer = tuple[np.ndarray, np.ndarray]  # a polygon and its colour


@dataclass(frozen=True)
class Shape:
    """Something to paint: parts, far to near, an RGB colour (0..255) for each, and the outline to label.

    A part is a polygon (N, 2) float or a set of disjoint ones (k, N, 2); outline: (M, 2) float. The figures
    of this file stand at the origin, x right and y up in metres; what has been projected is in pixels.
    """

    parts: list[np.ndarray]
    colours: list[tuple[float, float, float]]
    outline: np.ndarray


def clipped(colours: list[np.ndarray]) -> list[tuple[float, float, float]]:
    """RGB colours limited to 0..255."""
    return [tuple(colour) for colour in np.minimum(np.maximum(np.array(colours), 0), 255).tolist()]


def union_outline(parts: list[np.ndarray]) -> np.ndarray:
    """Outer outline (M, 2) float of overlapping polygons, in their coordinates; the longest piece only."""
    points = np.concatenate(parts)
    low, high = points.min(0), points.max(0)
    scale = _OUTLINE_PIXELS / max((high - low).max(), 1e-9)
    width, height = np.ceil((high - low) * scale).astype(int) + 3
    canvas = np.zeros((height, width), np.uint8)
    fixed = np.rint(((points - low) * scale + 1) * (1 << _SHIFT)).astype(np.int32)
    end = 0
    for part in parts:
        start, end = end, end + len(part)
        cv2.fillPoly(canvas, [fixed[start:end]], 1, shift=_SHIFT)
    contours = cv2.findContours(canvas, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[-2]
    contour = cv2.approxPolyDP(max(contours, key=len), 0.7, True)
    return (contour[:, 0].astype(float) - 1) / scale + low


def united(layers: list[Layer]) -> Shape:
    """What layers, far to near, show; its outline is that of their union."""
    parts = [part for part, _ in layers]
    return Shape(parts, clipped([colour for _, colour in layers]), union_outline(parts))


def capsules(
    start: np.ndarray, end: np.ndarray, start_radius: np.ndarray, end_radius: np.ndarray
) -> np.ndarray:
    """Tapered capsules (n, 12, 2) between points (n, 2) and (n, 2) with end radii (n,)."""
    along = end - start
    angle = np.arctan2(along[:, 1], along[:, 0])[:, None] + _CAP
    radius = np.repeat(np.stack([start_radius, end_radius], 1), 6, axis=1)
    centre = np.repeat(np.stack([start, end], 1), 6, axis=1)
    return centre + radius[..., None] * np.stack([np.cos(angle), np.sin(angle)], -1)


def ellipse(x: float, y: float, half_width: float, half_height: float) -> np.ndarray:
    """Ellipse outline (20, 2)."""
    return UNIT_CIRCLE * (half_width, half_height) + (x, y)


def pick(rng: np.random.Generator, colours: np.ndarray, spread: float = 12.0) -> np.ndarray:
    """One RGB colour (3,) float of a palette (n, 3), a little changed."""
    return colours[rng.integers(len(colours))] + rng.normal(0, spread) + rng.normal(0, spread / 3, 3)


def _swing(angle: float, length: float) -> np.ndarray:
    """A limb of some length that hangs straight down at angle 0 and points ahead at +90 degrees (radians)."""
    return np.array([0.0, -np.cos(angle), np.sin(angle)]) * length


@dataclass(frozen=True)
class Pose:
    """Joint angles in radians, (left, right): thigh and upper arm forward of vertical, knee and elbow bent.

    spread: sideways distance of hip to foot; abduct: upper arm away from the body; lean: trunk forward.
    """

    thigh: tuple[float, float]
    knee: tuple[float, float]
    arm: tuple[float, float]
    elbow: tuple[float, float]
    abduct: tuple[float, float] = (0.12, 0.12)
    spread: float = 0.01
    lean: float = 0.0


def _arm_pose(rng: np.random.Generator, swing: float) -> tuple[float, float, float]:
    """One arm: (forward, elbow, abduction), mostly hanging, sometimes phone, pocket or something held."""
    kind = rng.random()
    if kind < 0.62:
        return swing + rng.normal(0, 0.08), abs(rng.normal(0.25, 0.2)), rng.uniform(0.06, 0.22)
    if kind < 0.74:  # phone or bag strap: hand near the head or chest
        return rng.uniform(0.2, 0.6), rng.uniform(1.7, 2.4), rng.uniform(0.1, 0.4)
    if kind < 0.88:  # hand in the pocket
        return rng.uniform(-0.45, -0.2), rng.uniform(0.6, 0.95), rng.uniform(0.2, 0.42)
    return rng.uniform(-0.1, 0.4), rng.uniform(0.8, 1.5), rng.uniform(0.1, 0.3)


def _pedestrian_pose(rng: np.random.Generator) -> Pose:
    if rng.random() < 0.62:  # walking, at any moment of the step
        phase = rng.uniform(0, 2 * np.pi)
        stride = rng.uniform(0.2, 0.46)
        step = stride * np.sin(phase)
        # The knee of the leg that swings forward bends while the legs pass each other.
        lift = np.cos(phase) * rng.uniform(0.5, 0.9)
        thigh = (step + 0.05, -step + 0.05)
        knee = (max(lift, 0) + max(-step, 0) * 0.5 + 0.05, max(-lift, 0) + max(step, 0) * 0.5 + 0.05)
        swing, lean, spread = step * rng.uniform(0.5, 1.1), rng.uniform(0, 0.09), rng.uniform(-0.01, 0.012)
    else:
        thigh = tuple(rng.normal(0.02, 0.07, 2))
        knee = tuple(np.abs(rng.normal(0.04, 0.08, 2)))
        swing, lean, spread = 0.0, rng.normal(0, 0.03), rng.uniform(0.0, 0.06)
    left, right = _arm_pose(rng, -swing), _arm_pose(rng, swing)
    arm, elbow, abduct = zip(left, right, strict=True)
    return Pose(thigh, knee, arm, elbow, abduct, spread, lean)


@dataclass(frozen=True)
class _Wardrobe:
    skin: np.ndarray
    hair: np.ndarray
    top: np.ndarray
    bottom: np.ndarray
    shoes: np.ndarray


# Of thigh, shin, foot, upper arm, forearm and hand, at their start and end.
_RADII = ((0.05, 0.036), (0.035, 0.022), (0.02, 0.014), (0.031, 0.025), (0.024, 0.017), (0.017, 0.015))


def _limbs(pose: Pose, heading: float, girth: float) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Limb capsules (16, 12, 2) seen from the front of the scene, their distance away (16,), and joints (2,).

    Order: for left then right: thigh, shin, foot, upper arm, forearm, hand; then neck.
    """
    waist = np.array([0.0, 0.53, 0.0])
    trunk = np.array([0.0, np.cos(pose.lean), np.sin(pose.lean)])
    chest = waist + trunk * 0.285
    joints, starts, ends, radii = {}, [], [], []
    for side, sign in enumerate((-1.0, 1.0)):
        hip = np.array([sign * 0.052 * girth, 0.525, 0.0])
        knee = hip + _swing(pose.thigh[side], 0.245) + (sign * pose.spread * 0.5, 0, 0)
        shin = pose.thigh[side] - pose.knee[side]
        ankle = knee + _swing(shin, 0.24) + (sign * pose.spread * 0.5, 0, 0)
        pitch = min(shin * 0.8, 0.25)
        heel = ankle + (0, -0.022, -0.02)
        toe = heel + np.array([sign * 0.02, np.sin(pitch) * 0.11, np.cos(pitch) * 0.115])
        shoulder = chest + (sign * 0.104 * (0.6 + 0.4 * girth), -0.022, 0)
        upper = _swing(pose.arm[side] + pose.lean, 0.175)
        upper[0] += sign * np.sin(pose.abduct[side]) * 0.175
        elbow = shoulder + upper
        wrist = elbow + _swing(pose.arm[side] + pose.lean + pose.elbow[side], 0.145)
        wrist[0] += sign * (pose.abduct[side] - 0.7 * min(pose.elbow[side], 1.2)) * 0.07
        hand = wrist + (wrist - elbow) * 0.28
        starts += [hip, knee, heel, shoulder, elbow, wrist]
        ends += [knee, ankle, toe, elbow, wrist, hand]
        radii += _RADII
        joints |= {f"shoulder{side}": shoulder, f"hand{side}": hand, f"knee{side}": knee, f"toe{side}": toe}
    starts.append(chest - trunk * 0.02)
    ends.append(chest + trunk * 0.06 + (0, 0, 0.012))
    radii.append((0.036, 0.03))
    joints |= {"chest": chest, "waist": waist, "head": chest + trunk * 0.105 + (0, 0, 0.02)}

    cos, sin = np.cos(heading), np.sin(heading)
    turn = np.array([[cos, 0.0], [0.0, 1.0], [sin, 0.0]])
    away = np.array([-sin, 0.0, cos])
    starts, ends, radii = np.array(starts), np.array(ends), np.array(radii)
    thick = radii * np.where(np.arange(len(radii)) % 6 == 2, 1.0, 0.55 + 0.45 * girth)[:, None]
    shapes = capsules(starts @ turn, ends @ turn, thick[:, 0], thick[:, 1])
    return shapes, ((starts + ends) / 2) @ away, {name: joint @ turn for name, joint in joints.items()}


def _trunk(joints: dict[str, np.ndarray], heading: float, girth: float, curve: float) -> np.ndarray:
    """Torso outline from crotch to neck; its half width follows the heading between breadth and depth."""
    up = np.array([0.0, 0.05, 0.16, 0.30, 0.44, 0.66, 0.84, 0.92, 0.97, 1.02])
    breadth = np.array([0.05, 0.088, 0.094, 0.086 - curve, 0.083 - curve, 0.1, 0.114, 0.106, 0.084, 0.034])
    depth = np.array([0.045, 0.068, 0.072, 0.066, 0.064, 0.073, 0.068, 0.06, 0.048, 0.032])
    half = np.hypot(breadth * np.cos(heading), depth * np.sin(heading)) * (0.4 + 0.6 * girth)
    low, high = joints["waist"] - (0, 0.055), joints["chest"] + (0, 0.018)
    middle = low + up[:, None] * (high - low)
    # Seen from the side the chest is in front of the spine and the seat behind it.
    middle[:, 0] += np.sin(heading) * np.array([-0.006, -0.014, -0.016, -0.004, 0, 0.006, 0.004, 0, 0, 0])
    left, right = middle.copy(), middle.copy()
    left[:, 0] -= half
    right[:, 0] += half
    return np.concatenate([left, right[::-1]])


def _head(
    rng: np.random.Generator, joints: dict[str, np.ndarray], heading: float, look: _Wardrobe, helmet: bool
) -> list[Layer]:
    """Head, hair, face and hat, far to near."""
    x, y = joints["head"]
    half = np.hypot(0.047 * np.cos(heading), 0.056 * np.sin(heading))
    ahead, away = np.sin(heading), np.cos(heading)
    kind = "helmet"
    if not helmet:
        kind = ("bald", "long", "hat", "short")[np.searchsorted((0.07, 0.4, 0.5), rng.random())]
    crown = {"helmet": look.skin * 0 + rng.uniform(40, 200), "bald": look.skin * 0.97}.get(kind, look.hair)
    layers = [(ellipse(x, y, half, 0.067), crown)]
    if kind == "long":
        fall = [[-1.0, 0.03], [1.0, 0.03], [1.12, -0.06], [0.85, -0.12], [-0.85, -0.12], [-1.12, -0.06]]
        layers.append((np.array(fall) * (half, 1.0) + np.array([x - ahead * 0.02, y]), look.hair))
    if kind in ("helmet", "long") or (kind == "short" and rng.random() < 0.4):
        layers.append((ellipse(x - ahead * 0.008, y + 0.016, half * 1.1, 0.058), crown * 1.04))
    if away < 0.35:  # some of the face shows
        turned = 1 - max(away, 0) / 0.5
        layers.append((ellipse(x + ahead * 0.018, y - 0.018, half * 0.84 * turned, 0.048), look.skin))
    if kind == "hat":
        layers.append((ellipse(x, y + 0.046, half * 1.06, 0.03), look.top * 0.7))
        layers.append((ellipse(x + ahead * 0.024, y + 0.036, half * 1.3, 0.012), look.top * 0.6))
    return layers


def _skirt(
    joints: dict[str, np.ndarray], heading: float, girth: float, hem: float, flare: float
) -> np.ndarray:
    """Skirt or long coat from the waist down to a hem (fractions of height)."""
    half = np.hypot(0.085 * np.cos(heading), 0.068 * np.sin(heading)) * (0.4 + 0.6 * girth)
    x, y = joints["waist"]
    knees = (joints["knee0"][0] + joints["knee1"][0]) / 2
    reach = abs(joints["knee0"][0] - joints["knee1"][0]) * 0.5 * (0.53 - hem) / 0.25
    low = max(half * flare, reach + 0.045)
    drift = (knees - x) * 0.6
    return np.array(
        [[x - half, y + 0.06], [x + half, y + 0.06], [x + half * 1.15, y - 0.03], [x + drift + low, hem]]
        + [[x + drift + low * 0.4, hem - 0.008], [x + drift - low * 0.4, hem - 0.004]]
        + [[x + drift - low, hem], [x - half * 1.15, y - 0.03]]
    )


def _bag(rng: np.random.Generator, joints: dict[str, np.ndarray], heading: float) -> np.ndarray:
    """A backpack, shoulder bag or carried bag, as a rounded box."""
    kind = rng.random()
    if kind < 0.4:
        x, y = (joints["chest"] + joints["waist"]) / 2 + (-0.085 * np.sin(heading), 0.045)
        width, height = 0.045 + 0.045 * abs(np.cos(heading)), 0.11
    elif kind < 0.7:
        x, y = joints["waist"] + (rng.choice((-1, 1)) * 0.1, 0.0)
        width, height = rng.uniform(0.04, 0.075), rng.uniform(0.05, 0.075)
    else:
        x, y = joints[f"hand{rng.integers(2)}"] - (0, 0.075)
        width, height = rng.uniform(0.04, 0.085), rng.uniform(0.06, 0.1)
    corners = np.array(
        [[-1, -0.8], [-0.8, -1], [0.8, -1], [1, -0.8], [0.95, 0.7], [0.6, 1], [-0.6, 1], [-0.95, 0.7]]
    )
    return corners * (width, height) + (x, y)


def _figure(
    rng: np.random.Generator, pose: Pose, heading: float, girth: float, *, helmet: bool = False
) -> tuple[list[Layer], dict[str, np.ndarray]]:
    """Layers far to near, and the joints, all at unit height."""
    skin, hair = pick(rng, SKIN), pick(rng, HAIR, 8)
    look = _Wardrobe(skin, hair, pick(rng, CLOTHES), pick(rng, TROUSERS), pick(rng, HAIR, 8) * 0.8)
    shapes, away, joints = _limbs(pose, heading, girth)
    bare_arms = rng.random() < 0.15
    sleeve = look.skin if bare_arms else look.top * 0.96
    colour_of = [look.bottom, look.bottom * 0.95, look.shoes, look.top * 0.96, sleeve, look.skin] * 2
    waist_taper = rng.uniform(0.0, 0.02)
    skirt = None
    if not helmet and rng.random() < 0.3:
        hem = rng.uniform(0.2, 0.4)
        is_coat = rng.random() < 0.6
        skirt = _skirt(joints, heading, girth, hem, rng.uniform(1.15, 1.6))
        skirt_colour = look.top * 0.97 if is_coat else pick(rng, CLOTHES)
        if not is_coat:
            bare = look.skin if rng.random() < 0.5 else look.bottom
            for leg in (0, 1, 6, 7):
                colour_of[leg] = bare

    order = np.argsort(-away[:12], kind="stable")
    far_arms = [i for i in order if i % 6 >= 3 and away[i] > 0]
    layers = [
        (shapes[i], colour_of[i] * (0.8 if away[i] > 0 else 1.0))
        for i in (*far_arms, *(i for i in order if i % 6 < 3))
    ]
    layers.append((shapes[12], look.skin * 0.9))
    if skirt is not None:
        layers.append((skirt, skirt_colour))
    trunk = _trunk(joints, heading, girth, waist_taper)
    half = len(trunk) // 2  # light from the left: the right half of the trunk lies in shade
    shade = np.concatenate([(trunk[:half] * 0.35 + trunk[: half - 1 : -1] * 0.65), trunk[half:]])
    layers += [(trunk, look.top), (shade, look.top * 0.84), *_head(rng, joints, heading, look, helmet)]
    layers += [(shapes[i], colour_of[i]) for i in order if i % 6 >= 3 and away[i] <= 0]
    if not helmet and rng.random() < 0.3:
        bag = _bag(rng, joints, heading)
        behind = np.cos(heading) > 0.3 or rng.random() < 0.5
        layers.insert(len(layers) if behind else 0, (bag, pick(rng, CLOTHES) * 0.8))
    return layers, joints


def make_person(rng: np.random.Generator, height: float, heading: float) -> Shape:
    """A standing or walking person.

    height: standing height in metres. heading in radians: 0 shows the back, pi the face, +pi/2 walks right.
    """
    girth = float(np.clip(rng.normal(1.08, 0.14), 0.82, 1.5))
    layers, joints = _figure(rng, _pedestrian_pose(rng), heading, girth)
    if rng.random() < 0.02 and height < 1.75:
        x, y = joints["head"]
        canopy = np.array([[np.cos(a) * 0.3, np.sin(a) * 0.13] for a in np.linspace(0, np.pi, 11)])
        radius = np.array([0.008])
        stick = capsules(*np.array([[joints["hand1"]], [[x, y + 0.16]]]), radius, radius)[0]
        layers += [(stick, np.array([60, 60, 60])), (canopy + (x, y + 0.03), pick(rng, CLOTHES))]
    return stand_on_ground(layers, height)


def stand_on_ground(layers: list[Layer], scale: float) -> Shape:
    """What layers show, scaled to metres, with the lowest point on the ground."""
    lowest = min(part[:, 1].min() for part, _ in layers)
    return united([((part - (0, lowest)) * scale, colour) for part, colour in layers])


def make_rider(rng: np.random.Generator, height: float, heading: float, motorcycle: bool) -> Shape:
    """Who sits on a two-wheeler of the same heading; y is above the ground, the feet hang at the pedals."""
    turn = rng.uniform(0, 2 * np.pi)
    if motorcycle:
        thigh, knee, lean = (1.15, 1.15), (1.25, 1.25), rng.uniform(0.05, 0.3)
        seat, arm = 0.8, 0.75
    else:
        thigh = (0.95 + 0.4 * np.sin(turn), 0.95 - 0.4 * np.sin(turn))
        knee = (1.0 + 0.45 * np.sin(turn + 0.7), 1.0 - 0.45 * np.sin(turn + 0.7))
        lean, seat, arm = rng.uniform(0.1, 0.45), 0.96, rng.uniform(0.6, 0.8)
    pose = Pose(thigh, knee, (arm, arm), (0.35, 0.35), (0.2, 0.2), 0.02, lean)
    helmet = motorcycle or rng.random() < 0.4
    layers, joints = _figure(rng, pose, heading, float(rng.uniform(0.95, 1.2)), helmet=helmet)
    back = -0.3 if motorcycle else -0.22  # where the seat is along the vehicle
    x, y = joints["waist"]
    offset = np.array([back * np.sin(heading) - x * height, seat - y * height])
    return united([(part * height + offset, colour) for part, colour in layers])
