"""What a checkpoint stores, against what is expected of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from cluster.checkpoint import CheckpointStore, UnfitCheckpointError
from cluster.world import World
from spider.runs.directory import resolve
from untrusted.errors import UnreadableError
from untrusted.terminal import one_line

# What taking over a state raises that is not of the right form. No RuntimeError: a device whose memory is full is none
_MISFITS = (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, UnreadableError)


@contextmanager
def fitting(what: str) -> Iterator[None]:
    """Say in one line what does not fit. Raises UnfitCheckpointError that begins with `what`."""
    try:
        yield
    except _MISFITS as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise UnfitCheckpointError(f"{what}: {one_line(why)}") from error


def require_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], group: str) -> None:
    """Refuse other names and shapes, and what is not finite: the guard lets no such step be made.

    Raises ValueError that names the tensor.
    """
    if found.keys() != expected.keys():
        name = min(found.keys() ^ expected.keys())
        raise ValueError(f"{group}.{name} is {'missing' if name in expected else 'none of its tensors'}")
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(f"{group}.{name} has shape {[*tensor.shape]}, not {[*expected[name].shape]}")
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{group}.{name} is not finite")


def stored_tensors(run: str) -> Mapping[str, Mapping[str, Tensor]]:
    """Tensors of the checkpoint that RUN, RUN@best, RUN@last or RUN@KIMG names, by network and name, on the CPU.

    Raises SpiderUsageError where there is no such checkpoint, ClusterError where it is damaged.
    """
    ref = resolve(run)
    return CheckpointStore(ref.directory.checkpoints, World.single(torch.device("cpu"))).load(ref.checkpoint).tensors
