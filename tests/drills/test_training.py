"""A training of 2 x 2 ranks on a real Slurm, and all that happens to it: it ends as if nothing had.

It has classes, a paired objective, ADA and ATop-k (tests/every_axis.py), so that no drill is easier than a real run.
Bit for bit: weights, optimizers, rows, TensorBoard, grids; and no image twice, or left out, in what was trained on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from cluster.jobs.history import History
from cluster.jobs.submission import Submission, cancel
from shards.pack import pack
from spider.runs.directory import RunDirectory, images_of
from tests.equal_runs import assert_equal_runs
from tests.every_axis import EVERY_AXIS

if TYPE_CHECKING:
    from tests.drills.conftest import Slurm

SABOTEUR = Path(__file__).parent / "saboteur"
IMAGES, BATCH, KIMG, SAVES = 1500, 16, 1.6, 0.16
KEYS = [
    *EVERY_AXIS,
    f"batch={BATCH}",
    f"kimg={KIMG}",
    f"checkpoint.every_kimg={SAVES}",
    "generator.width=0.05",
    "discriminator.width=0.05",
    "log.every_kimg=0.08",
    "log.samples_every_kimg=0.8",
    "log.samples=4",
    "evaluate.every_kimg=0.8",
    "evaluate.embedding=offline",
    "evaluate.count=64",
    "guard.max_skipped=2",
]
# The first start is half a minute away from its end when something happens to it, however late the drill notices
SLOW = {"sleep_s": 0.3, "starts": 1}
CLUSTER = "nodes=2,tasks_per_node=2,cpus_per_task=1,time=10"


class Turn(NamedTuple):
    """When a batch of real images was taken: at which clock, and as which of the iteration."""

    clock: int
    number: int


# A paired objective takes two batches: one for each player
TURNS = [Turn(clock, number) for clock in range(0, round(KIMG * 1000), BATCH) for number in range(2)]


class Training:
    """A run and its job."""

    def __init__(self, slurm: Slurm, data: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.slurm, self.data, self.run = slurm, data, run
        self.order = run.parent / "order"
        self.order.mkdir(parents=True, exist_ok=True)
        self._monkeypatch = monkeypatch
        self.sabotage()

    def sabotage(self, **told: Any) -> None:
        """What will go wrong in the next submission."""
        self._monkeypatch.setenv("PYTHONPATH", str(SABOTEUR))
        self._monkeypatch.setenv("SABOTAGE", json.dumps({"order": str(self.order), **told}))

    def launch(self, *words: str, cluster: str = CLUSTER) -> str:
        """Submit it; its job."""
        spider("launch", "dcgan", f"--data={self.data}", f"--run={self.run}", f"--slurm={cluster}", *KEYS, *words)
        return self.job

    @property
    def job(self) -> str:
        submission = Submission.read(self.run / "slurm")
        assert submission is not None
        return submission.job

    def wait_for_save(self, number: int) -> None:
        """Until so many checkpoints have been written since the run began."""
        images = round(number * SAVES * 1000)
        names = RunDirectory(self.run).checkpoint_names
        self._wait_until(lambda: any(images_of(name) >= images for name in names()), f"save {number}")

    def wait_for(self, event: str, count: int = 1) -> None:
        """Until the history has so many of these events."""
        self._wait_until(lambda: self.events().count(event) >= count, f"{count} x {event}")

    def _wait_until(self, is_so: Callable[[], bool], what: str) -> None:
        def is_over() -> bool:
            events = History(self.run / "slurm").read()
            return bool(events) and events[-1].event in ("failed", "stopped", "finished") and not events[-1]["again"]

        self.slurm.wait_until(lambda: is_so() or is_over(), what)
        assert is_so(), self.status()

    def events(self) -> list[str]:
        return [event.event for event in History(self.run / "slurm").read()]

    def starts(self) -> list[float]:
        """At how many images each start began."""
        newest = [event["newest"] for event in History(self.run / "slurm").read() if event.event == "started"]
        return [0 if name is None else images_of(name) for name in newest]

    def status(self) -> str:
        return spider("status", str(self.run))

    def log(self, rank: int = 0) -> str:
        return (self.run / "slurm" / f"{self.job}_{rank}_log.out").read_text()

    def orphans(self) -> list[int]:
        return [pid for node in ("n1", "n2") for pid in self.slurm.pids(self.job, node)]

    def ends_as(self, whole: Path) -> str:
        """It finishes, and is the run that nothing happened to. What `spider status` tells of it."""
        assert self.slurm.wait_for_end(self.job) == "COMPLETED", self.status() + self.log()
        assert_equal_runs(self.run, whole)
        self.assert_every_image_once()
        self.slurm.wait_until(lambda: not self.orphans(), "an end of all processes")
        told = self.status()
        assert told.startswith("state       finished")
        return told

    def assert_every_image_once(self) -> None:
        """What was trained on, all starts together, is the order of the data."""
        taken: dict[Turn, list[list[str]]] = {}
        for rank in range(4):
            of_rank: dict[Turn, list[str]] = {}
            for turn, indices in self._taken(rank):
                # A start that goes on before another's end takes the same images again
                assert of_rank.setdefault(turn, indices) == indices
            for turn, indices in of_rank.items():
                taken.setdefault(turn, []).append(indices)
        assert sorted(taken) == TURNS
        flat = [int(parts[slot % 4][slot // 4]) for _, parts in sorted(taken.items()) for slot in range(BATCH)]
        assert len(set(flat[:IMAGES])) == IMAGES  # one epoch
        assert len(set(flat[IMAGES : 2 * IMAGES])) == IMAGES

    def assert_nothing_twice(self) -> None:
        """Each start so far went on where the one before had stopped, wherever that was: it had saved out of turn."""
        for rank in range(4):  # the saboteur notes what an iteration takes, and not what is read ahead for the next
            taken = [turn for turn, _ in self._taken(rank)]
            assert taken == TURNS[: len(taken)]

    def _taken(self, rank: int) -> Iterator[tuple[Turn, list[str]]]:
        """Each batch of real images that a rank took, in the order in which it took them."""
        for line in (self.order / f"rank-{rank}.txt").read_text().splitlines():
            clock, number, *indices = line.split()
            yield Turn(int(clock), int(number)), indices


def spider(*words: str) -> str:
    """What a command prints, which must end well."""
    done = subprocess.run([sys.executable, "-m", "spider", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "digits"
    pack("builtin:digits", out, resolution=16, subset=IMAGES, shard_mb=0.1, workers=1, progress=False)
    return out


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The run that nothing happens to, of four ranks on this machine."""
    run = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        spider("launch", "dcgan", f"--data={data}", f"--run={run}", "--slurm=local,tasks_per_node=4", *KEYS)
    try:
        deadline = time.monotonic() + 600
        while History(run / "slurm").read()[-1].event != "finished":
            assert time.monotonic() < deadline, spider("status", str(run))
            time.sleep(0.2)
        yield run
    finally:
        cancel(run / "slurm")


