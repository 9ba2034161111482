"""From an image file's bytes to 8-bit pixels, in one place: ``READ`` says what becomes of each of Pillow's modes.

Pillow's own ``convert`` clips pixels of more than eight bits (a 16-bit photograph turns white) and shows what is hidden
under transparent ones. Nothing here is scaled by a single picture's range: a dark image stays dark.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

try:
    from torchvision.io import decode_jpeg
except ImportError:  # torchvision 0.29 announces its removal; Pillow gives the same bytes
    decode_jpeg = None

DEEP = 4096  # 16-bit pixels all below this have 12 bits or fewer in a wider file: their scale is unknown
FEWER = (8, 10, 12, 14)  # bit depths that cameras and scanners write into 16-bit files

SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height


class UnreadableImage(Exception):
    """An image that cannot be decoded, or whose pixels have no certain meaning; the message says why."""


def plain(image: Image.Image) -> Image.Image:
    """8 bits per channel, which Pillow converts correctly."""
    return image


def opaque(image: Image.Image) -> Image.Image:
    """The picture as seen on white paper."""
    image = image.convert("RGBA")
    seen = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if flat(seen) and not flat(image):
        raise UnreadableImage("white on a transparent ground: on white nothing can be seen")
    return seen


def sixteen_bits(image: Image.Image, bits: int | None = None) -> Image.Image:
    """The upper byte of pixels with ``bits`` bits, 16 by default; Pillow also takes that of 16-bit colours."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise UnreadableImage("32-bit integers outside 0 to 65535, whose scale is not known: convert it to 8 bits")
    if bits is None and values.max() < DEEP and values.min() < values.max():
        raise UnreadableImage(
            f"16-bit pixels that all stay below {DEEP}, so that their scale is not known: set data.bits to the number "
            "of their bits, or convert it to 8 bits"
        )
    if bits is not None and values.max() >> bits:
        raise UnreadableImage(f"a pixel of {values.max()}, which has more than data.bits={bits} bits")
    return Image.fromarray((values >> (bits or 16) - 8).astype(np.uint8))


def unit_interval(image: Image.Image) -> Image.Image:
    """Black at 0, white at 1."""
    values = np.asarray(image)
    if not (values.min() >= 0 and values.max() <= 1):  # a NaN is neither
        raise UnreadableImage("floating-point pixels outside 0 to 1, whose scale is not known: convert it to 8 bits")
    return Image.fromarray(np.round(values * 255).astype(np.uint8))


READ: dict[str, Callable[[Image.Image], Image.Image]] = {
    **dict.fromkeys(("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"), plain),
    **dict.fromkeys(("LA", "PA", "RGBA", "RGBa"), opaque),
    **dict.fromkeys(("I;16", "I;16L", "I;16B", "I;16N", "I"), sixteen_bits),
    "F": unit_interval,
}
"""How pixels of each of Pillow's modes are read. Other modes are refused."""


