"""A home-made Cityscapes tree with polygons, cameras and images, and small checkpoints to insert with."""

import dataclasses
from pathlib import Path

import numpy as np
import torch

from data.camera import Camera
from data.frame import Frame
from data.writer import LabelledPolygon, rasterise
from engine.records import write_outputs
from model import WhereWhat
from options import PRESETS, from_dict
from support.checkpoints import save_checkpoint

WIDTH, HEIGHT = 256, 128
CAMERA = Camera(283.0, 283.0, 128.0, 64.0, 1.25, 0.04)

# A person 1.7 m high, 65 x 20 pixels, 7.4 m ahead: foot in row 100. x follows z_spatial.
PERSON_PLACE = (12.8, 0.0, 0.0, 0.0, 1.97, -0.108)


def box(label: str, x0: int, y0: int, x1: int, y1: int) -> LabelledPolygon:
    """A rectangle of pixels x0..x1, y0..y1, both ends included."""
    return LabelledPolygon(label, np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.int32))


def town_objects(index: int) -> list[LabelledPolygon]:
    """One street: sky, houses, sidewalk, road, ego vehicle, and a few things at different depths."""
    shift = 7 * index
    return [
        box("sky", 0, 0, 255, 50),
        box("building", 0, 20, 255, 70),
        box("sidewalk", 0, 60, 255, 75),
        box("road", 0, 72, 255, 127),
        box("ego vehicle", 0, 120, 255, 127),
        box("persongroup", 200, 45, 230, 74),
        box("car", 20 + shift, 80, 80 + shift, 112),  # in front of an inserted person
        box("person", 100 + shift, 50, 110 + shift, 80),  # behind it
        box("person", 150 + shift, 60, 152 + shift, 66),  # small
    ]


def write_town(root: Path, count: int = 4, split: str = "train") -> None:
    """Write `count` frames of 256 x 128 pixels below `root`."""
    for index in range(count):
        objects = town_objects(index)
        labels, instances = rasterise(objects, WIDTH, HEIGHT)
        rgb = np.random.default_rng(index).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        frame = Frame.official(root, split, "town", index, 19)
        write_outputs(root, frame.files(rgb, objects, labels, instances, CAMERA))


def write_checkpoint(
    folder: Path, target_class: str = "person", place=PERSON_PLACE, spread: float = 150.0
) -> Path:
    """A tiny model without training: boxes at `place` (theta), moved sideways by z; full masks."""
    torch.manual_seed(0)
    options = from_dict(PRESETS["tiny"] | {"target_class": target_class}, "test")
    model = WhereWhat(options)
    with torch.no_grad():
        head = model.networks["stn"].theta
        head.bias.copy_(torch.tensor(place))
        head.weight[2].normal_(0, spread)
        model.networks["generator"][-1].bias.fill_(1.0)
    return save_untrained(folder, model)


def write_density_checkpoint(folder: Path, **options) -> Path:
    """A tiny model with a density of places, without training: uneven, about persons' sizes; full masks."""
    torch.manual_seed(0)
    kind = {"where": "distribution", "where_dim": 8}
    model = WhereWhat(from_dict(PRESETS["tiny"] | kind | options, "test"))
    with torch.no_grad():
        head = model.networks["place_density"].planes
        head.weight[::5].normal_(0, 2)
        head.bias.copy_(torch.tensor([0.0, -0.7, -1.5, -1.2, -1.5]).repeat(len(model.targets)))
        if model.what.draws_shapes:
            model.networks["generator"][-1].bias.fill_(1.0)
    return save_untrained(folder, model)


def write_places_checkpoint(folder: Path, target_class: str = "person,car") -> Path:
    """Likewise of several classes, of places alone."""
    return write_density_checkpoint(folder, what="none", target_class=target_class)


def save_untrained(folder: Path, model: WhereWhat) -> Path:
    """A checkpoint of a model as it is."""
    state = {
        "iteration": 0,
        "samples_seen": 0,
        "options": dataclasses.asdict(model.options),
        "networks": model.networks.state_dict(),
        "optimisers": {},
        "window": {},
    }
    return save_checkpoint(folder, state, keep=1)
