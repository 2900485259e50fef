"""Our metrics against other packages', on the same features: CPU seconds, one thread, turns taken in one run.

    pip install torch-fidelity clean-fid prdc vendi-score; and dgm-eval, from its repository
    python -m benchmarks.metric_peers [--images 10000] [--dim 2048] [--turns 3] [--only kid,moments] [--out FILE.json]

A package that is not installed is left out. Features are made up. (prdc starts threads of its own; CPU seconds are
those of all of them.) Ours also find a standard error over images, except for kid, moments, frechet and precision.
CMMD's authors have no package: `dense` is their formula in float32, all pairs at once. dgm-eval's C_T fails under
numpy 2.4, and is left out.
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
from torch import Tensor

from benchmarks.metrics import made_up_features
from benchmarks.report import Row, write_report
from cluster.world import World
from spider.judge.embed.cache import Features
from spider.judge.metrics.cmmd import SCALE, SIGMA
from spider.judge.metrics.comparison import Comparison
from spider.judge.metrics.distances import unit_length
from spider.judge.metrics.frechet import frechet_distance
from spider.judge.metrics.kid import SUBSET_SIZE, SUBSETS, kid
from spider.judge.metrics.mind import DIRECTIONS
from spider.judge.metrics.moments import moments_of
from spider.judge.metrics.prdc import NV_PR, PRDC, prdc
from spider.judge.metrics.protocols import protocol_named
from spider.judge.metrics.registry import METRICS

Work = Callable[[], Any]


def main() -> None:
    """Run everything and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=10_000, help="of each set")
    parser.add_argument("--dim", type=int, default=2048, help="of a feature vector")
    parser.add_argument("--turns", type=int, default=3, help="of each package")
    parser.add_argument("--only", help="names of what to compare, with commas; default: all")
    parser.add_argument("--out", type=Path, help="write JSON here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    samples, reference, training = (made_up_features(seed, arguments.images, arguments.dim) for seed in (0, 1, 2))
    contests = {
        "kid": _kid(samples, reference),
        "moments": _moments(samples),
        "frechet": _frechet(samples, reference),
        "precision": _precision(samples, reference),
        "fd_infinity": _fd_infinity(samples, reference),
        "mind": _mind(samples, reference),
        "cmmd": _cmmd(samples, reference),
        "vendi": _vendi(samples),
        "authenticity": _authenticity(samples, training),
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


def _score(name: str, samples: Features, reference: Features, training: Features | None = None) -> Any:
    """Of a comparison that knows nothing yet."""
    rules = protocol_named("tf")
    return METRICS[name].score(Comparison(samples, None, reference, training, rules, seed=0, world=World.single()))


def _fd_infinity(x: Features, y: Features) -> dict[str, Work]:
    works: dict[str, Work] = {"ours": lambda: _score("fd_infinity", x, y)}
    if find_spec("dgm_eval"):
        from dgm_eval.metrics import compute_FD_infinity

        works["dgm-eval"] = lambda: compute_FD_infinity(y, x)
    return works


def _mind(x: Features, y: Features) -> dict[str, Work]:
    works: dict[str, Work] = {"ours": lambda: _score("mind", x, y)}
    if find_spec("torch_fidelity") and find_spec("torch_fidelity.metric_mind"):  # from 0.5 on
        from torch_fidelity.metric_mind import mind_features_to_metric

        both = torch.from_numpy(x), torch.from_numpy(y)
        options = {"mind_num_projections": DIRECTIONS, "cuda": False, "rng_seed": 0, "verbose": False}
        works["torch-fidelity"] = lambda: mind_features_to_metric(*both, **options)
    return works


def _cmmd(x: Features, y: Features) -> dict[str, Work]:
    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squares = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1)
        return (squares.sub_(a @ b.T, alpha=2)).mul_(-0.5 / SIGMA**2).exp_().mean()

    def dense() -> float:
        a, b = (torch.from_numpy(unit_length(features)) for features in (x, y))
        return float(SCALE * (kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)))

    return {"ours": lambda: _score("cmmd", x, y), "dense": dense}


def _vendi(x: Features) -> dict[str, Work]:
    works: dict[str, Work] = {"ours": lambda: _score("vendi", x, x)}
    if find_spec("vendi_score"):
        from vendi_score.vendi import score_dual

        works["vendi-score"] = lambda: score_dual(x)
    return works


def _authenticity(x: Features, training: Features) -> dict[str, Work]:
    works: dict[str, Work] = {"ours": lambda: _score("authenticity", x, training)}
    if find_spec("dgm_eval"):
        from dgm_eval.metrics import compute_authpct

        works["dgm-eval"] = lambda: compute_authpct(training, x)
    return works


if __name__ == "__main__":
    main()
