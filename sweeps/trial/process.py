"""A training as processes of its own: started by who has the GPUs, and gone when that one is.

`spider train` is what runs, so that a trial is what anybody can start, resume and measure by hand. With several
processes its ranks are started from here, and not by torchrun: torchrun gives each rank a session of its own, and they
would outlive it when all processes below a worker of Ray are killed. A rank that loses its parent is asked by the
kernel to stop, and saves.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from cluster import children
from cluster.jobs.verdict import Cause, Ending, judge, last_error

_STOP_S = 600.0  # a training asked to stop has so long to save
_NOTICE_S = 5.0  # ranks that are left when one has failed have so long to notice and tell it
_OTHERS_S = 10.0  # and then, asked to stop, so long to end
_FAULTS_OF_THE_TRAINING = (0, 1, 2)  # exit codes; 3 is the machine's, and a signal's is negative
_TAIL_BYTES = 1 << 16  # of a log: many lines
# What would make a training take itself for a part of the job that Ray runs in
_OTHERS_JOB = re.compile(
    r"(SLURM|PMI|PMIX|OMPI|TORCHELASTIC)_\w+|(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT)"
)


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
        self._asked: set[int] = set()  # ranks that were asked to stop
        environment = environment_of(os.environ, threads, gpus)
        with log.open("ab") as out:
            self._ranks = [
                children.start(command, cwd=cwd, env={**environment, **rank}, stdout=out) for rank in _ranks(processes)
            ]

    def has_ended(self) -> bool:
        """Whether no rank runs any more. When one has failed, the others end too."""
        codes = [rank.poll() for rank in self._ranks]
        if any(codes):
            self._wait(_NOTICE_S)  # one that can tell why is not interrupted
            self._stop(_OTHERS_S)
            return True
        return None not in codes

    def failure(self) -> Cause | None:
        """Of one that has ended: why it failed; None if every rank ended well."""
        if not any(rank.returncode for rank in self._ranks):
            return None
        endings = [self._ending(number) for number in range(len(self._ranks))]
        if not any(ending.failed for ending in endings):
            return Cause("a signal stopped the training")
        return judge(endings, None)

    def is_of_machine(self, cause: Cause) -> bool:
        """Whether a rank was lost, or said that the machine failed: the same training may go well later."""
        return cause.rank is None or self._ranks[cause.rank].returncode not in _FAULTS_OF_THE_TRAINING

    def stop(self) -> None:
        """Ask it to save and end, and wait until it has."""
        self._stop(_STOP_S)

    def _ending(self, number: int) -> Ending:
        code = self._ranks[number].returncode
        told, error = last_error(self._last_lines(), code, number)
        return Ending(
            rank=number,
            node=socket.gethostname(),
            code=code,
            error=error,
            told=told,
            preempted=False,
            cancelled=number in self._asked,
            unsaved=False,
            hung=None,
            waited=False,
        )

    def _last_lines(self) -> list[str]:
        """Of what its ranks have printed."""
        with self._log.open("rb") as file:
            file.seek(max(self._log_start, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()

    def _wait(self, longest_s: float) -> None:
        deadline = time.monotonic() + longest_s
        for rank in self._ranks:
            with suppress(subprocess.TimeoutExpired):
                rank.wait(max(0.0, deadline - time.monotonic()))

    def _stop(self, grace_s: float) -> None:
        left = {number: rank for number, rank in enumerate(self._ranks) if rank.poll() is None}
        self._asked |= left.keys()
        for rank in left.values():
            rank.terminate()  # all of them before any is waited for: they end together
        for rank in left.values():
            try:
                rank.wait(grace_s)
            except subprocess.TimeoutExpired:
                rank.kill()
                rank.wait()


def environment_of(mine: Mapping[str, str], threads: int, gpus: bool) -> dict[str, str]:
    """Of a training: `mine`, without what would make it take itself for a part of another job."""
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
