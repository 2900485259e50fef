"""How long a run of 30M parameters stands still for a checkpoint.

    python -m benchmarks.checkpoint [--out FILE.json] [--directory DIR]

The state is 30M float32 parameters in 60 tensors, Adam's two moments of them, and their moving average: 480 MB in four
files. Measured by the clock, the median of five turns, one thread:

    blocked         CheckpointStore.async_save on one process: what training waits for (on many ranks also `compare`)
    behind          the thread's part of the same: hash, write, fsync, rename, while nothing else runs
    save            CheckpointStore.save, which does all of it and copies nothing (the goal is 2 s)
    load            CheckpointStore.load: read, verify, parse
    compare         the checksums that ranks compare before a save; on many ranks this comes before `save`
    sha256          the alternative to those checksums
    bare write      the same bytes written to one file and fsynced: what the disk can do
    library         the same files by safetensors.torch.save, hashed, written and fsynced

`peak extra MB` is how much higher the process's memory ever stood than before the first `async_save`.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from benchmarks.report import Row, write_report
from cluster.checkpoint import CheckpointStore, Snapshot, checksum
from cluster.world import World

_PARAMETERS, _TENSORS = 30_000_000, 60
_GROUPS = ("generator", "exp_avg", "exp_avg_sq", "average")
_TURNS = 5


def main() -> None:
    """Run everything and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, help="write JSON here")
    parser.add_argument("--directory", type=Path, help="the disk to measure (default: that of temporary files)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    snapshot = _snapshot()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as scratch:
        rows = _async_rows(snapshot, Path(scratch))  # first, because a process's peak never falls
        rows += [_row(what, _times(work)) for what, work in _measurements(snapshot, Path(scratch)).items()]
    write_report("Checkpoint of 30M parameters, Adam and a moving average", rows, arguments.out)


def _snapshot() -> Snapshot:
    size = _PARAMETERS // _TENSORS
    return Snapshot({group: {f"layer{i}.weight": torch.randn(size) for i in range(_TENSORS)} for group in _GROUPS}, {})


def _async_rows(snapshot: Snapshot, scratch: Path) -> list[Row]:
    blocked_s, behind_s = [], []
    before_mb = _peak_mb()
    with CheckpointStore(scratch / "async", World.single()) as store:
        for turn in range(_TURNS):
            written_s, started = store.written_s, time.perf_counter()
            store.async_save(f"{turn}-kimg", snapshot, then=lambda: store.prune(1))
            blocked_s.append(time.perf_counter() - started)
            store.finish()
            behind_s.append(store.written_s - written_s)
    shutil.rmtree(store.directory)
    return [{**_row("blocked", blocked_s), "peak extra MB": _peak_mb() - before_mb}, _row("behind", behind_s)]


def _peak_mb() -> float:
    """The most memory that this process ever had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def _measurements(snapshot: Snapshot, scratch: Path) -> dict[str, Callable[[], None]]:
    store = CheckpointStore(scratch / "checkpoints", World.single())
    count = itertools.count()
    tensors = [tensor for group in snapshot.tensors.values() for tensor in group.values()]

    def save() -> None:
        store.save(f"{next(count)}-kimg", snapshot)
        store.prune(1)

    return {
        "save": save,
        "load": lambda: _discard(store.load(store.names()[-1])),
        "compare": lambda: _discard([checksum(tensor).item() for tensor in tensors]),
        "sha256": lambda: _discard([hashlib.sha256(_view(tensor)).digest() for tensor in tensors]),
        "bare write": lambda: _bare_write(tensors, scratch / "bare"),
        "library": lambda: _library(snapshot, scratch / "library"),
    }


def _bare_write(tensors: list[Tensor], path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        for tensor in tensors:
            file.write(_view(tensor))
        os.fsync(file.fileno())


def _library(snapshot: Snapshot, directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for group, tensors in snapshot.tensors.items():
        content = to_safetensors(tensors)
        hashlib.sha256(content).hexdigest()
        with open(directory / group, "wb", buffering=0) as file:
            file.write(content)
            os.fsync(file.fileno())


def _view(tensor: Tensor) -> memoryview:
    return tensor.view(torch.uint8).numpy().data


def _discard(result: object) -> None:
    """For what is called for its cost."""


def _times(work: Callable[[], None]) -> list[float]:
    times = []
    for _ in range(_TURNS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return times


def _row(what: str, times: list[float]) -> Row:
    median = statistics.median(times)
    size_mb = _PARAMETERS * len(_GROUPS) * 4 / 1e6
    return {"what": what, "seconds": median, "fastest": min(times), "slowest": max(times), "MB/s": size_mb / median}


if __name__ == "__main__":
    main()
