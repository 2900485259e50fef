"""The two endless streams that phases draw from, real images and the generator's source, and where each stands.

Conditions come with what they belong to: with real images, or with inputs of the source, for which they are drawn, or
are those of the reals in the same slots. Further inputs that a network asks for (`Draw`) stand where the source's do.

A phase that draws its own batch takes the next one of the stream. So the position of a stream at an iteration is the
number of batches that all earlier phases took, which follows from the plan and the iteration alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from cluster.world import World
from shards.dataset import ShardDataset
from shards.order import Slots
from shards.stream import Batch, BatchStream
from spider import draws
from spider.config.schema import Config
from spider.draws import Address
from spider.gan.conditions.conditions import Conditions
from spider.gan.outputs import Condition
from spider.gan.pixels import to_float
from spider.gan.sources.inputs import inputs
from spider.gan.sources.source import Source
from spider.runs.timing import Waits
from spider.train.batch import PhaseBatch, given
from spider.train.compute import Compute
from spider.train.phases import Phase


@dataclass
class Feeds:
    """Draws what a phase needs, once for all its passes."""

    config: Config
    world: World
    dataset: ShardDataset
    source: Source
    conditions: Conditions
    phases: Sequence[Phase]
    compute: Compute

    def __post_init__(self) -> None:
        self.slots = Slots(self.config.batch, self.world.rank, self.world.size)
        self.waits = Waits()
        self._streams: tuple[Iterator[Batch], dict[str, Iterator[Tensor]]] | None = None
        self._last_real: tuple[Tensor, Condition] | None = None
        self._last_source: tuple[Tensor, Condition] | None = None

    def draw(self, phase: Phase, step: int, turn: int) -> list[PhaseBatch]:
        """The micro-batches of a phase: its step number `turn` in iteration `step`. Iterations come in order."""
        real_stream, source_streams = self._streams = self._streams or self._open(step)
        if phase.reals == "own":  # before the source: reading processes are forked best while no thread works
            self._last_real = self._next_real(real_stream)
        real, real_condition = (None, Condition()) if phase.reals == "none" else given(self._last_real)
        first = (phase.steps_before(step) + turn) * self.slots.batch
        at = Address(self.config.seed, phase.name, self.slots.at(first), self.world.device)
        if phase.source == "own":
            fake_condition = real_condition
            if not self.conditions.paired:
                fake_condition = self.conditions.drawn(at.seed, at.stream("condition"), at.positions, at.device)
            fed = {name: self._next_source(stream) for name, stream in source_streams.items()}
            self._last_source = fed.pop("source"), replace(fake_condition, draws=fed)
        source, fake_condition = given(self._last_source)
        batch = PhaseBatch(at, step * self.slots.batch, source, fake_condition, real_condition, real)
        return batch.part(slice(len(source) // phase.shrink)).split(self.config.accumulation)

    def close(self) -> None:
        """Let go of the threads and processes that read ahead. The next draw opens them where they have to stand."""
        self._streams = None

    def _next_real(self, stream: Iterator[Batch]) -> tuple[Tensor, Condition]:
        batch = next(stream)
        self.waits.seconds += batch.wait_s
        images = batch.images.to(self.world.device, non_blocking=True)
        real = self.compute.laid_out(to_float(images, self.compute.dtype))
        return real, self.conditions.of_reals(batch, self.world.device)

    def _next_source(self, stream: Iterator[Tensor]) -> Tensor:
        source = self.waits.next(stream).to(self.world.device, self.compute.dtype, non_blocking=True)
        return self.compute.laid_out(source)

    def _open(self, step: int) -> tuple[Iterator[Batch], dict[str, Iterator[Tensor]]]:
        config, slots = self.config, self.slots
        seed = draws.torch_seed(config.seed, "train.real")
        reals = BatchStream(
            self.dataset,
            seed=seed,
            global_batch=slots.batch,
            rank=slots.rank,
            world=slots.world,
            order=self.conditions.order(self.dataset, config.data.order, seed, slots.batch),
            mirror=config.data.mirror,
            workers=config.data.workers,
            pin=self.world.device.type == "cuda",
        )
        taken = {
            what: slots.batch * sum(phase.steps_before(step) for phase in self.phases if getattr(phase, what) == "own")
            for what in ("reals", "source")
        }
        networks = [phase.player.module for phase in self.phases]
        return iter(reals.batches(taken["reals"])), inputs(self.source, networks, config.seed, slots, taken["source"])
