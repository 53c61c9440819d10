"""Images and maps in files: their bytes first, then what these say they are, whatever the file is called.

Libraries get bytes and never a path: not all take every path, and suffixes may be wrong. By themselves they
obey notes on orientation, of which maps know nothing, and bring other pixels to 8 bits without a word.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from support.errors import InputError
from support.files import is_there, read_bytes

MAX_PIXELS = 2**27  # in one image; no camera comes near, and beyond some libraries refuse
# A tree's own suffix first; images with those from .webp on are found, and refused by name.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_OTHERS = {
    _JPEG: "a JPEG",
    b"GIF8": "a GIF",
    b"BM": "a BMP",
    b"RIFF": "a WebP",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"version https://git-lfs": "what Git LFS leaves in place of a file",
}
_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}  # PNG's numbers
# Decoded by OpenCV, the faster: how its order of colours becomes ours.
_FAST = {
    "8-bit grey": None,
    "16-bit grey": None,
    "8-bit RGB": cv2.COLOR_BGR2RGB,
    "8-bit RGBA": cv2.COLOR_BGRA2RGBA,
}
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_WANTED = "an image is a PNG or JPEG"
_TAKE = "take the official file of that name, or save it as one"
_UNDECODABLE = "its pixels can't be decoded"
_NOTES = (b"Raw profile type", b"XML:com.adobe.xmp")  # how texts begin that may hold an orientation
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, zlib.error, struct.error)  # what Pillow raises


def find_image(path: Path) -> Path | None:
    """`path`, or the file of that name with another suffix of an image, in any case; None: neither."""
    suffixes = SUFFIXES if path.suffix.lower() in SUFFIXES else ()
    cases = (case(suffix) for suffix in suffixes for case in (str, str.upper, str.title))
    candidates = (path, *(path.with_suffix(suffix) for suffix in cases))
    return next((one for one in candidates if is_there(one)), None)


# ---- images -----------------------------------------------------------------------------------


def decode_image(path: Path, content: bytes) -> np.ndarray:
    """An image (H,W,3) uint8 RGB, its pixels as they are stored: not turned, whatever notes there are.

    A PNG or JPEG of 8 bits, in colour, grey, with a palette, or with an alpha channel that is opaque.
    Raises InputError, naming `path`, for anything else and for a file that is not whole.
    """
    with _decoding(path):
        if content.startswith(_JPEG):
            with _opened(path, content, "JPEG") as image:
                if image.mode not in ("L", "RGB"):
                    raise InputError(f"{path}: a JPEG in {image.mode}; save it in RGB")
                return np.array(image.convert("RGB"))
        png = png_of(path, content, _WANTED)
        if png.kind.startswith("16-bit"):
            raise InputError(f"{path}: {png}; save it with 8 bits a channel")
        if png.kind == "8-bit RGB" and not png.transparent:
            return pixels_of(path, content, png)
        with _opened(path, content, "PNG") as image:
            if not png.transparent:
                return np.array(image.convert("RGB"))
            rgba = np.array(image.convert("RGBA"))
    return _opaque(path, rgba, str(png))


def decode_webp(path: Path, content: bytes) -> np.ndarray:
    """The image (H,W,3) uint8 RGB in a WebP file, as `decode_image` has it; a tree holds none, users may.

    Raises InputError, naming `path`, for an animation, transparent pixels, and a file that is not whole.
    """
    with _decoding(path), _opened(path, content, "WEBP") as image:
        if getattr(image, "n_frames", 1) > 1:
            raise InputError(f"{path}: an animation; save one of its images")
        rgba = np.array(image.convert("RGBA"))
    return _opaque(path, rgba, "a WebP")


def _opaque(path: Path, rgba: np.ndarray, what: str) -> np.ndarray:
    """The colours (H,W,3) of an image (H,W,4) uint8. Raises InputError if pixels of it are transparent."""
    if (rgba[..., 3] < 255).any():
        raise InputError(
            f"{path}: {what} with transparent pixels, whose colour isn't certain; save it without"
            " transparency"
        )
    return np.ascontiguousarray(rgba[..., :3])


def fitting(path: Path, image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The image (H,W,3). Raises InputError, naming `path` and both sizes, if its annotation has another."""
    if image.shape[:2] != shape:
        height, width = image.shape[:2]
        raise InputError(
            f"{path}: has {width}x{height} pixels, but its annotation {shape[1]}x{shape[0]};"
            " take both from the same archive"
        )
    return image


def read_mask(path: Path) -> np.ndarray:
    """Where a PNG or JPEG of any kind is not zero in any colour, (H,W) bool; alpha does not count.

    Raises InputError for what is neither, or not whole.
    """
    content = read_bytes(path)
    if content.startswith(_JPEG):
        return decode_image(path, content).any(2)
    png_of(path, content, _WANTED)
    with _decoding(path):
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None:
            raise ValueError(_UNDECODABLE)
    return pixels > 0 if pixels.ndim == 2 else pixels[..., :3].any(2)


def is_plain_png(content: bytes) -> bool:
    """Whether a file is an 8-bit RGB PNG without a note that would make other programs turn the image."""
    if not content.startswith(_PNG):
        return False
    png = _png(content)
    return png.kind == "8-bit RGB" and not png.transparent and not png.noted


