"""The files of IC-GAN's authors that say which images stand for all: {"center_examples": [n, 1]}, pickled in a .npy.

facebookresearch/ic_gan, data_utils/store_kmeans_indexes.py writes them. The pickle is read, and nothing of it runs.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from spider.errors import SpiderError, SpiderUsageError
from untrusted.errors import UnreadableError
from untrusted.files import read_regular
from untrusted.pickles import Record, read_pickle

KEY = "center_examples"

_MAX_BYTES = 1 << 26
_MAKE = tuple(f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core"))
_NAMES = (*_MAKE, "numpy.ndarray", "numpy.dtype", "_codecs.encode")


def read_centres(path: Path, images: int) -> NDArray[np.int32]:
    """The numbers of a file, rising, each once; int32 [n].

    Raises:
        SpiderUsageError: there is no such file; it has numbers that are of none of so many images.
        SpiderError: it is no such file.
    """
    try:
        file = io.BytesIO(read_regular(path, _MAX_BYTES))
        npy.read_magic(file)
        npy.read_array_header_1_0(file)
        numbers = _array(_held(read_pickle(file, str(path), names=_NAMES), path), path)
    except FileNotFoundError:
        raise SpiderUsageError(f"{path}: no such file") from None
    except UnreadableError as error:
        raise SpiderError(str(error)) from None
    except ValueError as error:
        raise SpiderError(f"{path}: no .npy file: {error}") from None
    if not numbers.size or not 0 <= int(numbers.min()) <= int(numbers.max()) < images:
        raise SpiderUsageError(f"{path}: has numbers of images that are none of 0 to {images - 1}")
    return np.unique(numbers).astype(np.int32)


def _held(pickled: Any, path: Path) -> Any:
    """What stands under the key."""
    content = pickled.state[4] if _is_array(pickled) else None
    held = content[0] if isinstance(content, list) and len(content) == 1 else None
    if not isinstance(held, dict) or KEY not in held:
        raise SpiderError(f"{path}: not a file of {KEY}, as IC-GAN's authors write them")
    return held[KEY]


def _array(record: Any, path: Path) -> NDArray[np.int64]:
    """Whole numbers, as NumPy pickles an array of them."""
    refusal = SpiderError(f"{path}: {KEY} is no array of whole numbers")
    if not _is_array(record):
        raise refusal
    _, shape, dtype, _, content = record.state
    if not isinstance(dtype, Record) or not isinstance(content, bytes):
        raise refusal
    try:
        kind = np.dtype(f"{dtype.state[1] if dtype.state else '='}{dtype.args[0]}")
        found = np.frombuffer(content, kind).reshape(shape).ravel()
    except (KeyError, IndexError, TypeError, ValueError):
        raise refusal from None
    if kind.kind not in "iu":
        raise refusal
    numbers: NDArray[np.int64] = found.astype(np.int64)
    return numbers


def _is_array(record: Any) -> bool:
    is_made = isinstance(record, Record) and record.name in _MAKE
    return is_made and isinstance(record.state, tuple) and len(record.state) == 5
