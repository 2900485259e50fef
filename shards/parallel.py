"""Work on many cores whose results come in order: the same output whatever the number of workers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeVar

from shards.errors import ShardsError

Shared = TypeVar("Shared")
Task = TypeVar("Task")
Result = TypeVar("Result")

_TASKS_AHEAD = 4  # per worker: enough to keep them busy, few enough to hold in memory

_shared: Any = None  # in a worker: what every task of its pool works with


def usable_cores() -> int:
    """The cores that this process may use, which a container or Slurm may have cut down."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_ordered(
    function: Callable[[Shared, Task], Result], shared: Shared, tasks: Iterable[Task], *, workers: int
) -> Iterator[Result]:
    """`function(shared, task)` for every task, in order. With one worker, in this process.

    Raises:
        ShardsError: a worker died.
        Whatever the function raises, at its place in the order.
    """
    if workers <= 1:
        yield from (function(shared, task) for task in tasks)
        return
    # Workers use no threads and no torch, so forking is safe and starts in no time; elsewhere it is not offered
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker, (shared,))
    waiting: deque[Future[Result]] = deque()
    remaining = iter(tasks)
    try:
        waiting.extend(pool.submit(_run, function, task) for task in islice(remaining, workers * _TASKS_AHEAD))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(_run, function, task) for task in islice(remaining, 1))
    except BrokenProcessPool:
        raise ShardsError("a worker process died, perhaps for want of memory; try fewer workers") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(shared: Any) -> None:
    global _shared
    _shared = shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent alone answers it


def _run(function: Callable[[Any, Task], Result], task: Task) -> Result:
    return function(_shared, task)
