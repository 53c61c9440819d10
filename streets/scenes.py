"""Built-in street scenes: procedural Cityscapes-like frames with images, ground truth and camera.

A scene depends only on (seed, split, index): not on the worker that makes it, nor on how many are made. The
random geometry does not depend on the image size either; only the rasterisation does.
"""

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import name2label

from data.camera import Camera
from data.erasures import Erasure
from data.frame import CAMERA_KIND, ERASED_KIND, GT_KINDS, IMAGE_KIND, Frame
from data.writer import LabelledPolygon, maps_of_topmost, topmost, visible_only
from engine.records import MANIFEST, WORK, WorkItem
from engine.shards import Shard
from engine.tree import Program, opened, take_away
from streets.layout import FARTHEST, Population
from streets.life import MIXED, USUAL, populate
from streets.scenery import Thing
from streets.second_layer import erasures_of, two_topmost
from streets.silhouettes import Shape
from support.errors import InputError
from support.files import LOCK, at_work_in, writing_to

SPLITS = {"train": ("streets", 0), "val": ("streetsval", 1)}  # split -> city name, number in the seed
SETTINGS_FILE = "streets.json"
SMALLEST = (64, 32)  # pixels
GENERATOR_VERSION = 1  # raise it when the same seed gives other scenes
_USUAL = {"erased": False, "with_people": True, "mixed": False}  # kind of tree that settings do not name
_FOLDERS = tuple(
    f"{kind}/{split}/{city}"
    for kind in (IMAGE_KIND, GT_KINDS[0], CAMERA_KIND, ERASED_KIND)
    for split, (city, _) in SPLITS.items()
)
STREETS = Program("streets", str(GENERATOR_VERSION), SETTINGS_FILE, ("streets",), _FOLDERS)

_SHIFT = 4  # fractional bits of cv2's polygon coordinates
_HAZE = np.array([196.0, 200.0, 202.0])
_HAZE_LENGTH = 420.0  # metres

# Texture by label: strength of pixel noise and of leaf-sized noise, relative to brightness.
_TEXTURE = {
    "road": (0.035, 0.028),
    "parking": (0.035, 0.028),
    "ground": (0.05, 0.06),
    "sidewalk": (0.045, 0.03),
    "terrain": (0.10, 0.12),
    "sky": (0.008, 0.004),
    "vegetation": (0.12, 0.24),
    "building": (0.03, 0.03),
    "wall": (0.04, 0.06),
    "fence": (0.05, 0.05),
}
_TEXTURE_OF_ID = np.full((256, 2), (0.025, 0.02), np.float32)
for _name, _strengths in _TEXTURE.items():
    _TEXTURE_OF_ID[name2label[_name].id] = _strengths


@dataclass(frozen=True)
class StreetScene:
    """One frame: rgb (H, W, 3) uint8, visible objects in painting order, label_ids (H, W) uint8,
    instance_ids (H, W) uint16 (both are what `data.writer.rasterise` makes of the objects), camera;
    erasures: what the maps show without each instance or pair, None if that was not asked for."""

    rgb: np.ndarray
    objects: list[LabelledPolygon]
    label_ids: np.ndarray
    instance_ids: np.ndarray
    camera: Camera
    erasures: list[Erasure] | None = None


def make_camera(rng: np.random.Generator, width: int, height: int) -> Camera:
    """A camera like that of the Cityscapes car; height and pitch vary. Sizes not 2:1 get oblong pixels."""
    focal = rng.normal(2262, 12) / 2048
    return Camera(
        fx=float(focal * width),
        fy=float(focal * 2.0 * height),
        u0=float(rng.normal(0.5, 0.004) * width),
        v0=float(rng.normal(0.501, 0.004) * height),
        height=float(np.clip(rng.normal(1.24, 0.05), 1.1, 1.4)),
        pitch=float(np.clip(rng.normal(0.05, 0.019), 0.008, 0.1)),
    )


def _frame_things(rng: np.random.Generator, width: int, height: int) -> list[Thing]:
    """The ego vehicle's hood and the borders that rectification leaves; nearer than everything else."""
    across = np.linspace(0, 1, 25)
    top, middle = rng.uniform(0.89, 0.915), rng.uniform(0.5, 0.57)
    hood = np.stack(
        [across, np.minimum(top + (1.02 - top) * np.abs((across - middle) / 0.47) ** 2.2, 1.02)], 1
    )
    hood = np.concatenate([hood, [[1, 1.02], [0, 1.02]]]) * (width, height)
    sheen = hood * (1, 0.985) + (0, 0.03 * height)
    things = [Thing(1.0, "ego vehicle", Shape([hood, sheen], [(44, 46, 48), (30, 32, 34)], hood))]
    if rng.random() < 0.75:
        for corners in _wedges(rng):
            wedge = corners * (width, height)
            things.append(Thing(1.0, "rectification border", Shape([wedge], [(12, 13, 14)], wedge)))
    return things


