"""Work in our own threads, one torch thread each.

Torch's threads meet after every operation. Where operations are small and many, they mostly wait for each other, and on
a shared machine for someone else's process; whole pieces of work in parallel do not. The result is then also the same
whatever the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


def in_threads(work: Callable[[int], T], count: int, device: torch.device) -> list[T]:
    """[work(0), ..., work(count - 1)], on a CPU by as many threads as torch has; on a GPU one after the other."""
    if device.type != "cpu":
        return [work(i) for i in range(count)]
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, range(count)))
    finally:
        torch.set_num_threads(threads)
