"""R1 as one closed function, compiled whole, against the eager one: a trial, which the trainer does not use.

    python -m benchmarks.penalty [--out FILE.json] [--side 32] [--batch 16] [--width 0.25] [--turns 7]

The function takes parameters and images, and gives the penalty of each image and the gradient of its mean for every
parameter. torch.compile cannot give a result that is yet to be differentiated twice; here both derivatives are taken
within, where `trace_autograd_ops` lets it see them. `CPU time` is that of the medians, compiled against eager; the
compilation is timed with whatever of it torch finds in its cache.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.report import Row, write_report
from cluster.world import World
from spider.config.load import load_config
from spider.gan.networks.build import build_discriminator
from spider.gan.objectives.penalties import squared_gradient
from spider.gan.outputs import Condition

Closed = Callable[[list[Tensor], Tensor], tuple[Tensor, ...]]


def closed_r1(discriminator: nn.Module) -> Closed:
    """(parameters in order, images [N, C, H, W]) -> penalties [N] and the gradient for each parameter."""
    names = [name for name, _ in discriminator.named_parameters()]

    def r1(parameters: list[Tensor], images: Tensor) -> tuple[Tensor, ...]:
        leaves = [parameter.detach().requires_grad_(True) for parameter in parameters]

        def logits(x: Tensor) -> Tensor:
            found: Tensor = functional_call(
                discriminator, dict(zip(names, leaves, strict=True)), (x, Condition())
            ).logits
            return found

        values = squared_gradient(logits, images)
        gradients = torch.autograd.grad(values.mean(), leaves, materialize_grads=True)
        return values.detach(), *gradients

    return r1


def main() -> None:
    """Measure both discriminators."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--side", type=int, default=32, help="of the images, in pixels")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--width", type=float, default=0.25, help="channels, as a part of the preset's")
    parser.add_argument("--turns", type=int, default=7)
    arguments = parser.parse_args()
    rows = [
        _row(preset, arguments.width, arguments.side, arguments.batch, arguments.turns)
        for preset in ("dcgan", "r3gan-32")
    ]
    write_report("R1, compiled whole against eager", rows, arguments.out)


def _row(preset: str, width: float, side: int, batch: int, turns: int) -> Row:
    config = load_config(preset, ["data.path=/unread", f"discriminator.width={width}"])
    discriminator = build_discriminator(config.discriminator, (3, side, side), World.single(), 0)
    parameters = [parameter.detach() for parameter in discriminator.parameters()]
    images = torch.randn(batch, 3, side, side)
    eager = closed_r1(discriminator)
    torch._dynamo.config.trace_autograd_ops = True
    compiled = torch.compile(eager, fullgraph=True)
    started = time.perf_counter()
    found = compiled(parameters, images)
    compile_s = time.perf_counter() - started
    expected = eager(parameters, images)
    errors = [_distance(a, b) for a, b in zip(found, expected, strict=True)]
    times = [[_cpu_seconds(lambda r1=r1: r1(parameters, images)) for r1 in (eager, compiled)] for _ in range(turns)]
    eager_s, compiled_s = (statistics.median(column) for column in zip(*times, strict=True))
    return {
        "discriminator": preset,
        "eager ms": eager_s * 1000,
        "compiled ms": compiled_s * 1000,
        "CPU time": compiled_s / eager_s,
        "largest relative error": f"{max(errors):.0e}",
        "compilation s": compile_s,
    }


def _distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp_min(1e-12))


def _cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


if __name__ == "__main__":
    main()
