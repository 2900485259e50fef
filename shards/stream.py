"""Endless batches of a packed dataset, from any position, for one rank of many.

A position counts images taken from the stream by all ranks together. The batch at position p holds the images that
shards.order puts at p .. p + global_batch - 1; slot s of it belongs to rank s mod world. Nothing else is state: a run
goes on exactly where it was from that one integer, also at another world size, with other workers.

Images are read ahead by a thread of this process (workers = 0), which hides the reading behind the step of a small
training; or by processes, for many images a second. Those are told which images to read, own nothing, and hand over
whole batches through shared memory (/dev/shm).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shards.dataset import ShardDataset
from shards.errors import ShardsMachineError, ShardsUsageError
from shards.order import Indices, Order, Slots, mirrored, order
from shards.parallel import run, shared_memory, start_pool, start_thread

Reading = Callable[[int, int], Indices]  # (start, stop) -> the images at positions start .. stop - 1 [stop - start]
_Loaded = tuple[Tensor, Tensor]  # images, labels


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch, in slot order; n = global_batch / world."""

    images: Tensor  # uint8 [n, C, H, W]
    labels: Tensor  # int64 [n], -1: none
    indices: NDArray[np.int64]  # [n], in the dataset
    positions: NDArray[np.int64]  # [n], in the stream
    wait_s: float  # how long the taker waited for it


@dataclass(frozen=True)
class _Plan:
    """What to read for one batch of one rank."""

    indices: NDArray[np.int64]  # [n]
    positions: NDArray[np.int64]  # [n]
    flips: NDArray[np.bool_] | None  # [n]


def reading(dataset: ShardDataset, kind: Order, seed: int, global_batch: int, images: Indices | None = None) -> Reading:
    """All images of a dataset in an order, or those `images` of it (numbers that rise)."""
    counts = dataset.index.shard_counts
    if images is not None:
        counts = np.diff(np.searchsorted(images, np.cumsum([0, *counts]))).tolist()

    def read(start: int, stop: int) -> Indices:
        found = order(
            kind,
            seed=seed,
            count=sum(counts),
            global_batch=global_batch,
            start=start,
            stop=stop,
            shard_counts=counts,
        )
        return found if images is None else images[found]

    return read


class BatchStream:
    """Batches of `dataset` for one rank.

    Args:
        seed: of the order and the flips. Give two streams of one run different seeds.
        global_batch: images per batch over all ranks; must divide by `world`.
        order: "full" or "shard_local" of all images (shards.order), or a pure function that gives the images.
        mirror: flip each image left to right with probability one half, decided by (seed, position).
        workers: reading processes; 0: a thread of this one.
        prefetch: batches read ahead, by each process; 0: none.
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
        order: Order | Reading = "full",
        mirror: bool = False,
        workers: int = 0,
        prefetch: int = 2,
        pin: bool = False,
    ) -> None:
        if workers < 0 or prefetch < 0:
            raise ShardsUsageError(f"workers={workers}, prefetch={prefetch}: neither may be negative")
        if pin and not torch.cuda.is_available():
            raise ShardsUsageError("pin: there is no accelerator to copy to")
        self.dataset = dataset
        self.seed, self.global_batch, self.mirror = seed, global_batch, mirror
        self.reading = reading(dataset, order, seed, global_batch) if isinstance(order, str) else order
        self.workers, self.prefetch, self.pin = workers, prefetch, pin
        self._slots = Slots(global_batch, rank, world).at(0)  # of every batch

    def batches(self, position: int) -> Generator[Batch, None, None]:
        """Batches without end, the first at `position`, a multiple of the global batch.

        Raises:
            ShardsUsageError: no batch begins there.
            ShardsError: a shard is damaged (named), or a reading process died.
        """
        if position < 0 or position % self.global_batch:
            raise ShardsUsageError(f"position={position} is not a multiple of global_batch={self.global_batch}")
        return self._batches(position)

    def _batches(self, position: int) -> Generator[Batch, None, None]:
        with ExitStack() as stack:
            read = self._start_readers(stack)
            ahead = self.prefetch * max(self.workers, 1)
            plans = self._plans(position)
            waiting: deque[tuple[_Plan, Future[_Loaded]]] = deque()
            while True:
                start = time.perf_counter()
                try:
                    waiting.extend((plan, read(plan)) for plan in islice(plans, ahead + 1 - len(waiting)))
                    plan, load = waiting.popleft()
                    images, labels = load.result()
                except BrokenProcessPool:  # from `result` if the pool learns of the death there, from `read` afterwards
                    raise ShardsMachineError(f"a reading process died; {shared_memory()}") from None
                except RuntimeError as error:  # torch's, in the process that wanted to hand over a batch
                    if "shared memory" not in str(error):
                        raise
                    raise ShardsMachineError(f"a batch cannot be handed over: {error}; {shared_memory()}") from None
                yield Batch(images, labels, plan.indices, plan.positions, time.perf_counter() - start)

    def _start_readers(self, stack: ExitStack) -> Callable[[_Plan], Future[_Loaded]]:
        """Start the thread or the processes, to be ended by `stack`. What is returned sets them to work on a plan."""
        pool = start_pool(self.workers, self.dataset) if self.workers else None
        thread = start_thread("shards")
        for executor in (pool, thread):
            if executor is not None:
                stack.callback(executor.shutdown, wait=False, cancel_futures=True)

        def read(plan: _Plan) -> Future[_Loaded]:
            load = thread.submit(_load, self.dataset, plan) if pool is None else pool.submit(run, _load, plan)
            return thread.submit(_pinned, load) if self.pin else load

        return read

    def _plans(self, position: int) -> Iterator[_Plan]:
        for start in count(position, self.global_batch):
            stop = start + self.global_batch
            indices = self.reading(start, stop)
            flips = mirrored(self.seed, start, stop)[self._slots] if self.mirror else None
            yield _Plan(indices[self._slots], start + np.asarray(self._slots), flips)


def _load(dataset: ShardDataset, plan: _Plan) -> _Loaded:
    pixels, labels = dataset.read_batch(plan.indices)
    if plan.flips is not None:
        pixels[plan.flips] = pixels[plan.flips, :, :, ::-1]
    return torch.from_numpy(pixels), torch.from_numpy(labels)


def _pinned(load: Future[_Loaded]) -> _Loaded:
    images, labels = load.result()
    return images.pin_memory(), labels.pin_memory()
