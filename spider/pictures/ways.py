"""Ways between inputs: how much of each there is in every image of a grid or a loop.

Weights are [F, M], of M inputs in F images. They sum to 1; of a circular loop their squares do.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from spider.pictures.request import Blend


def grid_weights(side: int) -> Tensor:
    """Bilinear weights of the corners (top left, top right, bottom left, bottom right): [side^2, 4], by rows."""
    t = torch.linspace(0, 1, side)
    down, right = (each.flatten() for each in torch.meshgrid(t, t, indexing="ij"))
    return torch.stack([(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right], dim=1)


def loop_weights(count: int, steps: int, blend: Blend = "linear") -> Tensor:
    """Weights of `count` inputs along a loop, `steps` from each to the next: [count * steps, count].

    cubic: the periodic spline through the inputs. circular: a cos t + b sin t of two inputs, [4 * steps, 2], which goes
    on from b to -a and -b.
    """
    if blend == "circular":
        t = torch.arange(4 * steps) * (math.pi / (2 * steps))
        return torch.stack([t.cos(), t.sin()], dim=1)
    if blend == "cubic":
        ends = np.eye(count)[np.arange(count + 1) % count]
        spline = CubicSpline(np.arange(count + 1), ends, bc_type="periodic")
        return torch.from_numpy(spline(np.arange(count * steps) / steps)).float()
    weights = torch.zeros(count * steps, count)
    for frame in range(count * steps):
        at, part = divmod(frame, steps)
        weights[frame, at] += 1 - part / steps
        weights[frame, (at + 1) % count] += part / steps
    return weights


def unit(weights: Tensor) -> Tensor:
    """Of length 1: independent normal numbers so weighed are normal again."""
    lengths: Tensor = weights.norm(dim=1, keepdim=True)
    return weights / lengths


def shares(weights: Tensor, blend: Blend) -> Tensor:
    """What a generator is told of the inputs' classes: from 0 to 1, and in sum 1 for every image."""
    positive = weights.square() if blend == "circular" else weights.clamp_min(0)  # a spline may swing below 0
    return positive / positive.sum(1, keepdim=True)
