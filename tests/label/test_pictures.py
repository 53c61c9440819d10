"""Pictures: which count, what they are called, and their pixels."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from data.images import decode_image
from label.pictures import find_pictures, orientation, read_picture
from support.errors import InputError


def pixels(height: int = 24, width: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def saved(path: Path, mode: str = "RGB", **more) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels()).convert(mode).save(path, **more)
    return path


def turned(path: Path, number: int) -> Path:
    """A picture with a note on how it was held."""
    note = Image.Exif()
    note[0x0112] = number
    return saved(path, exif=note)


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("ending", (".jpg", ".png", ".webp"))
def test_a_picture_is_turned_upright_as_other_programs_do(number, ending, tmp_path):
    path = turned(tmp_path / f"x{ending}", number)
    with Image.open(path) as image:
        wanted = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    rgb, png = read_picture(path)
    assert np.array_equal(rgb, wanted) and rgb.flags.c_contiguous
    assert orientation(png) == 1
    assert np.array_equal(decode_image(path, png), wanted)


def test_a_note_that_is_broken_or_none_turns_nothing(tmp_path):
    path = turned(tmp_path / "x.jpg", 6)
    content = path.read_bytes()
    place = content.index(b"Exif\0\0")
    assert orientation(content) == 6
    assert orientation(content[: place + 6] + b"\xff" * 20 + content[place + 26 :]) == 1
    note = Image.Exif()
    note[0x0112] = 77
    assert read_picture(saved(tmp_path / "y.jpg", exif=note))[0].shape == (24, 40, 3)


def test_a_plain_png_is_taken_as_it_is_and_others_keep_their_pixels(tmp_path):
    path = saved(tmp_path / "x.png", compress_level=9)
    rgb, png = read_picture(path)
    assert np.array_equal(rgb, pixels()) and png == path.read_bytes()
    rgb, png = read_picture(saved(tmp_path / "x.webp", lossless=True))
    assert np.array_equal(rgb, pixels()) and np.array_equal(np.array(Image.open(io.BytesIO(png))), pixels())


@pytest.mark.parametrize("name", ("x.jpg", "x.png"))
def test_grey_becomes_rgb(name, tmp_path):
    rgb, _ = read_picture(saved(tmp_path / name, "L"))
    assert rgb.shape == (24, 40, 3) and (rgb[..., :1] == rgb).all() and rgb.std() > 10


def sixteen_bits(path: Path) -> None:
    Image.fromarray(np.arange(960, dtype=np.uint16).reshape(24, 40)).save(path, "PNG")


def sixteen_bit_colours(path: Path) -> None:
    """(24,40) RGB with 16 bits a channel, which Pillow can't write."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 40, 24, 16, 2, 0, 0, 0)),
        (
            b"IDAT",
            zlib.compress((b"\0" + b"\x12\x34" * 120) * 24),
        ),
    )
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in (*chunks, (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(content)


def cut_short(kind: str):
    def write(path: Path) -> None:
        Image.fromarray(pixels()).save(path, kind)
        path.write_bytes(path.read_bytes()[:-300])

    return write


def see_through(kind: str):
    def write(path: Path) -> None:
        image = Image.fromarray(pixels()).convert("RGBA")
        image.putpixel((3, 3), (0, 0, 0, 7))
        image.save(path, kind)

    return write


def moving(path: Path) -> None:
    frames = [Image.fromarray(pixels()), Image.fromarray(255 - pixels())]
    frames[0].save(path, "WEBP", save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("write", "says"),
    (
        (sixteen_bits, "16-bit grey image; save it with 8 bits"),
        (sixteen_bit_colours, "16-bit RGB image; save it with 8 bits"),
        (cut_short("JPEG"), "truncated or damaged"),
        (cut_short("PNG"), "truncated or damaged"),
        (cut_short("WEBP"), "truncated or damaged"),
        (see_through("PNG"), "transparent pixels"),
        (see_through("WEBP"), "transparent pixels"),
        (moving, "an animation"),
        (lambda path: Image.fromarray(pixels()).convert("CMYK").save(path, "JPEG"), "a JPEG in CMYK"),
        (lambda path: Image.fromarray(pixels()).save(path, "BMP"), "a BMP"),
        (lambda path: path.write_bytes(b""), "truncated or damaged"),
        (lambda path: path.write_bytes(b"RIFF\x10\0\0\0WEBPVP8 "), "truncated or damaged"),
    ),
)
def test_what_can_be_no_picture_of_a_tree_is_one_line(write, says, tmp_path):
    path = tmp_path / "x.jpg"  # whatever the suffix says
    write(path)
    with pytest.raises(InputError, match=says) as caught:
        read_picture(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


# ---- names --------------------------------------------------------------------------------------


def test_pictures_are_counted_in_the_order_of_their_names_but_for_official_ones(tmp_path):
    root = tmp_path / "in"
    for name in ("b/x.jpg", "a/x.PNG", "a/x.webp", "a/._x.png", ".hidden/y.png", "z/notes.txt"):
        saved(root / name, format="PNG")
    saved(root / "aachen_000003_000019_leftImg8bit.png")
    found = find_pictures(root, tmp_path / "out", "val")
    assert [(picture.name, picture.frame.name) for picture in found] == [
        ("a/x.PNG", "pictures_000000_000000"),
        ("a/x.webp", "pictures_000000_000001"),
        ("aachen_000003_000019_leftImg8bit.png", "aachen_000003_000019"),
        ("b/x.jpg", "pictures_000000_000002"),
    ]
    assert found[2].frame.place("leftImg8bit", ".png") == (
        "leftImg8bit/val/aachen/aachen_000003_000019_leftImg8bit.png"
    )


def test_two_pictures_of_one_official_name_are_refused(tmp_path):
    for name in ("a/ulm_000000_000000.jpg", "b/ulm_000000_000000_leftImg8bit.png"):
        saved(tmp_path / "in" / name)
    with pytest.raises(
        InputError, match=r"a/ulm_000000_000000.jpg and b/ulm.* would both be ulm_000000_000000"
    ):
        find_pictures(tmp_path / "in", tmp_path / "out", "train")


def test_no_pictures_and_an_out_among_them_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        find_pictures(tmp_path / "in", tmp_path / "out", "train")
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match=r"holds no \.jpg"):
        find_pictures(tmp_path / "in", tmp_path / "out", "train")
    saved(tmp_path / "in/x.png")
    for out in (tmp_path / "in/out", tmp_path / "in", tmp_path):
        with pytest.raises(InputError, match="inside the pictures"):
            find_pictures(tmp_path / "in", out, "train")
