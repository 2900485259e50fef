"""What the benchmarks of iterations share: CPU time, in turns, and the floor that operations set."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Operations(TorchDispatchMode):
    """Adds up what runs within, also where gradients are differentiated, which torch's own counter does not bear.

    Attributes:
        total: floating-point operations of convolutions and products.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        self.total += count(*args, **(kwargs or {}), out_val=out) if count is not None else 0
        return out


def product_rate() -> float:
    """Floating-point operations a second, of a product of matrices."""
    one, other = torch.randn(2, 2048, 2048)
    one @ other
    return 2 * 2048**3 / cpu_seconds(lambda: one @ other)


def cpu_seconds(work: Callable[[], object]) -> float:
    """Of this process."""
    started = time.process_time()
    work()
    return time.process_time() - started


def alternating(ways: Mapping[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    """The CPU seconds of each turn of each way, one after the other; a first turn, which allocates, is left out."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, way in ways.items():
            took = cpu_seconds(way)
            if turn:
                seconds[name].append(took)
    return seconds
