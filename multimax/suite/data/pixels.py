"""From the bytes of an image file to 8-bit pixels, in one place: ``READ`` says what becomes of each of Pillow's modes.

Pillow's own ``convert`` clips what has more than eight bits (a 16-bit photograph turns white) and shows what lies
hidden under transparent pixels. Nothing here is scaled by what one picture happens to hold: a dark image stays dark.
"""

import re
from collections.abc import Callable
from io import BytesIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

DEEP = 4096  # 16-bit pixels that all stay below are of 12 bits or fewer in a wider file: their scale is not known


class UnreadableImage(Exception):
    """An image that cannot be decoded, or whose pixels have no certain meaning; the text says why."""


def plain(image: Image.Image) -> Image.Image:
    """8 bits a channel, which Pillow converts as it should."""
    return image


def opaque(image: Image.Image) -> Image.Image:
    """What is seen on white paper."""
    image = image.convert("RGBA")
    seen = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if flat(seen) and not flat(image):
        raise UnreadableImage("white on a transparent ground: nothing of it is seen on white")
    return seen


def sixteen_bits(image: Image.Image) -> Image.Image:
    """The upper byte, as Pillow takes of 16-bit colours."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise UnreadableImage("32-bit integers outside 0 to 65535, whose scale is not known: convert it to 8 bits")
    if values.max() < DEEP and values.min() < values.max():
        raise UnreadableImage(
            f"16-bit pixels that all stay below {DEEP}, so that their scale is not known: convert it to 8 bits"
        )
    return Image.fromarray((values >> 8).astype(np.uint8))


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
"""How the pixels of each of Pillow's modes are read. Any other mode is refused."""


def decode(content: bytes, mode: str, glance: bool = False) -> Image.Image:
    """The first and only picture in an image file, upright, in mode RGB or L.

    Args:
        content: the file; what its name says of its format makes no difference.
        mode: RGB or L.
        glance: whether a small version will do, which shows as well whether a JPEG is whole, in a quarter of the time.

    Raises:
        UnreadableImage: with the reason.
    """
    if not content:
        raise UnreadableImage("the file is empty")
    try:
        with Image.open(BytesIO(content)) as image:
            if (frames := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
                raise UnreadableImage(f"{frames} frames or pages: keep one")
            if glance:
                image.draft(image.mode, (1, 1))
            image.load()
            if image.mode not in READ:
                raise UnreadableImage(f"pixels of mode {image.mode}")
            read = opaque if image.has_transparency_data else READ[image.mode]
            seen = read(upright(image))
            return seen.convert(mode) if seen.mode != "LAB" else seen.convert("RGB").convert(mode)
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        raise UnreadableImage("not an image in a format that Pillow knows") from None
    except Exception as error:  # on a broken file Pillow's decoders raise nearly anything
        raise UnreadableImage(re.sub(r" *\(.*\)$", "", str(error)) or type(error).__name__) from error


def upright(image: Image.Image) -> Image.Image:
    """Turned as the camera says that it was held."""
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except Exception:  # what a camera wrote beside a good picture may be broken in any way
        return image
    return ImageOps.exif_transpose(image) if turned else image


def flat(image: Image.Image) -> bool:
    """Whether all pixels are the same."""
    extrema = image.getextrema()
    return all(low == high for low, high in (extrema if isinstance(extrema[0], tuple) else (extrema,)))
