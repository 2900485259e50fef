"""One process: plain autograd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cluster.engines.optimizer_state import laid_out_as, pack_optimizer, unpack_optimizer
from cluster.errors import ClusterUsageError
from cluster.world import World


class LocalEngine:
    """See `cluster.engines.engine.Engine`."""

    name = "local"

    def __init__(self, module: nn.Module, parameters: Sequence[nn.Parameter], optimizer: Optimizer) -> None:
        self.module = module
        self._parameters = list(parameters)
        self._names = _names_of(self._parameters, module, optimizer)
        if not getattr(optimizer, "_step_supports_amp_scaling", False):
            raise ClusterUsageError(
                f"{type(optimizer).__name__} of {type(module).__name__} must be made with fused=True: only a fused "
                "optimizer can skip a step for a gradient that is not finite without waiting for the device"
            )
        self._optimizer = optimizer

    def zero_grad(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def backward(self, loss: Tensor, *, last: bool) -> None:
        torch.autograd.backward(loss, inputs=self._parameters)
        if last:
            for parameter in self._parameters:
                if parameter.grad is None:  # As zeros, so that the optimizer moves the same parameters in every engine.
                    parameter.grad = torch.zeros_like(parameter)
                else:
                    parameter.grad = laid_out_as(parameter, parameter.grad)

    def measure(self, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        gradients = self._gradients()
        if scale != 1:
            torch._foreach_div_(gradients, scale)
        norms = torch.stack(torch._foreach_norm(gradients))  # [P]
        return torch.linalg.vector_norm(norms), norms.isfinite().expand(2, -1)

    def non_finite(self, finite: Tensor) -> dict[str, list[int]]:
        return blame(self._names, finite, World.single())

    def step(self, taken: Tensor) -> None:
        # As torch's GradScaler tells it: where this is 1, the kernel returns before it writes anything
        self._optimizer.found_inf = (~taken).float()  # type: ignore[attr-defined]
        self._optimizer.step()

    def parameters_changed(self) -> None:
        """The optimizer steps the parameters themselves."""

    def optimizer_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return pack_optimizer(self._optimizer)

    def load_optimizer_state(self, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
        own = {
            f"group.{i}": {key: value for key, value in group.items() if key != "params"}
            for i, group in enumerate(self._optimizer.param_groups)
        }
        unpack_optimizer(
            self._optimizer, tensors, {owner: {**entry, **own.get(owner, {})} for owner, entry in rest.items()}
        )

    def _gradients(self) -> list[Tensor]:
        """The gradients in the order of the parameters, after the last backward."""
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        assert len(gradients) == len(self._parameters), "no backward with last=True since zero_grad"
        return gradients


def blame(names: Sequence[str], finite: Tensor, world: World) -> dict[str, list[int]]:
    """See `cluster.engines.engine.Engine.non_finite`. Collective.

    Args:
        names: of the parameters.
        finite: bool [2, P]: this rank's own gradients, and their sums.
        world: the ranks.
    """
    own, summed = world.all_gather(finite[0]).tolist(), finite[1].tolist()  # [W][P], [P]
    return {
        name: [rank for rank in range(world.size) if not own[rank][i]] for i, name in enumerate(names) if not summed[i]
    }


def _names_of(parameters: Sequence[nn.Parameter], module: nn.Module, optimizer: Optimizer) -> list[str]:
    """The parameters' names, once it is sure that module, list and optimizer speak of the same ones."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not parameters:
        raise ClusterUsageError(f"{type(module).__name__} is to be trained, but the list of its parameters is empty")
    for i, parameter in enumerate(parameters):
        what = f"parameter {i}, {names.get(id(parameter), 'unnamed')} {list(parameter.shape)},"
        if id(parameter) not in names:
            raise ClusterUsageError(f"{what} is to be trained, but is not in {type(module).__name__}")
        if not parameter.requires_grad:
            raise ClusterUsageError(f"{what} is to be trained, but its requires_grad is False")
        if id(parameter) not in stepped:
            raise ClusterUsageError(f"{what} is to be trained, but the optimizer does not hold it")
    if len(stepped) != len(parameters):
        raise ClusterUsageError(
            f"the optimizer holds {len(stepped)} parameters of {type(module).__name__}, but {len(parameters)} "
            "different ones are to be trained"
        )
    return [names[id(parameter)] for parameter in parameters]
