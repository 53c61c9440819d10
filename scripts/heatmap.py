"""python -m scripts.heatmap --checkpoint runs/where_what --image X_gtFine_labelIds.png --out heat.png

Where would the model place an object in this image? Paints over the scene the density of feet, exactly, if
the model has one, else how often a box covers each pixel over many z. On top are the feet of these z (green:
passes the filters of insertion, red: does not), and the boxes with the highest scores.
"""

import json
import os
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.special import entr

from augment.placement.filters import Filters, Surroundings, box_rejection
from augment.placement.heat import coverage, density_of_feet, draw_places, heat_over
from augment.placement.scene import read_image, single_frame
from data.drawing import enlarged
from data.geometry import box_iou
from data.writer import colour_map, encode_png
from distributed import choose_device
from model import load_model
from support.errors import InputError, run_program
from support.files import replacing
from support.settings import checked, parser_of, setting
from where import check_temperature

SMALLEST = 1024  # the image is enlarged to at least this width, pixels
PASSES, FAILS, BEST = (0, 255, 0), (255, 0, 0), (255, 255, 0)


@dataclass(frozen=True, kw_only=True)
class HeatmapOptions:
    """One image of places; "" where nothing was asked for."""

    checkpoint: str = setting(help="run folder (its newest checkpoint), state-*.pt, or builtin:person")
    image: str = setting(help="label map of the scene (labelIds.png)")
    instances: str = setting("", "its instance map (default: the file beside it)")
    out: str = setting(help="PNG to write")
    json: str = setting("", "file for all boxes, their scores and the filters that reject them")
    target_class: str = setting("", "class, where the checkpoint has several")
    n_z: int = setting(200, "places drawn", min=1)
    top: int = setting(5, "boxes drawn, those with the highest scores", min=0)
    seed: int = setting(0, "seed of the noise", min=0)
    temperature: float = setting(1.0, "of the density of places; 1: as learnt")
    device: str = setting("auto", "auto (cuda if there is one), cpu, cuda or cuda:N")
    overwrite: bool = setting(False, "replace existing files")


parser = partial(parser_of, HeatmapOptions, "python -m scripts.heatmap", "Where would it place an object?")


def parse(arguments: list[str] | None = None) -> HeatmapOptions:
    """Options of a command line (None: sys.argv). Raises InputError for what can't be used."""
    settings = checked(HeatmapOptions(**vars(parser().parse_args(arguments))))
    files = {"out": settings.out} | ({"json": settings.json} if settings.json else {})
    for option, path in files.items():
        if os.path.isdir(path or "."):
            raise InputError(f"--{option} {path}: is a folder; give the name of a file")
        if os.path.exists(path) and not settings.overwrite:
            raise InputError(f"--{option} {path} exists: give --overwrite to replace it, or another name")
    if len(set(map(os.path.abspath, files.values()))) < len(files):
        raise InputError(f"--json {settings.json}: is --out, too; give another name")
    return settings


def share_of_half(mass: np.ndarray) -> float:
    """The smallest fraction of the cells that holds half of the mass, which is 1 in all."""
    sums = np.sort(mass, axis=None)[::-1].cumsum()
    return float((np.searchsorted(sums, 0.5) + 1) / mass.size)


def paint(
    label_ids: np.ndarray,
    heat: np.ndarray,
    boxes: np.ndarray,
    scores: np.ndarray,
    rejections: list[str | None],
    top: int,
) -> np.ndarray:
    """The image (h,w,3) uint8 RGB: scene, heat (H,W) >= 0, feet, `top` boxes with the highest scores."""
    width = label_ids.shape[1]
    image = enlarged(heat_over(colour_map(label_ids)[..., :3], heat), SMALLEST)
    scale = image.shape[1] // width

    def point(x: float, y: float) -> tuple[int, int]:
        x, y = np.clip([x * scale, y * scale], -4 * width, 4 * width * scale)
        return int(x), int(y)

    for box, rejection in zip(boxes, rejections, strict=True):
        centre = point((box[0] + box[2]) / 2, box[3])
        cv2.circle(image, centre, 2, PASSES if rejection is None else FAILS, -1, cv2.LINE_AA)
    for index in best(boxes, scores, top):
        corner = point(boxes[index][0], boxes[index][1])
        cv2.rectangle(image, corner, point(boxes[index][2], boxes[index][3]), BEST, 1)
        text = (corner[0], corner[1] - 3)
        cv2.putText(image, f"{scores[index]:.2f}", text, cv2.FONT_HERSHEY_SIMPLEX, 0.4, BEST, 1, cv2.LINE_AA)
    return image


