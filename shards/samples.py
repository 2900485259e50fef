"""One packed image as it lies in a shard, and its entry in the shard's offsets file.

    000000.tar        KEY.npy    the image; or KEY.png, or KEY.jpg: shards.encodings
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
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from shards.choices import Encoding
from shards.encodings import SUFFIXES, BadSample, encode
from shards.errors import ShardsError
from shards.index import VectorRecord

Pixels = NDArray[np.uint8]

BLOCK_BYTES = 512
END_OF_TAR = bytes(2 * BLOCK_BYTES)
OFFSETS = np.dtype([("offset", "<u8"), ("bytes", "<u4"), ("crc32", "<u4"), ("label", "<i4")])

_NAME_FIELD, _SIZE_FIELD, _CHECKSUM_FIELD = slice(0, 100), slice(124, 135), slice(148, 156)
_MAGIC_FIELD = slice(257, 262)
_EMPTY_HEADER = bytearray(tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT))
_EMPTY_HEADER[_CHECKSUM_FIELD] = b" " * 8  # as the checksum counts it


@dataclass(frozen=True, slots=True)
class Sample:
    """A packed image: tar members, and what offsets and fingerprint need of them."""

    block: bytes  # the members, image first, each padded to whole blocks
    image_bytes: int
    crc32: int
    label: int
    digest: bytes  # sha256, 32 bytes
    jpeg: bool  # whether the image is one
    blank: str = ""  # the file's name and "black" or "white", if the picture is almost all of that


def build_sample(
    key: str,
    label: int,
    pixels: Pixels,
    encoding: Encoding,
    about: dict[str, object],
    original: bytes | None = None,
) -> Sample:
    """Pixels uint8 [C, H, W] and what is to be said of them, as a sample. Label -1: none.

    `original` is the file that they come from, if there is one: "keep" stores it.
    """
    suffix, image = encode(pixels, encoding, original)
    members = [_member(key + suffix, image)]
    if label >= 0:
        members.append(_member(key + ".cls", str(label).encode()))
    members.append(_member(key + ".json", json.dumps(about, ensure_ascii=False, sort_keys=True).encode()))
    digest = sample_digest(key, label, pixels)
    return Sample(b"".join(members), len(image), zlib.crc32(image), label, digest, suffix == ".jpg")


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


def check_header(block: bytes, image_bytes: int) -> None:
    """That `block` begins with the tar header of a member of this size.

    Raises:
        BadSample: it does not.
    """
    if block[_MAGIC_FIELD] != b"ustar" or block[_SIZE_FIELD] != b"%011o" % image_bytes:
        raise BadSample(f"no tar header of {image_bytes:,} bytes stands before it")


def key_of_header(block: bytes) -> str:
    """The key in the tar header of an image.

    Raises:
        BadSample: the member is no image.
    """
    name = block[_NAME_FIELD].rstrip(b"\0").decode(errors="replace")
    if not name.endswith(SUFFIXES):
        raise BadSample(f"{name!r} stands there, not an image")
    return name[: -len(SUFFIXES[0])]  # all are of one length


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
    """A plain file in a tar, as tarfile writes it in five times the time."""
    header = bytearray(_EMPTY_HEADER)
    encoded = name.encode(errors="surrogateescape")
    header[: len(encoded)] = encoded
    header[_SIZE_FIELD] = b"%011o" % len(data)
    header[_CHECKSUM_FIELD] = b"%06o\0 " % sum(header)
    return bytes(header) + data + bytes(-len(data) % BLOCK_BYTES)
