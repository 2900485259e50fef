"""Fixtures of the drills: what only a real Slurm can show. `make drills` runs them; `make test` does not.

Without Slurm they are skipped, with the reason; where DRILLS_REQUIRED is set, as in continuous integration, they fail.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
_CLUSTER = Path(__file__).parent / "slurm_cluster.py"
_WAIT_S = 900.0  # a bound on hangs, not a measurement: machines of drills do other work too


@dataclass(frozen=True)
class Slurm:
    """A running cluster.

    Attributes:
        folder: of its configuration and logs.
    """

    folder: Path
    _daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def says(self, *command: str) -> str:
        """What one of Slurm's programs answers."""
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def state(self, job: str) -> str:
        """PENDING, RUNNING, COMPLETED, FAILED, ..."""
        return self._about(job, "JobState")

    def restarts(self, job: str) -> int:
        """How often it went back into the queue."""
        return int(self._about(job, "Restarts"))

    def _about(self, job: str, key: str) -> str:
        words = self.says("scontrol", "show", "job", job).split()
        return next(word.removeprefix(f"{key}=") for word in words if word.startswith(f"{key}="))

    def wait_for_end(self, job: str) -> str:
        """Its last state."""
        ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")
        self.wait_until(lambda: self.state(job) in ended, f"the end of job {job}")
        return self.state(job)

    @staticmethod
    def wait_until(is_so: Callable[[], object], what: str) -> None:
        """Raises AssertionError that names what did not happen."""
        deadline = time.monotonic() + _WAIT_S
        while not is_so():
            assert time.monotonic() < deadline, f"{what}: not in {_WAIT_S:g} s"
            time.sleep(0.2)

    def pids(self, job: str, node: str, word: str = "") -> list[int]:
        """Processes of a job on a node whose command line has `word`."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                settings = (process / "environ").read_bytes().split(b"\0")
                wanted = {f"SLURM_JOB_ID={job}".encode(), f"SLURMD_NODENAME={node}".encode()}
                if wanted <= set(settings) and word.encode() in (process / "cmdline").read_bytes():
                    found.append(int(process.name))
        return found

    def left(self, job: str) -> set[object]:
        """A job's processes on both nodes, and the folders of its Ray."""
        return {*self.pids(job, "n1"), *self.pids(job, "n2"), *Path("/tmp").glob(f"r{job}-*")}

    def lose(self, job: str, node: str) -> None:
        """A node's power goes: its daemon, those of its job, and all processes."""
        tasks = self.pids(job, node)
        steps: set[int] = set()
        for pid in tasks:
            with suppress(OSError):  # it has ended meanwhile
                steps.add(_parent(pid))
        daemon = int((self.folder / f"{node}.pid").read_text())
        for pid in (daemon, *(steps - set(tasks)), *tasks):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def bring_back(self, node: str) -> None:
        """A lost node's daemon starts again."""
        command = ["slurmd", "-D", "-N", node, "-f", str(self.folder / "slurm.conf")]
        self._daemons.append(subprocess.Popen([*command, "-L", str(self.folder / f"{node}.log")]))

    def end_daemons(self) -> None:
        """Of those that were brought back."""
        for daemon in self._daemons:
            daemon.terminate()
            daemon.wait()


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """Two idle nodes, n1 and n2, with two cores each; gone after the test with all that ran on them."""
    lacking = [program for program in _PROGRAMS if not shutil.which(program)]
    if lacking or os.geteuid() != 0:
        give_up = pytest.fail if "DRILLS_REQUIRED" in os.environ else pytest.skip
        give_up(f"needs root and Slurm; not on the PATH: {', '.join(lacking) or 'nothing'}")
    folder = tmp_path / "slurm"
    with subprocess.Popen([sys.executable, str(_CLUSTER), str(folder)], stdout=subprocess.PIPE, text=True) as cluster:
        assert cluster.stdout is not None
        ready = cluster.stdout.readline()
        assert ready, "the cluster did not start"
        monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        there = Slurm(folder)
        yield there
        there.end_daemons()
        cluster.terminate()


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
