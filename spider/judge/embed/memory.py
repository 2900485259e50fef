"""Memory that the process keeps between batches.

The C library gives every large array back to the system when it is freed, and asks for it again a moment later, page by
page. A convolutional network on a CPU frees and asks for gigabytes with every batch: a third of its time went there.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Of glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# Where glibc's own adjustment ends, as soon as a process has freed one array of 32 MiB
_USUAL = {_M_MMAP_THRESHOLD: 32 * 2**20, _M_TRIM_THRESHOLD: 64 * 2**20}
_NEVER = 2**31 - 1


@contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Within it, what is freed stays with the process; afterwards it goes back. Only on a CPU, and under glibc."""
    libc = _glibc() if device.type == "cpu" else None
    if libc is None:
        yield
        return
    for option in _USUAL:
        libc.mallopt(option, _NEVER)
    try:
        yield
    finally:
        for option, value in _USUAL.items():
            libc.mallopt(option, value)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library of this process, if it has glibc's two functions."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
