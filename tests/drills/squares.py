"""A command for drills: squares numbers on Ray, and notes each in a file; those that are there are not done again.

python squares.py COUNT SECONDS FILE      # FILE gets lines of NUMBER SQUARE NODE START
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from cluster.ray import RayWorkers, connected
from cluster.workers import Piece


class Worker:
    """Takes its time."""

    def square(self, number: int, seconds: float) -> tuple[int, str]:
        time.sleep(seconds)
        return number**2, os.environ["SLURMD_NODENAME"]


def main(count: int, seconds: float, file: Path) -> None:
    there = {int(line.split()[0]) for line in file.read_text().splitlines()} if file.exists() else set()
    start = os.environ.get("SLURM_RESTART_COUNT", "0")
    pieces = [Piece(str(i), "square", (i, seconds)) for i in range(count) if i not in there]
    with connected("auto") as cluster, RayWorkers(Worker, cluster) as workers, file.open("a") as notes:
        print(f"{len(pieces)} to do, {workers.count} workers", flush=True)
        for done in workers.run(pieces):
            square, node = done.value
            notes.write(f"{done.piece.name} {square} {node} {start}\n")
            notes.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]))
