"""Any image file to uint8 pixels of one shape, by stated rules. They are written into every index.json (`RULES`).

    size        checked on the header, before a pixel is decoded
    frames      the first
    rotation    as EXIF says
    16 bit      the high byte (v >> 8), grey and colour alike
    palette     its colours
    alpha       composited over white
    CMYK        Pillow's conversion; colour profiles are not applied
    grey        from colour: ITU-R BT.601 luma; to colour: repeated
    crop        center: the largest centred square; pad: black bars to a square; squash: the sides scale on their own
    resize      down: Pillow's box filter; up: bicubic; each axis by its own direction

Channels and crop come before the resize, which works on 8 bits per channel.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from shards.index import Crop

Pixels = NDArray[np.uint8]

MAX_FILE_BYTES = 256 << 20
MAX_SIDE_PX = 1 << 15
MAX_PIXELS = 80_000_000

# Formats whose decoders only decode: no PostScript, no PDF, nothing that starts a program
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm"}
)

RULES = {
    "frames": "first",
    "rotation": "exif",
    "16bit": "high byte",
    "alpha": "over white",
    "cmyk": "pillow, no profile",
    "grey": "BT.601 luma",
    "resize": "pillow box down, bicubic up",
}

_ORIENTATION_TAG = 0x0112
_ROTATED_BY_90 = (5, 6, 7, 8)
_GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")


class BadImage(Exception):
    """An image that cannot be packed; `str(error)` says why, in a few words."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself before it is decoded."""

    width: int  # upright, as the image will be seen
    height: int
    grey: bool  # stored without colour; a palette counts as colour


@dataclass(frozen=True)
class Target:
    """What every image of a dataset becomes: uint8 [channels, height, width]."""

    channels: Literal[1, 3]
    height: int
    width: int
    crop: Crop
    resize: bool  # False: an image of another size is a bad one


def read_header(data: bytes | Pixels) -> Header:
    """The header of an image file, or of pixels [H, W] or [H, W, 3].

    Raises:
        BadImage: not an image, or one too large to decode safely.
    """
    if isinstance(data, np.ndarray):
        return Header(data.shape[1], data.shape[0], data.ndim == 2)
    try:
        with _open(data) as image:
            width, height = image.size
            # Pillow would decode a whole PNG in search of EXIF data that stands behind the pixels
            known = image.format != "PNG" or "exif" in image.info
            if known and image.getexif().get(_ORIENTATION_TAG, 1) in _ROTATED_BY_90:
                width, height = height, width
            return Header(width, height, image.mode in _GREY_MODES)
    except BadImage:
        raise
    except Exception as error:  # whatever a decoder raises at a file from outside is that file's fault
        raise BadImage(_reason(error)) from None


def normalise(data: bytes | Pixels, target: Target) -> tuple[Pixels, Header]:
    """An image file, or pixels [H, W] or [H, W, 3], as uint8 [C, H, W] of the target's shape; and what it was before.

    Raises:
        BadImage: not an image, damaged, too large to decode safely, of a kind that has no rule, or of the wrong shape.
    """
    try:
        with Image.fromarray(data) if isinstance(data, np.ndarray) else _open(data) as image:
            grey = image.mode in _GREY_MODES
            upright = ImageOps.exif_transpose(image)
            original = Header(*upright.size, grey)
            fitted = _fit(_to_channels(upright, target.channels), target)
            pixels = np.asarray(fitted).reshape(target.height, target.width, target.channels)
    except BadImage:
        raise
    except Exception as error:  # whatever a decoder raises at a file from outside is that file's fault
        raise BadImage(_reason(error)) from None
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)), original  # [H, W, C] -> [C, H, W]


def _open(data: bytes) -> Image.Image:
    """Header only. Pillow decodes when the pixels are first asked for."""
    if len(data) > MAX_FILE_BYTES:
        raise BadImage(f"too large: {len(data):,} bytes, at most {MAX_FILE_BYTES:,}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of what is refused below, and of harmless metadata
        try:
            image = Image.open(BytesIO(data), formats=FORMATS)
        except Image.DecompressionBombError:
            raise BadImage(f"too large: more than {MAX_PIXELS:,} pixels") from None
    width, height = image.size
    if max(width, height) > MAX_SIDE_PX or width * height > MAX_PIXELS:
        raise BadImage(f"too large: {width}x{height}, at most {MAX_SIDE_PX} a side and {MAX_PIXELS:,} pixels")
    return image


def _to_channels(image: Image.Image, channels: int) -> Image.Image:
    """8-bit grey ("L") or colour ("RGB")."""
    image = _to_8bit(image)
    if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    if image.mode not in ("1", "L"):
        image = image.convert("RGB")
    return image.convert("L" if channels == 1 else "RGB")


def _to_8bit(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise BadImage("has 32-bit pixels; at most 16 bits are known")
        return Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode in ("F", "LAB", "HSV"):
        raise BadImage(f"pixel mode {image.mode} has no rule")
    return image


def _fit(image: Image.Image, target: Target) -> Image.Image:
    """To the target's width and height."""
    width, height = image.size
    if not target.resize:
        if (width, height) != (target.width, target.height):
            raise BadImage(f"wrong shape: {width}x{height}, the set is {target.width}x{target.height}")
        return image
    if target.crop == "center":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return _resize(image.crop((left, top, left + side, top + side)), target.width, target.height)
    if target.crop == "pad":
        scale = min(target.width / width, target.height / height)
        inner = _resize(image, max(1, round(width * scale)), max(1, round(height * scale)))
        padded = Image.new(image.mode, (target.width, target.height))
        padded.paste(inner, ((target.width - inner.width) // 2, (target.height - inner.height) // 2))
        return padded
    return _resize(image, target.width, target.height)


def _resize(image: Image.Image, width: int, height: int) -> Image.Image:
    if width != image.width:
        image = image.resize((width, image.height), _filter(image.width, width))
    if height != image.height:
        image = image.resize((width, height), _filter(image.height, height))
    return image


def _filter(old: int, new: int) -> Image.Resampling:
    return Image.Resampling.BOX if new < old else Image.Resampling.BICUBIC


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"not an image ({', '.join(FORMATS)})"
    return f"cannot be decoded: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
