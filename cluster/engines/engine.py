"""What a player steps with.

A player is a module, the fixed list of its parameters that train, and one optimizer. Its engine turns losses into one
optimizer step, on any number of ranks:

    engine.zero_grad()
    for i, micro_batch in enumerate(micro_batches):
        loss = ...                          # forwards go through engine.module
        engine.backward(loss, last=i == len(micro_batches) - 1)
    norm, _ = engine.measure()
    engine.step(norm.isfinite())            # leaves no trace where that is false; nothing waits for the device

`loss` is this rank's and this micro-batch's share of a sum over the global batch: whoever wants a mean divides by the
global count first. So gradients are summed, over micro-batches and over ranks, and no engine knows a batch size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from cluster.engines.ddp import DdpEngine
from cluster.engines.local import LocalEngine
from cluster.errors import ClusterUsageError
from cluster.world import World

EngineName = Literal["local", "ddp", "deepspeed"]


class Engine(Protocol):
    """One player's way to a step. Every method is collective."""

    name: str
    module: nn.Module

    def zero_grad(self) -> None:
        """Forget the gradients."""

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of this share of the loss, of this player's parameters only; at the last share, reduce.

        Any number of calls, once with `last`. After that every parameter's `grad` is the gradient of the sum of all
        shares on all ranks, the same bits on every rank, and zero where no share depends on the parameter; `deepspeed`
        splits it over the ranks. The loss may hold gradients of gradients (`create_graph=True`). What it passes
        through on its way, such as the other player, is frozen meanwhile.
        """

    def measure(self, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        """After the last backward: divide all gradients by `scale`, and measure them. Nothing waits for the device.

        Returns:
            Their Euclidean norm, scalar; and whether each parameter's gradient is finite, bool [2, P]: in the first row
            this rank's own, in the second the sum over ranks (there, whether its norm is).
        """

    def non_finite(self, finite: Tensor) -> dict[str, list[int]]:
        """The parameters whose summed gradient was not finite, each with the ranks it came from.

        Empty when all was well. No ranks are named for a parameter when its gradient was finite everywhere and only the
        sum overflowed. Waits for the device.

        Args:
            finite: what `measure` gave, perhaps several steps ago.
        """

    def step(self, taken: Tensor) -> None:
        """Let the optimizer move the parameters, where `taken` is true; otherwise neither they nor its state change.

        Args:
            taken: bool, scalar, the same on every rank. It stays on its device, which is not waited for; DeepSpeed's
                own step waits, so `deepspeed` does.
        """

    def parameters_changed(self) -> None:
        """Go on from the parameters as they are now: between steps, somebody else than the optimizer changed some."""

    def optimizer_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What the optimizer has gathered, whole on every rank (see `cluster.engines.optimizer_state`)."""

    def load_optimizer_state(self, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
        """Take over a state of any engine, and the parameters that the module has by now.

        Learning rate and betas stay what they are here. Raises ClusterError if the groups hold other numbers of
        parameters.
        """


def build_engine(
    name: EngineName,
    module: nn.Module,
    parameters: Sequence[nn.Parameter],
    optimizer: Optimizer,
    world: World,
    *,
    zero_stage: int = 0,
) -> Engine:
    """The engine of that name for one player.

    Args:
        module: forwards go through it. On more than one rank its parameters and buffers take rank 0's values.
        parameters: those that train, in an order that is the same on all ranks and in every run.
        optimizer: of the same parameters, fused: torch's fused optimizers skip a step on a word that is on the device.
        zero_stage: of `deepspeed`: 0, 1 or 2.

    Raises:
        ClusterUsageError: the engine cannot serve this world, or the optimizer is not fused.
    """
    match name:
        case "local":
            if world.size > 1:
                raise ClusterUsageError(f"engine 'local' serves one process, but there are {world.size}; choose 'ddp'")
            return LocalEngine(module, parameters, optimizer)
        case "ddp":
            return DdpEngine(module, parameters, optimizer, world)
        case "deepspeed":
            from cluster.engines.deepspeed import DeepSpeedEngine

            return DeepSpeedEngine(module, parameters, optimizer, world, zero_stage)
