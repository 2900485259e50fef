"""Any image file to uint8 pixels of one shape, by stated rules. They are written into every index.json (`RULES`).

    size        checked on the header, before a pixel is decoded
    frames      the first
    rotation    as EXIF says
    16 bit      v >> (depth - 8), grey and colour alike; the depth is one for the whole set (shards.survey)
    palette     its colours
    alpha       composited over white
    CMYK        Pillow's conversion; colour profiles are not applied
    grey        from colour: ITU-R BT.601 luma; to colour: repeated
    crop        center: the largest centred square; pad: black bars to a square; squash: the sides scale on their own
    resize      down: Pillow's box filter; up: bicubic; each axis by its own direction

Channels and crop come before the resize, which works on 8 bits per channel.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError, features

from shards.choices import Crop

Pixels = NDArray[np.uint8]

MAX_FILE_BYTES = 256 << 20
MAX_SIDE_PX = 1 << 15
MAX_MEGAPIXELS = 80  # unless more are asked for
MOST_MEGAPIXELS = 178  # Pillow opens no larger image

# Formats whose decoders only decode: no PostScript, no PDF, nothing that starts a program
FORMATS = ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM"]
SUFFIXES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
SUFFIXES |= {".ppm", ".pgm", ".pbm", ".pnm"}
# Images that are passed over, and what to do about it
NOT_READ = {
    **dict.fromkeys(
        (".raw", ".dng", ".cr2", ".nef", ".arw", ".psd", ".jp2", ".jxl", ".exr", ".svg", ".tga", ".dcm"),
        "convert to PNG",
    ),
    **dict.fromkeys(
        (".npy", ".npz", ".h5", ".hdf5", ".mdb", ".mat", ".parquet", ".tfrecord"), "save the images as PNG"
    ),
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv", ".webm"), "take frames, with ffmpeg -i FILE frames/%06d.png"),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar"), "unpack"),
}
if "avif" in features.modules and features.check("avif"):  # older versions of Pillow do not know the word
    FORMATS.append("AVIF")
    SUFFIXES |= {".avif", ".avifs"}
else:
    NOT_READ[".avif"] = "pip install 'pillow>=11.3'"
try:
    import pillow_heif
except ImportError:
    NOT_READ |= dict.fromkeys((".heic", ".heif"), "pip install pillow-heif")
else:
    pillow_heif.register_heif_opener()
    FORMATS.append("HEIF")
    SUFFIXES |= {".heic", ".heif", ".hif"}

RULES = {
    "frames": "first",
    "rotation": "exif",
    "alpha": "over white",
    "cmyk": "pillow, no profile",
    "grey": "BT.601 luma",
    "resize": "pillow box down, bicubic up",
}

_ORIENTATION_TAG = 0x0112
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_ROTATED_BY_90 = (5, 6, 7, 8)
_GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")
_GREY_ALPHA_16 = "LA;16B"  # Pillow's name for how a PNG stores them
_BLACK_BELOW, _WHITE_FROM = 16, 240
_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
_LOW_BYTE = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}


class BadImage(Exception):
    """An image that cannot be packed; `str(error)` says why, in a few words."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself before it is decoded."""

    width: int  # upright, as the image will be seen
    height: int
    grey: bool  # stored without colour, or with a palette of greys
    alpha: bool = False
    peak: int | None = None  # the largest value in an image of 16 bits, without its alpha; None: at most 8 bits
    frames: int = 1  # pages, or pictures of a film; the first is taken


@dataclass(frozen=True)
class Target:
    """What every image of a dataset becomes: uint8 [channels, height, width]."""

    channels: Literal[1, 3]
    height: int
    width: int
    crop: Crop
    resize: bool  # False: an image of another size is a bad one
    depth: int = 16  # bits in use, 8 to 16, of the values of images that are stored with 16
    max_megapixels: float = MAX_MEGAPIXELS  # a larger image is a bad one


