"""What Ray costs, and how long screening takes.

    python -m benchmarks.neighbors [--images 20000] [--repeats 3] [--out FILE.json]

Features of 20,000 images of 32 px under the offline embedding, kept as a search keeps them: by two Ray workers, from
the moment both have done a piece to the last one; and by two plain processes in a loop over the same pieces, likewise.
They take turns. To reach: under 15 % more time. Prediction: a call takes 1 ms where a piece takes 0.3 s: under 2 %.

Pieces of work, one core, 2,048 dimensions: what the cost model in docs/neighbours.md is made of.

Screening: 300 candidates in 2,048 dimensions whose summaries are kept, one order, from the files to the ranks. To
reach: under 1 s. Prediction: 300 files of 33 KB, read and hashed at 0.2 ms each, and 0.05 s of closed forms: 0.11 s.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial, reduce
from multiprocessing.synchronize import Barrier
from operator import add
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.report import write_report
from cluster.ray import RayCluster, RayWorkers, connected
from cluster.workers import OneWorker, Piece
from neighbors.search import NeighborSearch, Pair
from neighbors.worker import DatasetSummary, NeighborPlan, NeighborWorker
from spider.judge.embed.cache import FeatureCache
from spider.judge.embed.features import PIECE, pieces_of
from spider.judge.embed.load import load_embedding
from spider.judge.sid.cube import FeatureSummary, summarise_part
from spider.judge.sid.kernels import Kernel

WORKERS = 2
CANDIDATES, DIM = 300, 2048


class MeetingWorker(NeighborWorker):
    """One of WORKERS that can wait for the others."""

    def meet(self, folder: Path, dataset: str, start: int, stop: int) -> None:
        """Do a piece, and wait until every worker has."""
        self.extract(dataset, start, stop)
        (folder / f"met-{os.getpid()}").touch()
        while len(list(folder.glob("met-*"))) < WORKERS:
            time.sleep(0.01)


class RandomImages:
    """Images of random pixels, 32 px in colour, the same in every process."""

    name = "random"

    def __init__(self, count: int, fingerprint: str) -> None:
        self.count, self.fingerprint = count, fingerprint
        self._pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (PIECE, 3, 32, 32), dtype=np.uint8))

    def __len__(self) -> int:
        return self.count

    def batch(self, start: int, stop: int) -> Tensor:
        return self._pixels[start % PIECE : start % PIECE + stop - start]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rates: dict[str, list[float]] = {"plain processes": [], "Ray": []}
    with connected("local") as cluster:
        for turn in range(options.repeats):
            with plan_of(options.images, f"plain {turn}") as plan:
                rates["plain processes"].append(plain_rate(plan))
            with plan_of(options.images, f"ray {turn}") as plan:
                rates["Ray"].append(ray_rate(plan, cluster))
    ratios = [plain / ray for plain, ray in zip(rates["plain processes"], rates["Ray"], strict=True)]
    rows: list[dict[str, object]] = [
        {"what": name, "img_per_s": statistics.median(found), "of_plain": 1.0} for name, found in rates.items()
    ]
    rows[1]["of_plain"] = statistics.median(ratios)
    rows.append(
        {"what": f"screen {CANDIDATES} candidates from the cache", "seconds": screening_seconds(options.repeats)}
    )
    rows += piece_seconds(options.repeats)
    write_report("neighbors", rows, options.out)


@contextmanager
def plan_of(images: int, fingerprint: str) -> Iterator[NeighborPlan]:
    """A search of one dataset, of which nothing is kept yet."""
    dataset = RandomImages(images, fingerprint)
    with tempfile.TemporaryDirectory() as cache:
        network = load_embedding("offline")
        yield NeighborPlan(
            {fingerprint: dataset}, ("offline", None, None), network.digest, Path(cache), (Kernel(-1),), 0
        )


def pieces_of_plan(plan: NeighborPlan) -> list[Piece]:
    (dataset,) = plan.images
    return [
        Piece(f"piece {start}", "extract", (dataset, start, stop))
        for start, stop in pieces_of(0, len(plan.images[dataset]))
    ]


def ray_rate(plan: NeighborPlan, cluster: RayCluster) -> float:
    """Images per second of all workers together, after each has done a piece."""
    pieces = pieces_of_plan(plan)
    with RayWorkers(partial(MeetingWorker, plan), cluster, count=WORKERS) as workers:
        # Two for each: whoever starts first is given two, and does not get past the first alone
        meetings = [Piece("meet", "meet", (plan.cache, *piece.arguments)) for piece in pieces[:WORKERS] * 2]
        list(workers.run(meetings))
        rest = pieces[WORKERS:]
        start = time.perf_counter()
        for _ in workers.run(rest):
            pass
        return len(rest) * PIECE / (time.perf_counter() - start)


def plain_rate(plan: NeighborPlan) -> float:
    """The same of as many processes that know nothing of Ray."""
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(WORKERS + 1)
    processes = [context.Process(target=_loop, args=(plan, rank, together)) for rank in range(WORKERS)]
    for process in processes:
        process.start()
    together.wait()
    start = time.perf_counter()
    together.wait()
    taken = time.perf_counter() - start
    for process in processes:
        process.join()
    return (len(pieces_of_plan(plan)) - WORKERS) * PIECE / taken


def _loop(plan: NeighborPlan, rank: int, together: Barrier) -> None:
    torch.set_num_threads(1)
    worker = OneWorker(partial(NeighborWorker, plan))
    first, *rest = pieces_of_plan(plan)[rank::WORKERS]
    list(worker.run([first]))
    together.wait()
    list(worker.run(rest))
    together.wait()


def piece_seconds(repeats: int) -> list[dict[str, object]]:
    """Each kind of piece, of two datasets of 16,384 images whose features are kept."""
    rng = np.random.default_rng(0)
    images = {name: RandomImages(16 * PIECE, name) for name in ("target", "source")}
    with tempfile.TemporaryDirectory() as folder:
        plan = NeighborPlan(images, ("inception", None, None), "digest", Path(folder), (Kernel(-1),), 0)
        cache, spans = FeatureCache(plan.cache), pieces_of(0, 16 * PIECE)
        for name, spread in (("target", 0.2), ("source", 0.3)):
            parts = []
            for span in spans:
                features = (0.4 + spread * rng.standard_normal((PIECE, DIM))).astype(np.float32)
                cache.store(plan.key(name, "features", span), rows=features)
                parts.append(summarise_part(features))
            DatasetSummary(reduce(add, parts), colour=True).store(cache, plan, name)
        whole = (0, 16 * PIECE)
        work = {
            "summary of 1,024 kept features": ("extract", ("source", *spans[0])),
            "sample of a dataset, per 1,024 images": ("gather", ("source",)),
            "redrawn cube of a target of 16,384": ("redraw", ("target",)),
            "20 subsets of one set about a target": ("measure", ("target", "source", range(20))),
            "moments of 16,384 images": ("moments", ("source", *whole)),
            "covariance's factor of a dataset": ("law", ("source", [whole])),
            "FD and KD of a pair": ("distances", ("target", "source")),
        }
        worker = NeighborWorker(plan)
        for name in images:
            worker.gather(name)
            worker.moments(name, *whole)
            worker.law(name, [whole])
        rows: list[dict[str, object]] = []
        for what, (method, arguments) in work.items():
            getattr(worker, method)(*arguments)
            taken = []
            for _ in range(repeats):
                if method == "law":  # which is made once, and its moments let go
                    cache.discard(plan.key("source", "law"))
                    worker.moments("source", *whole)
                start = time.perf_counter()
                getattr(worker, method)(*arguments)
                taken.append(time.perf_counter() - start)
            share = len(spans) if method == "gather" else 1
            rows.append({"what": what, "seconds": statistics.median(taken) / share})
        return rows


def screening_seconds(repeats: int) -> float:
    """From kept summaries to curves of all candidates."""
    rng = np.random.default_rng(0)
    images = {f"candidate {i}": RandomImages(5000, f"candidate {i}") for i in range(CANDIDATES + 1)}
    with tempfile.TemporaryDirectory() as folder:
        plan = NeighborPlan(images, ("inception", None, None), "digest", Path(folder), (Kernel(-1),), 0)
        cache = FeatureCache(plan.cache)
        for i, name in enumerate(images):
            mean, scatter = 0.4 + 0.01 * rng.standard_normal(DIM), 5000 * rng.gamma(2, 0.02 + 1e-4 * i, DIM)
            DatasetSummary(FeatureSummary(5000, mean, scatter), colour=True).store(cache, plan, name)
        target, *candidates = images
        taken = []
        for _ in range(repeats):
            start = time.perf_counter()
            search = NeighborSearch(plan, OneWorker(partial(NeighborWorker, plan)), "screen", progress=False)
            curves = search.screened([Pair(target, name, name) for name in candidates], search.summaries())
            sorted(curves.values(), key=lambda of_pair: of_pair[0].csid)
            taken.append(time.perf_counter() - start)
        return statistics.median(taken)


if __name__ == "__main__":
    main()
