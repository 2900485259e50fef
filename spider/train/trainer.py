"""Everything that trains, as one object: an iteration of it, and its state.

The trainer knows no method. It draws what a phase needs, lets its passes run, reduces their terms over the global
batch, and steps the phase's player; what is drawn, weighed and minimised are the choices of the configuration.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cluster.checkpoint import Snapshot
from cluster.engines.engine import build_engine
from cluster.world import World
from shards.order import Slots
from shards.stream import Batch, BatchStream
from spider import draws
from spider.config.schema import Config, OptimizerConfig
from spider.data import open_images
from spider.errors import SpiderError
from spider.frozen import FrozenGenerator
from spider.images import to_float
from spider.networks.build import build_discriminator, build_generator
from spider.networks.outputs import Condition
from spider.objectives.build import build_objective
from spider.overfit.controller import OverfitController
from spider.selection.select import Selected, Selection
from spider.sources.build import build_source
from spider.train.guard import Guard
from spider.train.phases import Losses, Pass, Phase, PhaseBatch
from spider.train.player import Ema, Player, make_optimizer
from spider.train.stats import Stats
from spider.train.terms import MethodState, Term

Buffers = list[tuple[Tensor, Tensor]]

DTYPES = {"fp32": torch.float32, "bf16": torch.float32, "fp16": torch.float32, "fp64": torch.float64}
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Waits:
    """Seconds that the loop waited for images since it was last asked."""

    seconds: float = 0.0

    def take(self) -> float:
        """The seconds, and begin anew."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


