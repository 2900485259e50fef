"""Our metrics against other packages', on the same features: CPU seconds, one thread, turns taken in one run.

    pip install torch-fidelity clean-fid prdc
    python -m benchmarks.metric_peers [--images 10000] [--turns 3] [--only kid,moments] [--out FILE.json]

A package that is not installed is left out. Features are made up, 2048-d. (prdc starts threads of its own; CPU seconds
are those of all of them.)
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from benchmarks.metrics import made_up_features
from benchmarks.report import Row, write_report
from cluster.world import World
from spider.judge.embed.cache import Features
from spider.judge.metrics.frechet import frechet_distance
from spider.judge.metrics.kid import SUBSET_SIZE, SUBSETS, kid
from spider.judge.metrics.moments import moments_of
from spider.judge.metrics.prdc import NV_PR, PRDC, prdc

DIM = 2048

Work = Callable[[], Any]


def main() -> None:
    """Run everything and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=10_000, help="of each set")
    parser.add_argument("--turns", type=int, default=3, help="of each package")
    parser.add_argument("--only", help="names of what to compare, with commas; default: all")
    parser.add_argument("--out", type=Path, help="write JSON here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    samples, reference = (made_up_features(seed, arguments.images, DIM) for seed in (0, 1))
    contests = {
        "kid": _kid(samples, reference),
        "moments": _moments(samples),
        "frechet": _frechet(samples, reference),
        "precision": _precision(samples, reference),
    }
    chosen = arguments.only.split(",") if arguments.only else list(contests)
    with threadpool_limits(1):
        rows = [row for name in chosen for row in _contest(name, contests[name], arguments.turns)]
    write_report("Metrics against other packages", rows, arguments.out)


def _contest(name: str, packages: dict[str, Work], turns: int) -> list[Row]:
    """Everybody's CPU seconds (the least of the turns), and ours over theirs (the median over turns)."""
    seconds: dict[str, list[float]] = {package: [] for package in packages}
    for _ in range(turns):
        for package, work in packages.items():
            start = time.process_time()
            with contextlib.redirect_stdout(io.StringIO()):
                work()
            seconds[package].append(time.process_time() - start)
    ratios = {p: median(a / b for a, b in zip(seconds["ours"], s, strict=True)) for p, s in seconds.items()}
    return [{"what": name, "package": p, "CPU s": min(s), "ours over it": ratios[p]} for p, s in seconds.items()]


def _kid(x: Features, y: Features) -> dict[str, Work]:
    works: dict[str, Work] = {"ours": lambda: kid(x, y, World.single(), seed=0)}
    if find_spec("torch_fidelity"):
        from torch_fidelity.metric_kid import kid_features_to_metric

        options = {
            "kid_subsets": SUBSETS,
            "kid_subset_size": SUBSET_SIZE,
            "kid_kernel": "poly",
            "kid_kernel_poly_degree": 3,
            "kid_kernel_poly_gamma": None,
            "kid_kernel_poly_coef0": 1,
            "rng_seed": 0,
            "verbose": False,
        }
        both = torch.from_numpy(x), torch.from_numpy(y)
        works["torch-fidelity"] = lambda: kid_features_to_metric(*both, **options)
    if find_spec("cleanfid"):
        from cleanfid.fid import kernel_distance

        works["clean-fid"] = lambda: kernel_distance(x, y)
    return works


def _moments(x: Features) -> dict[str, Work]:
    works: dict[str, Work] = {"ours": lambda: moments_of(x, World.single())}
    if find_spec("torch_fidelity"):
        from torch_fidelity.metric_fid import fid_features_to_statistics

        works["torch-fidelity"] = lambda: fid_features_to_statistics(torch.from_numpy(x))
    return works


def _frechet(x: Features, y: Features) -> dict[str, Work]:
    """Of given moments."""
    mine = [moments_of(features, World.single()) for features in (x, y)]
    works: dict[str, Work] = {"ours": lambda: frechet_distance(*mine)}
    if find_spec("torch_fidelity"):
        from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

        theirs = [fid_features_to_statistics(torch.from_numpy(features)) for features in (x, y)]
        works["torch-fidelity"] = lambda: fid_statistics_to_metric(*theirs, verbose=False)
    return works


def _precision(x: Features, y: Features) -> dict[str, Work]:
    """Ours are all four numbers, under both rules; torch-fidelity's two, under one; prdc's four, under the other."""
    works: dict[str, Work] = {"ours": lambda: prdc(x, y, [NV_PR, PRDC], World.single())}
    if find_spec("torch_fidelity"):
        from torch_fidelity.metric_prc import calculate_precision_recall_full

        both = torch.from_numpy(x), torch.from_numpy(y)
        works["torch-fidelity"] = lambda: calculate_precision_recall_full(*both, NV_PR.k)
    if find_spec("prdc"):
        from prdc import compute_prdc

        works["prdc"] = lambda: compute_prdc(y, x, PRDC.k)
    return works


if __name__ == "__main__":
    main()
