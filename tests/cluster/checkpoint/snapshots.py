"""Snapshots to save, and what the tests of checkpoints do to them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from cluster.checkpoint import CheckpointStore, Snapshot
from cluster.world import World


def store_in(directory: Path) -> CheckpointStore:
    return CheckpointStore(directory, World.single())


def snapshot_of(value: float = 1.0) -> Snapshot:
    tensors = {
        "generator": {"weight": torch.full((16, 8), value), "bias": torch.tensor(value, dtype=torch.float64)},
        "optimizer": {"0.exp_avg": torch.full((64,), -value)},
    }
    return Snapshot(tensors, {"images": int(1000 * value), "k": 12.5, "best": None})


def same(a: Snapshot, b: Snapshot) -> bool:
    return a.state == b.state and same_tensors(a.tensors, b.tensors)


def same_tensors(a: dict[str, dict[str, Tensor]], b: dict[str, dict[str, Tensor]]) -> bool:
    """Bit for bit, so that NaN equals NaN and 0 does not equal -0."""
    return {group: set(tensors) for group, tensors in a.items()} == {
        group: set(tensors) for group, tensors in b.items()
    } and all(
        tensor.dtype == b[group][name].dtype
        and tensor.shape == b[group][name].shape
        and bits(tensor) == bits(b[group][name])
        for group, tensors in a.items()
        for name, tensor in tensors.items()
    )


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def truncate(directory: Path) -> None:
    path = directory / "generator.safetensors"
    path.write_bytes(path.read_bytes()[:-3])


def zero(snapshot: Snapshot) -> None:
    """What a step may do to a state that was handed over."""
    for tensors in snapshot.tensors.values():
        for tensor in tensors.values():
            tensor.zero_()
    snapshot.state.clear()
