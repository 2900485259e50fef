"""How the pixels of one image lie in a shard, and how they come back.

    .npy    an array, uint8 [C, H, W]
    .png    8-bit grey or RGB
    .jpg    only as a file that was kept

What `pack` writes (`Encoding`):

    raw     arrays
    png     PNG
    keep    the bytes of the file that was packed, where its pixels are just those to store and it is no larger than the
            array; else PNG
    auto    raw up to RAW_UP_TO_BYTES an image, keep above

Where the bound comes from: microseconds of CPU to read one RGB image, and its bytes (photographs, one core):

    side       array           JPEG             PNG
      64      4   12,416     79    1,961    135    9,212
     128     10   49,280    164    9,853    456   28,748
     256     35  196,736    337   14,716  1,760   83,039

At 128 px a disk of 200 MB/s needs as long for the array as for the JPEG with its decoding. Smaller arrays are faster
than JPEG from such a disk; larger ones are slower, and many times as large.

PNG and arrays hold pixels exactly. Which pixels a JPEG holds is up to its decoder, which is Pillow's, both when packing
and when reading. So the index of a set with JPEGs says what that decoder made of a probe (`jpeg_pixels`). A machine
whose decoder makes something else of the probe refuses the set, and never reads other pixels in silence.
"""

from __future__ import annotations

import base64
import hashlib
import struct
import zlib
from functools import cache, lru_cache
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shards.choices import Encoding
from shards.errors import ShardsError

Pixels = NDArray[np.uint8]
Shape = tuple[int, int, int]

RAW_UP_TO_BYTES = 128 * 128 * 3
SUFFIXES = (".npy", ".png", ".jpg")

_PNG_LEVEL = 3  # measured on photographs: files 3 to 4 % larger than at 6, in two thirds to four fifths of the time
_PNG_MAGIC, _JPEG_MAGIC = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_PNG_COLOURS = {1: 0, 3: 2}  # PNG's number for grey, and for RGB
# 24x16 of noise, with colour in half the resolution: what decoders round and interpolate shows in it
_PROBE = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDACgcHiMeGSgjISMtKygwPGRBPDc3PHtYXUlkkYCZlo+AjIqgtObDoKrarYqMyP/L2u71////m8H////6/+b9"
    "//j/2wBDASstLTw1PHZBQXb4pYyl+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj/wAARCAAQABgDASIAAhEB"
    "AxEB/8QAFgABAQEAAAAAAAAAAAAAAAAAAAEC/8QAJBAAAQQBAwMFAAAAAAAAAAAAAQACESExAxJRQWGBYnGRwfD/xAAWAQEBAQAAAAAAAAAAAAAAAAAA"
    "AQL/xAAYEQEBAQEBAAAAAAAAAAAAAAABAAIhQf/aAAwDAQACEQMRAD8Am5wpziSRMSDz9dRwm+HkmN2QKVho9Qw284vt+wpEahgS9zac4wPftacrxjrL"
    "mg20WeatFoBx1GukiI8QbJjz8ohsPbDlb//Z"
)


class BadSample(Exception):
    """Bytes in a shard that are not what they must be; `str(error)` says how, in a few words."""


def settle(encoding: Encoding, shape: Shape) -> Encoding:
    """What "auto" is for images of this shape; any other encoding as it is."""
    if encoding != "auto":
        return encoding
    channels, height, width = shape
    return "raw" if channels * height * width <= RAW_UP_TO_BYTES else "keep"


def encode(pixels: Pixels, encoding: Encoding, original: bytes | None = None) -> tuple[str, bytes]:
    """The suffix and the bytes that store the pixels, uint8 [C, H, W]; `original` is the file that they come from."""
    encoding = settle(encoding, pixels.shape)
    if encoding == "raw":
        return ".npy", _npy_header(pixels.shape) + pixels.tobytes()
    if encoding == "keep" and original is not None and len(original) <= pixels.nbytes:
        try:
            same = np.array_equal(decode(original, pixels.shape), pixels)
        except BadSample:
            same = False  # another size, a turned image, a kind of file that no shard holds
        if same:
            return suffix_of(original), original
    return ".png", _encode_png(pixels)


