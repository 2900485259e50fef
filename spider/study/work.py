"""Does the stages of a study, here or on a Ray cluster: several at a time, each behind those that it waits for.

A stage is a process of `spider`, so that it is what anybody can start by hand, and takes nothing down with it. One that
fails is noted, and the others go on; what waits for it is left out. The same study, started again, does what is left:
trainings go on from their checkpoints, and those that failed are tried again, but for those whose numbers were not
finite.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cluster import children
from cluster.jobs.verdict import last_error
from cluster.ray import RayCluster
from cluster.stop import heard
from shards.progress import Bar
from spider.errors import SpiderUsageError
from spider.jobs.stages import Stage
from spider.runs.request import TrainRequest
from spider.study.ended import failure, is_done, is_hopeless, take_same, write_note
from spider.tables import duration
from untrusted.terminal import tell

_LOOK_S = 0.2
_STOP_S = 600.0  # a training that is asked to stop has so long to save
_TAIL_BYTES = 1 << 16


class Process(Protocol):
    """A stage that runs somewhere."""

    def exit_code(self) -> int | None:
        """None while it runs; negative: a signal ended it."""

    def stop(self) -> None:
        """Ask it to save and end, and wait until it has."""


class Hands(Protocol):
    """Where stages run."""

    at_once: int

    def start(self, words: tuple[str, ...], log: Path) -> Process:
        """`spider WORDS`, which adds what it prints to a file."""


class Here:
    """This machine."""

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self._threads = max(1, len(os.sched_getaffinity(0)) // at_once)

    def start(self, words: tuple[str, ...], log: Path) -> Process:
        """See Hands. Call it from the main thread, with which the processes end."""
        environment = {"OMP_NUM_THREADS": str(self._threads), **os.environ}
        with log.open("ab") as out:
            return _Child(children.start([sys.executable, "-m", "spider", *words], env=environment, stdout=out))


@dataclass
class _Child:
    process: subprocess.Popen[bytes]

    def exit_code(self) -> int | None:
        return self.process.poll()

    def stop(self) -> None:
        children.end(self.process, _STOP_S)


class OnRay:
    """The machines of a Ray cluster, which see the study's folder, and have the same project installed."""

    def __init__(self, cluster: RayCluster, at_once: int, gpus: float) -> None:
        """Raises SpiderUsageError: a stage asks for more GPUs than there are."""
        import ray

        if gpus > cluster.gpus:
            raise SpiderUsageError(f"gpus: {gpus:g}: the Ray cluster at {cluster.address} has {cluster.gpus}")
        self.at_once = at_once
        cpus = max(1, cluster.cpus // at_once)
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": 0}
        self._actor = ray.remote(_Remote).options(**options)
        self._threads = cpus

    def start(self, words: tuple[str, ...], log: Path) -> Process:
        """See Hands."""
        return _RemoteProcess(self._actor.remote(words, str(log), os.getcwd(), self._threads))


class _Remote:
    """On a worker of Ray: one stage."""

    def __init__(self, words: tuple[str, ...], log: str, cwd: str, threads: int) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        with Path(log).open("ab") as out:
            self._child = children.start(
                [sys.executable, "-m", "spider", *words], env=environment, stdout=out, cwd=Path(cwd)
            )

    def exit_code(self) -> int | None:
        return self._child.poll()

    def stop(self) -> None:
        children.end(self._child, _STOP_S)


class _RemoteProcess:
    def __init__(self, actor: Any) -> None:
        import ray

        self._ray, self._actor = ray, actor
        self._code: int | None = None

    def exit_code(self) -> int | None:
        if self._code is None:
            try:
                self._code = self._ray.get(self._actor.exit_code.remote())
            except self._ray.exceptions.RayActorError:
                self._code = -signal.SIGKILL  # it died with its machine
            if self._code is not None:
                self._ray.kill(self._actor)
        return self._code

    def stop(self) -> None:
        with suppress(self._ray.exceptions.RayActorError):
            self._ray.get(self._actor.stop.remote())
        self._ray.kill(self._actor)


@dataclass
class _Running:
    stage: Stage
    process: Process
    log: Path
    log_start: int
    began: float


def work(stages: list[Stage], out: Path, hands: Hands, *, progress: bool) -> list[str]:
    """Do all that is not done. Ctrl-C saves the trainings, and raises KeyboardInterrupt.

    Args:
        stages: each behind those that it waits for.
        out: the study's folder.
        hands: where.
        progress: say what begins and ends.

    Returns:
        A line for each stage that failed, or was left out because of one.
    """
    failed: dict[str, str] = {}
    done = {stage.name for stage in stages if is_done(stage)}
    for stage in stages:
        if stage.name not in done and is_hopeless(stage):
            failed[stage.name] = failure(stage) or ""
    waiting = [stage for stage in stages if stage.name not in done and stage.name not in failed]
    (out / "logs").mkdir(parents=True, exist_ok=True)
    running: list[_Running] = []
    with _stoppable(), Bar(total=len(stages), initial=len(done), unit="stage", desc="study", shown=progress) as bar:
        try:
            while waiting or running:
                for stage in list(waiting):
                    if lost := [name for name in stage.after if name in failed]:
                        failed[stage.name] = f"left out: {lost[0]} comes before it"
                        waiting.remove(stage)
                    elif done.issuperset(stage.after) and take_same(
                        stage, [each for each in stages if each.name in done]
                    ):
                        waiting.remove(stage)
                        done.add(stage.name)
                        bar.update()
                    elif len(running) < hands.at_once and done.issuperset(stage.after):
                        waiting.remove(stage)
                        running.append(_begin(stage, out, hands))
                bar.set_postfix_str(", ".join(map(_shown, running)), refresh=sys.stderr.isatty())
                time.sleep(_LOOK_S)
                for each in [each for each in running if each.process.exit_code() is not None]:
                    running.remove(each)
                    error = _settle(each)
                    if error is None:
                        done.add(each.stage.name)
                        bar.update()
                    else:
                        failed[each.stage.name] = error
                        tell(f"{each.stage.name}: {error} ({each.log})")
        finally:
            for each in running:
                each.process.stop()
                write_note(each.stage, time.monotonic() - each.began, "stopped")
    return [f"{name}: {error}" for name, error in failed.items()]


def _begin(stage: Stage, out: Path, hands: Hands) -> _Running:
    log = out / "logs" / f"{stage.name}.txt"
    start = log.stat().st_size if log.exists() else 0
    return _Running(stage, hands.start(stage.words, log), log, start, time.monotonic())


def _settle(ended: _Running) -> str | None:
    """Note how it ended; why it failed, in a line."""
    code, error = ended.process.exit_code(), None
    if code:
        with ended.log.open("rb") as log:
            log.seek(max(ended.log_start, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            printed = log.read().decode(errors="replace")
        _, error = last_error(printed.splitlines(), code)
    write_note(ended.stage, time.monotonic() - ended.began, error)
    return error


def _shown(each: _Running) -> str:
    """`ada-0 3/12 kimg, 2.1 minutes`."""
    so_far = duration(time.monotonic() - each.began)
    request = each.stage.request
    if isinstance(request, TrainRequest) and request.directory.metrics_file.exists():
        row = request.directory.last_row()
        if row is not None:
            length = "" if request.kimg is None else f"/{request.kimg}"
            return f"{each.stage.name} {row['kimg']:g}{length} kimg, {so_far}"
    return f"{each.stage.name} {so_far}"


@contextmanager
def _stoppable() -> Iterator[None]:
    """Every signal that asks for a stop does what Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in heard()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