def best(boxes: np.ndarray, scores: np.ndarray, count: int) -> list[int]:
    """Positions of `count` of the boxes (n,4), high scores first, none like an earlier one (IoU 0.5)."""
    chosen: list[int] = []
    for index in np.argsort(-scores, kind="stable").tolist():
        if len(chosen) < count and not (box_iou(boxes[chosen], boxes[index]) > 0.5).any():
            chosen.append(index)
    return chosen


def heatmap(settings: HeatmapOptions) -> None:
    """Draw the places, write the image and print what came out."""
    model = load_model(settings.checkpoint, choose_device(settings.device))
    check_temperature(model.where, settings.temperature)
    model = model.of_class(settings.target_class or model.target.name)
    image = read_image(single_frame(settings.image, settings.instances))
    boxes, scores = draw_places(model, image, settings.n_z, settings.seed, settings.temperature)
    any_size = not model.what.draws_shapes
    around = Surroundings(image.label_ids, image.instance_ids, image.camera, None, None, any_size=any_size)
    rejections = [box_rejection(box, model.target, around, Filters()) for box in boxes]
    mass = density_of_feet(model, image, settings.temperature)
    concentration = None
    if mass is not None:
        concentration = {"entropy": float(entr(mass).sum()), "share_of_half": share_of_half(mass)}
    height, width = image.label_ids.shape
    heat = coverage(boxes, width, height) if mass is None else cv2.resize(mass, (width, height))
    rgb = paint(image.label_ids, heat, boxes, scores, rejections, settings.top)
    files = {settings.out: encode_png(rgb)}
    if settings.json:
        content = {
            "image": image.name,
            "width": width,
            "height": height,
            "class": model.target.name,
            "seed": settings.seed,
            "temperature": settings.temperature,
            "density": concentration,
            "camera": image.camera is not None,
            "places": [
                {"box": box.tolist(), "score": float(score), "refusal": rejection}
                for box, score, rejection in zip(boxes, scores, rejections, strict=True)
            ],
        }
        files[settings.json] = (json.dumps(content, indent=1) + "\n").encode()
    try:
        with ExitStack() as all_or_none:
            for name, content in files.items():
                Path(name).parent.mkdir(parents=True, exist_ok=True)
                all_or_none.enter_context(replacing(Path(name))).write_bytes(content)
    except OSError as error:
        raise InputError(f"{name}: can't be written ({error.strerror}); choose another") from None
    counts = Counter(rejection or "passes" for rejection in rejections)
    print(f"{len(boxes)} places of a {model.target.name} in {image.name}")
    if concentration:
        print(
            f"density of feet: entropy {concentration['entropy']:.2f} nats of {np.log(mass.size):.2f};"
            f" half of the mass lies on {concentration['share_of_half']:.1%} of the image"
        )
    print("filters: " + ", ".join(f"{name} {count}" for name, count in counts.most_common()))
    for index in best(boxes, scores, settings.top):
        box = ", ".join(f"{edge:.0f}" for edge in boxes[index])
        print(f"score {scores[index]:.3f}  box {box}  {rejections[index] or 'passes'}")
    print(f"image: {settings.out}")


def main(arguments: list[str] | None = None) -> None:
    torch.set_num_threads(1)  # small maps: more threads would not be faster
    heatmap(parse(arguments))


if __name__ == "__main__":
    run_program(main)
