"""torch's tensors in a pickle, as numpy arrays. torch is not asked, and nothing of the pickle runs.

A tensor is a call of `_rebuild_tensor_v2` on a storage, and a storage is a call of `_load_from_bytes` on a file within
the pickle: three short pickles, one that refers to the storage, one with the list of its keys, and the bytes.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from untrusted.errors import UnreadableError
from untrusted.pickles import Name, Persistent, Record, read_pickle

PARAMETER, TENSOR, STORAGE = (
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor_v2",
    "torch.storage._load_from_bytes",
)
NAMES = frozenset({PARAMETER, TENSOR, STORAGE})  # what a pickle with tensors may name

_DTYPES = {
    "torch.FloatStorage": "<f4",
    "torch.DoubleStorage": "<f8",
    "torch.HalfStorage": "<f2",
    "torch.LongStorage": "<i8",
    "torch.IntStorage": "<i4",
    "torch.ShortStorage": "<i2",
    "torch.CharStorage": "<i1",
    "torch.ByteStorage": "<u1",
    "torch.BoolStorage": "|b1",
}
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of torch.save before its files were archives
_OPCODES = 200  # of each of the short pickles, which have about 30
_COUNT_BYTES = 8  # before the values: how many there are
_MAX_DIMS = 8
_MAX_EMPTY = 1 << 31  # the product of the other sides of a tensor that has a side of 0


def is_tensor(value: Any) -> bool:
    """Whether a value of a pickle stands for a tensor or a parameter."""
    return isinstance(value, Record) and value.name in (PARAMETER, TENSOR)


def array_of(value: Record, where: str) -> NDArray[Any]:
    """The values of a tensor or parameter, a view of the bytes in the pickle.

    Raises:
        UnreadableError: it is damaged, or claims more values than the pickle holds.
    """
    match value:
        case Record(name=name, args=(Record() as inner, *_)) if name == PARAMETER and inner.name == TENSOR:
            return array_of(inner, where)
        case Record(name=name, args=(Record(args=(bytes() as stored,)) as storage, offset, shape, strides, *_)) if (
            name == TENSOR and storage.name == STORAGE
        ):
            return _view(_values(stored, where), offset, shape, strides, where)
        case _:
            raise UnreadableError(f"{where}: no tensor as torch pickles one")


def _values(stored: bytes, where: str) -> NDArray[Any]:
    """All values of a storage, [n]."""
    file = io.BytesIO(stored)
    head = [read_pickle(file, where, names=(), long={_MAGIC}, opcodes=_OPCODES) for _ in range(2)]
    if head != [_MAGIC, _PROTOCOL]:
        raise UnreadableError(f"{where}: a storage that torch.save has not written in a pickle")
    read_pickle(file, where, names=(), opcodes=_OPCODES)  # about the machine that wrote it
    storage = read_pickle(file, where, names=_DTYPES, persistent=True, opcodes=_OPCODES)
    match storage, read_pickle(file, where, names=(), opcodes=_OPCODES):
        case Persistent(("storage", Name(kind), str() as key, _, int() as count, None)), [listed] if listed == key:
            dtype = np.dtype(_DTYPES[kind])
        case _:
            raise UnreadableError(f"{where}: a storage that torch.save has not written in a pickle")
    start = file.tell() + _COUNT_BYTES
    if count < 0 or len(stored) != start + count * dtype.itemsize:
        raise UnreadableError(f"{where}: {len(stored) - start:,} bytes for {count:,} values of {dtype}")
    return np.frombuffer(stored, dtype, count, start)


def _view(values: NDArray[Any], offset: Any, shape: Any, strides: Any, where: str) -> NDArray[Any]:
    """The values as a tensor's; strides count values."""
    known = _are_counts(shape) and _are_counts(strides) and _are_counts((offset,))
    if not known or len(shape) != len(strides) or len(shape) > _MAX_DIMS:
        raise UnreadableError(f"{where}: a tensor of no known shape")
    size, last = 1, offset
    for side, stride in zip(shape, strides, strict=True):
        size, last = size * side, last + max(side - 1, 0) * stride
    if size > len(values) or (size and last >= len(values)) or math.prod(filter(None, shape)) > _MAX_EMPTY:
        raise UnreadableError(f"{where}: a tensor {[*shape]} of a storage of {len(values):,} values")
    if size == 0:
        return np.empty(shape, values.dtype)
    steps = tuple(stride * values.itemsize if side > 1 else 0 for side, stride in zip(shape, strides, strict=True))
    return as_strided(values[offset:], shape, steps, writeable=False)


def _are_counts(numbers: Any) -> bool:
    return isinstance(numbers, tuple) and all(type(each) is int and each >= 0 for each in numbers)
