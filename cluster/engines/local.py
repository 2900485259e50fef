"""One process: plain autograd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cluster.checkpoint import pack_optimizer, unpack_optimizer
from cluster.errors import ClusterUsageError


class LocalEngine:
    """See `cluster.engines.engine.Engine`."""

    name = "local"

    def __init__(self, module: nn.Module, parameters: Sequence[nn.Parameter], optimizer: Optimizer) -> None:
        self.module = module
        self._parameters = list(parameters)
        self._names = _names_of(self._parameters, module, optimizer)
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

    def non_finite(self) -> dict[str, list[int]]:
        return {name: [0] for name, finite in zip(self._names, self._finite().tolist(), strict=True) if not finite}

    def gradient_norm(self, scale: float = 1.0) -> Tensor:
        gradients = self._gradients()
        if scale != 1:
            torch._foreach_div_(gradients, scale)
        return torch.nn.utils.get_total_norm(gradients)

    def step(self) -> None:
        self._optimizer.step()

    def optimizer_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return pack_optimizer(self._optimizer)

    def load_optimizer_state(self, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
        own = [
            {key: value for key, value in group.items() if key != "params"} for group in self._optimizer.param_groups
        ]
        unpack_optimizer(self._optimizer, tensors, rest)
        for group, settings in zip(self._optimizer.param_groups, own, strict=True):
            group.update(settings)

    def _gradients(self) -> list[Tensor]:
        """The gradients in the order of the parameters, after the last backward."""
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        assert len(gradients) == len(self._parameters), "no backward with last=True since zero_grad"
        return gradients

    def _finite(self) -> Tensor:
        """Whether each gradient is finite, bool [P], without waiting for the device."""
        return torch.stack([gradient.isfinite().all() for gradient in self._gradients()])


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
