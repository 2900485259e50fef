"""What a checkpoint stores, against what is expected of it: its manifest vouches for its bytes, not for their sense.

A checkpoint that was edited, or written by another version, may lack a tensor, have it in another shape, or say a clock
that its name does not. It would end a training in a traceback, or go on with other numbers and say nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from cluster.checkpoint import CheckpointStore, Snapshot, UnfitCheckpointError
from cluster.engines.optimizer_state import require_moments
from cluster.world import World
from spider.config.schema import Config
from spider.errors import SpiderError
from spider.runs.directory import checkpoint_name, require_format, resolve
from spider.settings.choices import Choice, sections_of
from spider.settings.marks import named
from untrusted.errors import UnreadableError
from untrusted.terminal import one_line

# What taking over a state raises that is not of the right form. No RuntimeError: a device whose memory is full is none
_MISFITS = (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, UnreadableError)


@contextmanager
def fitting(what: str) -> Iterator[None]:
    """Say in one line what does not fit. Raises UnfitCheckpointError that begins with `what`."""
    try:
        yield
    except _MISFITS as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise UnfitCheckpointError(f"{what}: {one_line(why)}") from error


def require_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], group: str) -> None:
    """Refuse other names and shapes, and what is not finite: the guard lets no such step be made.

    Raises ValueError that names the tensor.
    """
    if found.keys() != expected.keys():
        name = min(found.keys() ^ expected.keys())
        raise ValueError(f"{group}.{name} is {'missing' if name in expected else 'none of its tensors'}")
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(f"{group}.{name} has shape {[*tensor.shape]}, not {[*expected[name].shape]}")
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{group}.{name} is not finite")


def stored_tensors(run: str) -> Mapping[str, Mapping[str, Tensor]]:
    """Tensors of the checkpoint that RUN, RUN@best, RUN@last or RUN@KIMG names, by network and name, on the CPU.

    Raises SpiderUsageError where there is no such checkpoint, ClusterError where it is damaged.
    """
    ref = resolve(run)
    return CheckpointStore(ref.directory.checkpoints, World.single(torch.device("cpu"))).load(ref.checkpoint).tensors


def require_same_run(
    found: Snapshot, mine: Snapshot, optimized: Mapping[str, Sequence[Tensor]], config: Config, name: str
) -> None:
    """Refuse what is no state that a run can have in a checkpoint of that name.

    Args:
        mine: a state of the run, at any clock.
        optimized: the groups of tensors that are an optimizer's, each with the parameters that it moves.
        config: the run's.

    Raises KeyError or ValueError that names the entry; SpiderError as `require_same_inputs`.
    """
    images = found.state["images"]
    if type(images) is not int or images < 0 or checkpoint_name(images) != name:
        raise ValueError(f"its clock is {images!r} images")
    require_same_networks(found, mine, optimized, config)
    for group, expected in mine.tensors.items():
        for key, tensor in found.tensors[group].items():
            if key in expected and tensor.dtype != expected[key].dtype:
                raise ValueError(f"{group}.{key} is {tensor.dtype}, not {expected[key].dtype}")
    _require_alike(found.state, mine.state, "state")


def require_same_networks(
    found: Snapshot, mine: Snapshot, optimized: Mapping[str, Sequence[Tensor]], config: Config
) -> None:
    """Refuse what cannot be loaded into the networks of a run, and their optimizers. Arguments and errors as above."""
    require_same_inputs(found, mine, config)
    for group, expected in mine.tensors.items():
        if group in optimized:
            require_moments(found.tensors[group], found.state[group], optimized[group], group)
        else:
            require_tensors(found.tensors[group], expected, group)


def require_same_kinds(theirs: Config, mine: Snapshot, config: Config) -> None:
    """Refuse what another kind remembers, in the place of one that remembers: names of numbers may agree by chance.

    Args:
        theirs: of the run that a state comes from.
        mine, config: as above.

    Raises SpiderError that names the keys.
    """
    before, now = (
        {above.removesuffix("."): each.kind for above, each in sections_of(whole) if isinstance(each, Choice)}
        for whole in (theirs, config)
    )
    for key, kind in now.items():
        name = key.replace("g_penalties.more.", "g_penalties.")  # as the plan of a training calls the methods
        if (mine.state.get(name) or mine.tensors.get(name)) and before.get(key, kind) != kind:
            raise SpiderError(
                f"{key}.kind={kind}: the checkpoint holds what {key}.kind={before[key]} remembers; keep the order of "
                f"the list and the kinds of the run, or begin anew with its weights: --init RUN"
            )


def require_same_inputs(found: Snapshot, mine: Snapshot, config: Config) -> None:
    """Raise SpiderError if a state belongs to other data, another source or other weights, or to another version."""
    require_format(found.state, "the checkpoint")
    for what in ("data", "source"):
        if (theirs := found.state["inputs"][what]) != (here := mine.state["inputs"][what]):
            way = f"give the {what} that it began with"
            for each in named(config, f"{what}."):
                if each.what == "run":
                    way = f"name the checkpoint that it began with, {each.key}=RUN@KIMG, if that is kept"
            raise SpiderError(
                f"{what}: the checkpoint was trained on {theirs}, this configuration reads {here}; {way}, "
                "or begin in another folder with --run"
            )
    require_same_weights(found.state["inputs"].get("weights", {}), mine.state["inputs"]["weights"], "the checkpoint")


def require_same_weights(found: Mapping[str, str], mine: Mapping[str, str], where: str) -> None:
    """Refuse other weights of a part that names them, which a checkpoint does not hold.

    Args:
        found: of a checkpoint, by part (see `spider.gan.saved.named_weights`).
        mine: of the networks at hand.
        where: names the checkpoint.

    Raises SpiderError that names both digests.
    """
    for part in sorted(found.keys() | mine.keys()):
        theirs, here = (by_part.get(part, "weights that it holds itself") for by_part in (found, mine))
        if theirs != here:
            raise SpiderError(
                f"{part}: {where} was trained with {theirs}, here are {here}; give the weights that it began with"
            )


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
