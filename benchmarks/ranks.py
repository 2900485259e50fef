"""What a second rank is worth on a machine of two cores, and what the ranks send each other for it.

    python -m benchmarks.ranks [--out FILE.json] [--turns 7] [--iterations 3]

One network, one global batch, five ways: a process with one thread, the same with two threads, and two gloo ranks of
one thread each under ddp and DeepSpeed 0 and 1. A sixth says what the machine gives at most: two processes with half of
the batch each that do not talk. The settings take turns, so that what else the machine does falls on all alike; medians
over the turns. The table of traffic is one iteration of rank 0 (`benchmarks.traffic`); the loop adds two flags of 8
bytes. FILE-traffic.json holds it.

The preset `dcgan` at 64 px, a quarter of its channels, batch 64: an iteration is about 0.65 s on one core; 1.49M
parameters of the generator and 0.27M of the discriminator, 7.0 MB of gradients. `CPU ms` are those of all ranks: what
they exceed one thread's by is work done twice or work to talk; what the clock exceeds their share by is waiting.

Floor: what the images cost halves, 0.325 s. Adam, the average and the copies of 1.76M parameters do not: 0.01 s on
either rank. Two gradients of 7.0 MB together over loopback, with their copies in and out of buckets: 0.015 s. The 20
small sums, most of batch normalisation, at 0.15 ms: 0.003 s. Images are decoded by a thread, which has a core of its
own only beside one process of one thread: 0.008 s. Together 0.361 s.

Predicted before measuring, times as fast as one thread: two that do not talk 1.93, ddp 1.8, DeepSpeed 0 1.75 (hooks and
another copy), DeepSpeed 1 1.75 (half of Adam, but parameters travel too), one process with two threads 1.6.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from benchmarks.report import Row, write_report
from benchmarks.traffic import BATCH_NORM, GRADIENTS, PARAMETERS, Traffic
from cluster.world import World
from shards.pack import pack
from spider.config.load import load_config
from spider.train.trainer import Trainer

_RANKS = 2
_BATCH = 64
_WIDTH = 0.25
_RESOLUTION_PX = 64


@dataclass(frozen=True)
class Setting:
    """One way to train. A trainer of None: this rank has nothing to do."""

    name: str
    cores: int
    trainer: Trainer | None
    threads: int = 1
    talks: bool = False


@dataclass(frozen=True)
class Turn:
    """What an iteration took."""

    seconds: float
    cpu_seconds: float  # of all ranks


def main() -> None:
    """Run everything and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--turns", type=int, default=7, help="of every setting")
    parser.add_argument("--iterations", type=int, default=3, help="per turn")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pack("builtin:patches", Path(folder) / "patches", resolution=_RESOLUTION_PX, subset=1000, progress=False)
        spawn(_rank, (Path(folder), arguments), nprocs=_RANKS)  # type: ignore[no-untyped-call]


def _rank(rank: int, folder: Path, arguments: argparse.Namespace) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=_RANKS)
    world = World(rank, _RANKS, rank, torch.device("cpu"))
    settings = _settings(folder / "patches", world)
    for setting in settings:  # first allocations, and what DeepSpeed makes on its first step
        _turn(setting, 2, world)
    turns = [
        {setting.name: _turn(setting, arguments.iterations, world) for setting in settings}
        for _ in range(arguments.turns)
    ]
    traffic = _traffic(settings)
    if world.is_main:
        out: Path | None = arguments.out
        write_report("Two ranks against one", [_row(setting, turns, settings[0], traffic) for setting in settings], out)
        write_report("What they send in an iteration", traffic, out and out.with_stem(f"{out.stem}-traffic"))
    for setting in settings:
        if setting.trainer is not None:
            setting.trainer.close()
    dist.destroy_process_group()


def _settings(data: Path, world: World) -> list[Setting]:
    """All of them, the one to compare with first."""

    def trainer(world: World, *overrides: str) -> Trainer:
        widths = [f"{player}.width={_WIDTH}" for player in ("generator", "discriminator")]
        return Trainer(load_config("dcgan", [f"data.path={data}", *widths, f"batch={_BATCH}", *overrides]), world)

    alone = trainer(World.single()) if world.is_main else None
    return [
        Setting("1 process, 1 thread", 1, alone),
        Setting("1 process, 2 threads", 2, alone, threads=2),
        Setting("2 processes that do not talk", 2, trainer(World.single(), f"batch={_BATCH // _RANKS}")),
        Setting("2 ranks, ddp", 2, trainer(world, "engine.kind=ddp"), talks=True),
        *(
            Setting(
                f"2 ranks, deepspeed {stage}",
                2,
                trainer(world, "engine.kind=deepspeed", f"engine.zero_stage={stage}"),
                talks=True,
            )
            for stage in (0, 1)
        ),
    ]


def _turn(setting: Setting, iterations: int, world: World) -> Turn:
    """Some iterations, until the last rank is done."""
    torch.set_num_threads(setting.threads)
    world.barrier()
    started, cpu = time.perf_counter(), time.process_time()
    if setting.trainer is not None:
        for _ in range(iterations):
            setting.trainer.iterate()
    cpu = float(world.all_reduce_sum(torch.tensor(time.process_time() - cpu)))
    return Turn((time.perf_counter() - started) / iterations, cpu / iterations)


def _traffic(settings: list[Setting]) -> list[Row]:
    rows: list[Row] = []
    for setting in settings:
        if setting.trainer is not None and setting.talks:
            with Traffic() as traffic:
                setting.trainer.iterate()
            rows += [
                {"setting": setting.name, "phase": phase, "what": kind, "calls": sent.calls, "bytes": sent.bytes}
                for (phase, kind), sent in sorted(traffic.found.items())
            ]
    return rows


def _row(setting: Setting, turns: list[dict[str, Turn]], first: Setting, traffic: list[Row]) -> Row:
    seconds = statistics.median(turn[setting.name].seconds for turn in turns)
    speed_up = statistics.median(turn[first.name].seconds / turn[setting.name].seconds for turn in turns)
    row: dict[str, object] = {
        "setting": setting.name,
        "ms/iteration": seconds * 1000,
        "CPU ms": 1000 * statistics.median(turn[setting.name].cpu_seconds for turn in turns),
        "img/s": _BATCH / seconds,
        "speed-up": speed_up,
        "efficiency %": 100 * speed_up / setting.cores,
    }
    if setting.talks:
        sent = dict.fromkeys((GRADIENTS, PARAMETERS, BATCH_NORM, "other"), 0)
        for line in traffic:
            if line["setting"] == setting.name:
                kind = line["what"] if line["what"] in sent else "other"
                sent[str(kind)] += int(str(line["bytes"]))
        row |= {f"{kind}, bytes": size for kind, size in sent.items()}
    return row


if __name__ == "__main__":
    main()