def _roi_border(width: int, height: int) -> list[LabelledPolygon]:
    """The thin frame "out of roi" along the four image edges: at least one pixel, five at full size."""
    thick = max(round(width * 5 / 2048), 1)
    sides = (
        (0, 0, width - 1, thick - 1),
        (0, height - thick, width - 1, height - 1),
        (0, 0, thick - 1, height - 1),
        (width - thick, 0, width - 1, height - 1),
    )
    corners = (np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.int32) for x0, y0, x1, y1 in sides)
    return [LabelledPolygon("out of roi", side) for side in corners]


def _wedges(rng: np.random.Generator) -> list[np.ndarray]:
    """Curved slivers along the image edges, in fractions of the image size."""
    along = np.linspace(0, 1, 9)
    bulge = 4 * along * (1 - along)
    bottom, side, top = rng.uniform(0.008, 0.032), rng.uniform(0.002, 0.01), rng.uniform(0.0, 0.014)
    low = 1 - bottom * (0.6 + 0.4 * bulge)
    high = top * (1 - 0.5 * bulge)
    left = side * (0.4 + 0.6 * bulge)
    return [
        np.concatenate([np.stack([along, low], 1), [[1, 1.01], [0, 1.01]]]),
        np.concatenate([np.stack([along, high], 1), [[1, -0.01], [0, -0.01]]]),
        np.concatenate([np.stack([left, along], 1), [[-0.01, 1], [-0.01, 0]]]),
        np.concatenate([np.stack([1 - left, along], 1), [[1.01, 1], [1.01, 0]]]),
    ]


def _cut(points: np.ndarray, axis: int, bound: float, sign: float) -> np.ndarray:
    """The part of a polygon (N, 2) where sign * (coordinate - bound) >= 0 (Sutherland and Hodgman's step)."""
    distance = sign * (points[:, axis] - bound)
    inside = distance >= 0
    following, beyond = np.concatenate([points[1:], points[:1]]), np.concatenate([distance[1:], distance[:1]])
    crosses = inside != (beyond >= 0)
    fraction = distance / np.where(crosses, distance - beyond, 1.0)
    cut = points + fraction[:, None] * (following - points)
    cut[:, axis] = bound
    return np.stack([points, cut], 1)[np.stack([inside, crosses], 1)]


def to_pixels(outline: np.ndarray, width: int, height: int) -> np.ndarray | None:
    """Integer polygon (N, 2) int32 inside the image, no point twice in a row; None if too little is left."""
    points = outline
    for axis, last in ((0, width - 1.0), (1, height - 1.0)):
        low, high = points[:, axis].min(), points[:, axis].max()
        if high < 0 or low > last:
            return None
        if low < 0:
            points = _cut(points, axis, 0.0, 1.0)
        if high > last:
            points = _cut(points, axis, last, -1.0)
    points = np.rint(points).astype(np.int32)
    points = points[(points != np.concatenate([points[-1:], points[:-1]])).any(1)]
    return points if len(points) >= 3 else None


def _paint_shape(canvas: np.ndarray, shape: Shape, haze: float) -> None:
    if not shape.parts:
        return
    limit = 8.0 * max(canvas.shape)  # cv2 overflows on far-away fixed-point coordinates
    points = np.concatenate([part.reshape(-1, 2) for part in shape.parts])
    fixed = np.rint(np.minimum(np.maximum(points, -limit), limit) * (1 << _SHIFT)).astype(np.int32)
    tints = (np.array(shape.colours) * (1 - haze) + _HAZE * haze).tolist()
    start = 0
    for part, tint in zip(shape.parts, tints, strict=True):
        count = part.size // 2
        polygons = fixed[start : start + count].reshape(part.shape)
        start += count
        cv2.fillPoly(canvas, polygons if part.ndim == 3 else [polygons], tint, cv2.LINE_AA, _SHIFT)


