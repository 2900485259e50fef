"""How products are rounded: as a run asks for, and exactly where a number depends on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

# Devices where half precision is slow: four images of StyleGAN2 at 256 px took a CPU 252 s in bfloat16, 4 s in float32
FULL_ON = ("cpu",)

_no_half = False


@contextmanager
def exact_float32() -> Iterator[None]:
    """Within it, float32 products and convolutions round as float32, and cuDNN picks the same algorithm each time."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def half_dtype(like: Tensor) -> torch.dtype:
    """In which a layer computes that may round to half precision: bfloat16, or the dtype of `like`.

    The latter on a CPU, and within `no_half_precision`.
    """
    return like.dtype if _no_half or like.device.type in FULL_ON else torch.bfloat16


@contextmanager
def no_half_precision() -> Iterator[None]:
    """Within it, no layer rounds to half precision: for what is a small difference of images."""
    global _no_half
    before, _no_half = _no_half, True
    try:
        yield
    finally:
        _no_half = before


def without_autocast(like: Tensor) -> torch.autocast:
    """Within it, what is computed on the device of `like` is not cast to half precision, whatever is around it."""
    return torch.autocast(like.device.type, enabled=False)


def in_float16(x: Tensor) -> bool:
    """Whether a convolution of x computes in float16: x is such, or autocast makes it such."""
    device = x.device.type
    cast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
    return cast or x.dtype == torch.float16


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32, or as it is if that is finer."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def set_numerics(*, deterministic: bool, tf32: bool, compiled: bool) -> None:
    """Set torch's global switches for a training, of compiled networks or of none."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it
    if compiled:
        torch.use_deterministic_algorithms(
            deterministic
        )  # also tells the compiler, which takes as long to load as torch
    else:
        torch.set_deterministic_debug_mode("error" if deterministic else "default")  # the same without it
    # The shapes of networks never change within a run; those of ADA do, and each new one is tried out (not timed yet)
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.allow_tf32 = tf32  # torch's own default is True here
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
