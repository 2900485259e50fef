"""The tensors of a weights file, each taken once, under the names that its network was published with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Layers:
    """Tensors by name. What is missing, of another shape, or left over says that the file is another network's."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._left = {name: tensor for name, tensor in state.items() if not name.endswith(".num_batches_tracked")}

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor that a network of any size has. Raises ValueError if it is not there."""
        if name not in self._left:
            raise ValueError(f"it has no {name}")
        return tuple(self._left[name].shape)

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor of that name. Raises ValueError if it is not there, or of another kind."""
        tensor = self._left.pop(name, None)
        if tensor is None:
            raise ValueError(f"it has no {name}")
        if tuple(tensor.shape) != shape or not tensor.is_floating_point():
            raise ValueError(f"{name} is {tensor.dtype} {list(tensor.shape)}, and should be of floats {list(shape)}")
        return tensor

    def take_equal(self, name: str, known: Tensor) -> None:
        """Take a tensor that the network has anyway, if it is there. Raises ValueError if it is not equal to that."""
        tensor = self._left.pop(name, known)
        if tensor.dtype != known.dtype or not torch.equal(tensor, known):
            raise ValueError(f"{name} is not what this network has there")

    def require_none_left(self) -> None:
        """Raises ValueError if there are tensors that nobody took."""
        if self._left:
            raise ValueError(f"it also has {next(iter(self._left))}")

    def folded(self, conv: str, norm: str, shape: tuple[int, ...], eps: float) -> tuple[Tensor, Tensor]:
        """Weight and bias of a convolution followed by a batch normalisation under its running statistics.

        Computed in float64, returned in float32.

        Args:
            conv, norm: what the two are called.
            shape: of the weight, [out, in, kernel, kernel].
            eps: of the normalisation.
        """
        weight = self.take(f"{conv}.weight", shape).double()
        gain, shift, mean, variance = (
            self.take(f"{norm}.{name}", shape[:1]).double()
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        gain = gain / (variance + eps).sqrt()
        return (weight * gain[:, None, None, None]).float(), (shift - mean * gain).float()
