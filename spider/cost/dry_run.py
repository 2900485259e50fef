"""What a run will cost: a few real iterations, measured, and the rest by arithmetic. Writes nothing."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch

from cluster.world import World
from shards.errors import ShardsError
from spider.config.schema import Config, EngineConfig
from spider.cost.evaluation import EvaluationCost, evaluation_cost
from spider.cost.room import require_room
from spider.errors import SpiderError
from spider.gan.init.fit import Fit
from spider.gan.saved import saved_tensors
from spider.heartbeat import told_to_go_on
from spider.precision import set_numerics
from spider.runs.given import about_given, lines_of_fits
from spider.tables import duration, entries, size, speed
from spider.train.trainer import Trainer
from untrusted.counts import counted
from untrusted.terminal import tell, warn

_WARM_UP = 3  # iterations, compilation and allocation left out of the figures
_AT_LEAST_S, _AT_MOST_S = 1.0, 30.0  # of warming up, and of measuring; one iteration is measured whatever it takes


@dataclass(frozen=True)
class DryRun:
    """The figures. Memory is the peak of this rank, everything else is of the whole run, with its evaluations.

    Attributes:
        init: what became of each tensor of given weights, by network, as in init.json.
    """

    device: str
    world_size: int
    batch: int
    kimg: float
    generator_parameters: int
    discriminator_parameters: int
    iterations_measured: int
    sec_per_kimg: float
    img_per_s: float
    data_wait_percent: float
    evaluation: EvaluationCost | None
    hours: float
    host_memory_mb: float
    gpu_memory_mb: float | None
    checkpoint_mb: float
    disk_gb: float
    init: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def table(self) -> str:
        """For a person."""
        gpu = "" if self.gpu_memory_mb is None else f", {self.gpu_memory_mb:,.0f} MB on the GPU"
        rows = [
            ("device", f"{self.world_size} x {self.device}"),
            ("parameters", f"G {self.generator_parameters:,}, D {self.discriminator_parameters:,}"),
            ("speed", f"{duration(self.sec_per_kimg, fine=True)} per kimg, {speed(self.img_per_s)}"),
            ("measured over", counted(self.iterations_measured, "iteration")),
            ("data wait", f"{self.data_wait_percent:.1f} % of the time"),
            ("memory per rank", f"{self.host_memory_mb:,.0f} MB{gpu}"),
            ("evaluation", self._evaluation()),
            ("length", f"{self.kimg:g} kimg: {duration(self.hours * 3600)}"),
            ("disk", f"{size(self.disk_gb * 2**30)}, a checkpoint is {size(self.checkpoint_mb * 2**20)}"),
        ]
        return entries(rows)

    def _evaluation(self) -> str:
        cost = self.evaluation
        if cost is None:
            return "none (evaluate.every_kimg)"
        scaled = f" (embedding scaled from {cost.images_measured:,} to {cost.images:,} images)"
        one = f"{duration(cost.sec_per_evaluation, fine=True)}{scaled if cost.images_measured < cost.images else ''}"
        whole = f"{duration(cost.sec, fine=True)} of the length"
        return (
            f"{cost.evaluations:,} x {one}, once {duration(cost.reference_sec, fine=True)} for the reference: {whole}"
        )


def dry_run(config: Config, world: World, *, begins: bool = True) -> DryRun:
    """Measure `config` on `world`; all ranks.

    One second at least, and every lazy phase twice; a minute at most, or one iteration if that takes longer.

    Args:
        begins: no checkpoint is gone on from, so that given weights are taken over first, and how they fit is told.

    Raises:
        SpiderUsageError: given weights do not fit.
        MachineError: on a CPU, there is no memory for an iteration.
    """
    set_numerics(deterministic=config.compute.deterministic, tf32=config.compute.tf32, compiled=config.compute.compile)
    with closing(Trainer(config, world)) as trainer:
        fits = _begin(trainer) if begins else {}
        return _measure(config, world, trainer, {network: fit.as_json() for network, fit in fits.items()})


def _begin(trainer: Trainer) -> Mapping[str, Fit]:
    """Take over given weights, as a run that begins would, and tell how they fit."""
    if trainer.world.is_main:
        for line in about_given(trainer.config, trainer.image_shape):
            tell(line)
    fits = trainer.begin()
    if trainer.world.is_main:
        for line in lines_of_fits(fits, in_full=True):
            tell(line)
    return fits


def _measure(config: Config, world: World, trainer: Trainer, init: dict[str, Any]) -> DryRun:
    generator, discriminator = (
        sum(p.numel() for p in player.parameters) for player in (trainer.generator, trainer.discriminator)
    )
    if world.is_main:
        for remark in trainer.remarks:
            warn(remark)
        networks = f"G {generator:,} and D {discriminator:,} parameters"
        batch = counted(config.batch, "image")
        tell(
            f"measuring iterations of {batch}, {networks}, on {world.device_name}: "
            f"at most {duration(2 * _AT_MOST_S)}, or one iteration if that takes longer"
        )
    interval = max(
        max(phase.every_steps, *(each.every_steps for each in phase.passes)) for phase in trainer.plan.phases
    )
    with told_to_go_on("measuring iterations") if world.is_main else nullcontext():
        require_room(trainer)
        done, seconds = _time_iterations(trainer, 2 * interval)
    snapshot = trainer.snapshot()
    checkpoint = sum(t.numel() * t.element_size() for group in snapshot.tensors.values() for t in group.values())
    data_wait_percent = 100 * trainer.feeds.waits.take() / seconds
    evaluation = evaluation_cost(trainer)
    images = done * config.batch
    cuda = world.device.type == "cuda"
    return DryRun(
        device=world.device_name,
        world_size=world.size,
        batch=config.batch,
        kimg=config.kimg,
        generator_parameters=generator,
        discriminator_parameters=discriminator,
        iterations_measured=done,
        sec_per_kimg=seconds / images * 1000,
        img_per_s=images / seconds,
        data_wait_percent=data_wait_percent,
        evaluation=evaluation,
        hours=(config.kimg * 1000 / images * seconds + (evaluation.sec if evaluation else 0.0)) / 3600,
        host_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        gpu_memory_mb=torch.cuda.max_memory_allocated() / 2**20 if cuda else None,
        checkpoint_mb=checkpoint / 2**20,
        disk_gb=checkpoint * config.checkpoints_kept / 2**30,
        init=init,
    )


def _time_iterations(trainer: Trainer, at_least: int) -> tuple[int, float]:
    """How many iterations were timed, and their seconds.

    If warming up takes too long, its last iteration is the one that was timed. The first one takes every step that is
    due only now and then, so that it is rather too long than too short.
    """
    world, started = trainer.world, time.perf_counter()
    for _ in range(_WARM_UP):
        trainer.feeds.waits.take()
        began = time.perf_counter()
        trainer.iterate()
        _synchronise(world)
        if world.any(time.perf_counter() - started > _AT_MOST_S):
            return 1, time.perf_counter() - began
    trainer.feeds.waits.take()
    started, done = time.perf_counter(), 0
    while True:
        trainer.iterate()
        done += 1
        _synchronise(world)
        seconds = time.perf_counter() - started
        if world.any(seconds > _AT_MOST_S) or not world.any(done < at_least or seconds < _AT_LEAST_S):
            return done, seconds


def checkpoint_bytes(config: Config) -> int | None:
    """The size of a checkpoint, from the networks alone; None where what they need is not there yet."""
    try:
        with closing(Trainer(config.model_copy(update={"engine": EngineConfig()}), World.single())) as trainer:
            total = 0
            for player, copies in ((trainer.generator, 2), (trainer.discriminator, 1)):  # one more for the average
                total += copies * sum(t.nbytes for t in saved_tensors(player.module).values())
                total += sum(t.nbytes for part in player.parts.values() for t in saved_tensors(part).values())
                total += 2 * sum(parameter.nbytes for parameter in player.parameters)  # Adam's two means
            return total
    except (SpiderError, ShardsError):
        return None


def _synchronise(world: World) -> None:
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
