"""Many radii from few: signed distance is smooth in the logarithm of the radius, so 20 radii tell the published 49.

As a function of ln h, |h u - c|^k is analytic: it is singular only where h is near +-i |c| / |u|, a quarter turn away
from every real radius, because in many dimensions u and c are nearly at right angles. Through the values at Chebyshev
nodes, in units of the typical distance to the power k, a polynomial then passes that is wrong by 1e-7, which is what
float32 rounds anyway. In few dimensions, or if no more radii than nodes are wanted, each radius is measured itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from spider.judge.sid.cube import Cube, Floats
from spider.judge.sid.kernels import Kernel

_NODES = 20


def radii_to_measure(cube: Cube, kernels: Sequence[Kernel], dtype: torch.dtype) -> tuple[Cube, Tensor]:
    """The cube with the radii to measure, S of them, and what makes the wanted ones of them: float64 [K, R, S]."""
    if dtype == torch.float64 or len(cube.radii) <= _NODES:
        return cube, torch.eye(len(cube.radii), dtype=torch.float64).expand(len(kernels), -1, -1)
    wanted = np.log(cube.radii)
    angles = (np.arange(_NODES) + 0.5) * np.pi / _NODES
    nodes = (wanted.min() + wanted.max()) / 2 + (wanted.max() - wanted.min()) / 2 * np.cos(angles)
    few = replace(cube, radii=tuple(np.exp(nodes).tolist()))
    weights = _interpolation(wanted, nodes, angles)
    ratio = np.array(cube.typical_distances)[:, None] / np.array(few.typical_distances)
    return few, torch.from_numpy(np.stack([weights * ratio**kernel.order for kernel in kernels]))


def _interpolation(wanted: Floats, nodes: Floats, angles: Floats) -> Floats:
    """Barycentric weights of the polynomial through Chebyshev nodes of the first kind, [R, S]."""
    barycentric = (-1.0) ** np.arange(len(nodes)) * np.sin(angles)
    gaps = wanted[:, None] - nodes
    # A wanted radius that is a node has all the weight there; elsewhere the formula holds.
    weights = barycentric / np.where(gaps == 0, np.finfo(np.float64).tiny, gaps)
    shares: Floats = weights / weights.sum(1, keepdims=True)
    return shares