def read_header(data: bytes | Pixels, max_megapixels: float = MAX_MEGAPIXELS) -> Header:
    """The header of an image file, or of pixels [H, W] or [H, W, 3]. Pixels are decoded only of an image of 16 bits.

    Raises:
        BadImage: not an image, or one too large to decode safely.
    """
    if isinstance(data, np.ndarray):
        return Header(data.shape[1], data.shape[0], data.ndim == 2)
    try:
        with _open(data, max_megapixels) as image:
            width, height = image.size
            # Pillow would decode a whole PNG in search of EXIF data that stands behind the pixels
            known = image.format != "PNG" or "exif" in image.info
            if known and image.getexif().get(_ORIENTATION_TAG, 1) in _ROTATED_BY_90 and not _is_turned(image):
                width, height = height, width
            grey, alpha = _is_grey(image), _has_alpha(image)
            peak = int(_values_of_16_bits(image, data).max()) if _has_16_bits(image) else None
            return Header(width, height, grey, alpha, peak, getattr(image, "n_frames", 1))
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
        with Image.fromarray(data) if isinstance(data, np.ndarray) else _open(data, target.max_megapixels) as image:
            grey, alpha = _is_grey(image), _has_alpha(image)
            if isinstance(data, bytes) and _has_16_bits(image):
                narrow = _to_8_bits(image, data, target.depth)
            else:
                narrow = image
            upright = _upright(narrow, image)
            original = Header(*upright.size, grey, alpha)
            fitted = _fit(_to_channels(upright, target.channels), target)
            pixels = np.asarray(fitted).reshape(target.height, target.width, target.channels)
    except BadImage:
        raise
    except Exception as error:  # whatever a decoder raises at a file from outside is that file's fault
        raise BadImage(_reason(error)) from None
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)), original  # [H, W, C] -> [C, H, W]


def blank(pixels: Pixels) -> Literal["black", "white", ""]:
    """Of what the pixels, uint8 of any shape, almost all are: 99.5 % of them black, or white, or neither."""
    least = 0.995 * pixels.size
    if np.count_nonzero(pixels < _BLACK_BELOW) >= least:
        return "black"
    return "white" if np.count_nonzero(pixels >= _WHITE_FROM) >= least else ""


