"""Labels that are vectors, in a file beside the index: labels.npy, float32 [images, numbers]; NaN for one without."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardsError, refusal
from shards.files import write_whole
from shards.index import INDEX_NAME, VECTORS_NAME, VectorRecord
from shards.location import Location

Vectors = NDArray[np.float32]


def as_rows(vectors: Sequence[tuple[float, ...]], dim: int) -> Vectors:
    """Labels as they are stored, float32 [len(vectors), dim]: NaN for an empty vector, which is no label."""
    none = (float("nan"),) * dim
    return np.array([vector or none for vector in vectors], dtype=np.float32)


def write_vectors(folder: Path, vectors: Sequence[tuple[float, ...]], dim: int) -> VectorRecord:
    """Write labels.npy; an empty vector is an image without a label. Returns the record for the index."""
    buffer = BytesIO()
    np.save(buffer, as_rows(vectors, dim), allow_pickle=False)
    write_whole(folder / VECTORS_NAME, buffer.getvalue())
    return VectorRecord(dim=dim, sha256=hashlib.sha256(buffer.getvalue()).hexdigest())


def read_vectors(location: Location, record: VectorRecord, count: int) -> Vectors:
    """The labels of a dataset of `count` images, float32 [count, dim].

    Raises:
        ShardsError: the file is missing, damaged, or not of that shape.
    """
    where = f"{location.path}/{VECTORS_NAME}"
    try:
        data = location.file(VECTORS_NAME, record.sha256).read_bytes()
    except OSError as error:
        raise refusal(error)(f"{where}: cannot be read: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != record.sha256:
        raise ShardsError(f"{where}: damaged: its sha256 is not the one in {INDEX_NAME}")
    try:
        vectors = np.load(BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ShardsError(f"{where}: damaged: {error}") from None
    if not isinstance(vectors, np.ndarray) or vectors.dtype != np.float32 or vectors.shape != (count, record.dim):
        raise ShardsError(f"{where}: damaged: not float32 [{count}, {record.dim}]")
    return vectors
