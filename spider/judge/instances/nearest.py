"""The k nearest vectors of each vector, exactly, in blocks: the same whatever the blocks, the threads and the machine.

Vectors are float16, about of length 1. A product of two float16 numbers is exact in float64, and so is the sum of a
few thousand of them, in any order: all are multiples of 2^-48, below 2. So squared distances in float64 are exact, of
equal ones the vector with the lower number is nearer, and the answer is one of arithmetic, not of rounding.

Candidates are found in float32, which is fast: more than k for each vector. How far float32 can be off is bounded, so
it is known whether the nearest k are among the candidates. Where that is not sure, as among many copies of an image,
all distances of that vector are computed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spider.precision import exact_float32

QUERIES = 4096  # vectors whose neighbours are sought at once
KEYS = 8192  # vectors that they are compared with at once
_MORE = 32  # candidates beyond k
_ROUNDING = 2.0**-24  # of float32, relative

Vectors = NDArray[np.float16]


def nearest_vectors(
    vectors: Vectors, start: int, stop: int, k: int, device: torch.device, *, keys: int = KEYS
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The nearest others of vectors start .. stop - 1.

    Args:
        vectors: [N, D], D at most 8,192; may be mapped from a file.
        k: how many, 1 to N - 1.
        keys: compared with at once.

    Returns:
        Their numbers int32 [stop - start, k], nearest first, of equally near ones the lower number first, never a
        vector itself; and the Euclidean distance to the last, float32 [stop - start].
    """
    queries = _float(vectors, start, stop, device)
    count = min(k + _MORE, len(vectors) - 1)
    with exact_float32():
        numbers, distances, worst = _candidates(vectors, queries, start, count, keys)
    exact = _exact_distances(vectors, start, numbers)  # float64 [n, count]
    rows = np.arange(len(exact))[:, None]
    order = np.lexsort((numbers, exact), axis=1)[:, :k]
    found, squared = numbers[rows, order], exact[rows, order]
    if count < len(vectors) - 1:
        for row in np.flatnonzero(squared[:, -1] >= distances[:, -1] - worst):
            found[row], squared[row] = _all_in_float64(vectors, start + int(row), k, keys)
    return found.astype(np.int32), np.sqrt(squared[:, -1]).astype(np.float32)


def _candidates(
    vectors: Vectors, queries: Tensor, start: int, count: int, keys: int
) -> tuple[NDArray[np.int64], NDArray[np.float32], float]:
    """Numbers and squared distances of the nearest in float32, [n, count], nearest first; and how far these may be off.

    The last is a bound: of sums of D products in any order, Higham's gamma, for the product and both squared lengths.
    """
    device, n = queries.device, len(queries)
    lengths = queries.square().sum(1)
    longest = float(lengths.max())
    own = torch.arange(start, start + n, device=device)[:, None]
    distances = torch.full((n, count), math.inf, device=device)
    numbers = torch.zeros((n, count), dtype=torch.int64, device=device)
    for first in range(0, len(vectors), keys):
        block = _float(vectors, first, min(first + keys, len(vectors)), device)
        squares = block.square().sum(1)
        longest = max(longest, float(squares.max()))
        found = torch.addmm(squares[None], queries, block.T, alpha=-2).add_(lengths[:, None])  # one array of n x keys
        others = torch.arange(first, first + len(block), device=device)[None]
        if first < start + n and start < first + len(block):
            found.masked_fill_(own == others, math.inf)
        closer, which = _closer(found, distances[:, -1:], count)
        del block, found  # before the next ones are made
        merged = torch.cat([distances, closer], 1)
        distances, order = merged.topk(min(count, merged.shape[1]), 1, largest=False)
        numbers = torch.cat([numbers, which + first], 1).gather(1, order)
    dim = queries.shape[1]
    gamma = dim * _ROUNDING / (1 - dim * _ROUNDING)
    return numbers.cpu().numpy(), distances.cpu().numpy(), (4 * gamma + 8 * _ROUNDING) * longest


def _closer(found: Tensor, limit: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Those that may be among the nearest `count`, [n, m] with their columns: m is small once the limit is."""
    if bool(limit.isinf().any()):
        values, which = found.topk(min(count, found.shape[1]), 1, largest=False)
        return values, which
    rows, columns = (found < limit).nonzero(as_tuple=True)  # in the order of the rows
    per_row = torch.bincount(rows, minlength=len(found))
    place = torch.arange(len(rows), device=found.device) - (per_row.cumsum(0) - per_row)[rows]
    values = torch.full((len(found), int(per_row.max())), math.inf, device=found.device)
    which = torch.zeros(values.shape, dtype=torch.int64, device=found.device)
    values[rows, place] = found[rows, columns]
    which[rows, place] = columns
    return values, which


def _exact_distances(vectors: Vectors, start: int, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Squared distances of vector start + i to those of row i, float64, exact; [n, count]."""
    found = np.empty(numbers.shape)
    for row, others in enumerate(numbers):
        found[row] = _squared(vectors[start + row], vectors[others])
    return found


def _all_in_float64(vectors: Vectors, number: int, k: int, keys: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The nearest of one vector, from all distances."""
    distances = np.concatenate([_squared(vectors[number], block) for block in _blocks(vectors, keys)])
    distances[number] = math.inf
    order = np.argsort(distances, kind="stable")[:k]
    return order, distances[order]


def _blocks(vectors: Vectors, keys: int) -> Iterator[Vectors]:
    for first in range(0, len(vectors), keys):
        yield np.asarray(vectors[first : first + keys])


def _squared(vector: Vectors, others: Vectors) -> NDArray[np.float64]:
    wide, them = np.asarray(vector).astype(np.float64), np.asarray(others).astype(np.float64)
    distances: NDArray[np.float64] = wide @ wide + np.einsum("nd,nd->n", them, them) - 2 * (them @ wide)
    return distances


def _float(vectors: Vectors, start: int, stop: int, device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(vectors[start:stop])).to(device).float()