class Picture:
    """The first and only picture in an image file; for a JPEG, only the header is read at first.

    Args:
        content: the file's bytes; the format that its name suggests makes no difference.
        mode: of the pixels, RGB or L.
        bits: per pixel of 16-bit grey, if known.

    Raises:
        UnreadableImage: with the reason; ``pixels`` raises it too.
    """

    size: tuple[int, int]  # width and height, upright
    brightest = 0  # of the 16-bit pixels read so far

    def __init__(self, content: bytes, mode: str, bits: int | None = None) -> None:
        self.mode, self.bits, self._content = mode, bits, content
        if not content:
            raise UnreadableImage("the file is empty")
        with reasons():
            self._image: Image.Image = Image.open(BytesIO(content))
            self._jpeg = self._image.format in ("JPEG", "MPO")
            if not self._jpeg:
                if (frames := getattr(self._image, "n_frames", 1)) > 1:
                    raise UnreadableImage(f"{frames} frames or pages: keep one")
                self._wide = any(";16" in str(tile[3]) for tile in self._image.tile)
                self._image.load()  # a PNG may have its orientation after its pixels
            self._orientation = orientation(self._image)
            self.size = self._image.size[::-1] if self._orientation in SIDEWAYS else self._image.size

    def pixels(self, reduced: int = 1) -> Image.Image:
        """Upright, in ``mode``; to save time, a JPEG is decoded smaller by a power of two up to ``reduced`` and 8."""
        with reasons():
            image = self._image
            if self._jpeg and reduced > 1:
                image.draft(image.mode, (max(1, image.width // reduced), max(1, image.height // reduced)))
            image.load()
            if image.mode not in READ:
                raise UnreadableImage(f"pixels of mode {image.mode}")
            upright = ImageOps.exif_transpose(image) if self._orientation != 1 else image
            read = opaque if image.has_transparency_data else READ[image.mode]
            if read is sixteen_bits:
                self.brightest = int(np.asarray(image).max())
                seen = sixteen_bits(upright, self.bits)
            else:
                if not self._jpeg and self._wide:
                    self._check_colours(image)
                seen = read(upright)
            return seen.convert(self.mode) if seen.mode != "LAB" else seen.convert("RGB").convert(self.mode)

    def _check_colours(self, image: Image.Image) -> None:
        """Raise UnreadableImage unless the upper bytes of 16-bit colours, all that Pillow gives, hold the picture."""
        if self.bits not in (None, 16):
            raise UnreadableImage(f"16-bit colours, for which data.bits={self.bits} does nothing: convert it to 8 bits")
        self.brightest = int(np.asarray(image.convert("RGB")).max()) * 257
        if self.bits is None and self.brightest < DEEP:
            raise UnreadableImage(f"16-bit colours that all stay below {DEEP}: convert it to 8 bits")

    def array(self, reduced: int = 1) -> Tensor:
        """``pixels`` as uint8 [H, W, C]."""
        ordinary = self._jpeg and self._orientation == 1 and self._image.mode == self.mode == "RGB"
        if decode_jpeg and ordinary and reduced <= 1:
            try:  # torchvision gives the same bytes, a fifth faster
                return decode_jpeg(torch.frombuffer(bytearray(self._content), dtype=torch.uint8)).permute(1, 2, 0)
            except RuntimeError:  # let Pillow say what is wrong
                pass
        return as_bytes(self.pixels(reduced))


class Plain(Picture):
    """A picture whose pixels are already in memory."""

    def __init__(self, image: Image.Image) -> None:
        self._image, self.size = image, image.size

    def pixels(self, reduced: int = 1) -> Image.Image:
        return self._image

    def array(self, reduced: int = 1) -> Tensor:
        return as_bytes(self._image)


def as_bytes(image: Image.Image) -> Tensor:
    """uint8 [H, W, C], a copy."""
    return torch.from_numpy(np.array(image)).view(image.height, image.width, -1)


@contextmanager
def reasons() -> Iterator[None]:
    """Raise UnreadableImage for whatever goes wrong: Pillow's decoders raise nearly anything on a broken file."""
    try:
        yield
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        raise UnreadableImage("not an image in a format that Pillow knows") from None
    except Exception as error:
        raise UnreadableImage(re.sub(r" *\(.*\)$", "", str(error)) or type(error).__name__) from error


def decode(content: bytes, mode: str, bits: int | None = None) -> Image.Image:
    """The picture in an image file, upright, in mode RGB or L; raises UnreadableImage."""
    return Picture(content, mode, bits).pixels()


def orientation(image: Image.Image) -> int:
    """EXIF's number for how the camera was held; 1: upright."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # what a camera wrote next to a good picture may be broken in any way
        return 1


def flat(image: Image.Image) -> bool:
    """Whether all pixels are the same."""
    extrema = image.getextrema()
    return all(low == high for low, high in (extrema if isinstance(extrema[0], tuple) else (extrema,)))
