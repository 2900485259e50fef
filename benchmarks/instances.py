"""What a bank of instances costs: the nearest of each image, and reading neighbours in place of images.

    python -m benchmarks.instances [--out FILE.json]

Nearest: vectors that lie about a plane of 32 dimensions, as features do. Of each size the first 4,096 are sought, whose
cost is that of any 4,096; `whole` is what all of them take, by that. `products` is the floor: the same matrix products
in float32 and nothing else. `1.28 M` is projected from the largest size, by the square of the number.

Loader: batches of real images as the trainer gets them, of 64 px, as PNG and raw: in their order, told nothing; and
neighbours of instances, with the features of these. Turns alternate, the best counts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from benchmarks.report import Row, write_report
from cluster.world import World
from shards.dataset import ShardDataset
from spider import api
from spider.config.load import make_config
from spider.judge.instances.nearest import KEYS, QUERIES, nearest_vectors
from spider.precision import exact_float32
from spider.train.trainer import Trainer

_SIZES = (10_000, 30_000, 100_000)
_PUBLISHED = 1_281_167
_NEIGHBORS = 50
_PLANE = 32
_BATCH = 64
_BATCHES = 60
_TURNS = 5


def main() -> None:
    """Run everything and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, help="write JSON here")
    out = parser.parse_args().out
    rows: list[Row] = [row for dim in (1280, 2048) for row in _nearest(dim)]
    with tempfile.TemporaryDirectory() as scratch:
        rows += _loader(Path(scratch))
    write_report("Instances", rows, out)


def _nearest(dim: int) -> list[Row]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found: list[Row] = []
    for count in _SIZES:
        vectors = _vectors(count, dim)
        took_s = _seconds(lambda vectors=vectors: nearest_vectors(vectors, 0, QUERIES, _NEIGHBORS, device))
        least_s = _seconds(lambda vectors=vectors: _products(vectors, device))
        found.append(_row(count, dim, took_s * count / QUERIES, least_s * count / QUERIES))
    last = found[-1]
    factor = (_PUBLISHED / _SIZES[-1]) ** 2
    return [*found, {**_row(_PUBLISHED, dim, float(str(last["whole_s"])) * factor, 0.0), "products_s": "", "of it": ""}]


def _row(count: int, dim: int, whole_s: float, least_s: float) -> Row:
    bank_gb = count * dim * 2 / 1e9
    ratio = whole_s / least_s if least_s else 0.0
    return {
        "what": f"nearest {_NEIGHBORS}", "images": count, "dim": dim, "whole_s": whole_s, "products_s": least_s,
        "of it": ratio, "bank_gb": bank_gb,
    }  # fmt: skip


def _vectors(count: int, dim: int) -> np.ndarray[tuple[int, int], np.dtype[np.float16]]:
    rng = np.random.default_rng(0)
    found = rng.standard_normal((count, _PLANE), np.float32) @ rng.standard_normal((_PLANE, dim), np.float32)
    found += rng.standard_normal((count, dim), np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found.astype(np.float16)


def _products(vectors: np.ndarray[tuple[int, int], np.dtype[np.float16]], device: torch.device) -> None:
    queries = torch.from_numpy(vectors[:QUERIES]).to(device).float()
    keys = torch.from_numpy(vectors[:KEYS]).to(device).float()
    with exact_float32():
        for _ in range(0, len(vectors), KEYS):
            queries @ keys.T
    if device.type == "cuda":
        torch.cuda.synchronize()


def _seconds(work: Callable[[], object]) -> float:
    work() if torch.cuda.is_available() else None  # the first call on a GPU loads its libraries
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _loader(scratch: Path) -> list[Row]:
    return [row for encoding in ("png", "raw") for row in _loader_of(scratch, encoding)]


def _loader_of(scratch: Path, encoding: Literal["png", "raw"]) -> list[Row]:
    data, bank = scratch / encoding, scratch / f"{encoding}.safetensors"
    api.pack("builtin:patches", data, resolution=64, encoding=encoding)
    api.instances(data, bank, neighbors=5, flips=True)
    networks = ["generator.kind=mlp", "discriminator.kind=mlp", f"batch={_BATCH}"]
    told = ["condition.kind=instance", f"condition.bank={bank}"]
    trainers = {
        name: Trainer(make_config({"data": {"path": str(data)}}, [*networks, *more]), World.single())
        for name, more in (("images", []), ("instances", told))
    }
    best = dict.fromkeys(trainers, 0.0)
    streams = {name: trainer.feeds._open(0)[0] for name, trainer in trainers.items()}
    for turn in range(_TURNS + 1):
        for name, trainer in trainers.items():
            start = time.perf_counter()
            for _ in range(_BATCHES):
                trainer.feeds._next_real(streams[name])
            if turn:  # the first one opens files
                best[name] = max(best[name], _BATCH * _BATCHES / (time.perf_counter() - start))
    for trainer in trainers.values():
        trainer.close()
    count = len(ShardDataset(data))
    return [
        {"what": f"loader, {encoding}, {name}", "images": count, "img/s": rate, "of images": rate / best["images"]}
        for name, rate in best.items()
    ]


if __name__ == "__main__":
    main()
