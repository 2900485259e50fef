"""What public code was recorded to do, tests/golden/*.npz: taking over its weights, and comparing with its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"


def recorded(name: str) -> dict[str, Tensor]:
    """The tensors of a vector, the caller's own: what one test does to them no other sees."""
    return {key: torch.tensor(array) for key, array in _read(name).items()}


@cache
def _read(name: str) -> dict[str, npt.NDArray[Any]]:
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


def weights_of(
    vectors: Mapping[str, Tensor], name_of: Callable[[str], str | None] = str, prefix: str = "weights."
) -> dict[str, Tensor]:
    """The tensors under a prefix, as `name_of` calls them without it; those that it calls None are left out."""
    named = {name_of(key.removeprefix(prefix)): each for key, each in vectors.items() if key.startswith(prefix)}
    assert named, f"no {prefix}*"
    return {name: each for name, each in named.items() if name is not None}


def assert_near(found: Tensor, expected: Tensor, of_max: float = 1e-4) -> None:
    """Up to a share of the largest magnitude that is expected."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    error, bound = (found - expected).abs().max().item(), of_max * expected.abs().max().item()
    assert error < bound, f"off by {error}, allowed are {bound}"
