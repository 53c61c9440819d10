"""data/images.py: images and maps of every kind, read as their pixels are stored or refused by name."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from data.images import (
    decode_image,
    find_image,
    is_plain_png,
    read_instance_map,
    read_label_map,
    read_mask,
)
from support.errors import InputError

RGB = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
GREY = RGB[..., 0]
IDS = GREY.astype(np.uint16) * 120


def png(array: np.ndarray, **settings) -> bytes:
    """An image as Pillow writes it."""
    return saved(Image.fromarray(array), "PNG", **settings)


def saved(image: Image.Image, kind: str, **settings) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def turned(kind: str) -> bytes:
    """An image with a note to turn it by 90 degrees."""
    note = Image.Exif()
    note[0x0112] = 6
    return saved(Image.fromarray(RGB), kind, exif=note, **({"quality": 95} if kind == "JPEG" else {}))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def raw_png(
    pixels: np.ndarray, bits: int, colour: int, *more: bytes, size: tuple[int, int] = (60, 40)
) -> bytes:
    """A PNG of any kind: pixels as PNG has them, bits of a channel, PNG's number of the colour type."""
    rows = pixels.astype(">u2").view(np.uint8) if bits == 16 else pixels
    rows = np.insert(rows.reshape(pixels.shape[0], -1), 0, 0, 1)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows.tobytes()))
    return b"\x89PNG\r\n\x1a\n" + b"".join((header, *more, body, chunk(b"IEND", b"")))


def rgba(alpha: np.ndarray | int) -> np.ndarray:
    return np.dstack([RGB, np.full(GREY.shape, alpha, np.uint8)])


PALETTED = Image.fromarray(RGB).convert("P", palette=Image.Palette.ADAPTIVE)
JPEG = saved(Image.fromarray(RGB), "JPEG", quality=95)
GREY_AS_RGB = np.stack([GREY] * 3, -1)
HOLES = np.where(GREY > 200, 0, 255).astype(np.uint8)
HUGE_JPEG = JPEG[: JPEG.index(b"\xff\xc0") + 5] + struct.pack(">HH", 12000, 12000)
HUGE_JPEG += JPEG[len(HUGE_JPEG) :]
BAD_STREAM = raw_png(RGB[:20], 8, 2)  # half of the rows that the header promises, all checksums right


@pytest.mark.parametrize(
    ("content", "pixels"),
    (
        pytest.param(png(RGB), RGB, id="rgb"),
        pytest.param(turned("PNG"), RGB, id="png with a note on orientation"),
        pytest.param(turned("JPEG"), np.asarray(Image.open(io.BytesIO(JPEG))), id="jpeg with such a note"),
        pytest.param(png(GREY), GREY_AS_RGB, id="grey"),
        pytest.param(saved(PALETTED, "PNG"), np.asarray(PALETTED.convert("RGB")), id="palette"),
        pytest.param(png(rgba(255)), RGB, id="opaque alpha"),
        pytest.param(saved(Image.fromarray(GREY), "JPEG"), None, id="grey jpeg"),
        pytest.param(png(RGB) + b"more", RGB, id="bytes behind the end"),
    ),
)
def test_images_are_read_as_stored_whatever_the_suffix_says(tmp_path, content, pixels):
    image = decode_image(tmp_path / os.fsdecode(b"Stra\xdfe.jpg"), content)
    assert image.shape == RGB.shape and image.dtype == np.uint8 and image.flags.writeable
    assert pixels is None or np.array_equal(image, pixels)


