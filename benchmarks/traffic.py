"""What one rank hands to the others: bytes by phase of the iteration, and by who asked for it.

    with Traffic() as traffic:
        trainer.iterate()
    traffic.found   # {("d_main", "gradients"): Sent(calls=1, bytes=1089156), ...}

Every collective of torch.distributed passes torch's dispatcher, whoever calls it under whatever name, DeepSpeed
included. That is where they are counted, so the product needs no counter, and a new collective cannot be forgotten.
Counting costs a call into Python for every operation: time nothing meanwhile.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import dataclass
from types import FrameType
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cluster.engines.ddp import DdpEngine
from cluster.engines.deepspeed import DeepSpeedEngine
from cluster.world import World
from spider.train.stepper import Stepper

BETWEEN = "between phases"
GRADIENTS = "gradients"
PARAMETERS = "parameters"
BATCH_NORM = "batch norm"

# Read off frames of the project alone: what lies between them and torch is called otherwise in every version
_PACKAGES = ("cluster", "neighbors", "shards", "spider", "sweeps", "untrusted")
_MESSENGER = "cluster.world"  # passes calls on; the one thing that it asks for itself is in _KINDS
_KINDS = {
    World.sum_with_grad.__code__: BATCH_NORM,  # forwards and backwards; nothing else is summed within a graph
    DdpEngine._sum_over_ranks.__code__: GRADIENTS,
    DeepSpeedEngine.backward.__code__: GRADIENTS,
}
_GATHERS = {DeepSpeedEngine.step.__code__: PARAMETERS}  # it also sums, for the norm of the gradient


@dataclass
class Sent:
    """Collectives of one kind. A collective counts as what a rank puts in or gets out, whichever is larger."""

    calls: int = 0
    bytes: int = 0


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts while it is entered.

    Attributes:
        found: by (phase, kind): `GRADIENTS`, `PARAMETERS`, `BATCH_NORM`, or the function that asked for anything else.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: dict[tuple[str, str], Sent] = defaultdict(Sent)

    def take(self) -> dict[tuple[str, str], Sent]:
        """What was found, and begin anew."""
        found, self.found = self.found, defaultdict(Sent)
        return dict(found)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            sent = self.found[_phase_and_kind(sys._getframe(1), gathers="gather" in func.name())]
            sent.calls += 1
            sent.bytes += max(sum(leaf.nbytes for leaf in tree_leaves(arg) if isinstance(leaf, Tensor)) for arg in args)
        return func(*args, **(kwargs or {}))


def _phase_and_kind(frame: FrameType | None, gathers: bool) -> tuple[str, str]:
    """By the project's frames above the collective, innermost first."""
    kinds = {**_KINDS, **_GATHERS} if gathers else _KINDS
    asked_by = ""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if not asked_by and frame.f_code in kinds:
            asked_by = kinds[frame.f_code]
        elif not asked_by and module != _MESSENGER and module.partition(".")[0] in _PACKAGES:
            asked_by = f"{module}.{frame.f_code.co_name}"
        if frame.f_code is Stepper.take.__code__:
            return frame.f_locals["phase"].name, asked_by
        frame = frame.f_back
    return BETWEEN, asked_by
