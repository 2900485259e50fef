"""Whether a checkpoint can be taken over: its manifest vouches for its bytes, not for their sense.

A checkpoint that was edited, or written by another version, may lack a tensor, have it in another shape, or say a clock
that its name does not. It would end a training in a traceback, or go on with other numbers and say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from cluster.checkpoint import Snapshot
from spider.runs.directory import checkpoint_name
from spider.runs.stored import require_tensors

if TYPE_CHECKING:
    from spider.train.player import Player
    from spider.train.trainer import Trainer


def require_same_run(snapshot: Snapshot, trainer: Trainer, name: str) -> None:
    """Refuse what is no state that this run can have in a checkpoint of that name. All ranks.

    Raises KeyError or ValueError that names the entry.
    """
    images = snapshot.state["images"]
    if type(images) is not int or images < 0 or checkpoint_name(images) != name:
        raise ValueError(f"its clock is {images!r} images")
    require_same_networks(snapshot, trainer)
    mine = trainer.snapshot()
    for group, expected in mine.tensors.items():
        for key, tensor in snapshot.tensors[group].items():
            if key in expected and tensor.dtype != expected[key].dtype:
                raise ValueError(f"{group}.{key} is {tensor.dtype}, not {expected[key].dtype}")
    _require_alike(snapshot.state, mine.state, "state")


def require_same_networks(snapshot: Snapshot, trainer: Trainer) -> None:
    """Refuse what cannot be loaded into the networks of this run, and their optimizers. All ranks.

    Raises KeyError or ValueError that names the tensor; SpiderError for other data, another source or version.
    """
    trainer.require_same_inputs(snapshot)
    players = {"g_optimizer": trainer.generator, "d_optimizer": trainer.discriminator}
    for group, expected in trainer.snapshot().tensors.items():
        if group in players:
            _require_moments(snapshot.tensors[group], snapshot.state[group], players[group], group)
        else:
            require_tensors(snapshot.tensors[group], expected, group)


def _require_moments(found: Mapping[str, Tensor], rest: Mapping[str, Any], player: Player, group: str) -> None:
    """Of every parameter that has any: the same ones, of its shape, without NaN.

    An infinite second moment is a square that overflowed, of which a step makes zero.
    """
    keys: dict[str, set[str]] = {owner: set() for owner in rest if not owner.startswith("group.")}
    for name, tensor in found.items():
        owner, _, key = name.partition(".")
        if owner == "group":
            continue
        keys[owner].add(key)
        _, parameter = player.trainable[int(owner)]
        if tensor.dim() and tensor.shape != parameter.shape:
            raise ValueError(f"{group}.{name} has shape {[*tensor.shape]}, not {[*parameter.shape]}")
        if bool(tensor.isnan().any()):
            raise ValueError(f"{group}.{name} is not a number")
    every = set.union(*keys.values()) if keys else set()
    for owner, own in keys.items():
        if own != every:
            raise ValueError(f"{group}.{owner}.{min(every - own)} is missing")


def _require_alike(found: Any, expected: Any, where: str) -> None:
    """Values of the kinds that are there now. What is missing, or None now, is for who takes it over to judge."""
    if isinstance(expected, Mapping):
        if not isinstance(found, Mapping):
            raise ValueError(f"{where} is {found!r}, not an object")
        for key in expected.keys() & found.keys():
            _require_alike(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list | tuple | str | bool):
        kinds = list if isinstance(expected, list | tuple) else type(expected)
        if not isinstance(found, kinds):
            raise ValueError(f"{where} is {found!r}, not a {kinds.__name__}")
    elif expected is not None and (isinstance(found, bool) or not isinstance(found, int | float)):
        raise ValueError(f"{where} is {found!r}, not a number")