class Trainer:
    """Players, phases, method states and the clock.

    Attributes:
        images: images shown so far, the clock. One iteration adds the global batch, whatever d_steps is.
        warnings: what the last iteration had to say.
    """

    def __init__(self, config: Config, world: World) -> None:
        config.for_world(world.size)
        self.config = config
        self.world = world
        self.images = 0
        self.waits = Waits()
        self.last_k = config.batch  # of the last generator step
        self.warnings: list[str] = []
        self.dataset = open_images(config.data.path)
        index = self.dataset.index
        self.image_shape = (index.channels, index.height, index.width)
        self.slots = Slots(config.batch, world.rank, world.size)
        self.dtype = DTYPES[config.compute.precision]
        self.source = build_source(config.source, self.image_shape, world.device, self.dtype)
        self._build_players()
        self.stats = Stats(world)
        self.guard = Guard(config.guard)
        self.selection = Selection(config.selection, config.batch, config.seed)
        self.overfit = OverfitController(config.overfit, config.batch)
        self.losses = Losses(
            self.generator,
            self.discriminator,
            build_objective(config.objective),
            config.penalties,
            config.penalties.interval_steps * (config.d_steps if config.penalties.phase == "own" else 1),
            partial(_autocast, config.compute.precision, world.device.type),
            self.stats,
        )
        self._feeds: tuple[Iterator[Batch], Iterator[Tensor]] | None = None

    # ------------------------------------------------------------------------------------------------ one iteration

    @property
    def step(self) -> int:
        """Iterations done."""
        return self.images // self.config.batch

    def iterate(self) -> None:
        """One iteration: d_steps steps of the discriminator, one of the generator, and the clock moves by the batch."""
        penalties = self.config.penalties
        lazy_due = penalties.active and self.step % penalties.interval_steps == 0
        merged = lazy_due and penalties.phase == "merged"
        passes: tuple[Pass, ...] = (self.losses.d_adversarial, *((self.losses.d_penalty,) if merged else ()))
        self.warnings = []

        for d_step in range(self.config.d_steps):
            before = self._buffers()
            parts = [self.losses.with_fakes(part) for part in self._draw(d_step)]
            self.run(Phase("d_main", self.discriminator, passes), parts, before)
        if lazy_due and not merged:
            self.run(Phase("d_reg", self.discriminator, (self.losses.d_penalty,)), parts)
        self.run(Phase("g_main", self.generator, (self.losses.g_adversarial,), selects=True), self._draw(None))

        self.images += self.config.batch
        self.ema.update(self.generator.module, self.config.batch, self.images)
        self._update_methods()

    def run(self, phase: Phase, parts: list[PhaseBatch], before: Buffers | None = None) -> None:
        """One phase: every pass over every micro-batch, one reduction over ranks, one optimizer step.

        A step whose loss or gradient is not finite is skipped and leaves no trace but a warning and a count.

        Args:
            before: the networks' buffers as they were before the phase's first forward; None: as they are now.
        """
        player, scale = phase.player, self.config.compute.loss_scale
        before, pending = before or self._buffers(), self.stats.pending()
        total = torch.zeros((), dtype=torch.float64, device=self.world.device)
        values: list[tuple[str, Tensor]] = []
        player.engine.zero_grad()
        with player.playing():
            chosen = self._choose_ahead(phase, parts)
            for m, part in enumerate(parts):
                for one_pass in phase.passes:
                    terms = one_pass(part)
                    loss = self._reduce(phase, terms, None if chosen is None else chosen[m])
                    last = m == len(parts) - 1 and one_pass is phase.passes[-1]
                    player.engine.backward(loss * scale if scale != 1 else loss, last=last)
                    total += loss.detach()
                    values += [(term.name, term.values.detach()) for term in terms]
        norm = player.engine.gradient_norm(scale)
        if self.world.is_finite(norm + self.world.all_reduce_sum(total)):
            player.engine.step()
            self.guard.passed(phase.name)
            for name, value in values:
                self.stats.add(name, value)
            self.stats.add(f"grad_norm/{phase.name}", norm)
        else:
            for buffer, value in before:
                buffer.copy_(value)
            self.stats.restore(pending)
            bad = [name for name, value in values if not bool(value.isfinite().all())]
            gradients = {f"gradient of {player.name}.{name}": at for name, at in player.engine.non_finite().items()}
            self.warnings.append(self.guard.skip(phase.name, bad, gradients, self.images, self.world))

    def _reduce(self, phase: Phase, terms: Sequence[Term], chosen: Selected | None) -> Tensor:
        """The share of this micro-batch in the sum of the terms' means over the global batch."""
        shares = []
        for term in terms:
            if phase.selects and term.scores is not None and self.selection.active:
                chosen = chosen or self.selection.pick(term.scores, self.images, self.world)
                shares.append(term.share(chosen.total, chosen.weights))
                self._report_selection(term.scores, chosen)
            else:
                shares.append(term.share(float(self.config.batch)))
        return torch.stack(shares).sum()

    def _choose_ahead(self, phase: Phase, parts: list[PhaseBatch]) -> list[Selected] | None:
        """With several micro-batches the selection must see every score before the first backward: an extra forward."""
        if not (phase.selects and self.selection.active and len(parts) > 1):
            return None
        with torch.no_grad():
            scores = [term.scores for part in parts for term in phase.passes[0](part) if term.scores is not None]
        # parts hold slots m, m + A, m + 2A, ...: [n, A] -> [n A] is slot order
        chosen = self.selection.pick(torch.stack(scores, dim=1).flatten(), self.images, self.world)
        return [Selected(chosen.weights[m :: len(parts)], chosen.total, chosen.k) for m in range(len(parts))]

    def _report_selection(self, scores: Tensor, chosen: Selected) -> None:
        picked = chosen.weights.bool()
        self.last_k = chosen.k
        self.stats.add("selection/score_all", scores)
        self.stats.add("selection/score_selected", scores[picked])
        self.stats.add("selection/k", scores.new_full((1,), float(chosen.k)))

    def _update_methods(self) -> None:
        """The batch is over: tell the overfit controller, move k, write its trace."""
        step = self.step - 1
        iteration = self.stats.reduce()
        if "signs/real" in iteration:
            self.overfit.observe(iteration["signs/real"])
        moved = self.overfit.due(step)
        if moved:
            self.overfit.adjust()
        if self.config.selection.update == "step" or moved:
            self.selection.walk(step, self.overfit.p)

    # ------------------------------------------------------------------------------------------------------- drawing

    def _draw(self, d_step: int | None) -> list[PhaseBatch]:
        """What the next phase needs, drawn once: images and source for the discriminator, source for the generator."""
        real_feed, source_feed = self._feeds = self._feeds or self._open_feeds()
        real = mix = None
        if d_step is not None:  # before the source: reading processes are forked best while no thread works
            batch = next(real_feed)
            self.waits.seconds += batch.wait_s
            real = self._to_device(to_float(batch.images.to(self.world.device, non_blocking=True), self.dtype))
            if self.config.penalties.gp_weight:
                position = (self.step * self.config.d_steps + d_step) * self.config.batch
                drawn = draws.uniform(self.config.seed, "penalty.mix", self.slots.at(position), (1,))
                mix = drawn[:, 0].to(self.world.device, self.dtype)
        started = time.perf_counter()
        source = next(source_feed)
        self.waits.seconds += time.perf_counter() - started
        source = self._to_device(source.to(self.world.device, self.dtype, non_blocking=True))
        return PhaseBatch(source, Condition(), real, mix=mix).split(self.config.accumulation)

    def close(self) -> None:
        """Let go of the threads and processes that read ahead."""
        self._feeds = None

    def _open_feeds(self) -> tuple[Iterator[Batch], Iterator[Tensor]]:
        config, slots = self.config, self.slots
        real = BatchStream(
            self.dataset,
            seed=draws.torch_seed(config.seed, "train.real"),
            global_batch=slots.batch,
            rank=slots.rank,
            world=slots.world,
            order=config.data.order,
            mirror=config.data.mirror,
            workers=config.data.workers,
            pin=self.world.device.type == "cuda",
        )
        iteration = self.step * slots.batch
        # The discriminator draws d_steps batches of both per iteration, the generator one more of the source
        return (
            iter(real.batches(iteration * config.d_steps)),
            self.source.feed(config.seed, slots, iteration * (config.d_steps + 1)),
        )

    def _to_device(self, images: Tensor) -> Tensor:
        if self.config.compute.channels_last and images.dim() == 4:
            return images.contiguous(memory_format=torch.channels_last)
        return images

    # ------------------------------------------------------------------------------------------------------ building

    def _build_players(self) -> None:
        config, world = self.config, self.world
        own = config.penalties.phase == "own" and config.penalties.active
        # A step of its own comes after so many steps of the discriminator
        interval = config.penalties.interval_steps * config.d_steps if own else None
        generator = build_generator(config.generator, self.source, self.image_shape, world, config.seed)
        discriminator = build_discriminator(config.discriminator, self.image_shape, world, config.seed)
        self.generator = self._player("generator", generator, config.g_optimizer, None)
        self.discriminator = self._player("discriminator", discriminator, config.d_optimizer, interval)
        self.ema = Ema(config.ema, self.generator.module)
        self._all_buffers = [*self.generator.module.buffers(), *self.discriminator.module.buffers()]

    def _player(self, name: str, module: nn.Module, optimizer: OptimizerConfig, own_interval: int | None) -> Player:
        module = module.to(self.world.device, self.dtype).train()
        if self.config.compute.channels_last:
            module = module.to(memory_format=torch.channels_last)
        trainable = tuple((n, p) for n, p in module.named_parameters() if p.requires_grad)
        parameters = [parameter for _, parameter in trainable]
        adam = make_optimizer(optimizer, parameters, own_interval)
        kind = (
            self.config.engine.kind
            if self.config.engine.kind != "auto"
            else ("ddp" if self.world.size > 1 else "local")
        )
        stage = self.config.engine.zero_stage
        engine = build_engine(kind, module, parameters, adam, self.world, zero_stage=stage)
        module.requires_grad_(False)
        first_order: Callable[..., object] = torch.compile(module) if self.config.compute.compile else module
        return Player(name, module, first_order, trainable, adam, engine)

    # --------------------------------------------------------------------------------------------------------- state

    def frozen(self) -> FrozenGenerator:
        """The averaged generator as it is now."""
        return FrozenGenerator(
            self.ema.module, self.source, self.image_shape, self.world.device, training=self.dataset.fingerprint
        )

    def _methods(self) -> dict[str, MethodState]:
        return {"overfit": self.overfit, "selection": self.selection, "stats": self.stats, "guard": self.guard}

    def _inputs(self) -> dict[str, str]:
        """What the run reads, by content: a resumed run must read the same."""
        return {"data": self.dataset.fingerprint, "source": self.source.identity}

    def snapshot(self) -> Snapshot:
        """The whole state. Between iterations only. Collective."""
        g_moments, g_state = self.generator.engine.optimizer_state()
        d_moments, d_state = self.discriminator.engine.optimizer_state()
        return Snapshot(
            tensors={
                "generator": self.generator.module.state_dict(),
                "generator_ema": self.ema.module.state_dict(),
                "discriminator": self.discriminator.module.state_dict(),
                "g_optimizer": g_moments,
                "d_optimizer": d_moments,
            },
            state={
                "images": self.images,
                "image_shape": list(self.image_shape),
                "inputs": self._inputs(),
                "g_optimizer": g_state,
                "d_optimizer": d_state,
                **{name: method.state() for name, method in self._methods().items()},
            },
        )

    def load(self, snapshot: Snapshot) -> None:
        """Take over a state. Raises SpiderError if it belongs to other data or another source."""
        for what, mine in self._inputs().items():
            if (theirs := snapshot.state["inputs"][what]) != mine:
                way = f"give the {what} that it began with"
                if what == "source" and self.config.source.kind == "generator":
                    way = "name the checkpoint that it began with, source.run=RUN@KIMG, if that is kept"
                raise SpiderError(
                    f"{what}: the checkpoint was trained on {theirs}, this configuration reads {mine}; {way}, "
                    "or begin in another folder with --run"
                )
        self.generator.module.load_state_dict(snapshot.tensors["generator"])
        self.ema.module.load_state_dict(snapshot.tensors["generator_ema"])
        self.discriminator.module.load_state_dict(snapshot.tensors["discriminator"])
        for player, key in ((self.generator, "g_optimizer"), (self.discriminator, "d_optimizer")):
            player.engine.load_optimizer_state(snapshot.tensors[key], snapshot.state[key])
        for name, method in self._methods().items():
            method.load(snapshot.state[name])
        self.images = snapshot.state["images"]
        self._feeds = None

    def _buffers(self) -> Buffers:
        """The networks' buffers, each with a copy."""
        return [(buffer, buffer.clone()) for buffer in self._all_buffers]


def _autocast(precision: str, device: str) -> AbstractContextManager[Any]:
    dtype = AUTOCAST.get(precision)
    return nullcontext() if dtype is None else torch.autocast(device, dtype)
