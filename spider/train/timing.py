"""What a row of metrics.jsonl says of time and memory.

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
from collections.abc import Callable

import torch

from spider.train.trainer import Trainer


class Timing:
    """Since the row before."""

    def __init__(self, trainer: Trainer, take_save_timing: Callable[[], dict[str, float]]) -> None:
        self.trainer = trainer
        self._take_save_timing = take_save_timing
        self._row_started = time.perf_counter()
        self._row_images = trainer.images
        trainer.world.take_waited_s()  # for images to be packed, and all else before this

    def take(self) -> dict[str, float | None]:
        """img/s, data wait, memory, saves; which of several ranks holds the others up. All ranks. Begins anew."""
        now, trainer = time.perf_counter(), self.trainer
        seconds, images = now - self._row_started, trainer.images - self._row_images
        self._row_started, self._row_images = now, trainer.images
        data_wait_s, waited_s = trainer.feeds.waits.take(), trainer.world.take_waited_s()
        timing: dict[str, float | None] = {
            "img_per_s": images / seconds,
            "sec_per_kimg": seconds / images * 1000 if images else None,  # a last row after a kill that spared the rest
            "data_wait_percent": 100 * data_wait_s / seconds,
            "host_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            **self._take_save_timing(),
        }
        if trainer.world.device.type == "cuda":
            timing["gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
            timing["gpu_reserved_mb"] = torch.cuda.max_memory_reserved() / 2**20
        if trainer.world.size > 1:
            own_s = seconds - data_wait_s - waited_s
            timing |= _over_ranks(trainer.world.all_gather_json([own_s, 100 * data_wait_s / seconds]))
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
