"""The contact sheet of an insertion: scenes before and after, where objects may stand, new ones enlarged."""

import cv2
import numpy as np

from augment.placement.heat import heat_map, heat_over
from augment.placement.scene import read_image
from data.drawing import outline
from data.frame import Frame
from data.images import read_label_map
from data.writer import colour_map
from model import WhereWhat

PANEL_WIDTH = 480  # pixels
GAP = 4  # pixels between panels, white
MAX_NAMED = 2  # classes that the captions name
HEAD_HEIGHT, TEXT_HEIGHT = 28, 20  # pixels, of the captions on top and of the line below each row
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_MIN_PART = 48  # pixels of the image that the enlarged part shows, so that far objects stay recognisable


def contact_sheet(
    items: list[tuple[Frame, Frame, list[dict]]], models: dict[str, WhereWhat], count: int
) -> np.ndarray:
    """Captions and `count` rows of `row_of`, largest new objects first: (h,w,3) uint8 RGB.

    items: source frame, finished frame, lines of its inserted objects; models by class. Raises InputError if
    a frame can't be read.
    """

    def largest(item: tuple[Frame, Frame, list[dict]]) -> tuple[int, str]:
        return -max(one["pixels"] for one in item[2]), item[0].name

    rows = []
    chosen = sorted(items, key=largest)[:count]
    for source, finished, objects in chosen:
        image, (labels, _) = read_image(source), finished.read_maps()
        inserted = read_label_map(finished.root / finished.place("inserted", ".png"))
        if finished.image_path:
            images = [frame.read_image(labels.shape) for frame in (source, finished)]
        else:
            images = [colour_map(one)[..., :3] for one in (image.label_ids, labels)]
        one = max(objects, key=lambda one: one["pixels"])
        heat = heat_map(models[one["class"]], image)
        masks = [inserted == other["inserted_value"] for other in objects]
        rows.append(row_of(*images, heat, masks, one))
    names = sorted({one["class"] for *_, objects in chosen for one in objects})
    captions = ["before", "where it may stand", "after", "the largest new one, enlarged"]
    if len(names) <= MAX_NAMED:
        name = " or ".join(names)
        captions = ["before", f"where a {name} may stand", "after", f"new {name}, enlarged"]
    width = max(row.shape[1] for row in rows)  # the last panel is as wide as its image is high
    rows = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    return np.concatenate([_head(captions, width), *rows])


def row_of(
    before: np.ndarray, after: np.ndarray, heat: np.ndarray, masks: list[np.ndarray], one: dict
) -> np.ndarray:
    """One image's row (h,w,3) uint8 RGB: before, heat over it, after with outlines, the object enlarged.

    before, after: images (H,W,3) uint8 RGB; heat (H,W) of `heat_map`; masks (H,W) bool of the new objects;
    one: the manifest's line of the object to enlarge, and to name below.
    """
    height = max(1, round(before.shape[0] * PANEL_WIDTH / before.shape[1]))
    panels = [_resized(image, PANEL_WIDTH, height) for image in (before, heat_over(before, heat), after)]
    for mask in masks:
        outline(panels[2], _resized(mask.astype(np.float32), PANEL_WIDTH, height) > 0.5)
    panels.append(_enlarged(after, one["extent"], height))
    gap = np.full((height, GAP, 3), 255, np.uint8)
    row = np.concatenate([part for panel in panels for part in (panel, gap)][:-1], 1)
    shape = "" if one["score_shape"] is None else f", shape {one['score_shape']:.2f}"
    line = f"{one.get('label', one['class'])} {one['instance_id']}: place {one['score_place']:.2f}{shape}"
    line += f", {one['pixels']} pixels"
    text = np.full((TEXT_HEIGHT, row.shape[1], 3), 255, np.uint8)
    (length, _), _ = cv2.getTextSize(line, _FONT, 0.4, 1)
    _write(text, line, row.shape[1] - length - 4, 14, 0.4)
    return np.concatenate([row, text])


def _resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    how = cv2.INTER_AREA if image.shape[1] > width else cv2.INTER_CUBIC
    return cv2.resize(image, (width, height), interpolation=how)


def _enlarged(image: np.ndarray, extent: list[int], height: int) -> np.ndarray:
    """What is around an object, extent x0, y0, x1, y1 (half-open), as a square panel."""
    x0, y0, x1, y1 = extent
    side = max(round(1.25 * max(y1 - y0, x1 - x0)), _MIN_PART)
    side = min(side, *image.shape[:2])
    x = min(max((x0 + x1 - side) // 2, 0), image.shape[1] - side)
    y = min(max((y0 + y1 - side) // 2, 0), image.shape[0] - side)
    return _resized(image[y : y + side, x : x + side], height, height)


def _head(captions: list[str], width: int) -> np.ndarray:
    strip = np.full((HEAD_HEIGHT, width, 3), 255, np.uint8)
    for column, caption in enumerate(captions):
        _write(strip, caption, column * (PANEL_WIDTH + GAP) + 4, 20, 0.6)
    return strip


def _write(strip: np.ndarray, text: str, x: int, y: int, size: float) -> None:
    cv2.putText(strip, text, (x, y), _FONT, size, (0, 0, 0), 1, cv2.LINE_AA)
