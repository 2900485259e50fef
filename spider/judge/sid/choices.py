"""What a signed distance is asked for: the orders of its kernels, and a mode. Needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from spider.errors import SpiderUsageError

Mode = Literal["robust", "paper", "screen"]
MODES: tuple[str, ...] = get_args(Mode)

_RELATIVE_ABOVE = 16.0  # features lie 1e-2 to 1e2 apart: 1e32 still is a float32


@dataclass(frozen=True)
class Order:
    """Of a kernel psi(d) = sign(k) d^k, or d^k ln d.

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
        """As tables and files print it and `parse_order` reads it: `-1`, `0.5`, `2 log`, `-2046 relative`.

        With all digits of the order: caches tell kernels apart by it.
        """
        return repr(float(self.order)).removesuffix(".0") + " log" * self.log + " relative" * self.relative

    @property
    def sign(self) -> int:
        """What `growth` is multiplied by to make psi: once for a sum, not for each of its terms."""
        return -1 if self.order < 0 else 1


def polyharmonic(m: float, n: int) -> Order:
    """The order of the exact kernel of order m, a positive multiple of 1/2, in n dimensions.

    Half-integer m in even dimensions is what published SID curves use: their orders 1, -1, -3, -5 are k = 2 m - n.
    """
    if m <= 0 or not float(2 * m).is_integer() or n < 1:
        raise SpiderUsageError(f"kernel (m, n) = ({m:g}, {n}): m must be a positive multiple of 1/2, n at least 1")
    order = 2 * m - n
    return Order(order, log=order >= 0 and n % 2 == 0 and float(order).is_integer() and order % 2 == 0)


def parse_order(order: Order | float | str) -> Order:
    """The order that a number, a label or `m/n` names: that of Delta^m in n dimensions. An order is itself.

    Raises:
        SpiderUsageError: none of these, or one that cannot be.
    """
    if isinstance(order, Order):
        return order
    number, *words = str(order).split() or [""]
    m, slash, n = number.partition("/")
    try:
        if slash and not words:
            return polyharmonic(float(m), int(n))
        kernel = Order(float(number), log="log" in words)
    except ValueError:
        kernel = None
    # `relative` is no choice but a consequence: it may be left out
    if kernel is None or words not in (kernel.label.split()[1:], ["log"] * kernel.log):
        raise SpiderUsageError(
            f"kernel order {str(order)!r} is none; allowed: a number such as -1 or 0.5, one with a logarithm such as "
            "`2 log`, or m/n such as 1023.5/2048, the kernel of Delta^m in n dimensions"
        )
    return kernel
