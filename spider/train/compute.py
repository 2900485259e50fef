"""In what numbers, and in what memory format, a training computes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from spider.config.schema import ComputeConfig
from spider.gan.saved import freeze_named

_DTYPES = {"fp32": torch.float32, "bf16": torch.float32, "fp16": torch.float32, "fp64": torch.float64}
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Compute:
    """`compute.*` on one device.

    Attributes:
        dtype: of parameters, and of what networks are given.
    """

    def __init__(self, config: ComputeConfig, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.dtype = _DTYPES[config.precision]

    def autocast(self) -> AbstractContextManager[Any]:
        """What is run within is computed in the precision that was asked for."""
        dtype = _AUTOCAST.get(self.config.precision)
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)

    def laid_out(self, tensor: Tensor) -> Tensor:
        """Images in the memory format that was asked for; all else as it is."""
        if self.config.channels_last and tensor.dim() == 4:
            return tensor.contiguous(memory_format=torch.channels_last)
        return tensor

    def prepared(self, module: nn.Module) -> nn.Module:
        """A network on the device, in its dtype and memory format, in training mode but for frozen parts."""
        freeze_named(module)
        module = module.to(self.device, self.dtype).train()
        for part in module.modules():
            parameters = list(part.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                part.eval()  # its running statistics stay as well
        return module.to(memory_format=torch.channels_last) if self.config.channels_last else module

    def compiled(self, module: nn.Module) -> Callable[..., object]:
        """The network as first-order passes run it."""
        if not self.config.compile:
            return module
        # Else torch 2.11 takes what a parameter's requires_grad was for what it is, and gradients get lost.
        torch._dynamo.config.skip_tensor_guards_with_matching_dict_tags = False
        return torch.compile(module)
