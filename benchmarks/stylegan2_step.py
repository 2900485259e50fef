"""What an iteration of StyleGAN2 costs in CPU time of one thread, against the machine's own rate of products.

    OMP_NUM_THREADS=1 python -m benchmarks.stylegan2_step [--out FILE.json] [--side 64] [--batch 4] [KEY=VALUE ...]

The preset stylegan2-ada/auto without augmentation, on patches of photographs. Kinds of iterations: both main steps;
these and path length, every 4; all, every 16. The floor of each is its floating-point operations, as torch counts
those of convolutions and products, over the rate of a product of matrices. A busy machine changes CPU time little.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from benchmarks.report import Row, write_report
from benchmarks.steps import Operations, cpu_seconds, product_rate
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
    rate = product_rate()
    rows: list[Row] = []
    mean = floor = 0.0
    for name, (step, share) in _KINDS.items():

        def iterate(step: int = step) -> None:
            trainer.images = step * trainer.config.batch
            trainer.iterate()

        with Operations() as counted:
            seconds = cpu_seconds(iterate)
        operations = counted.total
        mean, floor = mean + share * seconds / 16, floor + share * operations / rate / 16
        rows.append(_row(name, seconds, operations / rate))
    return [*rows, _row("mean of 16 iterations", mean, floor)]


def _row(name: str, seconds: float, floor: float) -> Row:
    return {"iteration": name, "CPU s": seconds, "floor s": floor, "of the floor": seconds / floor}


if __name__ == "__main__":
    main()
