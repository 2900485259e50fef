"""An optimizer that was saved and loaded goes on as one that was not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cluster.checkpoint import Snapshot
from cluster.engines.optimizer_state import pack_optimizer, unpack_optimizer
from cluster.errors import ClusterError
from tests.cluster.checkpoint.snapshots import same_tensors, store_in

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adam": lambda groups: torch.optim.Adam(groups, lr=0.01, betas=(0.0, 0.99)),
    "adamw_amsgrad": lambda groups: torch.optim.AdamW(groups, lr=torch.tensor(0.01), amsgrad=True, foreach=False),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True),
    "plain_sgd": lambda groups: torch.optim.SGD(groups, lr=0.1),
}


def _player(kind: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.Linear(2, 1)).double()
    groups = [{"params": module[0].parameters(), "weight_decay": 0.1}, {"params": list(module[2:].parameters())}]
    return module, OPTIMIZERS[kind](groups)


def _step(module: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimizer.zero_grad()
    module(torch.randn(5, 3, dtype=torch.float64, generator=generator)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_resumed_optimizer_equals_an_uninterrupted_one(tmp_path: Path, kind: str) -> None:
    module, optimizer = _player(kind)
    for seed in range(4):
        if seed == 2:
            tensors, state = pack_optimizer(optimizer)
            store_in(tmp_path).save(
                "a", Snapshot({"module": module.state_dict(), "optimizer": tensors}, {"optimizer": state})
            )
        _step(module, optimizer, seed)

    resumed, resumed_optimizer = _player(kind)
    for group in resumed_optimizer.param_groups:
        group["lr"] = 123.0
    snapshot = store_in(tmp_path).load("a")
    resumed.load_state_dict(snapshot.tensors["module"])
    unpack_optimizer(resumed_optimizer, snapshot.tensors["optimizer"], snapshot.state["optimizer"])
    for seed in (2, 3):
        _step(resumed, resumed_optimizer, seed)

    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), module.parameters(), strict=True))
    packed, resumed_packed = pack_optimizer(optimizer), pack_optimizer(resumed_optimizer)
    assert same_tensors({"o": packed[0]}, {"o": resumed_packed[0]})
    assert packed[1] == resumed_packed[1]


def test_an_optimizer_of_other_groups_is_refused() -> None:
    _, optimizer = _player("adam")
    with pytest.raises(ClusterError, match=r"groups of \[2, 4\] parameters does not fit groups of \[1\]"):
        unpack_optimizer(torch.optim.Adam([nn.Parameter(torch.zeros(1))]), *pack_optimizer(optimizer))
