"""labelTrainIds.png beside the label maps of a tree, for training programs that read it."""

from collections.abc import Callable

import cv2
import numpy as np

from data.cityscapes import Frame
from data.labels import TRAIN_ID_OF_ID
from data.writer import encode_png
from support.files import write_atomic


def write_train_ids(frames: list[Frame], map_function: Callable = map) -> list[str]:
    """Write labelTrainIds.png (H,W) uint8, official train ids and 255, beside the label map of each frame.

    A link to the source's own file stays, and so does a file with the right pixels. map_function may spread
    the frames over processes. Returns what is wrong with frames that have no readable label map, a line each;
    they get none.
    """
    return [message for message in map_function(_write, frames) if message]


def _write(frame: Frame) -> str | None:
    labels = cv2.imread(str(frame.label_path), cv2.IMREAD_UNCHANGED)
    if labels is None or labels.dtype != np.uint8 or labels.ndim != 2:
        return f"{frame.label_path}: not an 8-bit label map; mend or copy it"
    path = frame.label_path.with_name(f"{frame.name}_{frame.kind}_labelTrainIds.png")
    train_ids = TRAIN_ID_OF_ID.take(labels)
    if not path.is_symlink() and not (
        path.exists() and np.array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), train_ids)
    ):
        write_atomic(path, encode_png(train_ids))
    return None
