"""The tests' own processes: what a test does to its ranks is shown and reaches nobody else."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import torch

from cluster.world import World

if TYPE_CHECKING:
    from tests.cluster.ranks import Ranks


@dataclass
class Scale:
    by: float


def _sum(world: World, scale: Scale) -> tuple[int, torch.Tensor, Scale]:
    return world.rank, world.all_reduce_sum(torch.tensor(scale.by * world.rank)), scale


def _raise_on_last(world: World) -> None:
    world.barrier()  # A rank that is new has imported this module, which is not to cost the others their time.
    if world.rank == world.size - 1:
        raise ValueError("the last one fails")
    world.barrier()


def _sleep(world: World) -> None:
    time.sleep(60)


def _die(world: World) -> None:
    os._exit(3)


def _pid(world: World) -> int:
    return os.getpid()


@pytest.mark.parametrize("size", [1, 2, 4])
def test_results_come_in_rank_order(ranks: Ranks, size: int) -> None:
    results = ranks(size).run(_sum, Scale(0.5))
    assert [rank for rank, _, _ in results] == list(range(size))
    assert all(total.item() == sum(range(size)) / 2 and scale == Scale(0.5) for _, total, scale in results)


def test_processes_are_kept_unless_fresh_ones_are_asked_for(ranks: Ranks) -> None:
    pids = ranks(2).run(_pid)
    assert ranks(2).run(_pid) == pids
    assert not set(ranks(2, fresh=True).run(_pid)) & set(pids)


def test_a_raising_rank_is_shown_and_the_waiting_ones_too(ranks: Ranks) -> None:
    with pytest.raises(Exception, match=r"(?s)rank 1 of 2 failed:.*the last one fails.*") as raised:
        ranks(2).run(_raise_on_last)
    assert "rank 0 of 2" in str(raised.value)
    assert "barrier" in str(raised.value)
    assert len(ranks(2).run(_pid)) == 2


def test_a_silent_rank_is_shown_where_it_hangs(ranks: Ranks) -> None:
    ranks(1).run(_pid)  # So that the time limit is not spent on importing this module.
    with pytest.raises(Exception, match=r"(?s)rank 0 of 1 did not answer within 5 s.*_sleep"):
        ranks(1).run(_sleep, timeout_s=5.0)


def test_a_dead_rank_is_named(ranks: Ranks) -> None:
    with pytest.raises(Exception, match="rank 0 of 1 failed:\nthe process ended"):
        ranks(1).run(_die)


def test_functions_that_ranks_cannot_find_are_refused(ranks: Ranks) -> None:
    with pytest.raises(TypeError, match="top level"):
        ranks(1).run(lambda world: None)
