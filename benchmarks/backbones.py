"""Images a second through the embedding `efficientnet`, against what the machine's arithmetic allows.

    python -m benchmarks.backbones [--threads 1] [--out FILE.json]

The floor is the network's multiplications and additions over the machine's float32 rate. There are two such rates: that
of a product of 1024 x 1024 matrices, and that of a 3 x 3 convolution of 256 channels, the best PyTorch has on most
processors. Everything is measured in turns in one run, in CPU time for one thread: ratios hold on a busy machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.report import Row, write_report
from spider.judge.embed.efficientnet import EfficientNetEmbedding
from spider.judge.embed.memory import kept_memory

TURNS = 7
MULTIPLICATIONS = 383.9e6  # of EfficientNet-Lite0 for 224 x 224, without the classifier
BATCH = 64


def cpu_or_wall() -> float:
    """Seconds of this thread's CPU time; of the clock where there are more threads."""
    return time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()


def medians(works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each, measured in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(TURNS + 1):
        for name, work in works.items():
            start = cpu_or_wall()
            work()
            if turn:  # the first is to warm up
                seconds[name].append(cpu_or_wall() - start)
    return {name: statistics.median(found) for name, found in seconds.items()}


def row(embedding: EfficientNetEmbedding, side: int) -> Row:
    """Rates for images of side x side."""
    matrix = torch.randn(1024, 1024)
    maps = torch.randn(4, 256, 28, 28).contiguous(memory_format=torch.channels_last)
    kernels = torch.randn(256, 256, 3, 3).contiguous(memory_format=torch.channels_last)
    images = torch.randint(0, 256, (BATCH, 3, side, side), dtype=torch.uint8)
    taken = medians(
        {
            "product": lambda: matrix @ matrix,
            "convolution": lambda: F.conv2d(maps, kernels, padding=1),
            "features": lambda: embedding.features(images),
        }
    )
    product = 2 * 1024**3 / taken["product"] / 1e9
    convolution = 2 * 4 * 256**2 * 28**2 * 9 / taken["convolution"] / 1e9
    rate = BATCH / taken["features"]
    of_network = rate * 2 * MULTIPLICATIONS / 1e9
    return {
        "side": side,
        "images/s": round(rate, 1),
        "GFLOP/s": round(of_network, 1),
        "product": round(product, 1),
        "convolution": round(convolution, 1),
        "of product's floor": round(of_network / product, 2),
        "of convolution's floor": round(of_network / convolution, 2),
    }


def main() -> None:
    """Measure images of three sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    embedding = EfficientNetEmbedding()
    with torch.no_grad(), kept_memory(torch.device("cpu")):
        write_report("backbones", [row(embedding, side) for side in (32, 64, 256)], given.out)


if __name__ == "__main__":
    main()
