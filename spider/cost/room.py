"""Whether an iteration fits into the host's memory, found before one is made: the system kills what takes too much.

    the passes of an iteration, forward, on one image and on two --> what their graphs hold --> what those of all hold

What an iteration takes beyond is counted: gradients and Adam's moments, and what the largest layer needs on its way.
That is rather too little than too much: it was 0.88 of what a stem of StyleGAN-XL took, and 0.54 of what StyleGAN2 did
with its penalties, so that nothing is refused that would fit.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from cluster.errors import MachineError
from spider.errors import SpiderUsageError
from spider.memory import free_bytes, training_needs_less
from spider.tables import size
from spider.train.trainer import Trainer
from untrusted.counts import counted

_ADAM = 3  # times the parameters: gradients and two moments
_ON_ITS_WAY = 3  # times the largest tensor that a pass holds: a layer's input, its output, and a gradient


@dataclass(frozen=True)
class Need:
    """What the next iteration takes on a rank beyond what is taken already, in bytes.

    Attributes:
        fixed: however many images there are.
        each: for an image of a micro-batch.
        images: of a micro-batch.
    """

    fixed: int
    each: int
    images: int

    @property
    def all(self) -> int:
        """Of a whole micro-batch."""
        return self.fixed + self.images * self.each


def require_room(trainer: Trainer) -> None:
    """Refuse a first iteration for which the host has no room. All ranks. Of a GPU's memory torch itself says so.

    Raises MachineError: how much it needs, how much is free, and what needs less.
    """
    world, here = trainer.world, socket.gethostname()
    if world.device.type != "cpu" or trainer.config.compute.compile:
        return
    need, free = needed(trainer), free_bytes()
    if need is None or free is None:
        return
    ranks = sum(host == here for host in world.all_gather_json(here))
    if world.any(ranks * need.all > free):
        most = (free // ranks - need.fixed) // max(need.each, 1)
        fit = f" (for {counted(most, 'image')} at a time)" if most > 0 else ""
        on = f" on each of {ranks} ranks" if ranks > 1 else ""
        raise MachineError(
            f"an iteration needs {size(need.all)} of memory or more{on}, {size(need.each)} for each of "
            f"{counted(need.images, 'image')} at a time, and {size(free)} are free{fit}: "
            f"{training_needs_less(trainer.config.networks_shrunk_by)}"
        )


def needed(trainer: Trainer) -> Need | None:
    """What the first iteration will take; None where a pass cannot be made on a single image. All ranks.

    `trainer` is as before then: its streams stand where they stood, and its networks' buffers are taken back.
    """
    buffers = [buffer for module in trainer.plan.modules.values() for buffer in module.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        with closing(trainer):
            one, two = ([*_passes(trainer, count)] for count in (1, 2))
    except (SpiderUsageError, ValueError):  # groups of images, or statistics of a batch
        return None
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
    most = max(map(_need, one, two), key=lambda need: need.all)
    parameters = sum(each.nbytes for player in trainer.plan.players for each in player.parameters)
    return Need(most.fixed + _ADAM * parameters, most.each, most.images)


@dataclass
class _Held:
    """What a pass holds for its way back: the bytes of each tensor. Of how many images it will be made."""

    images: int
    tensors: list[int] = field(default_factory=list)


def _need(one: _Held, two: _Held) -> Need:
    """Of a pass, by what it holds of one image and of two."""
    larger = zip(sorted(one.tensors), sorted(two.tensors), strict=False)
    largest = max((after - before for before, after in larger), default=0)
    grows = sum(two.tensors) - sum(one.tensors)
    return Need(max(0, sum(one.tensors) - grows), grows + _ON_ITS_WAY * largest, one.images)


def _passes(trainer: Trainer, count: int) -> Iterator[_Held]:
    """What each pass of the next iteration holds, if it is made on so many images of a micro-batch."""
    own = {each.untyped_storage().data_ptr() for module in trainer.plan.modules.values() for each in _held_by(module)}
    for phase in trainer.plan.phases:
        if not phase.due(trainer.step):
            continue
        for turn in range(phase.repeat):
            whole, *_ = trainer.feeds.draw(phase, trainer.step, turn)
        part = whole.part(slice(count))
        part = part if phase.prepare is None else phase.prepare(part)
        with phase.player.playing():
            for each in phase.passes_at(trainer.step, trainer.images):
                held = _Held(len(whole.source))
                with saved_tensors_hooks(_Counter(held, {*own}), lambda tensor: tensor):
                    each.run(part)
                yield held


@dataclass
class _Counter:
    """Adds up what a graph saves, each storage once."""

    held: _Held
    seen: set[int]

    def __call__(self, tensor: Tensor) -> Tensor:
        """Saves it as it is."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.seen:
            self.seen.add(storage.data_ptr())
            self.held.tensors.append(storage.nbytes())
        return tensor


def _held_by(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