def _sky(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    zenith = np.array([[150, 172, 204], [196, 202, 208], [176, 190, 210]])[rng.integers(3)] + rng.normal(0, 6)
    row = np.linspace(0, 1, height)[:, None, None] ** 0.7
    gradient = zenith * (1 - row) + np.array([222, 226, 228]) * row
    return np.ascontiguousarray(np.broadcast_to(gradient, (height, width, 3)).astype(np.uint8))


def _cast_shadows(canvas: np.ndarray, town: Population) -> None:
    """Darken the ground under everything that stands on it."""
    if not town.shadows:
        return
    height, width = canvas.shape[:2]
    shade = np.zeros((height, width), np.uint8)
    for corners in town.shadows:
        if corners[:, 2].min() > 1.0:
            points = np.rint(town.camera.project(corners) * (1 << _SHIFT)).astype(np.int32)
            cv2.fillPoly(shade, [points], 130, cv2.LINE_AA, _SHIFT)
    top = max(int(town.camera.horizon), 0)
    shade = cv2.GaussianBlur(shade[top:], (0, 0), max(height / 400, 0.5))
    dark = canvas[top:] * (1 - shade[..., None].astype(np.float32) / 255)
    canvas[top:] = dark.astype(np.uint8)


def _finish(rng: np.random.Generator, canvas: np.ndarray, label_ids: np.ndarray) -> np.ndarray:
    """Texture by label, light of the day, lens and sensor."""
    height, width = label_ids.shape
    fine, coarse = (rng.standard_normal(size, np.float32) for size in ((160, 320), (40, 80)))
    leaf = 0.75 * cv2.resize(fine, (width, height)) + 0.65 * cv2.resize(coarse, (width, height))
    grain = rng.standard_normal((height, width), np.float32)
    of_grain, of_leaf = (cv2.LUT(label_ids, np.ascontiguousarray(_TEXTURE_OF_ID[:, i])) for i in (0, 1))
    gain = 1 + of_grain * grain + of_leaf * leaf
    light = rng.uniform(0.86, 1.12) * np.array([rng.normal(0.98, 0.015), 1.0, rng.normal(0.97, 0.02)])
    gains = cv2.merge([gain * np.float32(channel) for channel in light])
    image = cv2.multiply(canvas, gains, dtype=cv2.CV_8U)  # rounds and saturates
    return cv2.GaussianBlur(image, (3, 3), 0.45)


def _paint(
    rng: np.random.Generator, things: list[Thing], town: Population, width: int, height: int
) -> np.ndarray:
    """The untextured image (H, W, 3) uint8: sky, ground, shadows on it, then what stands, far to near."""
    canvas = _sky(rng, width, height)
    for thing in things:
        if thing.flat:
            _paint_shape(canvas, thing.shape, 0.0)
    _cast_shadows(canvas, town)
    for thing in things:
        if not thing.flat:
            _paint_shape(canvas, thing.shape, 1 - float(np.exp(-thing.ahead / _HAZE_LENGTH)))
    return canvas


def make_scene(
    seed: int,
    split: str,
    index: int,
    width: int,
    height: int,
    *,
    erased: bool = False,
    with_people: bool = True,
    mixed: bool = False,
) -> StreetScene:
    """Scene `index` (0, 1, ...) of a split ("train" or "val") at width x height pixels.

    erased: find out what the maps show without each instance, too; nothing else changes. with_people: persons
    and riders, or none. mixed: many riders, two-wheelers, trucks, buses and trams.
    Raises ValueError for unknown splits and sizes below 64 x 32.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    if width < SMALLEST[0] or height < SMALLEST[1]:
        raise ValueError(f"scenes are at least {SMALLEST[0]}x{SMALLEST[1]} pixels, not {width}x{height}")
    rng = np.random.default_rng([seed, SPLITS[split][1], index])
    camera = make_camera(rng, width, height)
    traffic = MIXED if mixed else USUAL
    town = populate(rng, camera, width, with_people=with_people, traffic=traffic)
    corners = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], float)
    sky = Thing(FARTHEST, "sky", Shape([], [], corners), flat=True)
    standing = sorted(town.things, key=lambda thing: -thing.ahead)
    things, objects, pairs = [], [], []
    for thing in [sky, *town.ground, *standing, *_frame_things(rng, width, height)]:
        polygon = to_pixels(thing.shape.outline, width, height)
        if polygon is not None:
            things.append(thing)
            objects.append(LabelledPolygon(thing.label, polygon))
            pairs.append(thing.pair)
    objects += _roi_border(width, height)
    if erased:
        pairs += [0] * (len(objects) - len(things))
        top, beneath = two_topmost(objects, pairs, width, height)
        erasures = erasures_of(objects, pairs, top, beneath)
    else:
        top, erasures = topmost(objects, width, height), None
    kept, top = visible_only(top)
    objects = [objects[i] for i in kept]
    label_ids, instance_ids = maps_of_topmost(objects, top)

    canvas = _paint(rng, [things[i] for i in kept if i < len(things)], town, width, height)
    return StreetScene(_finish(rng, canvas, label_ids), objects, label_ids, instance_ids, camera, erasures)


@dataclass(frozen=True)
class TreeReport:
    """What a tree holds: images per split, instances per class; seconds it took; found: it was there."""

    images: dict[str, int]
    instances: dict[str, int]
    seconds: float
    found: bool = False


def _make(
    item: WorkItem, write: Callable, *, out: Path, seed: int, size: tuple[int, int], kind: dict[str, bool]
) -> list[dict]:
    """`engine.tree.Make` for items whose task is split and index; kind: flags of `make_scene`."""
    split, index = item.task
    scene = make_scene(seed, split, index, *size, **kind)
    frame = Frame.official(out, split, SPLITS[split][0], index, 19)
    count = Counter(thing.label for thing in scene.objects if thing.is_instance)
    return [{"instances": count, "outputs": write(frame.files(**vars(scene)))}]


def check_arguments(train: int, val: int, size: tuple[int, int], seed: int, workers: int) -> None:
    """Raises InputError for what `write_streets` can't write."""
    for name, count in (("train", train), ("val", val)):
        if not 0 <= count <= 1_000_000:
            raise InputError(f"the number of {name} scenes must be 0..1000000, not {count}")
    if train + val == 0:
        raise InputError("nothing to write: both train and val are 0")
    if size[0] < SMALLEST[0] or size[1] < SMALLEST[1]:
        raise InputError(
            f"the size must be at least {SMALLEST[0]}x{SMALLEST[1]} pixels, not {size[0]}x{size[1]}"
        )
    if seed < 0:
        raise InputError(f"the seed must not be negative, not {seed}")
    if workers < 1:
        raise InputError(f"the number of workers must be at least 1, not {workers}")


def _finished(out: Path, settings: dict) -> TreeReport | None:
    """What a tree holds that was finished with these settings."""
    try:
        content = json.loads((out / SETTINGS_FILE).read_text(encoding="utf-8"))
        same = content["settings"] == settings and "report" in content
        return TreeReport(**content["report"], found=True) if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_streets(
    out: str | Path,
    train: int,
    val: int,
    size: tuple[int, int],
    seed: int,
    workers: int = 1,
    *,
    overwrite: bool = False,
    erased: bool = False,
    with_people: bool = True,
    mixed: bool = False,
    title: str = "",
) -> TreeReport:
    """Write a Cityscapes tree of `train` and `val` scenes of size (width, height) pixels below `out`.

    The bytes do not depend on `workers` (processes; more than one need an importable main module). A tree
    finished with the same settings is left alone, one that was only begun is gone on with. With `overwrite`,
    scenes of an earlier run are removed first. erased: write what the maps show without each instance, too
    (`data.erasures`); the other files are the same. with_people: persons and riders, or none. mixed: many
    riders, two-wheelers, trucks, buses and trams. title: of the progress, which is not shown if it is empty.
    Raises InputError for bad arguments and for a folder of anything else.
    """
    out = Path(out)
    check_arguments(train, val, size, seed, workers)
    settings = {"train": train, "val": val, "size": list(size), "seed": seed, "generator": GENERATOR_VERSION}
    kind = {"erased": erased, "with_people": with_people, "mixed": mixed}
    settings |= {name: value for name, value in kind.items() if value != _USUAL[name]}
    if not overwrite and (found := _finished(out, settings)):
        if any((out / name).exists() for name in (WORK, MANIFEST, LOCK)):  # a run was killed at its very end
            with at_work_in(out), writing_to(out):
                take_away(out, WORK, MANIFEST)
        return found
    start = time.monotonic()
    items = [
        WorkItem(f"{split}/{index:06d}", task=(split, index))
        for split, count in (("train", train), ("val", val))
        for index in range(count)
    ]
    instances: Counter[str] = Counter()
    with opened(STREETS, out, settings, Shard(), overwrite=overwrite) as tree:
        prepare = partial(partial, _make, out=out, seed=seed, size=size, kind=kind)
        with tree.pool(prepare, workers) as pool:
            tree.make(tree.to_do(items), pool, title, "scene")
        tree.merge(items)
        for item in items:
            instances.update(tree.records.get(item.key)[-1]["instances"])
        report = TreeReport(
            {"train": train, "val": val}, dict(sorted(instances.items())), time.monotonic() - start
        )
        with writing_to(out):
            tree.write_summary({"report": {k: v for k, v in asdict(report).items() if k != "found"}})
            (out / MANIFEST).unlink()  # all of it follows from the settings
    return report
