"""What the random numbers of a StyleGAN2-like training cost, against the time of its step.

    python -m benchmarks.draws [--out FILE.json] [--side 256] [--batch 32] [--step-batch 1] [--turns 3]

All draws of one step: for the discriminator's phase and for the generator's, z and a second z to mix, where to mix, and
noise for two layers of every resolution from 4 px; and what ADA asks for, for reals, for fakes of either phase, and for
R1. The step's time is that of a stand-in: the convolutions of StyleGAN2 at half its width (as its authors use at 256
px), of the same shapes, without modulation, R1 or augmentation. So it is less than a real step, which is against us. It
is timed on `--step-batch` images and scaled to the batch. Both take turns in one process; medians over the turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, softplus

from benchmarks.report import write_report
from spider.draws import Address
from spider.gan.augment.happening import GATES, NORMALS, UNIFORMS

_LATENT = 512


def draw(side: int, batch: int) -> None:
    """Everything that a step draws, once."""
    for phase, uses in (("d_main", ("real", "fake", "r1")), ("g_main", ("fake",))):
        at = Address(0, phase, range(batch), torch.device("cpu"))
        at.normal("z", (_LATENT,))
        at.normal("mix.z", (_LATENT,))
        at.uniform("mix.at", (2,))
        for level in _levels(side):
            for layer in range(2):
                at.normal(f"noise.{level}.{layer}", (1, level, level))
        for use in uses:
            at.normal(f"{use}.ada.normal", (NORMALS,))
            at.uniform(f"{use}.ada.uniform", (UNIFORMS,))
            at.uniform(f"{use}.ada.gate", (GATES,))


class Generator(nn.Module):
    """Of StyleGAN2's shapes: two convolutions at every resolution, the first of which doubles the side."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.start = nn.Linear(_LATENT, _channels(4) * 16)
        self.layers = nn.ModuleList()
        for level in _levels(side)[1:]:
            before, here = _channels(level // 2), _channels(level)
            self.layers.append(nn.ConvTranspose2d(before, here, 3, stride=2, padding=1, output_padding=1))
            self.layers.append(nn.Conv2d(here, here, 3, padding=1))
        self.colours = nn.Conv2d(_channels(side), 3, 1)

    def forward(self, z: Tensor) -> Tensor:
        """[N, 512] -> [N, 3, H, W]."""
        x = self.start(z).view(len(z), -1, 4, 4)
        for layer in self.layers:
            x = leaky_relu(layer(x), 0.2)
        images: Tensor = self.colours(x)
        return images


class Discriminator(nn.Module):
    """Of StyleGAN2's shapes: residual blocks that halve the side."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.colours = nn.Conv2d(3, _channels(side), 1)
        self.blocks, self.skips = nn.ModuleList(), nn.ModuleList()
        for level in _levels(side)[:0:-1]:
            here, after = _channels(level), _channels(level // 2)
            self.blocks.append(
                nn.Sequential(
                    nn.Conv2d(here, here, 3, padding=1),
                    nn.LeakyReLU(0.2),
                    nn.Conv2d(here, after, 3, stride=2, padding=1),
                    nn.LeakyReLU(0.2),
                )
            )
            self.skips.append(nn.Conv2d(here, after, 1, stride=2))
        self.judge = nn.Linear(_channels(4) * 16, 1)

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, 1]."""
        x = self.colours(images)
        for block, skip in zip(self.blocks, self.skips, strict=True):
            x = block(x) + skip(x)
        logits: Tensor = self.judge(x.flatten(1))
        return logits


class Step:
    """A step of either player, with Adam."""

    def __init__(self, side: int, batch: int) -> None:
        self.g, self.d = Generator(side), Discriminator(side)
        self.adams = [torch.optim.Adam(player.parameters(), fused=True) for player in (self.g, self.d)]
        self.z, self.real = torch.randn(batch, _LATENT), torch.randn(batch, 3, side, side)

    def __call__(self) -> None:
        """Take both."""
        with torch.no_grad():
            fake = self.g(self.z)
        self.d.requires_grad_(True)
        (softplus(-self.d(self.real)).mean() + softplus(self.d(fake)).mean()).backward()
        self.adams[1].step()
        self.d.requires_grad_(False)
        softplus(-self.d(self.g(self.z))).mean().backward()
        self.adams[0].step()


def _levels(side: int) -> list[int]:
    return [4 << i for i in range((side // 4).bit_length())]


def _channels(level: int) -> int:
    return min(512, 16384 // level)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--side", type=int, default=256, help="of the images, in pixels")
    parser.add_argument("--batch", type=int, default=32, help="images of a step")
    parser.add_argument("--step-batch", type=int, default=1, help="images of the step that is timed")
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    step = Step(arguments.side, arguments.step_batch)
    step()
    draw(arguments.side, arguments.batch)
    turns = [(_seconds(lambda: draw(arguments.side, arguments.batch)), _seconds(step)) for _ in range(arguments.turns)]
    drawing, stepping = (statistics.median(column) for column in zip(*turns, strict=True))
    stepping *= arguments.batch / arguments.step_batch
    row = {"draws s": drawing, "step s": stepping, "draws % of the step": 100 * drawing / stepping}
    write_report(f"draws of a step, {arguments.side} px, batch {arguments.batch}", [row], arguments.out)


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