def decode(data: bytes, shape: Shape) -> Pixels:
    """The pixels, uint8 [C, H, W] (a view that may be read-only), of an image's bytes.

    Raises:
        BadSample: not an image of this shape in one of the three kinds.
    """
    suffix = suffix_of(data)
    if suffix == ".npy":
        return _decode_npy(data, shape)
    return _decode_file(data, shape, "PNG" if suffix == ".png" else "JPEG")


def suffix_of(data: bytes) -> str:
    """Which kind of image the bytes are, by how they begin; an array if nothing else."""
    if data.startswith(_PNG_MAGIC):
        return ".png"
    return ".jpg" if data.startswith(_JPEG_MAGIC) else ".npy"


@cache
def jpeg_pixels() -> str:
    """The sha256 of the pixels that this machine's JPEG decoder makes of a probe."""
    return hashlib.sha256(np.ascontiguousarray(decode(_PROBE, (3, 16, 24))).tobytes()).hexdigest()


def check_decoder(packed_with: str | None, where: str) -> None:
    """That JPEGs decode here as where the set was packed. `packed_with`: `jpeg_pixels` there; None: it has no JPEG.

    Raises:
        ShardsError: they do not.
    """
    if packed_with is not None and packed_with != jpeg_pixels():
        raise ShardsError(
            f"{where}: it holds JPEG files, of which Pillow's decoder on this machine makes other pixels than the one "
            "that packed them did: pack it again, here or with --encoding png where it was packed"
        )


def _encode_png(pixels: Pixels) -> bytes:
    buffer = BytesIO()
    plane = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)  # [C, H, W] -> [H, W] or [H, W, 3]
    Image.fromarray(np.ascontiguousarray(plane)).save(buffer, "PNG", compress_level=_PNG_LEVEL)
    return buffer.getvalue()


def _decode_file(data: bytes, shape: Shape, kind: str) -> Pixels:
    """Of a PNG or a JPEG."""
    channels, height, width = shape
    mode, by_row = ("L", "L") if channels == 1 else ("RGB", "RGB;L")
    # Before Pillow sees it, which would read on to the pixels
    if kind == "PNG" and not data.startswith(_png_start(shape)):
        raise BadSample(f"not a PNG of {width}x{height}")
    try:
        image = Image.open(BytesIO(data), formats=(kind,))
        # Before anything is decoded: a shard made elsewhere may hold an image of a billion pixels
        if image.size != (width, height):
            raise BadSample(f"not a {kind} of {width}x{height}")
        # A row of each channel in turn, [H, C, W], is in less time at [C, H, W] than [H, W, C] is
        rows = image.tobytes("raw", by_row) if image.mode == mode else b""
    except (OSError, SyntaxError, ValueError, zlib.error, Image.DecompressionBombError) as error:
        raise BadSample(f"a damaged {kind}: {error}") from None
    if not rows:
        raise BadSample(f"a {kind} of mode {image.mode}, not of {channels} channels")
    return np.frombuffer(rows, np.uint8).reshape(height, channels, width).transpose(1, 0, 2)


@lru_cache
def _png_start(shape: Shape) -> bytes:
    """Signature, and header up to depth and kind of colour."""
    channels, height, width = shape
    return _PNG_MAGIC + struct.pack(">I4sIIBB", 13, b"IHDR", width, height, 8, _PNG_COLOURS[channels])


def _decode_npy(data: bytes, shape: Shape) -> Pixels:
    header = _npy_header(shape)
    pixels = np.frombuffer(data, np.uint8)
    if not data.startswith(header) or len(pixels) != len(header) + shape[0] * shape[1] * shape[2]:
        raise BadSample(f"not a uint8 array of {list(shape)}")
    return pixels[len(header) :].reshape(shape)


@lru_cache
def _npy_header(shape: Shape) -> bytes:
    buffer = BytesIO()
    np.save(buffer, np.zeros(shape, np.uint8), allow_pickle=False)
    return buffer.getvalue()[: -shape[0] * shape[1] * shape[2]]
