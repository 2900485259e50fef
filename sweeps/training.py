"""A training as a process of its own: started by who has the GPUs, and gone when that one is.

`spider train` is what runs, so that a trial is what anybody can start, resume and measure by hand. A process that dies
without a word (a worker of Ray, or all of Ray) takes its training along: the kernel then asks the training to stop, and
it saves. Under several processes torchrun is what is started and asked, and passes that on.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster import children

_STOP_S = 600.0  # a training asked to stop has so long to save
_TAIL_BYTES = 1 << 14  # of a log: many lines
# What would make a training take itself for a part of the job that Ray runs in
_OTHERS_JOB = re.compile(
    r"(SLURM|PMI|PMIX|OMPI|TORCHELASTIC)_\w+|(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT)"
)


class Training:
    """A running `spider train`, the only thing that this process has started."""

    def __init__(self, words: Sequence[str], log: Path, *, processes: int, threads: int, gpus: bool) -> None:
        """Start it.

        Args:
            words: what stands after `spider train`.
            log: what it prints is added to this file.
            processes: ranks, all on this machine.
            threads: of torch, in each of them.
            gpus: whether it may see those of this process; otherwise it sees none.
        """
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = [sys.executable, *(launcher if processes > 1 else []), "-m", "spider", "train", *words]
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        self._log_start = log.stat().st_size if log.exists() else 0
        children.adopt_orphans()  # torchrun gives every rank a session of its own
        with log.open("ab") as out:
            self._process = children.start(command, env=_environment(os.environ, threads, gpus), stdout=out)

    def exit_code(self) -> int | None:
        """None as long as it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """Ask it to save and end, and wait until it has, and nothing of it is left."""
        if self._process.poll() is None:
            children.end(self._process, _STOP_S)
        children.kill_all()

    def error(self) -> str:
        """The last error that it printed, in one line; or its last line; or how it ended."""
        code = self._process.returncode
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        with self._log.open("rb") as file:
            file.seek(max(self._log_start, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        told = [line for line in lines if re.match(r"error( \(rank \d+\))?: ", line)] or lines
        return told[-1] if told else f"ended with exit code {code}"


def _environment(mine: Mapping[str, str], threads: int, gpus: bool) -> dict[str, str]:
    environment = {name: value for name, value in mine.items() if not _OTHERS_JOB.fullmatch(name)}
    environment |= {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    return environment if gpus else {**environment, "CUDA_VISIBLE_DEVICES": ""}