@pytest.fixture
def training(slurm: Slurm, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Training:
    return Training(slurm, data, tmp_path / "runs" / "run", monkeypatch)


def test_a_time_limit(training: Training, whole: Path) -> None:
    training.sabotage(sleep_s=1.5, starts=1)  # a start of a minute is not enough, two are
    training.launch(cluster="nodes=2,tasks_per_node=2,cpus_per_task=1,time=2,signal_delay_s=60")
    training.wait_for("requeued")
    told = training.ends_as(whole)
    assert told.count("time limit: saved, and back in the queue") == len(training.starts()) - 1
    assert len(set(training.starts())) == len(training.starts())  # each went further


def test_what_takes_the_nodes_away_loses_nothing(training: Training, whole: Path) -> None:
    training.sabotage(**{**SLOW, "starts": 2})
    job = training.launch()
    training.wait_for_save(2)
    training.slurm.says("scontrol", "requeue", job)
    # The job itself has ended, and Slurm starts it again
    training.slurm.wait_until(lambda: training.events().count("started") == 2, "another start")
    training.wait_for_save(5)
    training.slurm.says("scancel", "--signal=USR2", job)
    told = training.ends_as(whole)
    assert "stopped: told to end" in told
    assert "preemption: saved, and back in the queue" in told
    training.assert_nothing_twice()


def test_a_suspended_job_a_cancelled_one_and_a_damaged_checkpoint(training: Training, whole: Path) -> None:
    training.sabotage(**SLOW)
    job = training.launch()
    training.wait_for_save(1)
    training.slurm.says("scontrol", "suspend", job)
    assert training.status().startswith("state       suspended: ")
    training.slurm.says("scontrol", "resume", job)
    training.wait_for_save(2)
    training.slurm.says("scontrol", "suspend", job)  # it could not save: cancel lets it go on
    assert spider("cancel", str(training.run)).splitlines()[1] == "state       stopped: cancelled"
    assert not training.orphans()
    training.launch()
    training.wait_for_save(5)
    training.assert_nothing_twice()
    spider("cancel", str(training.run))
    checkpoints = RunDirectory(training.run).checkpoints
    newest = RunDirectory(training.run).checkpoint_names()[-1]
    file = checkpoints / newest / "generator.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    training.sabotage()
    training.launch()
    training.ends_as(whole)
    assert (checkpoints / "quarantine" / newest / "reason.txt").exists()
    assert f"{newest}/generator.safetensors is damaged" in training.log()


def test_a_rank_that_is_killed_and_then_the_script(training: Training, whole: Path) -> None:
    training.sabotage(**{**SLOW, "starts": 2})
    job = training.launch()
    training.wait_for_save(2)
    os.kill(max(training.slurm.pids(job, "n2", "spider")), signal.SIGKILL)
    training.wait_for("started", 2)
    training.wait_for_save(4)
    os.kill(min(training.slurm.pids(job, "n1", "slurm_script")), signal.SIGKILL)
    told = training.ends_as(whole)
    assert "on n2 was killed by SIGKILL; back in the queue" in told
    assert "failed: the job's script was killed on n1; back in the queue" in told


def test_a_node_that_is_lost(training: Training, whole: Path) -> None:
    training.sabotage(**SLOW)
    job = training.launch()
    training.wait_for_save(2)
    training.slurm.lose(job, "n2")
    training.slurm.wait_until(lambda: training.slurm.state(job) == "PENDING", "a place in the queue")
    training.slurm.bring_back("n2")
    training.ends_as(whole)
    # Slurm may end next starts as well: it reaches a node that is back with what the first one was to be told
    assert len(training.starts()) >= 2


def test_a_kill_during_a_save_and_then_a_rank_that_hangs(training: Training, whole: Path) -> None:
    killed, hung = training.run.parent / "killed", training.run.parent / "hung"
    training.sabotage(
        kill_in_save={"images": 480, "once": str(killed)}, hang={"rank": 2, "images": 816, "once": str(hung)}
    )
    training.launch("engine.timeout_min=0.5")
    training.wait_for("failed")
    assert killed.exists()
    training.wait_for("failed", 2)
    hung.touch()
    told = training.ends_as(whole)
    assert training.starts() == [0, 320, 800]
    assert "rank 0 on n1 was killed by SIGKILL; back in the queue" in told
    assert "rank 2 on n2 hung in spoilt_iterate" in told
    assert told.count("back in the queue") == 2


def test_a_disk_that_is_full_for_a_while(
    slurm: Slurm, data: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    slurm.says("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk))
    try:
        training = Training(slurm, data, disk / "run", monkeypatch)
        training.sabotage(**SLOW)
        training.launch()
        training.wait_for_save(2)
        room = os.statvfs(disk)
        ballast = disk / "ballast"
        with ballast.open("wb") as file:  # leaves a little: logs are small, checkpoints are not
            file.write(bytes(room.f_bavail * room.f_bsize - (200 << 10)))
        training.wait_for("failed")
        ballast.unlink()
        told = training.ends_as(whole)
        assert "No space left on device; back in the queue" in told
    finally:
        slurm.says("umount", "--lazy", str(disk))


def test_a_shard_that_is_gone_and_then_images_that_are_not_finite(training: Training, whole: Path) -> None:
    training.sabotage(**SLOW)
    training.launch()
    training.wait_for_save(2)
    shard = sorted(training.data.glob("*.tar"))[1]
    away = training.run.parent / "away"
    shard.rename(away)  # which a start that has it open does not notice
    training.slurm.says("scancel", "--signal=USR2", training.job)
    try:
        assert training.slurm.wait_for_end(training.job) == "FAILED"
        first = training.status().splitlines()[0]
        assert first.startswith("state       failed: ")
        assert shard.name in first
    finally:
        away.rename(shard)
    training.sabotage(nan={"rank": 1, "images": 1136})
    training.launch()
    assert training.slurm.wait_for_end(training.job) == "FAILED"
    first = training.status().splitlines()[0]
    assert first.startswith("state       failed: ")
    assert "not finite" in first
    assert "on rank 1" in first
    training.sabotage()
    training.launch()
    training.ends_as(whole)