# ---- maps ---------------------------------------------------------------------------------------


def read_label_map(path: Path) -> np.ndarray:
    """A label map (H,W) uint8. Raises InputError, naming the file, for anything else."""
    return read_png(path, ("8-bit grey",), "a label map is an 8-bit grey PNG of label ids")


def read_instance_map(path: Path) -> np.ndarray:
    """An instance map (H,W) uint16. Raises InputError, naming the file, for anything else."""
    return decode_instance_map(path, read_bytes(path))


def decode_instance_map(path: Path, content: bytes) -> np.ndarray:
    """The instance map (H,W) uint16 in a file's content. InputError, naming the file, for anything else."""
    return decode_png(path, content, ("16-bit grey",), "an instance map is a 16-bit grey PNG")


def read_png(path: Path, kinds: tuple[str, ...], wanted: str) -> np.ndarray:
    """The pixels in a PNG file, see `decode_png`."""
    return decode_png(path, read_bytes(path), kinds, wanted)


def decode_png(path: Path, content: bytes, kinds: tuple[str, ...], wanted: str) -> np.ndarray:
    """Pixels of a PNG, see `pixels_of`: (H,W) or (H,W,C) uint8 or uint16.

    kinds: those that will do, such as "16-bit grey" (see `Png.kind`). Raises InputError, naming `path` and
    quoting `wanted`, for others and for a file that is not whole.
    """
    png = png_of(path, content, wanted)
    if png.kind not in kinds:
        raise InputError(f"{path}: {png}, but {wanted}; {_TAKE}")
    return pixels_of(path, content, png)


# ---- what a file holds --------------------------------------------------------------------------


@dataclass(frozen=True)
class Png:
    """What a whole PNG file says of its pixels."""

    kind: str  # bits of a channel and the channels: "8-bit RGB", "16-bit grey", "8-bit palette"
    width: int  # pixels
    height: int
    transparent: bool  # some pixels may be
    noted: bool  # it has notes, which may be on its orientation
    animated: bool

    def __str__(self) -> str:
        return f"{'an' if self.kind.startswith('8') else 'a'} {self.kind} image"


def png_of(path: Path, content: bytes, wanted: str, remedy: str = _TAKE) -> Png:
    """What a PNG says of its pixels. InputError, naming `path`, for other files and what is not whole."""
    for start, kind in _OTHERS.items():
        if content.startswith(start):
            raise InputError(f"{path}: {kind}, but {wanted}; {remedy}")
    with _decoding(path):
        png = _png(content)
    if png.width * png.height > MAX_PIXELS:
        raise _too_large(path)
    return png


def _png(content: bytes) -> Png:
    """Reads all chunks. Raises ValueError for a file that is not whole."""
    if not content.startswith(_PNG):
        raise ValueError("it does not begin as one of the kinds known")
    place, header, transparent, noted, animated, kind = len(_PNG), b"", False, False, False, b""
    try:
        while kind != b"IEND":
            size, kind = struct.unpack_from(">I4s", content, place)
            chunk = content[place + 8 : place + 8 + size]
            (checksum,) = struct.unpack_from(">I", content, place + 8 + size)
            if zlib.crc32(chunk, zlib.crc32(kind)) != checksum:
                raise ValueError("a checksum is wrong")
            header = chunk if kind == b"IHDR" else header
            transparent |= kind == b"tRNS"
            animated |= kind == b"acTL"
            noted |= kind == b"eXIf" or (kind in _TEXTS and chunk.startswith(_NOTES))
            place += 12 + size
        width, height, bits, colour = struct.unpack_from(">IIBB", header)
    except struct.error:
        raise ValueError("its end is missing") from None
    if colour not in _COLOURS or not width or not height:
        raise ValueError("its header is wrong")
    kind = f"{bits}-bit {_COLOURS[colour]}"
    return Png(kind, width, height, transparent or colour in (4, 6), noted, animated)


def note_of(path: Path, content: bytes, name: str) -> str | None:
    """A text that a PNG holds before its pixels, by its name; None: there is none of that name."""
    with _opened(path, content, "PNG") as image:
        text = image.info.get(name)
    return text if isinstance(text, str) else None


def pixels_of(path: Path, content: bytes, png: Png) -> np.ndarray:
    """The pixels of a PNG as they are stored, of a palette its indices. InputError if they are damaged."""
    with _decoding(path):
        if png.kind not in _FAST or (png.transparent and not png.kind.endswith("RGBA")):
            with _opened(path, content, "PNG") as image:
                return np.array(image)
        pixels, order = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED), _FAST[png.kind]
        if pixels is None:
            raise ValueError(_UNDECODABLE)
        return pixels if order is None else cv2.cvtColor(pixels, order)


def _opened(path: Path, content: bytes, kind: str) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=(kind,))
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(path)
    return image


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """What libraries raise becomes one line."""
    try:
        yield
    except Image.DecompressionBombError:
        raise _too_large(path) from None
    except _DAMAGE as error:
        text = " ".join(str(error).split())
        raise InputError(f"{path}: truncated or damaged ({text}); copy it from the archive again") from None


def _too_large(path: Path) -> InputError:
    return InputError(f"{path}: too large, an image has at most {MAX_PIXELS} pixels; reduce it, or cut it")
