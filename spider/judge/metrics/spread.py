"""Work in numbered units, unit u on rank u mod W, its results in unit order on every rank.

What a unit computes, and on which shapes, is a function of its number alone. So a sum over units has the same terms in
the same order at every world size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shards.progress import Bar
from spider.heartbeat import Heartbeat, silent

if TYPE_CHECKING:
    from cluster.world import World


def spread(
    world: World,
    count: int,
    compute: Callable[[int], tuple[Tensor, ...]],
    *,
    label: str,
    progress: bool = False,
    heartbeat: Heartbeat = silent,
) -> tuple[Tensor, ...]:
    """Compute units 0 .. count - 1 on all ranks together; every rank gets one tensor [count, ...] per output.

    Args:
        compute: unit number to its outputs. An output has the same shape and dtype in every unit.
        label: what the progress bar calls the work.
        heartbeat: called before every round of units.
    """
    # The last round may have fewer units than ranks; a gather needs something from every rank.
    mine = [
        compute(min(u, count - 1)) for u in own_units(world, count, label=label, progress=progress, heartbeat=heartbeat)
    ]
    return tuple(
        # [rounds, ...] -> [W, rounds, ...] -> [rounds * W, ...], which is unit order
        world.all_gather(torch.stack(column)).transpose(0, 1).flatten(0, 1)[:count]
        for column in zip(*mine, strict=True)
    )


def own_units(
    world: World, count: int, *, label: str, progress: bool = False, heartbeat: Heartbeat = silent
) -> Iterator[int]:
    """The numbers of this rank's units, one for each round, after a heartbeat; in the last round perhaps >= count.

    For work whose results need no order, because they are the same in any; the caller skips a number that is no unit.
    """
    rounds = range(-(-count // world.size))
    for r in Bar(iterable=rounds, desc=label, unit="block", leave=False, shown=progress and world.is_main):
        heartbeat()
        yield r * world.size + world.rank