def _open(data: bytes, max_megapixels: float = MOST_MEGAPIXELS) -> Image.Image:
    """Header only. Pillow decodes when the pixels are first asked for."""
    if len(data) > MAX_FILE_BYTES:
        raise BadImage(f"too large: {len(data):,} bytes, at most {MAX_FILE_BYTES:,}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of what is refused below, and of harmless metadata
        try:
            image = Image.open(BytesIO(data), formats=FORMATS)
        except Image.DecompressionBombError:
            raise BadImage(f"too large: more than {MOST_MEGAPIXELS} megapixels; make it smaller") from None
    width, height = image.size
    if max(width, height) > MAX_SIDE_PX:
        raise BadImage(f"too large: {width}x{height}, at most {MAX_SIDE_PX} a side")
    if width * height > max_megapixels * 1e6:
        raise BadImage(
            f"too large: {width}x{height} are {width * height / 1e6:.1f} megapixels, at most {max_megapixels:g}: "
            f"--max-megapixels allows up to {MOST_MEGAPIXELS}"
        )
    return image


def _is_grey(image: Image.Image) -> bool:
    """Of an image that is not decoded yet: Pillow makes colour of grey with alpha in 16 bits."""
    if image.mode == "P" and image.palette is not None:
        layout, colours = image.palette.getdata()
        entries = np.frombuffer(colours, np.uint8)
        red, green, blue = (entries[layout.index(letter) :: len(layout)] for letter in "RGB")
        return bool((red == green).all() and (green == blue).all())
    return image.mode in _GREY_MODES or any(_raw_mode(tile) == _GREY_ALPHA_16 for tile in getattr(image, "tile", []))


def _is_turned(image: Image.Image) -> bool:
    """Whether the size is already that of the upright image: some versions of Pillow say it so for TIFF."""
    return image.format == "TIFF" and image.size != (image.tag_v2[_TIFF_WIDTH], image.tag_v2[_TIFF_HEIGHT])  # type: ignore[attr-defined]


def _has_alpha(image: Image.Image) -> bool:
    return "transparency" in image.info or image.mode in _ALPHA_MODES


def _has_16_bits(image: Image.Image) -> bool:
    """Of an image that is not decoded yet: Pillow keeps 8 bits of colour, and says only here that there were more."""
    return image.mode.startswith("I") or any("16" in _raw_mode(tile) for tile in getattr(image, "tile", []))


def _values_of_16_bits(image: Image.Image, data: bytes) -> NDArray[np.uint16]:
    """uint16 [H, W], or [H, W, C] without alpha, of an image that is not decoded yet.

    Raises:
        BadImage: its values do not fit 16 bits.
    """
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise BadImage("has 32-bit pixels; at most 16 bits are known")
        return values.astype(np.uint16)
    with _open(data) as again:
        if _is_grey(image):
            # Pillow has no unpacker for the low byte of these: both bytes of grey and both of alpha, as four channels
            again.tile = [_with_raw_mode(tile, "RGBA") for tile in again.tile]  # type: ignore[attr-defined]
            stored = np.asarray(again).astype(np.uint16)  # [H, W, 4]
            return stored[..., 0] << np.uint16(8) | stored[..., 1]
        again.tile = [_of_low_bytes(tile) for tile in again.tile]  # type: ignore[attr-defined]
        high, low = (np.asarray(half)[..., :3].astype(np.uint16) for half in (image, again))
    return high << np.uint16(8) | low


def _of_low_bytes(tile: Any) -> Any:
    """What tells Pillow's decoder to take the low byte of each 16-bit value, where `tile` has it take the high one."""
    kind, depth = _raw_mode(tile).rsplit(";", 1)
    return _with_raw_mode(tile, f"{kind};{_LOW_BYTE[depth]}")


def _with_raw_mode(tile: Any, raw_mode: str) -> Any:
    arguments = raw_mode if isinstance(tile[3], str) else (raw_mode, *tile[3][1:])
    return tile._replace(args=arguments) if hasattr(tile, "_replace") else (*tile[:3], arguments)


def _raw_mode(tile: Any) -> str:
    arguments = tile[3]
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _to_8_bits(image: Image.Image, data: bytes, depth: int) -> Image.Image:
    """An image of 16 bits in 8, of which `depth` bits are in use."""
    values = _values_of_16_bits(image, data)
    narrow = Image.fromarray(np.minimum(values >> np.uint16(depth - 8), 255).astype(np.uint8))
    see_through = image.info.get("transparency")
    if image.mode == "RGBA":
        narrow.putalpha(image.getchannel("A"))
    elif see_through is not None:
        opaque = (values != np.array(see_through)).reshape(*values.shape[:2], -1).any(axis=2)
        narrow.putalpha(Image.fromarray(np.where(opaque, np.uint8(255), np.uint8(0))))
    return narrow


def _upright(pixels: Image.Image, file: Image.Image) -> Image.Image:
    """`pixels` turned as the EXIF data of `file` say."""
    if pixels is not file:
        exif = Image.Exif()
        exif[_ORIENTATION_TAG] = file.getexif().get(_ORIENTATION_TAG, 1)
        pixels.info["exif"] = exif.tobytes()
    return ImageOps.exif_transpose(pixels)


def _to_channels(image: Image.Image, channels: int) -> Image.Image:
    """8-bit grey ("L") or colour ("RGB")."""
    if image.mode in ("F", "LAB", "HSV"):
        raise BadImage(f"pixel mode {image.mode} has no rule")
    if _has_alpha(image):
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    if image.mode not in ("1", "L"):
        image = image.convert("RGB")
    return image.convert("L" if channels == 1 else "RGB")


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
