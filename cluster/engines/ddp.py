"""Data parallel: every rank holds the whole player, and gradients are summed in fixed buckets after the last backward.

Not torch's DistributedDataParallel, for two reasons, both measured in docs/architecture.md. It lays its buckets out
anew after the first iteration of every process, in the order in which gradients became ready. The order in which four
ranks are summed depends on the place in the bucket, so a resumed run differs from an uninterrupted one in the last
bits. And its reducer needs every parameter in every backward, which a penalty phase does not give it (the last bias has
no influence on a gradient penalty). Here the layout is a function of the list of parameters alone, and a parameter
without a gradient counts as zeros.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cluster.engines.local import LocalEngine, blame
from cluster.world import World

# Large enough to use the network's bandwidth, small enough that the copy of one bucket is no memory to speak of.
BUCKET_BYTES = 25 * 2**20


class DdpEngine(LocalEngine):
    """See `cluster.engines.engine.Engine`."""

    name = "ddp"

    def __init__(
        self, module: nn.Module, parameters: Sequence[nn.Parameter], optimizer: Optimizer, world: World
    ) -> None:
        super().__init__(module, parameters, optimizer)
        self._world = world
        self._buckets = bucket_layout(self._parameters, BUCKET_BYTES)
        self._finite_here = torch.ones(len(self._parameters), dtype=torch.bool, device=world.device)
        agree(module, self._names, self._parameters, world)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        super().backward(loss, last=last)
        if not last:
            return
        # The largest magnitude is finite if all are; a sum of squares may overflow
        self._finite_here = torch.stack(torch._foreach_norm(self._gradients(), math.inf)).isfinite()
        if self._world.size > 1:
            for bucket in self._buckets:
                self._sum_over_ranks([self._gradients()[i] for i in bucket])

    def _sum_over_ranks(self, gradients: list[Tensor]) -> None:
        """Replace gradients of one device and dtype by their sums."""
        flat = self._world.all_reduce_sum_(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))

    def measure(self, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        norm, finite = super().measure(scale)
        return norm, torch.stack([self._finite_here, finite[1]])

    def non_finite(self, finite: Tensor) -> dict[str, list[int]]:
        return blame(self._names, finite, self._world)


def bucket_layout(parameters: Sequence[Tensor], max_bytes: int) -> list[list[int]]:
    """Which parameters are summed together: indices in order, one device and dtype per bucket, none over `max_bytes`.

    A parameter that is larger by itself gets its own bucket.
    """
    buckets: list[list[int]] = []
    open_buckets: dict[tuple[torch.device, torch.dtype], tuple[list[int], int]] = {}
    for i, parameter in enumerate(parameters):
        kind = (parameter.device, parameter.dtype)
        bucket, size = open_buckets.get(kind, ([], 0))
        if not bucket or size + parameter.nbytes > max_bytes:
            bucket, size = [], 0
            buckets.append(bucket)
        bucket.append(i)
        open_buckets[kind] = (bucket, size + parameter.nbytes)
    return buckets


@torch.no_grad()
def agree(module: nn.Module, names: Sequence[str], parameters: Sequence[Tensor], world: World) -> None:
    """Let every rank have rank 0's parameters and buffers.

    Raises ClusterError where position, dtype or shape of one differ between ranks.
    """
    described = {
        name: f"{i} {str(parameter.dtype).removeprefix('torch.')} {list(parameter.shape)}"
        for i, (name, parameter) in enumerate(zip(names, parameters, strict=True))
    }
    world.assert_same(described, f"parameters of {type(module).__name__}")
    if world.size > 1:
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.copy_(world.broadcast(tensor))
