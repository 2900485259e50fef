"""What one training iteration costs, and what the options for speed are worth on this machine.

    python -m benchmarks.train_step [--out FILE.json] [--width 0.25] [--iterations 10]

Spider DCGAN on scikit-learn's digits at 28 px, batch 64, fed letters: presets as they ship, each option alone. The
settings take turns, so that what else the machine does falls on all alike; medians over the turns. `data wait` is the
part of the time that the loop stood still for images, the goal is under 2 %.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.report import Row, write_report
from cluster.world import World
from shards.pack import pack
from spider.config.load import load_config
from spider.train.trainer import Trainer

_SETTINGS = {
    "spider-dcgan, as it ships": [],
    "without R1": ["penalties.r1_gamma=0"],
    "R1 every 4 steps": ["penalties.interval_steps=4"],
    "a prior instead of images": ["source.kind=gaussian"],
    "channels_last": ["compute.channels_last=true"],
    "bf16 autocast": ["compute.precision=bf16"],
    "compiled": ["compute.compile=true"],
    "Top-k, k = 16": ["selection.kind=fixed", "selection.k=16"],
    "two micro-batches, no batch norm": ["accumulation=2", "generator.norm=none"],
}
_TURNS = 3


def main() -> None:
    """Run everything and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--width", type=float, default=0.25, help="channels, as a part of the preset's")
    parser.add_argument("--iterations", type=int, default=10, help="iterations per turn")
    arguments = parser.parse_args()
    world = World.from_env()
    with tempfile.TemporaryDirectory() as folder:
        for name in ("digits", "letters"):
            pack(f"builtin:{name}", Path(folder) / name, resolution=28, progress=False)
        trainers = {
            name: _trainer(Path(folder), overrides, arguments.width, world) for name, overrides in _SETTINGS.items()
        }
        write_report("training step", _rows(trainers, arguments.iterations), arguments.out)


def _trainer(folder: Path, overrides: list[str], width: float, world: World) -> Trainer:
    base = [
        f"data.path={folder / 'digits'}",
        f"source.path={folder / 'letters'}",
        f"generator.width={width}",
        f"discriminator.width={width}",
        "batch=64",
    ]
    return Trainer(load_config("spider-dcgan", [*base, *overrides]), world)


def _rows(trainers: dict[str, Trainer], iterations: int) -> list[Row]:
    for trainer in trainers.values():  # compilation and first allocations
        for _ in range(2):
            trainer.iterate()
        trainer.feeds.waits.take()
    turns = [{name: _turn(trainer, iterations) for name, trainer in trainers.items()} for _ in range(_TURNS)]
    first = next(iter(trainers))
    rows: list[Row] = []
    for name, trainer in trainers.items():
        seconds = statistics.median(turn[name][0] for turn in turns)
        ratio = statistics.median(turn[name][0] / turn[first][0] for turn in turns)
        wait = statistics.median(turn[name][1] / turn[name][0] for turn in turns)
        rows.append(
            {
                "setting": name,
                "ms/iteration": seconds * 1000,
                "img/s": trainer.config.batch / seconds,
                "of as it ships": ratio,
                "data wait %": 100 * wait,
            }
        )
    return rows


def _turn(trainer: Trainer, iterations: int) -> tuple[float, float]:
    """Seconds per iteration, and of them waiting for images."""
    _synchronise()
    trainer.feeds.waits.take()
    started = time.perf_counter()
    for _ in range(iterations):
        trainer.iterate()
    _synchronise()
    return (time.perf_counter() - started) / iterations, trainer.feeds.waits.take() / iterations


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
