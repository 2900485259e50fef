"""What can go wrong between processes and machines. `str(error)` is the one line that the user sees."""

from __future__ import annotations

import errno

# What a disk or a network refuses now, and perhaps not the next time
PASSING = {
    errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY,
    errno.ENOMEM, errno.ENFILE, errno.EMFILE, errno.ENODEV, errno.ENXIO, errno.ENOLINK, errno.ENOTCONN, errno.ESHUTDOWN,
    errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ECONNREFUSED, errno.ECONNRESET,
    errno.ECONNABORTED,
}  # fmt: skip

_OUT_OF_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "STATUS_ALLOC_FAILED",
)  # the allocators of CPU, CUDA, cuBLAS


class ClusterError(Exception):
    """A failure of ranks, of their communication or of their checkpoints."""

    exit_code = 1


class ClusterUsageError(ClusterError):
    """A mistake of the caller that can be named before anything runs: an environment, a device, a checkpoint's name."""

    exit_code = 2


class MachineError(ClusterError):
    """The machine failed, not the request: a lost rank, a full disk, no GPU. The same command may go well later."""

    exit_code = 3


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, numpy or torch was refused memory, of the host or of a GPU. torch has no class for all of it."""
    by_torch = isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
    return isinstance(error, MemoryError) or by_torch


def one_line(error: BaseException) -> str:
    """The first line of an error's text, with its type unless it was written for a user."""
    line = next(iter(str(error).splitlines()), "")
    return line if hasattr(error, "exit_code") and line else f"{type(error).__name__}: {line}"
