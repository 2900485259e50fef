"""What one rank hands to the others: bytes by phase of the iteration, and by who asked for it.

    with Traffic() as traffic:
        trainer.iterate()
    traffic.found   # {("d_main", "cluster.engines.ddp._sum_over_ranks"): Sent(calls=1, bytes=11_146_244), ...}

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
IN_GRAPH = "sums within the graph"  # of synchronised batch normalisation, forwards and backwards

# Who passes a call on, but did not ask for it
_MESSENGERS = ("torch", "contextlib", "cluster.world", "deepspeed.comm", "deepspeed.utils", __name__)


@dataclass
class Sent:
    """Collectives of one kind. A collective counts as what a rank puts in or gets out, whichever is larger."""

    calls: int = 0
    bytes: int = 0


class Traffic(TorchDispatchMode):
    """Counts while it is entered.

    Attributes:
        found: by (phase, kind); the kind is the function that asked, or `IN_GRAPH`.
    """

    def __init__(self) -> None:
        super().__init__()
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
    """Who asked, by the frames above the collective."""
    phase, kind = BETWEEN, ""
    while frame is not None:
        module, code = frame.f_globals.get("__name__", ""), frame.f_code
        if module == "cluster.world" and code.co_name == "sum_with_grad":
            kind = kind or IN_GRAPH
        elif not module.startswith(_MESSENGERS):
            kind = kind or f"{module}.{code.co_name}"
        if code is Trainer.run.__code__:
            return frame.f_locals["phase"].name, kind
        frame = frame.f_back
    return phase, kind
