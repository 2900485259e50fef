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

from spider.judge.sid import choices
from spider.judge.sid.choices import Order, parse_order


@dataclass(frozen=True)
class Kernel(Order):
    """The function of an order."""

    def __call__(self, distance: Tensor, unit: Tensor | float = 1.0) -> Tensor:
        """psi(distance / unit) for distances > 0 of any shape, in their precision; `unit` for relative kernels only."""
        distance = distance / unit if self.relative else distance
        return self.sign * self.growth(distance.square(), distance.reciprocal(), torch.empty_like(distance))

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
    """The kernel of `choices.polyharmonic`."""
    return _kernel(choices.polyharmonic(m, n))


def parse_kernel(order: Order | float | str) -> Kernel:
    """The kernel of `parse_order`. A kernel is itself."""
    return order if isinstance(order, Kernel) else _kernel(parse_order(order))


def _kernel(order: Order) -> Kernel:
    return Kernel(order.order, order.log)


def _integer_power(base: Tensor, exponent: int, out: Tensor) -> Tensor:
    """base^exponent, exponent >= 1, by squaring; in `out`, or `base` itself."""
    power = base
    for bit in bin(exponent)[3:]:
        power = torch.mul(power, power, out=out)
        if bit == "1":
            power = torch.mul(power, base, out=out)
    return power
