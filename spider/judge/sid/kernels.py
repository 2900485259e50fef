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
            raise SpiderUsageError("kernel order 0 is constant; with a logarithm, `0 log`, it is not")
        if self.order < 0 and self.log:
            raise SpiderUsageError(f"kernel order {self.order:g} has no logarithm; only orders from 0 have")

    @property
    def relative(self) -> bool:
        """Whether distances are measured in units of the typical distance."""
        return abs(self.order) > _RELATIVE_ABOVE

    @property
    def label(self) -> str:
        """As tables and files print it and `parse_kernel` reads it: `-1`, `0.5`, `2 log`, `-2046 relative`.

        With all digits of the order: caches tell kernels apart by it.
        """
        return repr(float(self.order)).removesuffix(".0") + " log" * self.log + " relative" * self.relative

    def __call__(self, distance: Tensor, unit: Tensor | float = 1.0) -> Tensor:
        """psi(distance / unit) for distances > 0 of any shape, in their precision; `unit` for relative kernels only."""
        distance = distance / unit if self.relative else distance
        return self.sign * self.growth(distance.square(), distance.reciprocal(), torch.empty_like(distance))

    @property
    def sign(self) -> int:
        """What `growth` is multiplied by to make psi: once for a sum, not for each of its terms."""
        return -1 if self.order < 0 else 1

    def growth(self, squared: Tensor, inverse: Tensor, out: Tensor, unit: float = 1.0) -> Tensor:
        """psi without its sign, of distances given by their squares and their inverses.

        The result is in `out`, or is one of the arguments: do not write to it.
        """
        power = self._power(squared, inverse, out, unit)
        return torch.mul(power, self._log_distance(squared, unit), out=out) if self.log else power

    def slope_over_distance(self, squared: Tensor, unit: float = 1.0) -> Tensor:
        """psi'(d) / d: moving x by v moves psi(|x - c|) by this times v.(x - c)."""
        power = self._power(squared, squared.rsqrt(), torch.empty_like(squared), unit)
        slope = self.order * self._log_distance(squared, unit) + 1 if self.log else abs(self.order)
        return power * slope / squared

    def _power(self, squared: Tensor, inverse: Tensor, out: Tensor, unit: float) -> Tensor:
        """(d / unit)^k, in `out` or one of the arguments."""
        if self.relative:
            return torch.mul(self._log_distance(squared, unit), self.order, out=out).exp_()
        if not float(self.order).is_integer():
            return torch.pow(squared, self.order / 2, out=out)
        k = int(self.order)  # by products, which are many times faster than powers
        if k < 0:
            return _integer_power(inverse, -k, out)
        if k == 0:
            return out.fill_(1)
        power = _integer_power(squared, (k + 1) // 2, out)
        return torch.mul(power, inverse, out=out) if k % 2 else power

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


def parse_kernel(order: Kernel | float | str) -> Kernel:
    """The kernel of an order, of a label, or of `m/n`, the one of Delta^m in n dimensions. A kernel is itself.

    Raises:
        SpiderUsageError: none of these, or one that cannot be.
    """
    if isinstance(order, Kernel):
        return order
    number, *words = str(order).split() or [""]
    m, slash, n = number.partition("/")
    try:
        if slash and not words:
            return polyharmonic(float(m), int(n))
        kernel = Kernel(float(number), log="log" in words)
    except ValueError:
        kernel = None
    # `relative` is no choice but a consequence: it may be left out
    if kernel is None or words not in (kernel.label.split()[1:], ["log"] * kernel.log):
        raise SpiderUsageError(
            f"kernel order {str(order)!r} is none; allowed: a number such as -1 or 0.5, one with a logarithm such as "
            "`2 log`, or m/n such as 1023.5/2048, the kernel of Delta^m in n dimensions"
        )
    return kernel


def _integer_power(base: Tensor, exponent: int, out: Tensor) -> Tensor:
    """base^exponent, exponent >= 1, by squaring; in `out`, or `base` itself."""
    power = base
    for bit in bin(exponent)[3:]:
        power = torch.mul(power, power, out=out)
        if bit == "1":
            power = torch.mul(power, base, out=out)
    return power
