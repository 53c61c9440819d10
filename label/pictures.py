"""The pictures of a folder: which files count, their frames in the tree, their pixels upright."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from convert.source import existing_folder
from data.frame import Frame, official_name
from data.images import decode_image, decode_webp, is_plain_png
from data.writer import encode_png
from support.errors import InputError
from support.files import check_apart, files_below, read_bytes

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")  # in any case
CITY = "pictures"  # of frames whose file has no official name
_NUMBERS = 10**6  # of the frames of a sequence
_ORIENTATION = 0x0112  # the tag in EXIF
# How a picture becomes upright, by the number that EXIF gives its orientation.
_UPRIGHT = {
    2: np.fliplr,
    3: lambda rgb: np.rot90(rgb, 2),
    4: np.flipud,
    5: lambda rgb: np.swapaxes(rgb, 0, 1),
    6: lambda rgb: np.rot90(rgb, -1),
    7: lambda rgb: np.swapaxes(np.rot90(rgb, 2), 0, 1),
    8: np.rot90,
}


@dataclass(frozen=True)
class Picture:
    """A picture and the frame that it becomes."""

    path: Path
    name: str  # below the folder of the pictures, parts separated by /
    frame: Frame


def find_pictures(folder: Path, out: Path, split: str) -> list[Picture]:
    """The pictures in a folder and those below it, by name, with their frames in the tree `out`.

    A file called CITY_SSSSSS_FFFFFF... has that name in the tree, all others are counted in the order of
    their names. Raises InputError if there are none, if two would have one name, or if OUT lies in the
    folder or around it.
    """
    check_apart(out, existing_folder(folder, "pictures"), f"the pictures {folder} or around them")
    paths = [path for path in files_below(folder) if path.suffix.lower() in SUFFIXES]
    if not paths:
        raise InputError(f"--pictures {folder}: holds no {', '.join(SUFFIXES)}; choose another")
    names = sorted(path.relative_to(folder).as_posix() for path in paths)
    pictures, taken, count = [], {}, 0
    for name in names:
        try:
            frame_name = official_name(name)
        except ValueError:
            sequence, number = divmod(count, _NUMBERS)
            frame_name, count = f"{CITY}_{sequence:06d}_{number:06d}", count + 1
        if frame_name in taken:
            raise InputError(
                f"--pictures {folder}: {taken[frame_name]} and {name} would both be {frame_name}; rename one"
            )
        taken[frame_name] = name
        frame = Frame(out, split, frame_name.split("_")[0], frame_name)
        pictures.append(Picture(folder / name, name, frame))
    return pictures


def read_picture(path: Path) -> tuple[np.ndarray, bytes]:
    """A picture upright, (H,W,3) uint8 RGB, and the PNG of it that goes into the tree.

    JPEG, PNG or WebP of 8 bits, whatever the suffix; grey becomes RGB. A PNG that is 8-bit RGB without notes
    is taken as it is. Raises InputError, naming the file, for all else: see `data.images.decode_image`.
    """
    content = read_bytes(path)
    is_webp = content[:4] == b"RIFF" and content[8:12] == b"WEBP"
    rgb = decode_webp(path, content) if is_webp else decode_image(path, content)
    if is_plain_png(content):
        return rgb, content
    rgb = np.ascontiguousarray(_UPRIGHT.get(orientation(content), np.asarray)(rgb))
    return rgb, encode_png(rgb)


def orientation(content: bytes) -> int:
    """How a picture was held, 1 to 8, by the note in it (EXIF or XMP); 1 where there is none to be read."""
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG", "WEBP")) as image:
            return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # whatever a broken note makes a library raise; the pixels were read already
        return 1
