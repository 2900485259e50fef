"""Polyharmonic kernels, in the convention in which they grow with distance.

    order k                  psi(d) = sign(k) d^k              any real k but 0
    order k, with a log      psi(d) = d^k ln d                 k >= 0
    `polyharmonic(m, n)`     the kernel of Delta^m in n dimensions: k = 2 m - n, with a log if n is even and k >= 0

SID is positive for a distant source only if the kernel grows, so the fundamental solution's sign, and its constant
(1e-3742 in 2,048 dimensions), are left out: Asokan & Seelamantula 2023, with the sign that their text implies.

For a large |k| the powers leave every number format. Such a kernel is `relative`: it is evaluated at d / unit, for a
unit that is the typical distance, and its numbers are multiples of unit^k.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spider.errors import SpiderUsageError

_RELATIVE_ABOVE = 16.0  # features lie 1e-2 to 1e2 apart: 1e32 still is a float32


@dataclass(frozen=True)
class Kernel:
    """psi(d) = sign(k) d^k, or d^k ln d.

    Attributes:
        order: k = 2 m - n, any real number.
        log: whether the logarithm multiplies the power.
    """

    order: float
    log: bool = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.order):
            raise SpiderUsageError(f"kernel order {self.order} is not a number")
        if self.order == 0 and not self.log:
            raise SpiderUsageError("kernel order 0 is constant; with a logarithm (m = n / 2) it is not")
        if self.order < 0 and self.log:
            raise SpiderUsageError(f"kernel order {self.order:g} has no logarithm; only orders from 0 have")

    @property
    def relative(self) -> bool:
        """Whether distances are measured in units of the typical distance."""
        return abs(self.order) > _RELATIVE_ABOVE

    @property
    def label(self) -> str:
        """As tables, files and `--orders` have it: `-1`, `0.5`, `2 log`, `-2046 relative`."""
        return f"{self.order:g}" + " log" * self.log + " relative" * self.relative

    def __call__(self, distance: Tensor) -> Tensor:
        """psi of distances > 0, any shape, in their own precision."""
        return self.of_squared(distance.square(), torch.empty_like(distance))

    def of_squared(self, squared: Tensor, out: Tensor, unit: float = 1.0) -> Tensor:
        """psi(d / unit) of squared distances > 0, written to `out`, of the same shape, and returned.

        `unit` counts for relative kernels only.
        """
        self._power(squared, out, unit)
        if self.log:
            return out.mul_(self._log_distance(squared, unit))
        return out.neg_() if self.order < 0 else out

    def slope_over_distance(self, squared: Tensor, unit: float = 1.0) -> Tensor:
        """psi'(d) / d, with psi as in `of_squared`: moving x by v moves psi(|x - c|) by this times v.(x - c)."""
        power = self._power(squared, torch.empty_like(squared), unit)
        slope = self.order * self._log_distance(squared, unit) + 1 if self.log else abs(self.order)
        return power.mul_(slope).div_(squared)

    def _power(self, squared: Tensor, out: Tensor, unit: float) -> Tensor:
        """(d / unit)^k into `out`."""
        if self.relative:
            return torch.mul(self._log_distance(squared, unit), self.order, out=out).exp_()
        return _power_of_root(squared, self.order, out)

    def _log_distance(self, squared: Tensor, unit: float) -> Tensor:
        """ln(d / unit)."""
        return squared.log().mul_(0.5).sub_(math.log(unit) if self.relative else 0.0)


def polyharmonic(m: float, n: int) -> Kernel:
    """The exact kernel of order m, a positive multiple of 1/2, in n dimensions.

    Half-integer m in even dimensions is what published SID curves use: their orders 1, -1, -3, -5 are k = 2 m - n.
    """
    if m <= 0 or not float(2 * m).is_integer() or n < 1:
        raise SpiderUsageError(f"kernel (m, n) = ({m:g}, {n}): m must be a positive multiple of 1/2, n at least 1")
    order = 2 * m - n
    return Kernel(order, log=order >= 0 and n % 2 == 0 and float(order).is_integer() and order % 2 == 0)


def _power_of_root(squared: Tensor, order: float, out: Tensor) -> Tensor:
    """squared^(order / 2) into `out`. Odd orders by products of 1 / sqrt, which is many times faster than a power."""
    if not float(order).is_integer() or int(order) % 2 == 0:
        return torch.pow(squared, order / 2, out=out)
    torch.rsqrt(squared, out=out)  # order -1
    if order != -1:
        factor = squared if order > 0 else squared.reciprocal()
        for _ in range(abs(int(order) + 1) // 2):
            out.mul_(factor)
    return out
