"""One packed image as it lies in a shard, and its entry in the shard's offsets file.

    000000.tar        KEY.png    the image: 8-bit grey or RGB; or KEY.npy: uint8 [C, H, W]
                      KEY.cls    the label's number in decimal, if there are labels
                      KEY.json   {"name", "width", "height"}: the input file and its size; {"class"} if labelled
                      ... for every image, plain ustar, mtime 0, then two empty blocks
    000000.offsets    npy array of OFFSETS: where the bytes of each image begin, how many, their CRC-32, the label

Offsets carry what random access needs, so that reading never parses a tar; the tar alone is a whole WebDataset shard.
Names fit the first field of a tar header, so every header is one block that stands right before its data.
"""

from __future__ import annotations

import hashlib
import json
import struct
import tarfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shards.errors import ShardsError
from shards.index import Encoding, VectorRecord

Pixels = NDArray[np.uint8]
Shape = tuple[int, int, int]

BLOCK_BYTES = 512
END_OF_TAR = bytes(2 * BLOCK_BYTES)
OFFSETS = np.dtype([("offset", "<u8"), ("bytes", "<u4"), ("crc32", "<u4"), ("label", "<i4")])
SUFFIX: dict[Encoding, str] = {"png": ".png", "raw": ".npy"}

_PNG_LEVEL = 3  # measured on photographs: files 3 to 4 % larger than at 6, in two thirds to four fifths of the time
_NAME_FIELD, _SIZE_FIELD, _MAGIC_FIELD = slice(0, 100), slice(124, 135), slice(257, 262)


class BadSample(Exception):
    """Bytes in a shard that are not what they must be; `str(error)` says how, in a few words."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A packed image: tar members, and what offsets and fingerprint need of them."""

    block: bytes  # the members, image first, each padded to whole blocks
    image_bytes: int
    crc32: int
    label: int
    digest: bytes  # sha256, 32 bytes
    blank: str = ""  # the file's name and "black" or "white", if the picture is almost all of that


def build_sample(key: str, label: int, pixels: Pixels, encoding: Encoding, about: dict[str, object]) -> Sample:
    """Pixels uint8 [C, H, W] and what is to be said of them, as a sample. Label -1: none."""
    image = _encode(pixels, encoding)
    members = [_member(key + SUFFIX[encoding], image)]
    if label >= 0:
        members.append(_member(key + ".cls", str(label).encode()))
    members.append(_member(key + ".json", json.dumps(about, ensure_ascii=False, sort_keys=True).encode()))
    return Sample(b"".join(members), len(image), zlib.crc32(image), label, sample_digest(key, label, pixels))


def sample_digest(key: str, label: int, pixels: Pixels) -> bytes:
    """sha256 over key, label, shape and pixels [C, H, W], 32 bytes: the same however the image is stored."""
    about = key.encode() + b"\0" + struct.pack("<q3I", label, *pixels.shape)
    return hashlib.sha256(about + pixels.tobytes()).digest()


def fingerprint(digests: list[bytes], vectors: VectorRecord | None = None) -> str:
    """The dataset's fingerprint from the digests of its samples in order: sha256 over them, in hex.

    Labels that are vectors count by the digest of their file.
    """
    labels = b"" if vectors is None else bytes.fromhex(vectors.sha256)
    return hashlib.sha256(b"".join(digests) + labels).hexdigest()


def decode(data: bytes, shape: Shape, encoding: Encoding) -> Pixels:
    """The pixels, uint8 [C, H, W] (a view that may be read-only), of an image's bytes.

    Raises:
        BadSample: not an image of this shape and encoding.
    """
    return _decode_png(data, shape) if encoding == "png" else _decode_npy(data, shape)


def check_header(block: bytes, image_bytes: int) -> None:
    """That `block` begins with the tar header of a member of this size.

    Raises:
        BadSample: it does not.
    """
    if block[_MAGIC_FIELD] != b"ustar" or block[_SIZE_FIELD] != b"%011o" % image_bytes:
        raise BadSample(f"no tar header of {image_bytes:,} bytes stands before it")


def key_of_header(block: bytes, encoding: Encoding) -> str:
    """The key in the tar header of an image.

    Raises:
        BadSample: the member is no image of this encoding.
    """
    name = block[_NAME_FIELD].rstrip(b"\0").decode(errors="replace")
    if not name.endswith(SUFFIX[encoding]):
        raise BadSample(f"{name!r} stands there, not an image")
    return name.removesuffix(SUFFIX[encoding])


def write_offsets(offsets: list[tuple[int, int, int, int]]) -> bytes:
    """The bytes of an offsets file."""
    buffer = BytesIO()
    np.save(buffer, np.array(offsets, dtype=OFFSETS), allow_pickle=False)
    return buffer.getvalue()


def parse_offsets(data: bytes, count: int, where: str) -> NDArray[np.void]:
    """The `count` entries of an offsets file, OFFSETS [count]; `where` names the file in errors.

    Raises:
        ShardsError: not an offsets file, or one of another number of images.
    """
    try:
        offsets = np.load(BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ShardsError(f"{where}: damaged: {error}") from None
    if not isinstance(offsets, np.ndarray) or offsets.dtype != OFFSETS or offsets.shape != (count,):
        raise ShardsError(f"{where}: damaged: not the offsets of {count} images")
    return offsets


def _member(name: str, data: bytes) -> bytes:
    header = tarfile.TarInfo(name)
    header.size = len(data)
    return header.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % BLOCK_BYTES)


def _encode(pixels: Pixels, encoding: Encoding) -> bytes:
    buffer = BytesIO()
    if encoding == "raw":
        np.save(buffer, np.ascontiguousarray(pixels), allow_pickle=False)
    else:
        plane = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)  # [C, H, W] -> [H, W] or [H, W, 3]
        Image.fromarray(np.ascontiguousarray(plane)).save(buffer, "PNG", compress_level=_PNG_LEVEL)
    return buffer.getvalue()


def _decode_png(data: bytes, shape: Shape) -> Pixels:
    channels, height, width = shape
    # Before anything is decoded: a shard made elsewhere may hold an image of a billion pixels
    if not data.startswith(_png_start(height, width)):
        raise BadSample(f"not a PNG of {width}x{height}")
    mode, by_row = ("L", "L") if channels == 1 else ("RGB", "RGB;L")
    try:
        image = Image.open(BytesIO(data), formats=("PNG",))
        # A row of each channel in turn, [H, C, W], is in less time at [C, H, W] than [H, W, C] is
        rows = image.tobytes("raw", by_row) if image.mode == mode else b""
    except (OSError, SyntaxError, ValueError, zlib.error) as error:
        raise BadSample(f"a damaged PNG: {error}") from None
    if not rows:
        raise BadSample(f"a PNG of mode {image.mode}, not of {channels} channels")
    return np.frombuffer(rows, np.uint8).reshape(height, channels, width).transpose(1, 0, 2)


@lru_cache
def _png_start(height: int, width: int) -> bytes:
    """Signature, and header up to the size."""
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height)


def _decode_npy(data: bytes, shape: Shape) -> Pixels:
    header = _npy_header(shape)
    pixels = np.frombuffer(data, np.uint8)
    if not data.startswith(header) or len(pixels) != len(header) + shape[0] * shape[1] * shape[2]:
        raise BadSample(f"not a uint8 array of {list(shape)}")
    return pixels[len(header) :].reshape(shape)


@lru_cache
def _npy_header(shape: Shape) -> bytes:
    return _encode(np.zeros(shape, np.uint8), "raw")[: -shape[0] * shape[1] * shape[2]]
