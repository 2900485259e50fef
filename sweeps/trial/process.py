"""A training as processes of its own: started by who has the GPUs, and gone when that one is.

`spider train` is what runs, so that a trial is what anybody can start, resume and measure by hand. With several
processes its ranks are started from here, and not by torchrun: torchrun gives each rank a session of its own, and they
would outlive it when all processes below a worker of Ray are killed. A rank that loses its parent is asked by the
kernel to stop, and saves.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster import children

_STOP_S = 600.0  # a training asked to stop has so long to save
_OTHERS_S = 10.0  # ranks that are left when one has failed have so long to notice
_TAIL_BYTES = 1 << 14  # of a log: many lines
# What would make a training take itself for a part of the job that Ray runs in
_OTHERS_JOB = re.compile(
    r"(SLURM|PMI|PMIX|OMPI|TORCHELASTIC)_\w+|(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT)"
)


def is_told(line: str) -> bool:
    """Whether a line of a training's log is an error that it named, and not the end of a traceback."""
    return re.match(r"error( \(rank \d+\))?: ", line) is not None


class TrainProcess:
    """A running `spider train`, the only thing that this process has started."""

    def __init__(
        self, run: Path, words: Sequence[str], cwd: Path, log: Path, *, processes: int, threads: int, gpus: bool
    ) -> None:
        """Start it. Call it from the main thread, with which it ends.

        Args:
            run: its folder.
            words: what stands after `spider train --run RUN`.
            cwd: the folder that the places in them are relative to.
            log: what it prints is added to this file.
            processes: ranks, all on this machine.
            threads: of torch, in each of them.
            gpus: whether it may see those of this process; otherwise it sees none.
        """
        command = [sys.executable, "-m", "spider", "train", "--run", str(run), *words]
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        self._log_start = log.stat().st_size if log.exists() else 0
        environment = _environment(os.environ, threads, gpus)
        with log.open("ab") as out:
            self._ranks = [
                children.start(command, cwd=cwd, env={**environment, **rank}, stdout=out) for rank in _ranks(processes)
            ]

    def exit_code(self) -> int | None:
        """None as long as it runs, 0 if every rank ended well, else that of a rank that did not."""
        codes = [rank.poll() for rank in self._ranks]
        failed = next((code for code in codes if code), None)
        if failed is not None:
            self._stop(_OTHERS_S)
            return failed
        return None if None in codes else 0

    def stop(self) -> None:
        """Ask it to save and end, and wait until it has."""
        self._stop(_STOP_S)

    def error(self) -> str:
        """Of one that failed, the last error that it printed, in one line; or its last line; or how it ended."""
        with self._log.open("rb") as file:
            file.seek(max(self._log_start, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        killed = [-rank.returncode for rank in self._ranks if rank.returncode is not None and rank.returncode < 0]
        if killed and len(self._ranks) == 1:
            return f"killed by {signal.Signals(killed[0]).name}"
        told = [line for line in lines if is_told(line)] or lines
        return told[-1] if told else f"ended with exit codes {[rank.returncode for rank in self._ranks]}"

    def _stop(self, grace_s: float) -> None:
        left = [rank for rank in self._ranks if rank.poll() is None]
        for rank in left:
            rank.terminate()  # all of them before any is waited for: they end together
        for rank in left:
            try:
                rank.wait(grace_s)
            except subprocess.TimeoutExpired:
                rank.kill()
                rank.wait()


def _environment(mine: Mapping[str, str], threads: int, gpus: bool) -> dict[str, str]:
    environment = {name: value for name, value in mine.items() if not _OTHERS_JOB.fullmatch(name)}
    environment |= {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    return environment if gpus else {**environment, "CUDA_VISIBLE_DEVICES": ""}


def _ranks(processes: int) -> list[dict[str, str]]:
    """What torch.distributed reads from the environment, for each rank; nothing for one alone."""
    if processes == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [{**world, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
