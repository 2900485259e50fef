"""What an optimizer has gathered, as named tensors and JSON: packed for a checkpoint, checked, and put back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from cluster.errors import ClusterError


def pack_optimizer(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's `state_dict` as named tensors and JSON, for a `Snapshot`.

    Tensors are named "INDEX.KEY" by the parameter's index in the optimizer and the entry's key ("3.exp_avg"), or
    "group.INDEX.KEY" if a group holds them; by key, so that a resumed optimizer's file has the bytes of the other's.
    """
    state_dict = optimizer.state_dict()
    entries = {str(index): entry for index, entry in state_dict["state"].items()}
    groups = {f"group.{i}": group for i, group in enumerate(state_dict["param_groups"])}
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {}
    for owner, entry in (entries | groups).items():
        ordered = sorted(entry.items())
        tensors |= {f"{owner}.{key}": value for key, value in ordered if isinstance(value, Tensor)}
        rest[owner] = {key: value for key, value in ordered if not isinstance(value, Tensor)}
    return tensors, rest


def unpack_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Put back what `pack_optimizer` took, into an optimizer of the same parameters in the same groups.

    The optimizer may keep the tensors themselves and change them as it steps.

    Raises:
        ClusterError: the groups hold other numbers of parameters.
    """
    entries: dict[str, dict[str, Any]] = {owner: dict(entry) for owner, entry in state.items()}
    for name, tensor in tensors.items():
        owner, key = name.rsplit(".", 1)
        entries[owner][key] = tensor
    groups = [entries.pop(owner) for owner in list(entries) if owner.startswith("group.")]
    saved, present = ([len(group["params"]) for group in held] for held in (groups, optimizer.param_groups))
    if saved != present:
        raise ClusterError(f"optimizer state for groups of {saved} parameters does not fit groups of {present}")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {
        int(index): {
            key: laid_out_as(parameters[int(index)], value) if isinstance(value, Tensor) else value
            for key, value in entry.items()
        }
        for index, entry in entries.items()
    }
    for group, own in zip(groups, optimizer.param_groups, strict=True):  # JSON has no tuples, which betas are.
        group |= {key: tuple(value) for key, value in group.items() if isinstance(own.get(key), tuple)}
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def require_moments(
    tensors: Mapping[str, Tensor], state: Mapping[str, Any], parameters: Sequence[Tensor], where: str
) -> None:
    """Refuse what `pack_optimizer` cannot have given of an optimizer of these parameters.

    Every parameter that has moments has the same ones, of its shape, without NaN. An infinite second moment is a square
    that overflowed, of which a step makes zero.

    Raises KeyError, IndexError or ValueError that names the tensor, which is called `where`.INDEX.KEY.
    """
    keys: dict[str, set[str]] = {owner: set() for owner in state if not owner.startswith("group.")}
    for name, tensor in tensors.items():
        owner, _, key = name.partition(".")
        if owner == "group":
            continue
        keys[owner].add(key)
        parameter = parameters[int(owner)]
        if tensor.dim() and tensor.shape != parameter.shape:
            raise ValueError(f"{where}.{name} has shape {[*tensor.shape]}, not {[*parameter.shape]}")
        if bool(tensor.isnan().any()):
            raise ValueError(f"{where}.{name} is not a number")
    every = set.union(*keys.values()) if keys else set()
    for owner, own in keys.items():
        if own != every:
            raise ValueError(f"{where}.{owner}.{min(every - own)} is missing")


def laid_out_as(parameter: Tensor, tensor: Tensor) -> Tensor:
    """A tensor of a parameter's shape in the parameter's memory format; one of another shape as it is.

    torch's fused optimizers walk through a parameter, its gradient and its moments as they lie in memory. Where one
    lies otherwise, as channels-last beside contiguous, they mix up the elements and say nothing.
    """
    if tensor.shape != parameter.shape or tensor.stride() == parameter.stride():
        return tensor
    return torch.empty_like(parameter, dtype=tensor.dtype, device=tensor.device).copy_(tensor)
