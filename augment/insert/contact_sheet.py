"""The contact sheet of an insertion: before, after and outlines side by side, pictures below, with scores."""

import cv2
import numpy as np

from augment.insert.scene import read_picture, sibling_path
from data.cityscapes import Frame, read_maps
from data.writer import colour_map

PANEL_WIDTH = 480  # pixels
TEXT_HEIGHT = 18  # pixels, of one line
_OUTLINE = (0, 255, 0)


def contact_sheet(items: list[tuple[Frame, Frame, list[dict]]]) -> np.ndarray:
    """Rows of `row_of` for (source frame, finished frame, lines of its inserted objects): uint8 RGB.

    Raises InputError if a frame can't be read.
    """
    rows = []
    for source, finished, objects in items:
        before, _ = read_maps(source)
        pictures = ()
        if sibling_path(finished, "leftImg8bit", "_leftImg8bit.png"):
            pictures = tuple(read_picture(frame, before.shape) for frame in (source, finished))
        rows.append(row_of(before, *read_maps(finished), objects, pictures))
    return np.concatenate(rows)


def row_of(
    before: np.ndarray,
    after: np.ndarray,
    instance_ids: np.ndarray,
    objects: list[dict],
    pictures: tuple[np.ndarray, ...] = (),
) -> np.ndarray:
    """One image's row (h, 3*PANEL_WIDTH, 3) uint8 RGB: before, after, outlines, and a line for each object.

    before, after: label ids (H,W) uint8; instance_ids (H,W) uint16 after; objects: lines of the manifest;
    pictures: none, or RGB (H,W,3) uint8 before and after, then shown below with a part enlarged.
    """
    height = max(1, round(before.shape[0] * PANEL_WIDTH / before.shape[1]))
    panels = [_shrink(colour_map(labels)[..., :3], height) for labels in (before, after)]
    outlines = panels[1] // 2 + 64
    scale = PANEL_WIDTH / before.shape[1]
    for one in objects:
        mask = (instance_ids == one["instance_id"]).astype(np.uint8)
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        scaled = [np.round((contour + 0.5) * scale - 0.5).astype(np.int32) for contour in contours]
        cv2.polylines(outlines, scaled, True, _OUTLINE)
        x0, y0, x1, y1 = np.clip(np.round(np.array(one["box"]) * scale), -PANEL_WIDTH, 2 * PANEL_WIDTH)
        cv2.rectangle(outlines, (int(x0), int(y0)), (int(x1), int(y1)), (255, 255, 0))
    picture = np.concatenate([*panels, outlines], 1)
    if pictures:
        shown = [_shrink(one, height) for one in pictures]
        shown.append(_enlarged(pictures[1], objects[0]["extent"], height))
        picture = np.concatenate([picture, np.concatenate(shown, 1)])
    lines = [
        f"{one['class']} {one['instance_id']}: place {one['score_place']:.2f},"
        f" shape {one['score_shape']:.2f}, attempt {one['attempt'] + 1}, {one['pixels']} pixels"
        for one in objects
    ]
    return np.concatenate([picture, *(_text(line, picture.shape[1]) for line in lines)])


def _shrink(picture: np.ndarray, height: int) -> np.ndarray:
    return cv2.resize(picture, (PANEL_WIDTH, height), interpolation=cv2.INTER_AREA)


def _enlarged(picture: np.ndarray, extent: list[int], height: int) -> np.ndarray:
    """What is around an object, extent x0, y0, x1, y1 (half-open), as a panel."""
    x0, y0, x1, y1 = extent
    full_height, full_width = picture.shape[:2]
    share = min(1.0, 1.3 * max((y1 - y0) / full_height, (x1 - x0) / full_width))
    w, h = max(1, round(share * full_width)), max(1, round(share * full_height))
    x = min(max((x0 + x1 - w) // 2, 0), full_width - w)
    y = min(max((y0 + y1 - h) // 2, 0), full_height - h)
    how = cv2.INTER_AREA if w > PANEL_WIDTH else cv2.INTER_CUBIC
    return cv2.resize(picture[y : y + h, x : x + w], (PANEL_WIDTH, height), interpolation=how)


def _text(line: str, width: int) -> np.ndarray:
    strip = np.zeros((TEXT_HEIGHT, width, 3), np.uint8)
    cv2.putText(strip, line, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 1, cv2.LINE_AA)
    return strip
