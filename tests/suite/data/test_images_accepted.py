"""Every kind of image file becomes the right pixels or is refused with the reason.

docs/data.md says which.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from multimax.suite.data.image_sources import ImageSource
from multimax.suite.data.images import ImageData, check_bits, unreadable
from multimax.suite.data.pixels import READ, Picture, UnreadableImage, decode
from multimax.suite.errors import UserError
from tests.suite.data.accepted import Refused, Row, assert_documented

COLOURS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3
GREY = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
GREY3 = np.dstack([GREY] * 3)
DEEP = GREY.astype(np.uint16) * 257
PALETTE = Image.fromarray(COLOURS).quantize(24)
CLEAR = np.dstack([COLOURS, np.full((4, 6), 255, np.uint8)])
CLEAR[0, :, 3] = 0  # a transparent row that still has colours
ON_WHITE = COLOURS.copy()
ON_WHITE[0] = 255
WHITE_CORNER = COLOURS.copy()
WHITE_CORNER[3, 5] = 255
CLEAR_PALETTE = np.where((np.asarray(PALETTE) == np.asarray(PALETTE)[3, 5])[..., None], 255, PALETTE.convert("RGB"))
UPRIGHT = np.rot90(COLOURS, -1)


class WithBits(NamedTuple):
    """An image file and the data.bits of its data set."""

    content: bytes
    bits: int | None


class OneImage(ImageSource):
    mode, classes = "RGB", ["a"]

    def __init__(self, given: bytes | WithBits) -> None:
        self.content, self.bits = given if isinstance(given, WithBits) else (given, None)

    def __len__(self) -> int:
        return 1

    def label(self, index: int) -> int:
        return 0

    def name(self, index: int) -> str:
        return "one"

    def encoded(self, index: int) -> bytes:
        return self.content

    def listing(self) -> Iterator[bytes]:
        yield b"one"


def read(given: bytes | WithBits, mode: str) -> Image.Image:
    """Read an image as a data set of its own; with ``WithBits``, its bits are checked first."""
    source = OneImage(given)
    source.mode = mode
    if isinstance(given, WithBits):
        check_bits(ImageData("one", "files", None, 8, bits=source.bits), unreadable(source, "training")[1])
    return source.load(0)


class Near(NamedTuple):
    """Expected pixels, with the tolerance that is allowed."""

    pixels: np.ndarray
    tolerance: int


def saved(pixels, form: str, mode: str | None = None, **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, form, **options)
    return file.getvalue()


def png(depth: int, kind: int, values: np.ndarray, claimed: tuple[int, int] | None = None) -> bytes:
    """A PNG that Pillow does not write: ``values`` [height, width, channels] of ``depth`` bits.

    Its header claims the size ``claimed`` (width, height) if that is given.
    """
    width, height = claimed or (values.shape[1], values.shape[0])

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2" if depth == 16 else ">u1").tobytes() for row in values)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def turned(form: str, orientation: int = 6) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(COLOURS, form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))


def frames(form: str) -> bytes:
    return saved(COLOURS, form, save_all=True, append_images=[Image.fromarray(255 - COLOURS)])


def hidden_white() -> bytes:
    pixels = np.full((4, 6, 4), 255, np.uint8)
    pixels[:2, :, 3] = 0
    return saved(pixels, "PNG")


def pgm(most: int, values: np.ndarray) -> bytes:
    return f"P5\n6 4\n{most}\n".encode() + values.astype(">u2").tobytes()


def huge() -> bytes:
    return png(8, 0, np.zeros((1, 1, 1)), claimed=(30_000, 30_000))


def float_tiff(values: np.ndarray) -> bytes:
    return saved(values.astype(np.float32), "TIFF")


AS_IS, COMPOSED = "right", "right: what is seen on white paper"
DEPTH = "right: scaled by the range of the format, never by what one picture holds"
UNSAID = "refused: set `data.bits` to their number, or convert it to 8 bits"
UNKNOWN = "refused: the scale is not known, convert it to 8 bits"
JPEG = saved(COLOURS, "JPEG")
IMAGES = [
    Row("PNG, BMP, TIFF, WebP of 8 bits a channel", AS_IS, saved(COLOURS, "PNG"), COLOURS),
    Row("another format than the file's name says", AS_IS, saved(COLOURS, "BMP"), COLOURS),
    Row("JPEG", AS_IS, JPEG, np.asarray(Image.open(io.BytesIO(JPEG)))),
    Row("grey in a model of colours", AS_IS, saved(GREY, "PNG"), GREY3),
    Row("black and white", AS_IS, saved(GREY > 100, "PNG"), np.dstack([np.where(GREY > 100, 255, 0)] * 3)),
    Row("a palette", AS_IS, saved(PALETTE, "PNG"), np.asarray(PALETTE.convert("RGB"))),
    Row(
        "CMYK",
        AS_IS,
        saved(COLOURS, "TIFF", "CMYK"),
        np.asarray(Image.fromarray(COLOURS).convert("CMYK").convert("RGB")),
    ),
    Row("YCbCr, LAB", AS_IS, saved(GREY, "TIFF", "YCbCr"), GREY3),
    Row("an alpha channel", COMPOSED, saved(CLEAR, "PNG"), ON_WHITE),
    Row(
        "grey with alpha",
        COMPOSED,
        saved(np.dstack([GREY, CLEAR[..., 3]]), "PNG"),
        np.dstack([np.where(CLEAR[..., 3] > 0, GREY, 255)] * 3),
    ),
    Row(
        "a palette with a transparent colour",
        COMPOSED,
        saved(PALETTE, "PNG", transparency=PALETTE.getpixel((5, 3))),
        CLEAR_PALETTE,
    ),
    Row(
        "a transparent colour (tRNS)",
        COMPOSED,
        saved(COLOURS, "PNG", transparency=tuple(COLOURS[3, 5].tolist())),
        WHITE_CORNER,
    ),
    Row("16-bit grey (PNG, TIFF, PGM)", DEPTH, saved(DEEP, "PNG"), GREY3),
    Row(
        "16-bit grey of the other byte order",
        DEPTH,
        saved(Image.frombytes("I;16B", (6, 4), DEEP.astype(">u2").tobytes()), "TIFF"),
        GREY3,
    ),
    Row("12-bit PGM", DEPTH, pgm(4095, GREY.astype(int) * 4095 // 255), Near(GREY3, 1)),
    Row("16-bit colours", DEPTH, png(16, 2, COLOURS.astype(np.uint16) * 257), COLOURS),
    Row("16-bit grey with alpha", DEPTH, png(16, 4, np.dstack([DEEP, np.full_like(DEEP, 65535)])), GREY3),
    Row("32-bit integers from 0 to 65535", DEPTH, saved(DEEP.astype(np.int32), "TIFF"), GREY3),
    Row("floating point from 0 to 1", DEPTH, float_tiff(GREY / 255), GREY3),
    Row("EXIF's orientation, in every format", "right: turned upright", turned("PNG"), UPRIGHT),
    Row(
        "one picture with thumbnails (MPO)",
        "right: the picture",
        saved(Image.open(io.BytesIO(JPEG)), "MPO", save_all=True, append_images=[Image.fromarray(COLOURS)]),
        Near(COLOURS, 40),
    ),
    Row(
        "fewer bits in 16-bit grey, where `data.bits` says how many",
        DEPTH,
        WithBits(saved(GREY.astype(np.uint16) * 64, "PNG"), 14),
        GREY3,
    ),
    Row(
        "8 or 12 bits in a 16-bit file",
        UNSAID,
        saved(GREY.astype(np.uint16), "PNG"),
        Refused("stay below 4096.* data.bits"),
    ),
    Row(
        "8 or 12 bits in 16-bit colours",
        UNKNOWN,
        png(16, 2, COLOURS.astype(np.uint16)),
        Refused("stay below 4096"),
    ),
    Row(
        "14 bits in 16-bit files, where all that are looked at before training stay below 16384",
        UNSAID,
        WithBits(saved(GREY.astype(np.uint16) * 64, "PNG"), None),
        Refused("brightest pixel of the 16-bit images is 14720, .* set data.bits=14"),
    ),
    Row(
        "larger or negative integers",
        UNKNOWN,
        saved(DEEP.astype(np.int32) * 9, "TIFF"),
        Refused("32-bit integers outside"),
    ),
    Row("floating point outside 0 to 1", UNKNOWN, float_tiff(GREY * 1.0), Refused("outside 0 to 1")),
    Row("NaN", UNKNOWN, float_tiff(np.where(GREY > 9, GREY / 255, np.nan)), Refused("outside 0 to 1")),
    Row(
        "several frames or pages (GIF, APNG, WebP, TIFF)",
        "refused: keep one",
        frames("GIF"),
        Refused("2 frames or pages"),
    ),
    Row("several frames of an APNG", "refused: keep one", frames("PNG"), Refused("2 frames or pages")),
    Row("several pages of a TIFF", "refused: keep one", frames("TIFF"), Refused("2 frames or pages")),
    Row(
        "white on a transparent ground",
        "refused: nothing of it would be seen",
        hidden_white(),
        Refused("white on a transparent ground"),
    ),
    Row("a file cut short", "refused, with the decoder's reason", JPEG[:-40], Refused("[Tt]runcated")),
    Row("an empty file", "refused, with the decoder's reason", b"", Refused("the file is empty")),
    Row("a file that is no image", "refused, with the decoder's reason", b"<html>404</html>", Refused("not an image")),
    Row("more than 179 million pixels", "refused, with the decoder's reason", huge(), Refused("exceeds limit")),
]
"""Every kind of file, each tried in colours and in grey."""


@pytest.mark.parametrize("row", IMAGES, ids=lambda row: row.what)
def test_pixels_are_right_or_refused(row):
    if isinstance(row.expected, Refused):
        for mode in ("RGB", "L"):
            with pytest.raises((UnreadableImage, UserError), match=row.expected) as raised:
                read(row.given, mode)
            assert len(str(raised.value).splitlines()) == 1
        return
    found = np.asarray(read(row.given, "RGB"))
    expected, tolerance = row.expected if isinstance(row.expected, Near) else (row.expected, 0)
    assert np.abs(found.astype(int) - expected).max() <= tolerance
    grey = np.asarray(read(row.given, "L"))
    assert grey.shape == found.shape[:2]
    assert np.abs(grey.astype(int) - np.asarray(Image.fromarray(found).convert("L"))).max() <= 1


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_undone(form, orientation):
    turns: dict[int, Callable] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, 1),
    }
    found = np.asarray(decode(turned(form, orientation), "RGB")).astype(int)
    stored = np.asarray(Image.open(io.BytesIO(turned(form, 1))).convert("RGB"))
    assert np.array_equal(found, turns[orientation](stored))


@pytest.mark.parametrize("mode", sorted(Image.MODES))
def test_every_mode_of_pillow_is_read_or_refused(mode):
    """Even modes that none of our formats has: no image may silently become a single value."""
    try:
        image = Image.fromarray(np.dstack([GREY, GREY, GREY])).convert(mode)
    except ValueError:
        image = Image.new(mode, (6, 4))
    if mode not in READ:
        assert mode == "La"  # no file has this mode
        return
    if mode == "I":
        image = Image.fromarray(DEEP.astype(np.int32))
    elif mode.startswith("I;16"):
        image = Image.frombytes(mode, (6, 4), DEEP.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
    elif mode == "F":
        image = Image.fromarray(GREY.astype(np.float32) / 255)
    seen = READ[mode](image).convert("RGB")
    assert len(np.unique(np.asarray(seen))) > 1


@pytest.mark.parametrize("row", [row for row in IMAGES if isinstance(row.given, bytes)], ids=lambda row: row.what)
def test_the_array_of_a_picture_is_its_pixels(row):
    for mode in ("RGB", "L"):
        if isinstance(row.expected, Refused):
            with pytest.raises(UnreadableImage, match=row.expected):
                Picture(row.given, mode).array()
        else:
            found, pixels = Picture(row.given, mode).array(), np.asarray(decode(row.given, mode))
            assert np.array_equal(found.numpy(), pixels.reshape(*pixels.shape[:2], -1))


def test_an_ordinary_image_is_what_pillow_makes_of_it():
    for content in (JPEG, saved(COLOURS, "PNG"), saved(GREY, "JPEG"), saved(COLOURS, "JPEG", quality=20)):
        for mode in ("RGB", "L"):
            assert decode(content, mode).tobytes() == Image.open(io.BytesIO(content)).convert(mode).tobytes()


@pytest.mark.parametrize("cut", [10, 40, 400])
@pytest.mark.parametrize("progressive", [False, True])
def test_reduced_decoding_finds_what_is_cut_short(cut, progressive):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    content = saved(pixels, "JPEG", progressive=progressive)
    assert Picture(content, "RGB").pixels(reduced=8).size == (8, 8)
    with pytest.raises(UnreadableImage, match="truncated"):
        Picture(content[:-cut], "RGB").pixels(reduced=8)


def test_the_documentation_says_so():
    assert_documented(IMAGES)
