"""Calling the official Cityscapes tools: on maps that they can read, and without their ending the process."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from data.frame import Frame
from data.writer import encode_png
from support.errors import InputError


def map_for_tools(frame: Frame, folder: Path) -> Path:
    """The instance map of a frame, absolute; in data sets with void labels a copy without, in `folder`.

    Raises InputError if the copy can't be made because a map is bad.
    """
    if not frame.void_labels():
        return frame.instance_path.absolute()
    path = folder.absolute() / f"{frame.name}_instanceIds.png"
    path.write_bytes(encode_png(frame.read_maps()[1]))
    return path


@contextmanager
def kept_quiet(what: str) -> Iterator[None]:
    """What a tool prints is kept back; where it ends the process, its last line becomes an InputError."""
    said = io.StringIO()
    try:
        with redirect_stdout(said):
            yield
    except SystemExit as stop:
        last = said.getvalue().strip().rpartition("\n")[2] or f"ended with {stop.code}"
        raise InputError(f"{what}: {last}") from None
