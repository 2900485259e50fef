"""What our training loop costs, against the simplest loop that one would write by hand.

    python -m benchmarks.loop [--out FILE.json] [--side 32] [--batch 64] [--width 1] [--turns 7] [--iterations 2]

Both train DCGAN's networks with Adam and the average of the generator's weights; the loop by hand holds its images in
memory and draws with `torch.randn`, keeps no numbers, checks nothing and cannot resume. They take turns in one process,
so that what else the machine does falls on both alike. `time` is the ratio of the medians over the turns of seconds per
iteration, `CPU time` that of the seconds that all threads of the process computed.

With a penalty, the loop by hand may share one forward of the discriminator between loss and penalty, which ours does
not (see docs/architecture.md): that row tells what it costs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import softplus

from benchmarks.report import Row, write_report
from cluster.world import World
from shards.pack import pack
from spider.config.load import load_config
from spider.gan.ema import Ema
from spider.gan.outputs import Condition
from spider.gan.pixels import to_float
from spider.train.trainer import Trainer

_ADAM = {"lr": 1e-4, "betas": (0.5, 0.9)}
_SETTINGS = {
    "non-saturating loss": ("none", ["objective.kind=non_saturating", "penalties.r1_gamma=0"]),
    "and R1, a forward of its own in both": ("own", ["objective.kind=non_saturating", "penalties.r1_gamma=1"]),
    "and R1, the loop by hand shares the forward": (
        "shared",
        ["objective.kind=non_saturating", "penalties.r1_gamma=1"],
    ),
}


class ByHand:
    """The loop that one would write by hand, for the networks of a trainer."""

    def __init__(self, trainer: Trainer, r1: str) -> None:
        self.batch, self.r1 = trainer.config.batch, r1
        self.g, self.d = trainer.generator.module.requires_grad_(True), trainer.discriminator.module
        self.g_adam, self.d_adam = (
            torch.optim.Adam(player.parameters(), fused=True, **_ADAM) for player in (self.g, self.d)
        )
        self.ema = Ema(trainer.config.ema, self.g)
        self.images = torch.from_numpy(trainer.dataset.read_batch(range(len(trainer.dataset)))[0])
        self.seen = 0

    def judge(self, images: Tensor) -> Tensor:
        logits: Tensor = self.d(images, Condition()).logits
        return logits

    def make(self) -> Tensor:
        images: Tensor = self.g(torch.randn(self.batch, 100), Condition()).images
        return images

    def iterate(self) -> None:
        """One step of each."""
        real = to_float(self.images[torch.randint(len(self.images), (self.batch,))])
        self.d.requires_grad_(True)
        self.d_adam.zero_grad()
        with torch.no_grad():
            fake = self.make()
        if self.r1 != "none":
            real.requires_grad_(True)
        logits = self.judge(real)
        loss = softplus(-logits).mean() + softplus(self.judge(fake)).mean()
        if self.r1 == "own":
            loss.backward()
            logits = self.judge(real)
            loss = torch.zeros(())
        if self.r1 != "none":
            (slope,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
            loss = loss + slope.square().sum((1, 2, 3)).mean() / 2
        loss.backward()
        self.d_adam.step()
        self.d.requires_grad_(False)
        self.g_adam.zero_grad()
        softplus(-self.judge(self.make())).mean().backward()
        self.g_adam.step()
        self.seen += self.batch
        self.ema.update(self.g, self.batch, self.seen)


def main() -> None:
    """Run everything and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--side", type=int, default=32, help="of the images, in pixels")
    parser.add_argument("--batch", type=int, default=64, help="images of an iteration")
    parser.add_argument("--width", type=float, default=1.0, help="channels, as a part of the preset's")
    parser.add_argument("--turns", type=int, default=7, help="of each loop")
    parser.add_argument("--iterations", type=int, default=2, help="in a turn")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "patches"
        pack("builtin:patches", data, resolution=arguments.side, subset=1000, workers=1, progress=False)
        base = [f"data.path={data}", f"batch={arguments.batch}"]
        base += [f"{player}.width={arguments.width}" for player in ("generator", "discriminator")]
        rows = [
            _row(name, r1, [*base, *overrides], arguments.turns, arguments.iterations)
            for name, (r1, overrides) in _SETTINGS.items()
        ]
    write_report("training loop against one by hand", rows, arguments.out)


def _row(name: str, r1: str, overrides: list[str], turns: int, iterations: int) -> Row:
    ours, donor = (Trainer(load_config("dcgan", overrides), World.single()) for _ in range(2))
    by_hand = ByHand(donor, r1)
    loops: dict[str, Callable[[], None]] = {"ours": ours.iterate, "by hand": by_hand.iterate}
    for iterate in loops.values():
        iterate()
    found = [{which: _turn(iterate, iterations) for which, iterate in loops.items()} for _ in range(turns)]
    ours.close()
    wall, cpu = (
        {which: statistics.median(turn[which][clock] for turn in found) for which in loops} for clock in (0, 1)
    )
    return {
        "loss": name,
        "ours ms": wall["ours"] * 1000,
        "by hand ms": wall["by hand"] * 1000,
        "time": wall["ours"] / wall["by hand"],
        "CPU time": cpu["ours"] / cpu["by hand"],
        "fastest turns": min(t["ours"][0] for t in found) / min(t["by hand"][0] for t in found),
    }


def _turn(iterate: Callable[[], None], iterations: int) -> tuple[float, float]:
    """Seconds per iteration, by the clock on the wall and of computing."""
    started, computed = time.perf_counter(), time.process_time()
    for _ in range(iterations):
        iterate()
    return (time.perf_counter() - started) / iterations, (time.process_time() - computed) / iterations


if __name__ == "__main__":
    main()
