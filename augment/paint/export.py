"""The instances of a data set as a folder of cut-outs: a frame's files, and sheets that show all of them.

OUT/person/FRAME_ID.png     `augment.paint.folder` reads them, and where each stood; a rider's shows the
                            two-wheeler too, and the file says which pixels are its
OUT/contact_sheets/         what is in the folders of the classes, with names
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import id2label

from augment.paint.cutout import cut_out
from augment.paint.folder import SHEETS, Origin, opened, png_of_cutout
from augment.paint.measuring import instances_on, light_where, window_around
from data.frame import Frame
from data.labels import TARGET_CLASSES
from data.writer import encode_png
from engine.records import WorkItem, line_of
from engine.tree import Program
from support.errors import InputError
from support.files import listed, read_bytes, write_atomic

STAGE = "cut"
CUTOUTS = Program("cutouts", "2", "cutouts.json", (STAGE,), (*TARGET_CLASSES, SHEETS))
_CELL, _LINE = 160, 16  # pixels of a sheet: side of an image, height of the name below
_ACROSS, _DOWN = 10, 8  # images of a sheet
_FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True)
class Cutter:
    """Makes the files of a frame: `engine.tree.Make`, for items whose task is a `Frame`."""

    classes: tuple[str, ...]
    min_height: int  # pixels; smaller instances are left out

    def __call__(self, item: WorkItem, write: Callable) -> list[dict]:
        """Lines of the instances that nothing cuts or covers, and how many others there are by class."""
        frame: Frame = item.task
        try:
            ids = frame.read_instance_ids()
            rgb, camera = frame.read_image(ids.shape), frame.read_camera()
        except InputError as error:
            return [{"status": "failed", "reason": str(error)}]
        seen_by = None if camera is None else (camera.fx, camera.u0, camera.fy, float(camera.horizon))
        files, lines, others = {}, [], 0
        found = [(id2label[one.instance_id // 1000].name, one) for one in instances_on(ids)]
        with_riders = {one.ridden for name, one in found if name in self.classes and one.whole}
        for name, one in found:
            if name not in self.classes or one.box[3] - one.box[1] < self.min_height:
                continue
            if not one.whole:
                others += one.instance_id not in with_riders
                continue
            light = light_where(one, rgb, ids)
            window, _ = window_around(one)
            ridden = ids[window] == one.ridden if one.ridden else None
            cutout = cut_out(rgb[window], ids[window] == one.instance_id, light, ridden)
            stood = None if light is None else tuple(light.tolist())
            origin = Origin(frame.name, one.instance_id, one.box, one.frame_size, seen_by, stood)
            file = f"{name}/{frame.name}_{one.instance_id}.png"
            files[file] = png_of_cutout(cutout, origin, one.ridden)
            key = f"{frame.name}/{one.instance_id}"
            lines.append(line_of(STAGE, key, "cut", **{"class": name, "file": file}))
        return [*lines, {"others": others, "outputs": write(files)}]


def write_sheets(out: Path, classes: tuple[str, ...]) -> list[Path]:
    """Sheets of what is in the folders of the classes now; their paths. Earlier ones are removed.

    Raises InputError, naming it, for a file that is no cut-out.
    """
    for path in listed(out / SHEETS, "*.png"):
        path.unlink()
    made = []
    for name in classes:
        paths = listed(out / name, "*.png")
        for number, first in enumerate(range(0, len(paths), _ACROSS * _DOWN), 1):
            path = out / SHEETS / f"{name}_{number:04d}.png"
            path.parent.mkdir(exist_ok=True)
            write_atomic(path, encode_png(sheet(paths[first : first + _ACROSS * _DOWN])))
            made.append(path)
    return made


def sheet(paths: list[Path]) -> np.ndarray:
    """Cut-outs on grey with their names, (h,w,3) uint8 RGB."""
    rows = -(-len(paths) // _ACROSS)
    image = np.full((rows * (_CELL + _LINE), min(len(paths), _ACROSS) * _CELL, 3), 255, np.uint8)
    for number, path in enumerate(paths):
        row, column = divmod(number, _ACROSS)
        top, left = row * (_CELL + _LINE), column * _CELL
        one = opened(path, read_bytes(path))
        h, w = one.outline.shape
        scale = (_CELL - 4) / max(h, w)
        size = max(1, round(w * scale)), max(1, round(h * scale))
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        rgb = cv2.resize(one.rgb, size, interpolation=how)
        alpha = cv2.resize(np.float32(one.outline), size, interpolation=how)[..., None]
        cell = image[top : top + _CELL, left : left + _CELL]
        cell[:] = 128
        y, x = (_CELL - size[1]) // 2, (_CELL - size[0]) // 2
        part = cell[y : y + size[1], x : x + size[0]]
        part[:] = np.uint8(alpha * rgb + (1 - alpha) * part + 0.5)
        name = path.stem
        (width, _), _ = cv2.getTextSize(name, _FONT, 1, 1)
        text_size = min(0.36, (_CELL - 4) / width)
        cv2.putText(image, name, (left + 2, top + _CELL + 12), _FONT, text_size, (0, 0, 0), 1, cv2.LINE_AA)
    return image
