"""What the benchmarks of iterations share: time, in turns; memory; and the floor that operations and bytes set."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

CPU = torch.device("cpu")


class Operations(TorchDispatchMode):
    """Counts what runs within, also where gradients are differentiated, which torch's own counter does not bear.

    What a compiler made of operations is not seen: count a network that is not compiled.

    Attributes:
        products: how often a convolution or a product came up that makes so many floating-point operations, with
            operands and an outcome of so many bytes together, in that dtype.
        other_bytes: that all other operations read and write, each by itself.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.products: Counter[tuple[torch.dtype, int, int]] = Counter()
        self.other_bytes = 0

    @property
    def total(self) -> int:
        """Floating-point operations of convolutions and products."""
        return sum(times * operations for (_, operations, _), times in self.products.items())

    def floor(self, rates: Rates) -> float:
        """Seconds that convolutions and products take, where each takes as long as its operations or its bytes do."""
        return sum(
            times * max(operations / rates.product(dtype), moved / rates.bandwidth)
            for (dtype, operations, moved), times in self.products.items()
        )

    def unfused_floor(self, rates: Rates) -> float:
        """Seconds with the bytes of all other operations, none of which is fused with another."""
        return self.floor(rates) + self.other_bytes / rates.bandwidth

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.is_view:
            return out
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        moved = sum(leaf.nbytes for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        moved += sum(tensor.nbytes for tensor in made)
        if operations := _operations(func, args, kwargs or {}, out):
            self.products[made[0].dtype, operations, moved] += 1
        elif not func._overloadpacket.__name__.startswith(("empty", "new_empty")):
            self.other_bytes += moved
        return out


def _operations(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    """Of a convolution or a product; else 0."""
    count = flop_registry.get(func._overloadpacket)
    if count is None:
        return 0
    if func is torch.ops.aten.convolution_backward.default and (groups := args[9]) > 1:
        # torch counts the weights' gradient as if every group had all channels
        by_input, by_weight, _ = args[10]
        rest: int = count(*args[:10], (by_input, False, False), out_val=out)
        weights: int = count(*args[:10], (False, by_weight, False), out_val=out)
        return rest + weights // groups
    return int(count(*args, **kwargs, out_val=out))


class Rates:
    """How fast a device multiplies and moves, measured once each."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._products: dict[torch.dtype, float] = {}
        self._bandwidth: float | None = None

    def product(self, dtype: torch.dtype) -> float:
        """Floating-point operations a second, by the switches for TF32 at the first call."""
        if dtype not in self._products:
            self._products[dtype] = product_rate(self.device, dtype)
        return self._products[dtype]

    @property
    def bandwidth(self) -> float:
        """Bytes a second of a copy that no cache holds, read and written."""
        if self._bandwidth is None:
            source = torch.ones(2**25 if self.device == CPU else 2**27, device=self.device)
            target = torch.empty_like(source)
            target.copy_(source)
            self._bandwidth = 2 * source.nbytes / min(seconds(lambda: target.copy_(source), self.device) for _ in "123")
        return self._bandwidth

    def as_json(self) -> dict[str, float]:
        """What was measured: TFLOP/s by dtype, and GB/s."""
        rates = {f"{dtype} TFLOP/s".removeprefix("torch."): rate / 1e12 for dtype, rate in self._products.items()}
        return rates if self._bandwidth is None else {**rates, "GB/s": self._bandwidth / 1e9}


def product_rate(device: torch.device = CPU, dtype: torch.dtype = torch.float32) -> float:
    """Floating-point operations a second: of a product of matrices, or a convolution of 3x3 if that is faster."""
    side, images = (2048, 1) if device.type == "cpu" else (8192, 32)
    one, other = torch.randn(2, side, side, device=device, dtype=dtype)
    maps = torch.randn(images, 256, 64, 64, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    kernel = torch.randn(256, 256, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    ways: dict[int, Callable[[], object]] = {
        2 * side**3: lambda: one @ other,
        2 * images * 64 * 64 * 256 * 256 * 9: lambda: torch.conv2d(maps, kernel, padding=1),
    }
    for way in ways.values():
        way()
    return max(operations / min(seconds(way, device) for _ in "123") for operations, way in ways.items())


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """What `work` takes: CPU time of this process, or time on the clock until a GPU has done it."""
    if device.type == "cpu":
        return cpu_seconds(work)
    synchronise(device)
    started = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - started


def cpu_seconds(work: Callable[[], object]) -> float:
    """Of this process."""
    started = time.process_time()
    work()
    return time.process_time() - started


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def alternating(ways: Mapping[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    """The CPU seconds of each turn of each way, one after the other; a first turn, which allocates, is left out."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, way in ways.items():
            took = cpu_seconds(way)
            if turn:
                taken[name].append(took)
    return taken


class Allocated:
    """The memory of tensors that is taken within, in bytes, beyond what was taken before.

    Attributes:
        held: at the end.
        peak: at most. On a GPU with the workspaces of its libraries; on a CPU without.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.held = self.peak = 0

    def __enter__(self) -> Self:
        if self.device.type == "cuda":
            synchronise(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
        else:
            self._recording: Any = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            self._recording.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.device.type == "cuda":
            self.held = torch.cuda.memory_allocated(self.device) - self._before
            self.peak = torch.cuda.max_memory_allocated(self.device) - self._before
            return
        self._recording.__exit__(kind, error, trace)
        for event in self._recording.profiler.kineto_results.events():
            if event.name() == "[memory]":
                self.held += event.nbytes()
                self.peak = max(self.peak, self.held)
