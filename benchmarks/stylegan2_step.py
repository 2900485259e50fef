"""What an iteration of StyleGAN2 costs in CPU time of one thread, against the machine's own rate of products.

    OMP_NUM_THREADS=1 python -m benchmarks.stylegan2_step [--out FILE.json] [--side 64] [--batch 4] [KEY=VALUE ...]

The preset stylegan2-ada/auto without augmentation, on patches of photographs. Kinds of iterations: both main steps;
these and path length, every 4; all, every 16. The floor of each is its floating-point operations, as torch counts
those of convolutions and products, over the rate of a product of matrices. A busy machine changes CPU time little.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.report import Row, write_report
from cluster.world import World
from shards.pack import pack
from spider.config.load import load_config
from spider.runs.directory import RunDirectory
from spider.runs.start import prepare
from spider.train.trainer import Trainer

_KINDS = {
    "main steps": (1, 12),
    "and path length": (4, 3),
    "and R1": (16, 1),
}  # an iteration of the kind; of 16, so many


def main() -> None:
    """Run everything and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--side", type=int, default=64, help="of the images, in pixels")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "patches"
        pack("builtin:patches", data, resolution=arguments.side, subset=64, workers=1, progress=False)
        words = [f"data.path={data}", f"batch={arguments.batch}", "augment=[]", "compute.device=cpu"]
        config = load_config("stylegan2-ada/auto", [*words, *arguments.overrides])
        trainer = Trainer(prepare(config, RunDirectory(Path(folder) / "none")), World.single())
        write_report("StyleGAN2 step", _rows(trainer), arguments.out)
        trainer.close()


def _rows(trainer: Trainer) -> list[Row]:
    trainer.iterate()  # first allocations
    rate = _rate()
    rows: list[Row] = []
    mean = floor = 0.0
    for name, (step, share) in _KINDS.items():

        def iterate(step: int = step) -> None:
            trainer.images = step * trainer.config.batch
            trainer.iterate()

        with _Operations() as counted:
            seconds = _cpu_seconds(iterate)
        operations = counted.total
        mean, floor = mean + share * seconds / 16, floor + share * operations / rate / 16
        rows.append(_row(name, seconds, operations / rate))
    return [*rows, _row("mean of 16 iterations", mean, floor)]


class _Operations(TorchDispatchMode):
    """Adds up what runs within, also where gradients are differentiated, which torch's own counter does not bear."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        self.total += count(*args, **(kwargs or {}), out_val=out) if count is not None else 0
        return out


def _row(name: str, seconds: float, floor: float) -> Row:
    return {"iteration": name, "CPU s": seconds, "floor s": floor, "of the floor": seconds / floor}


def _rate() -> float:
    """Floating-point operations a second, of a product of matrices."""
    one, other = torch.randn(2, 2048, 2048)
    one @ other
    return 2 * 2048**3 / _cpu_seconds(lambda: one @ other)


def _cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


if __name__ == "__main__":
    main()
