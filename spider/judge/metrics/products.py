"""Matrix products, by whoever makes them fastest: numpy's BLAS on a CPU, torch on a GPU.

numpy knows a matrix times its own transpose (BLAS `syrk`) and takes half the time for it; torch does not. Its OpenBLAS
also multiplies large float64 matrices a quarter faster than torch's MKL does on AMD's processors.
"""

from __future__ import annotations

import torch
from torch import Tensor


def times_transposed(x: Tensor, y: Tensor) -> Tensor:
    """x y^T: [N, d], [M, d] -> [N, M], in their dtype; half the work where both are the same tensor."""
    if x.device.type == "cpu":
        return torch.from_numpy(x.numpy() @ y.numpy().T)
    return x @ y.T


def transposed_times(x: Tensor, y: Tensor) -> Tensor:
    """x^T y: [N, d], [N, e] -> [d, e], in their dtype; half the work where both are the same view of a tensor."""
    if x.device.type == "cpu":
        return torch.from_numpy(x.numpy().T @ y.numpy())
    return x.T @ y
