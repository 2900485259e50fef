"""How fast images are measured: features per second, and seconds of each metric.

    python -m benchmarks.metrics [--images 10000] [--embedding offline,inception] [--metrics NAMES] [--out FILE.json]

Features come from made-up images of 64 px. Inception runs with random weights, which take as long as its own. Metrics
compare two sets of `--images` feature vectors, with as many of training images where they look at those, of each
embedding's length. `MB` is how much more memory than before a metric takes at its peak. The last column says how long a
metric's matrix products alone would take at this machine's rate, CPU time without a GPU: float64 for precision, else
float32.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.models import Inception3

from benchmarks.report import Row, write_report
from cluster.world import World
from spider.judge.embed.cache import Features
from spider.judge.embed.embedding import Embedding
from spider.judge.embed.features import BLOCK, extract_features
from spider.judge.embed.inception import CLASSES, InceptionEmbedding
from spider.judge.embed.load import load_embedding
from spider.judge.embed.offline import OfflineEmbedding
from spider.judge.metrics.comparison import Comparison
from spider.judge.metrics.mind import DIRECTIONS
from spider.judge.metrics.products import times_transposed
from spider.judge.metrics.protocols import protocol_named
from spider.judge.metrics.registry import METRICS

_PIXELS = 64
_EXTRACTION_S = 6.0  # of each embedding
_FLOAT32 = ("kid", "kid_full", "mind", "cmmd", "nearest")
_SHARE = {"recall": "precision", "density": "precision", "coverage": "precision", "sid": "csid"}  # computed together


def main() -> None:
    """Run everything and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=10_000, help="of each set")
    parser.add_argument("--embedding", default=",".join(_EMBEDDINGS), help="names, with commas; default: %(default)s")
    parser.add_argument("--metrics", default=",".join(METRICS), help="names, with commas; default: all")
    parser.add_argument("--out", type=Path, help="write JSON here")
    arguments = parser.parse_args()
    world = World.from_env()
    embeddings = [_EMBEDDINGS[name](world.device) for name in arguments.embedding.split(",")]
    rows: list[Row] = [_extraction(embedding, world) for embedding in embeddings]
    for embedding in embeddings:
        rows += _metrics(embedding.dim, arguments.images, arguments.metrics.split(","), world)
    write_report("Metrics", rows, arguments.out)


def _inception(device: torch.device) -> InceptionEmbedding:
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        network = Inception3(num_classes=CLASSES, aux_logits=False, init_weights=False)
        torch.save(network.state_dict(), file.name)
        return InceptionEmbedding("tf", Path(file.name), device)


_EMBEDDINGS: dict[str, Callable[[torch.device], Embedding]] = {
    "offline": OfflineEmbedding,
    "efficientnet": lambda device: load_embedding("efficientnet", device=device),
    "inception": _inception,
}


class _Noise:
    """Numbered images that are made at once."""

    name = fingerprint = "noise"

    def __init__(self, count: int) -> None:
        self._count = count
        self._block = torch.randint(256, (BLOCK, 3, _PIXELS, _PIXELS), dtype=torch.uint8)

    def __len__(self) -> int:
        return self._count

    def batch(self, start: int, stop: int) -> Tensor:
        return self._block[: stop - start]


def _extraction(embedding: Embedding, world: World) -> Row:
    """Images per second, and per second of CPU: on one that is shared, only the second says what the work costs."""
    extract_features(_Noise(BLOCK), embedding, world)  # warms up
    rate = BLOCK / _seconds(lambda: extract_features(_Noise(BLOCK), embedding, world))
    images = _Noise(max(BLOCK, round(rate * _EXTRACTION_S)))
    began = time.process_time()
    seconds = _seconds(lambda: extract_features(images, embedding, world))
    cpu = time.process_time() - began
    row = {"what": f"features, {embedding.name}", "dim": embedding.dim}
    return row | {"images/s": len(images) / seconds, "images/CPU s": len(images) / cpu}


def _metrics(dim: int, images: int, names: list[str], world: World) -> list[Row]:
    samples, reference, training = (made_up_features(seed, images, dim) for seed in (0, 1, 2))
    logits = np.random.default_rng(2).standard_normal((images, CLASSES), dtype=np.float32)
    rates = {dtype: _products_per_second(dim, dtype, world) for dtype in (torch.float32, torch.float64)}
    rows: list[Row] = []
    for name in names:
        metric = METRICS[name]
        if name in _SHARE or metric.needs_classes:
            continue
        learnt = training if metric.needs_training else None
        comparison = Comparison(samples, logits, reference, learnt, protocol_named("tf"), seed=0, world=world)
        if name == "authenticity":
            _ = comparison.nearest_training  # which `nearest` has taken the time of
        before = _restart_peak()
        began = time.process_time()
        seconds = _seconds(partial(metric.score, comparison))
        cpu = time.process_time() - began
        together = [name, *(other for other, first in _SHARE.items() if first == name)]
        row: dict[str, object] = {"what": ", ".join(together), "dim": dim, "images": images}
        row |= {"seconds": seconds, "CPU s": cpu}
        row["MB"] = (_memory("VmHWM") - before) / 1000
        if products := _products(name, images, dim):
            row["its products, s"] = products / rates[torch.float32 if name in _FLOAT32 else torch.float64]
        rows.append(row)
    return rows


def _restart_peak() -> float:
    """Forget the highest use of memory so far (Linux), and give back what is free; the present use, in kB."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(what: str) -> float:
    """An entry of this process's status, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{what}:")))


def made_up_features(seed: int, count: int, dim: int) -> Features:
    """Correlated and non-negative, as pooled features are."""
    rng = np.random.default_rng(seed)
    spectrum = np.linspace(1, 0.05, dim, dtype=np.float32)
    features: Features = np.maximum(rng.standard_normal((count, dim), dtype=np.float32) * spectrum + 0.3, 0)
    return features


def _products(name: str, images: int, dim: int) -> float:
    """Multiplications and additions in a metric's matrix products; 0 where something else takes the time."""
    # Of images x images. The products of a set with itself are symmetric, and half the work.
    squares = {"kid_full": 2, "precision": 2, "nearest": 2, "cmmd": 2}
    if name == "mind":
        return 2.0 * dim * 2 * images * DIRECTIONS
    if name == "kid":
        return 2.0 * dim * 100 * 2 * min(images, 1000) ** 2
    return 2.0 * dim * images**2 * squares.get(name, 0)


def _products_per_second(dim: int, dtype: torch.dtype, world: World) -> float:
    x, y = torch.randn(2, 1024, dim, dtype=dtype, device=world.device)
    repeats = 20

    def multiply() -> None:
        for _ in range(repeats):
            products = times_transposed(x, y)
        products.sum().item()  # waits for a GPU

    multiply()
    clock = time.process_time if world.device.type == "cpu" else time.perf_counter
    return repeats * 2.0 * dim * 1024**2 / min(_seconds(multiply, clock) for _ in range(3))


def _seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    work()
    return clock() - start


if __name__ == "__main__":
    main()
