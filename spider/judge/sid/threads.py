"""Work in our own threads, each of which computes on its own.

The threads of torch, and of the BLAS that numpy uses, meet after every operation. Where operations are small and many,
they mostly wait for each other, and on a shared machine for someone else's process; whole pieces of work in parallel do
not. The result is then also the same whatever the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch
from threadpoolctl import threadpool_limits

T = TypeVar("T")


class Map(Protocol):
    """Does `count` pieces of work."""

    def __call__(self, work: Callable[[int], T], count: int) -> list[T]:
        """[work(0), ..., work(count - 1)]."""


@contextmanager
def own_threads(device: torch.device) -> Iterator[Map]:
    """Within it, torch and numpy use one thread, and the map that it gives uses as many as torch had (one on a GPU)."""
    threads = torch.get_num_threads()
    workers = threads if device.type == "cpu" else 1
    try:
        torch.set_num_threads(1)
        pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
        with pool, threadpool_limits(limits=1, user_api="blas"):

            def map_in_threads(work: Callable[[int], T], count: int) -> list[T]:
                return list(pool.map(work, range(count)))

            yield map_in_threads
    finally:
        torch.set_num_threads(threads)
