"""labelTrainIds.png beside the label maps of a tree, for training programs that read it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from data.frame import TRAIN_IDS, Frame
from data.images import read_label_map
from data.labels import TRAIN_ID_OF_ID
from data.writer import encode_png
from support.errors import InputError
from support.files import write_atomic


def write_train_ids(frames: list[Frame], map_function: Callable = map) -> list[str]:
    """Write labelTrainIds.png (H,W) uint8, official train ids and 255, beside the label map of each frame.

    A link to the source's own file stays, and so does a file with the right pixels. map_function may spread
    the frames over processes. Returns what is wrong with frames that have no readable label map, a line each;
    they get none.
    """
    return [message for message in map_function(_write, frames) if message]


def _write(frame: Frame) -> str | None:
    try:
        train_ids = TRAIN_ID_OF_ID.take(read_label_map(frame.label_path))
    except InputError as error:
        return str(error)
    path = frame.annotation_path(TRAIN_IDS)
    if not path.is_symlink() and not _holds(path, train_ids):
        write_atomic(path, encode_png(train_ids))
    return None


def _holds(path: Path, train_ids: np.ndarray) -> bool:
    try:
        return np.array_equal(read_label_map(path), train_ids)
    except InputError:  # not there, or damaged
        return False
