"""A home-made Cityscapes tree with every difficult kind of object.

Each frame has one of each: a car in two parts behind a pole, a bicycle with a hole, a group of persons, a
person of three pixels, the first motorcycle (id 32000, a multiple of 256), a caravan, a licence plate, and a
polygon marked deleted. Images are smooth, every object with its own colour and shading.
"""

import json
from pathlib import Path

import cv2
import numpy as np

from augment.repaint.focus import draw_window
from augment.repaint.ground_truth import crop_ground_truth
from augment.repaint.manifest import sample_key
from data.camera import Camera
from data.frame import IMAGE_KIND, POLYGONS, Frame
from data.writer import LabelledPolygon, colour_map, encode_png, rasterise, topmost
from engine.records import MANIFEST, line_of, write_outputs

TRAIN = (
    "ash_000000_000019",
    "ash_000001_000019",  # the same frame number in another sequence
    "elm-park_000000_000019",  # no letter or digit only
    "elm-park_000001_000019",
)
VAL = ("oak_000000_000576", "oak_000001_000576")

DELETED = {"label": "car", "polygon": [[0, 0], [40, 0], [40, 40]], "deleted": 1}
TINY_ID = 24001  # the person of three pixels
TWO_PARTS_ID, HOLED_ID, MOTORCYCLE_ID, CARAVAN_ID = 26000, 33000, 32000, 29000


def mini_objects(index: int, width: int = 256, height: int = 128) -> list[LabelledPolygon]:
    """The polygons of frame `index` in painter's order."""
    shift = 3 * index
    tiny = np.array([200 * width // 256, 100 * height // 128])
    drawn = [
        ("sky", [(0, 0), (255, 0), (255, 60), (0, 60)]),
        ("building", [(0, 12), (90, 20), (90, 70), (0, 75)]),
        ("vegetation", [(90, 30), (255, 18), (255, 70), (90, 70)]),
        ("sidewalk", [(0, 64), (255, 64), (255, 80), (0, 80)]),
        ("road", [(0, 76), (255, 72), (255, 127), (0, 127)]),
        ("persongroup", [(228, 50), (250, 48), (252, 74), (226, 75)]),
        ("caravan", [(150, 52), (176, 52), (178, 74), (150, 74)]),
        ("car", _car(18 + shift, 74, 66, 36)),  # in two parts
        ("license plate", [(24 + shift, 98), (34 + shift, 98), (34 + shift, 102), (24 + shift, 102)]),
        ("pole", [(48 + shift, 5), (52 + shift, 5), (52 + shift, 118), (48 + shift, 118)]),
        ("car", _car(182 + shift, 70, 34, 16)),
        ("person", [(100, 56), (106, 52), (112, 56), (114, 78), (112, 96), (102, 96), (98, 76)]),
        ("motorcycle", [(120, 92), (130, 84), (152, 86), (160, 96), (156, 110), (124, 110)]),
        ("bicycle", [(212, 96), (222, 88), (240, 90), (248, 102), (240, 114), (216, 112)]),
        ("road", [(224, 98), (236, 98), (236, 106), (224, 106)]),  # seen through the bicycle's frame
        ("ego vehicle", [(0, 122), (255, 122), (255, 127), (0, 127)]),
    ]
    scale = np.array([(width - 1) / 255, (height - 1) / 127])
    objects = [
        LabelledPolygon(label, np.rint(np.array(points) * scale).astype(int)) for label, points in drawn
    ]
    objects.insert(-1, LabelledPolygon("person", tiny + np.array([[0, 0], [2, 0], [1, 0]])))
    return objects


def _car(x: int, y: int, width: int, height: int) -> list[tuple[int, int]]:
    """A car's outline from the side: body, bonnet and roof."""
    relative = [(0, 0.9), (0, 0.5), (0.18, 0.4), (0.3, 0), (0.75, 0), (0.88, 0.4), (1, 0.5), (1, 0.9)]
    relative += [(0.85, 1), (0.15, 1)]
    return [(round(x + u * width), round(y + v * height)) for u, v in relative]


def mini_image(objects: list[LabelledPolygon], index: int, width: int = 256, height: int = 128) -> np.ndarray:
    """RGB (height, width, 3) uint8: a colour of its own for each object, soft light and texture over it."""
    rng = np.random.default_rng([index, 7])
    colours = [
        0.5 * colour_map(np.array([[max(thing.label_id, 0)]], np.uint8))[0, 0, :3] + rng.uniform(20, 120, 3)
        for thing in objects
    ]
    flat = np.array([*colours, (0, 0, 0)])[topmost(objects, width, height)]
    waves = cv2.resize(rng.normal(0, 18, (8, 16, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
    light = np.linspace(15, -15, height)[:, None, None] * rng.choice([-1, 1])
    return cv2.GaussianBlur(np.clip(flat + waves + light, 0, 255).astype(np.uint8), (3, 3), 0)


def mini_frame(root: Path, name: str) -> Frame:
    """One of the frames TRAIN and VAL that `write_mini` writes."""
    return Frame(root, "train" if name in TRAIN else "val", name.split("_")[0], name)


def write_mini(root: Path, width: int = 256, height: int = 128) -> None:
    """Write the frames TRAIN and VAL below `root`: image, four files of ground truth, camera."""
    camera = Camera(1.1 * width, 1.1 * width, width / 2, height / 2, 1.25, 0.04)
    for index, name in enumerate((*TRAIN, *VAL)):
        objects = mini_objects(index, width, height)
        label_ids, instance_ids = rasterise(objects, width, height)
        rgb, frame = mini_image(objects, index, width, height), mini_frame(root, name)
        write_outputs(root, frame.files(rgb, objects, label_ids, instance_ids, camera))
        path = frame.annotation_path(POLYGONS)
        content = json.loads(path.read_text())
        content["objects"].insert(5, DELETED)
        path.write_text(json.dumps(content))


def add_crops(root: Path, out: Path, mode: str = "raster", seed: int = 0) -> None:
    """Write the tree that repainting would make of `write_mini`'s train split, without repainting anything.

    For each frame a focus crop of the two-part car and one of the motorcycle, with lines in the manifest.
    """
    rng = np.random.default_rng(seed)
    numbers: dict[str, int] = {}
    lines = []
    for source in (mini_frame(root, name) for name in TRAIN):
        ids, rgb = source.read_instance_ids(), source.read_image()
        objects, size = source.read_polygons(ids.shape), ids.shape[::-1]
        for value in (TWO_PARTS_ID, MOTORCYCLE_ID):
            y, x = np.nonzero(ids == value)
            box = (int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1)
            window = draw_window(box, size, rng)
            ground_truth = crop_ground_truth(ids, objects, window, size, mode)
            city = source.city.replace("-", "") + "syn"
            new = Frame.official(out, "train", city, 0, numbers.setdefault(city, 0))
            numbers[city] += 1
            files = new.annotation(ground_truth.label_ids, ground_truth.instance_ids, ground_truth.objects)
            files[new.place(IMAGE_KIND, ".png")] = encode_png(cv2.resize(window.cut(rgb), size))
            files[new.panorama_place] = encode_png(rgb)
            outputs = write_outputs(out, files)
            id_map = {str(old): new for old, new in ground_truth.id_map.items()}
            facts = {"instance_id": value, "id_map": id_map, "outputs": outputs}
            lines.append(line_of("integrate", sample_key(source, value, 1), "ok", **facts))
    (out / MANIFEST).write_text("".join(json.dumps(line) + "\n" for line in lines))
