"""Work in our own threads, each of which computes on its own.

The threads of torch, and of the BLAS that numpy uses, meet after every operation. Where operations are small and many,
they mostly wait for each other, and on a shared machine for someone else's process; whole pieces of work in parallel do
not. The result is then also the same whatever the number of threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch
from threadpoolctl import threadpool_limits

S = TypeVar("S")
T = TypeVar("T")

_NETWORKS = 8  # at work at once: each needs memory of its own


class Map(Protocol):
    """Does `count` pieces of work."""

    def __call__(self, work: Callable[[int], T], count: int) -> list[T]:
        """[work(0), ..., work(count - 1)]."""


@contextmanager
def own_threads(device: torch.device) -> Iterator[Map]:
    """Within it, torch and numpy use one thread, and the map that it gives uses as many as torch had (one on a GPU)."""
    workers = torch.get_num_threads() if device.type == "cpu" else 1
    with _threads(workers) as pool, threadpool_limits(limits=1, user_api="blas"):

        def map_in_threads(work: Callable[[int], T], count: int) -> list[T]:
            return list(pool.map(work, range(count)))

        yield map_in_threads


def ahead(work: Callable[[S], T], items: Iterable[S], device: torch.device) -> Iterator[T]:
    """work(item) of every item, in order: of a network on a CPU, by as many threads as torch has, and by 8 at most.

    The caller's thread takes the items, one for each thread ahead of what it yields.
    """
    if device.type != "cpu":
        yield from map(work, items)
        return
    workers = min(torch.get_num_threads(), _NETWORKS)
    with _threads(workers) as pool:
        yield from in_order(pool, work, items, workers)


def in_order(pool: ThreadPoolExecutor, work: Callable[[S], T], items: Iterable[S], most: int) -> Iterator[T]:
    """work(item) of every item, in order, `most` of them begun ahead of what it yields."""
    begun: deque[Future[T]] = deque()
    try:
        for item in items:
            begun.append(pool.submit(work, item))
            if len(begun) > most:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        for future in begun:
            future.cancel()


@contextmanager
def _threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads in which torch uses one thread, as it does in the caller's."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)
