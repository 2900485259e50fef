"""What a row of metrics.jsonl says of time and memory, and what is left of the run.

`img_per_s`, `sec_per_kimg` and `data_wait_percent` are those of training alone: of the time within iterations, without
evaluations, grids of samples and saves. `left_s` is the time that the images left take at `img_per_s`, and for each
evaluation that is still due (`evaluations_left`) the mean of those made since this start (`evaluation_s`). Until one
was made, that is unknown and `left_s` counts none. Grids and saves are not counted. `total_s` is the wall time since
this start, with all of these; memory is the peak since then.

Ranks go in step, and all show the same img/s. So of several ranks `timing` says which one the others waited for: the
one with the most work of its own (`slowest_rank`, and by how much it exceeds the mean of all), and the one that waited
longest for images (`data_wait_rank`; `data_wait_percent` is then its). Own work is wall time without that spent within
collectives and waiting for images; on rank 0 it includes what is written for people. It is the host's figure.
Collectives of NCCL return at once, so with GPUs the host waits for other ranks where it reads a result, which counts as
own work; collectives of DeepSpeed are not seen at all. What shows is a slow host or a slow reader; a slow GPU may not.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from cluster.world import World
from spider.clock import times_due
from spider.config.schema import Config


@dataclass
class Waits:
    """Seconds that the loop waited for images since it was last asked."""

    seconds: float = 0.0

    def next(self, stream: Iterator[Tensor]) -> Tensor:
        """The next of a stream, however long that takes."""
        started = time.perf_counter()
        came = next(stream)
        self.seconds += time.perf_counter() - started
        return came

    def take(self) -> float:
        """The seconds, and begin anew."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


class Timing:
    """Since the row before."""

    def __init__(
        self,
        world: World,
        config: Config,
        images: int,
        total_images: int,
        take_save_timing: Callable[[], dict[str, float]],
    ) -> None:
        """Begin, with the clock at `images` of `total_images`."""
        self.world = world
        self.config = config
        self._total = total_images
        self._take_save_timing = take_save_timing
        self._started = self._row_started = time.perf_counter()
        self._row_images = images
        self._training_s = 0.0
        self._speed = 0.0  # of the row before
        self._evaluations_s: list[float] = []
        self._evaluated_at = -1
        world.take_waited_s()  # for images to be packed, and all else before this

    @contextmanager
    def iteration(self) -> Iterator[None]:
        """What happens within is training."""
        started = time.perf_counter()
        yield
        self._training_s += time.perf_counter() - started

    @contextmanager
    def evaluation(self, images: int) -> Iterator[None]:
        """What happens within is an evaluation, at `images`. One that raises was abandoned, and is not counted."""
        started = time.perf_counter()
        yield
        self._evaluations_s.append(time.perf_counter() - started)
        self._evaluated_at = images

    def pace(self, images: int) -> dict[str, float | None]:
        """img_per_s of the row before (of training so far, in the first), and what is left: see the module."""
        config = self.config
        speed = self._speed or (images - self._row_images) / max(self._training_s, 1e-9)
        count = len(self._evaluations_s)
        evaluation_s = sum(self._evaluations_s) / count if count else None
        since = images if self._evaluated_at == images else images - config.batch  # one may be due just now
        due = times_due(since, self._total, config.batch, config.evaluate.every_kimg)
        training_s = max(0, self._total - images) / speed if speed else None
        return {
            "img_per_s": speed,
            "evaluation_s": evaluation_s,
            "evaluations_left": due,
            "left_s": None if training_s is None else training_s + due * (evaluation_s or 0.0),
        }

    def take(self, clock: int, data_wait_s: float) -> dict[str, float | None]:
        """Pace, data wait, memory, saves; which of several ranks holds the others up. All ranks. Begins anew.

        Args:
            clock: images so far.
            data_wait_s: what this rank waited for images, since the row before.
        """
        now = time.perf_counter()
        wall_s, training_s, images = now - self._row_started, self._training_s, clock - self._row_images
        if images:  # none in a last row after a kill that spared the rest
            self._speed = images / training_s
        self._row_started, self._row_images, self._training_s = now, clock, 0.0
        waited_s = self.world.take_waited_s()
        data_wait_percent = 100 * data_wait_s / training_s if images else 0.0
        timing: dict[str, float | None] = {
            **self.pace(clock),
            "sec_per_kimg": training_s / images * 1000 if images else None,
            "data_wait_percent": data_wait_percent,
            "total_s": now - self._started,
            "host_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            **self._take_save_timing(),
        }
        if self.world.device.type == "cuda":
            timing["gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
            timing["gpu_reserved_mb"] = torch.cuda.max_memory_reserved() / 2**20
        if self.world.size > 1:
            own_s = wall_s - data_wait_s - waited_s
            timing |= _over_ranks(self.world.all_gather_json([own_s, data_wait_percent]))
        return timing


def _over_ranks(by_rank: list[list[float]]) -> dict[str, float | None]:
    """Which rank holds the others up, from (seconds of own work, percent of the time waiting for images) of each."""
    own_s, data_wait_percent = zip(*by_rank, strict=True)
    slowest, waiting = max(own_s), max(data_wait_percent)
    return {
        "slowest_rank": own_s.index(slowest),
        "slowest_rank_percent": 100 * (slowest * len(own_s) / sum(own_s) - 1),
        "data_wait_percent": waiting,
        "data_wait_rank": data_wait_percent.index(waiting),
    }
