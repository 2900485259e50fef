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

from spider.train.trainer import Trainer

BETWEEN = "between phases"
GRADIENTS = "gradients"
PARAMETERS = "parameters"
BATCH_NORM = "batch norm"

_KINDS = {
    "cluster.engines.ddp._sum_over_ranks": GRADIENTS,
    "deepspeed.runtime.engine.allreduce_bucket": GRADIENTS,  # stage 0
    "deepspeed.runtime.zero.stage_1_and_2.allreduce_bucket": GRADIENTS,
    "deepspeed.runtime.utils.all_gather_into_tensor_dp_groups": PARAMETERS,
    "cluster.world.sum_with_grad": BATCH_NORM,  # forwards and backwards; nothing else is summed within a graph
}
# Who passes a call on, but did not ask for it
_MESSENGERS = ("torch", "contextlib", "cluster.world", "deepspeed.comm", "deepspeed.utils", __name__)


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
            sent = self.found[_phase_and_kind(sys._getframe(1))]
            sent.calls += 1
            sent.bytes += max(sum(leaf.nbytes for leaf in tree_leaves(arg) if isinstance(leaf, Tensor)) for arg in args)
        return func(*args, **(kwargs or {}))


def _phase_and_kind(frame: FrameType | None) -> tuple[str, str]:
    """By the frames above the collective, innermost first."""
    asked_by = ""
    while frame is not None:
        caller = f"{frame.f_globals.get('__name__', '')}.{frame.f_code.co_name}"
        if not asked_by and (caller in _KINDS or not caller.startswith(_MESSENGERS)):
            asked_by = _KINDS.get(caller, caller)
        if frame.f_code is Trainer.run.__code__:
            return frame.f_locals["phase"].name, asked_by
        frame = frame.f_back
    return BETWEEN, asked_by
