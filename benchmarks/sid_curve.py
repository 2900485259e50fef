"""One whole SID curve against the time of its matrix products on the same machine.

    python -m benchmarks.sid_curve [--dim 2048] [--repeats 5] [--threads N] [--device cpu|cuda] [--out FILE.json]

Floor: 40 float32 products of [500, dim] and [dim, 500], which is what 20 subsets of 500 points, 500 target images and
500 source images have by definition (41 Gflop at 2,048 dimensions). To reach: 1.5 times the floor for one order,
4 times for four, under 1 GB.

Predictions, each written down before it was measured. Every radius for itself: 490 million distances of 0.6 ns of one
core (two sums and an inverse square root), 0.55 of the floor; a quarter of the products, since points are mirrored;
0.3 for points, bootstrap and gathering images: 1.1 in all. It took 1.5: passes took 0.9 ns. With 20 radii measured
for the 49: 0.35 + 0.25 + 0.3 = 0.9 for one order and, with one to three passes for each further one, 1.6 for four.

Ratios are medians over interleaved repeats, so that what else the machine does meets both alike. `cpu` columns count
the processor's own time, which depends on that less.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.report import write_report
from spider.judge.sid.cube import Cube, summarise
from spider.judge.sid.kernels import Kernel
from spider.judge.sid.oracle import closed_form
from spider.judge.sid.robust import IMAGES, SUBSETS, sid_curves
from spider.precision import exact_float32

ORDERS = {"one order": (-1.0,), "four orders": (-1.0, 1.0, -3.0, -5.0)}
IMAGES_PER_SET = 5000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    write_report("sid_curve", measure(options.dim, options.repeats, torch.device(options.device)), options.out)


def measure(dim: int, repeats: int, device: torch.device) -> list[dict[str, object]]:
    """A row for the floor and one for each number of orders."""
    rng = np.random.default_rng(0)
    target, source = (sigma * rng.standard_normal((IMAGES_PER_SET, dim), np.float32) for sigma in (0.20, 0.30))
    products = product_loop(dim, device)
    curves = {
        name: lambda orders=orders: sid_curves(target, {"s": source}, [Kernel(k) for k in orders], device=device)
        for name, orders in ORDERS.items()
    }
    work: dict[str, Callable[[], object]] = {"floor: 40 products": products, **curves}
    for run in work.values():
        run()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, run in work.items():
            times[name].append(timed(run, device))
    floors = times["floor: 40 products"]
    gflop = 2 * SUBSETS * 2 * IMAGES * IMAGES * dim / 1e9
    rows: list[dict[str, object]] = []
    for name, taken in times.items():
        ratios = [[mine[i] / floor[i] for mine, floor in zip(taken, floors, strict=True)] for i in (0, 1)]
        rows.append(
            {
                "what": name,
                "dim": dim,
                "threads": torch.get_num_threads(),
                "wall_s": statistics.median(wall for wall, _ in taken),
                "x_floor": statistics.median(ratios[0]),
                "cpu_s": statistics.median(cpu for _, cpu in taken),
                "x_floor_cpu": statistics.median(ratios[1]) if device.type == "cpu" else None,
                "gflop_per_s": gflop / statistics.median(wall for wall, _ in taken),
                "peak_memory_gb": peak_memory_gb(),
            }
        )
    rows.append(screening(dim))
    return rows


def product_loop(dim: int, device: torch.device) -> Callable[[], None]:
    """The 40 products, into memory that is there."""
    a, b = torch.rand(IMAGES, dim, device=device), torch.rand(dim, IMAGES, device=device)
    out = torch.empty(IMAGES, IMAGES, device=device)

    def run() -> None:
        with exact_float32():
            for _ in range(2 * SUBSETS):
                torch.mm(a, b, out=out)

    return run


def screening(dim: int, candidates: int = 300) -> dict[str, object]:
    """The closed form for many candidates whose moments are known."""
    rng = np.random.default_rng(0)
    summaries = [summarise(rng.standard_normal((8, dim), np.float32), str(i)) for i in range(candidates)]
    start = time.perf_counter()
    for summary in summaries:
        closed_form(Cube(summaries[0]), summary, [Kernel(-1)])
    return {"what": f"screen {candidates} candidates", "dim": dim, "wall_s": time.perf_counter() - start}


def timed(run: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Wall time and processor time of one run, in seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def peak_memory_gb() -> float:
    """The process's largest resident set so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


if __name__ == "__main__":
    main()
