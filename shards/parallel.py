"""Work on many cores: pools of processes that die with their parent, and results that come in order."""

from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeVar

from shards.errors import ShardsError, ShardsMachineError

Shared = TypeVar("Shared")
Task = TypeVar("Task")
Result = TypeVar("Result")

_TASKS_AHEAD = 4  # per worker: enough to keep them busy, few enough to hold in memory
_SHARED_MEMORY = "/dev/shm"
_PARENT_CHECK_S = 2.0
_KNOWS_SENDERS = hasattr(signal, "sigtimedwait")  # not on macOS, where any SIGTERM ends a worker

# A forked worker must not finalise what its parent had dropped: a dead pool's finaliser would wait there for a lock
# whose holder, a thread, was not forked (seen with Python 3.12)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=gc.freeze)

_shared: Any = None  # in a worker: what every task of its pool works with


def usable_cores() -> int:
    """The cores that this process may use, which a container or Slurm may have cut down."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_pool(workers: int, shared: object) -> ProcessPoolExecutor:
    """Processes for `run(function, task)`, which calls `function(shared, task)` in one of them.

    Raises:
        ShardsMachineError: they cannot be had, for want of shared memory or of memory.

    Only the parent can end them: by a SIGTERM of its own, or by its end, however that comes. Ctrl-C and Slurm signal
    every process of a job, and only the parent may answer.
    """
    # Forking takes no time, and `shared` need not be sent. Where it is not safe (macOS) or not there, spawn
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    try:
        return ProcessPoolExecutor(workers, context, _start_worker, (shared, os.getpid()))
    except (OSError, ImportError) as error:  # their locks are files in shared memory
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ShardsMachineError(f"processes cannot be started: {reason}; {shared_memory()}") from None


def shared_memory() -> str:
    """What to say where processes fail for want of shared memory: its place, what is free, and how to do without."""
    try:
        free = f"has {shutil.disk_usage(_SHARED_MEMORY).free / 1e6:,.0f} MB free"
    except OSError as error:
        free = f"cannot be used ({error.strerror})"
    return (
        f"{_SHARED_MEMORY}, through which processes talk and hand over images, {free}; no variable moves it: make it "
        "larger (docker: --shm-size) and writable, or do without processes (data.workers=0; spider pack --workers 1)"
    )


def start_thread(name: str) -> ThreadPoolExecutor:
    """One thread, on the accelerator that the caller is on: a new thread begins on the first one of the machine."""
    import torch

    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return ThreadPoolExecutor(1, name)
    return ThreadPoolExecutor(1, name, torch.cuda.set_device, (torch.cuda.current_device(),))


def run(function: Callable[[Any, Task], Result], task: Task) -> Result:
    """In a worker: `function` of what its pool shares, and of the task."""
    return function(_shared, task)


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
    pool = start_pool(workers, shared)
    waiting: deque[Future[Result]] = deque()
    remaining = iter(tasks)
    try:
        waiting.extend(pool.submit(run, function, task) for task in islice(remaining, workers * _TASKS_AHEAD))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(run, function, task) for task in islice(remaining, 1))
    except BrokenProcessPool:
        raise ShardsError("a worker process died, perhaps for want of memory; try fewer workers") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(shared: object, parent: int) -> None:
    global _shared
    _shared = shared
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    if _KNOWS_SENDERS:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # also for the threads that start from here on
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: int) -> None:
    """End this process when the parent says so or has gone: a killed one leaves its workers waiting for ever."""
    told = False
    while os.getppid() == parent and not told:
        if _KNOWS_SENDERS:
            signal_info = signal.sigtimedwait({signal.SIGTERM}, _PARENT_CHECK_S)
            told = signal_info is not None and signal_info.si_pid == parent
        else:
            time.sleep(_PARENT_CHECK_S)
    os._exit(0)