@pytest.mark.parametrize(
    ("content", "words"),
    (
        pytest.param(png(rgba(HOLES)), "8-bit RGBA image with transparent pixels", id="holes"),
        pytest.param(raw_png(np.dstack([IDS] * 3), 16, 2), "16-bit RGB image", id="16-bit rgb"),
        pytest.param(png(IDS), "16-bit grey image", id="16-bit grey"),
        pytest.param(saved(Image.fromarray(RGB).convert("CMYK"), "JPEG"), "JPEG in CMYK", id="cmyk"),
        pytest.param(saved(Image.fromarray(RGB), "WEBP"), "a WebP, but an image is a PNG or JPEG", id="webp"),
        pytest.param(saved(Image.fromarray(RGB), "BMP"), "a BMP, but", id="bmp"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\n", "Git LFS", id="pointer"),
        pytest.param(b"", "damaged", id="empty"),
        pytest.param(png(RGB)[:-200], "its end is missing", id="cut"),
        pytest.param(JPEG[: len(JPEG) // 2], "truncated", id="cut jpeg"),
        pytest.param(bytes([*png(RGB)[:900], 7, *png(RGB)[901:]]), "a checksum is wrong", id="changed"),
        pytest.param(BAD_STREAM, "truncated or damaged", id="rows are missing"),
        pytest.param(raw_png(RGB, 8, 2, size=(20000, 20000)), "too large", id="huge"),
        pytest.param(HUGE_JPEG, "too large", id="huge jpeg"),
    ),
)
def test_other_images_are_refused_in_a_line_that_names_the_file_and_the_reason(tmp_path, content, words):
    path = tmp_path / "picture.png"
    with pytest.raises(InputError) as error:
        decode_image(path, content)
    assert str(error.value).startswith(f"{path}: ") and words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "mask"),
    (
        (png(GREY), GREY > 0),
        (png(IDS), GREY > 0),
        (png(np.where(GREY[..., None] > 100, RGB | 1, 0).astype(np.uint8)), GREY > 100),
        (png(rgba(HOLES)), RGB.any(2)),
        (JPEG, np.asarray(Image.open(io.BytesIO(JPEG))).any(2)),
    ),
)
def test_a_mask_is_where_a_colour_is_not_zero_whatever_the_kind(tmp_path, content, mask):
    (tmp_path / "mask.png").write_bytes(content)
    assert np.array_equal(read_mask(tmp_path / "mask.png"), mask)


def test_a_mask_with_sound_checksums_and_no_pixels_is_refused(tmp_path):
    content = png(RGB)
    start, end = content.index(b"IDAT") - 4, content.index(b"IEND") - 4
    (tmp_path / "mask.png").write_bytes(content[:start] + chunk(b"IDAT", b"no pixels") + content[end:])
    with pytest.raises(InputError, match="pixels can't be decoded"):
        read_mask(tmp_path / "mask.png")


@pytest.mark.parametrize(
    ("read", "content", "words"),
    (
        (read_label_map, png(GREY), None),
        (read_label_map, raw_png(GREY, 8, 0, chunk(b"tRNS", b"\0\7")), None),
        (read_label_map, png(IDS), "a 16-bit grey image, but a label map is an 8-bit grey PNG"),
        (read_label_map, raw_png(GREY[:, :30], 4, 0), "a 4-bit grey image"),  # which libraries would stretch
        (read_label_map, saved(PALETTED, "PNG"), "palette image"),
        (read_label_map, saved(Image.fromarray(GREY), "JPEG"), "a JPEG, but a label map"),
        (read_label_map, raw_png(GREY[:20], 8, 0), "truncated or damaged"),
        (read_instance_map, png(IDS), None),
        (read_instance_map, raw_png(IDS, 16, 0, chunk(b"tRNS", b"\0\0")), None),
        (read_instance_map, png(GREY), "an 8-bit grey image, but an instance map is a 16-bit grey PNG"),
        (read_instance_map, raw_png(np.dstack([IDS] * 3), 16, 2), "a 16-bit RGB image"),
        (read_instance_map, raw_png(np.dstack([IDS] * 2), 16, 4), "a 16-bit grey with alpha image"),
        (read_instance_map, raw_png(np.dstack([IDS] * 4), 16, 6), "a 16-bit RGBA image"),
        (read_instance_map, raw_png(IDS, 16, 0, size=(20000, 20000)), "too large"),
    ),
)
def test_maps_have_exactly_one_channel_of_their_bits(tmp_path, read, content, words):
    path = tmp_path / "map.png"
    path.write_bytes(content)
    if words is None:
        assert np.array_equal(read(path), GREY if read is read_label_map else IDS)
        return
    with pytest.raises(InputError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: ") and words in str(error.value)


def test_what_other_programs_would_turn_is_no_plain_png():
    assert is_plain_png(png(RGB))
    for content in (turned("PNG"), turned("JPEG"), png(GREY), png(rgba(255)), b"\x89PNG\r\n\x1a\n"[:3]):
        assert not is_plain_png(content)


def test_an_image_is_found_by_any_suffix_the_png_first(tmp_path):
    wanted = tmp_path / "a.b_leftImg8bit.png"
    assert find_image(wanted) is None
    for suffix in (".webp", ".JPEG", ".jpg", ".Png", ".png"):
        (tmp_path / f"a.b_leftImg8bit{suffix}").touch()
        assert find_image(wanted) == wanted.with_suffix(suffix)
