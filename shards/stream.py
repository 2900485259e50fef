"""Endless batches of a packed dataset, from any position, for one rank of many.

A position counts images taken from the stream by all ranks together. The batch at position p holds the images that
shards.order puts at p .. p + global_batch - 1; slot s of it belongs to rank s mod world. Nothing else is state: a run
goes on exactly where it was from that one integer, also at another world size, with other workers.

Images are read by a thread of this process (workers = 0), which hides the reading behind the step of a small training;
or by processes, for many images a second. Those are told which images to read, own nothing, and hand over whole batches
through shared memory (/dev/shm), `prefetch` batches each.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from shards.dataset import ShardDataset
from shards.errors import ShardsError, ShardsUsageError
from shards.order import Order, mirrored, order, slots

_Loaded = tuple[Tensor, Tensor, Tensor]  # images, labels, indices


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch, in slot order; n = global_batch / world."""

    images: Tensor  # uint8 [n, C, H, W]
    labels: Tensor  # int64 [n], -1: none
    indices: NDArray[np.int64]  # [n], in the dataset
    wait_s: float  # how long the taker waited for it


@dataclass(frozen=True)
class _Plan:
    """What to read for one batch of one rank."""

    indices: NDArray[np.int64]  # [n]
    flips: NDArray[np.bool_] | None  # [n]


class BatchStream:
    """Batches of `dataset` for one rank.

    Args:
        seed: of the order and the flips. Give two streams of one run different seeds.
        global_batch: images per batch over all ranks; must divide by `world`.
        order: "full" or "shard_local" (shards.order).
        mirror: flip each image left to right with probability one half, decided by (seed, position).
        workers: reading processes; 0: a thread of this one.
        prefetch: batches read ahead, per process. With 0 workers, 0 reads when asked.
        pin: put batches in page-locked memory, for copies to an accelerator that do not wait.

    Raises:
        ShardsUsageError: numbers that cannot be.
    """

    def __init__(
        self,
        dataset: ShardDataset,
        *,
        seed: int,
        global_batch: int,
        rank: int = 0,
        world: int = 1,
        order: Order = "full",
        mirror: bool = False,
        workers: int = 0,
        prefetch: int = 2,
        pin: bool = False,
    ) -> None:
        if workers < 0 or prefetch < 0 or (workers and not prefetch):
            raise ShardsUsageError(
                f"workers={workers}, prefetch={prefetch}: neither may be negative, and workers read ahead"
            )
        if pin and not torch.cuda.is_available():
            raise ShardsUsageError("pin: there is no accelerator to copy to")
        self.dataset = dataset
        self.seed, self.global_batch, self.order, self.mirror = seed, global_batch, order, mirror
        self.workers, self.prefetch, self.pin = workers, prefetch, pin
        self._slots = slots(rank, world, global_batch)

    def batches(self, position: int) -> Generator[Batch, None, None]:
        """Batches without end, the first at `position`, a multiple of the global batch.

        Raises:
            ShardsUsageError: no batch begins there.
            ShardsError: a shard is damaged (named), or a reading process died.
        """
        if position < 0 or position % self.global_batch:
            raise ShardsUsageError(f"position={position} is not a multiple of global_batch={self.global_batch}")
        return self._timed(self._from_processes(position) if self.workers else self._from_thread(position))

    def _timed(self, loaded: Iterator[_Loaded]) -> Generator[Batch, None, None]:
        while True:
            start = time.perf_counter()
            images, labels, indices = next(loaded)
            yield Batch(images, labels, indices.numpy(), time.perf_counter() - start)

    def _plans(self, position: int) -> Iterator[_Plan]:
        for start in count(position, self.global_batch):
            stop = start + self.global_batch
            indices = order(
                self.order,
                seed=self.seed,
                count=len(self.dataset),
                global_batch=self.global_batch,
                start=start,
                stop=stop,
                shard_counts=self.dataset.index.shard_counts,
            )
            flips = mirrored(self.seed, start, stop)[self._slots] if self.mirror else None
            yield _Plan(indices[self._slots], flips)

    def _from_thread(self, position: int) -> Iterator[_Loaded]:
        plans = self._plans(position)
        if not self.prefetch:
            for plan in plans:
                yield self._pinned(_load(self.dataset, plan))
        thread = ThreadPoolExecutor(1, "shards")
        waiting: deque[Future[_Loaded]] = deque()
        try:
            while True:
                for plan in islice(plans, self.prefetch + 1 - len(waiting)):
                    waiting.append(thread.submit(lambda plan: self._pinned(_load(self.dataset, plan)), plan))
                yield waiting.popleft().result()
        finally:
            thread.shutdown(wait=False, cancel_futures=True)

    def _pinned(self, loaded: _Loaded) -> _Loaded:
        images, labels, indices = loaded
        return (images.pin_memory(), labels.pin_memory(), indices) if self.pin else loaded

    def _from_processes(self, position: int) -> Iterator[_Loaded]:
        loader = DataLoader(
            _Reader(self.dataset),
            batch_size=None,  # whole batches are made in the worker: one message per batch
            sampler=_Plans(self, position),
            num_workers=self.workers,
            prefetch_factor=self.prefetch,
            pin_memory=self.pin,
            worker_init_fn=_leave_signals_to_parent,
            generator=torch.Generator(),  # else the loader draws its seed from the trainer's generator
        )
        try:
            for loaded in loader:
                if isinstance(loaded, str):
                    raise ShardsError(loaded)
                yield loaded
        except RuntimeError as error:
            raise ShardsError(_death(error)) from None


def _load(dataset: ShardDataset, plan: _Plan) -> _Loaded:
    pixels, labels = dataset.read_batch(plan.indices)
    if plan.flips is not None:
        pixels[plan.flips] = pixels[plan.flips, :, :, ::-1]
    return torch.from_numpy(pixels), torch.from_numpy(labels), torch.from_numpy(plan.indices)


class _Reader(Dataset[Any]):
    """What a reading process runs. A damaged shard comes back as text: DataLoader would wrap it in a traceback."""

    def __init__(self, dataset: ShardDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, plan: _Plan) -> _Loaded | str:
        try:
            return _load(self.dataset, plan)
        except ShardsError as error:
            return str(error)


class _Plans(Sampler[_Plan]):
    def __init__(self, stream: BatchStream, position: int) -> None:
        self.stream, self.position = stream, position

    def __iter__(self) -> Iterator[_Plan]:
        return self.stream._plans(self.position)


def _leave_signals_to_parent(_: int) -> None:
    """Slurm and Ctrl-C signal every process of a job; only the trainer may answer, by a save."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def _death(error: RuntimeError) -> str:
    memory = os.statvfs("/dev/shm")
    free_mb = memory.f_bavail * memory.f_frsize / 1e6
    return (
        f"a reading process died: {str(error).splitlines()[0]} "
        f"(/dev/shm, through which batches come, has {free_mb:,.0f} MB free; with workers=0 it is not needed)"
    )
