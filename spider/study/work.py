"""Does the stages of a study, here or on a Ray cluster: several at a time, each behind those that it waits for.

A stage is a process of `spider`, so that it is what anybody can start by hand, and takes nothing down with it. One that
fails is noted, and the others go on; what waits for it is left out. The same study, started again, does what is left:
trainings go on from their checkpoints, and those that failed are tried again, but for those that diverged.
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
from spider.errors import SpiderError, SpiderUsageError
from spider.jobs.stages import Stage
from spider.judge.request import EvaluateRequest
from spider.runs.request import TrainRequest
from spider.study.ended import failure, has_diverged, left, take_same, write_note
from spider.study.plan import StudyPlan
from spider.tables import duration
from untrusted.terminal import tell

_LOOK_S = 0.5
_STOP_S = 600.0  # a training that is asked to stop has so long to save
_ANSWER_S = 5.0
_TAIL_BYTES = 1 << 16


class Process(Protocol):
    """A stage that runs somewhere."""

    def exit_code(self) -> int | None:
        """None while it runs; negative: a signal ended it."""

    def ask_to_stop(self) -> None:
        """Ask it to save and end."""

    def end(self, deadline: float) -> None:
        """Wait until it has ended, and kill it when the monotonic clock passes `deadline`."""


class Executor(Protocol):
    """Where stages run, so many at a time."""

    at_once: int

    def start(self, words: tuple[str, ...], log: Path) -> Process:
        """`spider WORDS`, which adds what it prints to a file."""


class Here:
    """This machine."""

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self._threads = max(1, len(os.sched_getaffinity(0)) // at_once)

    def start(self, words: tuple[str, ...], log: Path) -> Process:
        """See Executor. Call it from the main thread, with which the processes end."""
        environment = {"OMP_NUM_THREADS": str(self._threads), **os.environ}
        with log.open("ab") as out:
            return _Child(children.start([sys.executable, "-m", "spider", *words], env=environment, stdout=out))


@dataclass
class _Child:
    process: subprocess.Popen[bytes]

    def exit_code(self) -> int | None:
        return self.process.poll()

    def ask_to_stop(self) -> None:
        self.process.terminate()

    def end(self, deadline: float) -> None:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.0, deadline - time.monotonic()))
            return
        self.process.kill()
        self.process.wait()


class OnRay:
    """The machines of a Ray cluster, which see the study's folder, and have the same project installed."""

    def __init__(self, cluster: RayCluster, at_once: int, cpus: float, gpus: float) -> None:
        """Raises ClusterUsageError: no machine of the cluster has what a stage needs."""
        import ray

        from sweeps.ray_tune import require_room

        require_room(cpus, gpus, cluster.address)
        self.at_once = at_once
        self._actor = ray.remote(_Remote).options(num_cpus=cpus, num_gpus=gpus, max_restarts=0)
        self._settings = (max(1, int(cpus)), gpus > 0)

    def start(self, words: tuple[str, ...], log: Path) -> Process:
        """See Executor."""
        return _RemoteProcess(self._actor.remote(words, str(log), os.getcwd(), *self._settings))


class _Remote:
    """On a worker of Ray: one stage."""

    def __init__(self, words: tuple[str, ...], log: str, cwd: str, threads: int, gpus: bool) -> None:
        from sweeps.trial.process import environment_of

        environment = environment_of(os.environ, threads, gpus)
        with Path(log).open("ab") as out:
            command = [sys.executable, "-m", "spider", *words]
            self._child = _Child(children.start(command, env=environment, stdout=out, cwd=Path(cwd)))

    def exit_code(self) -> int | None:
        return self._child.exit_code()

    def stop(self, within_s: float) -> None:
        self._child.ask_to_stop()
        self._child.end(time.monotonic() + within_s)


class _RemoteProcess:
    """Never waits for an actor that has no room yet."""

    def __init__(self, actor: Any) -> None:
        import ray

        self._ray, self._actor = ray, actor
        self._answer, self._has_begun = actor.exit_code.remote(), False
        self._stopped: Any = None
        self._code: int | None = None

    def exit_code(self) -> int | None:
        if self._code is None:
            self._code = self._ask()
        return self._code

    def _ask(self) -> int | None:
        if not self._ray.wait([self._answer], timeout=0)[0]:
            return None
        try:
            code: int | None = self._ray.get(self._answer)
        except self._ray.exceptions.RayError:  # it died, alone or with its machine, or was killed for memory
            return -signal.SIGKILL
        self._has_begun = True
        if code is None:
            self._answer = self._actor.exit_code.remote()
        else:
            self._ray.kill(self._actor)
        return code

    def ask_to_stop(self) -> None:
        self.exit_code()
        if self._has_begun:
            self._stopped = self._actor.stop.remote(_STOP_S)

    def end(self, deadline: float) -> None:
        if self._stopped is not None:
            self._ray.wait([self._stopped], timeout=max(0.0, deadline - time.monotonic()))
            self._ray.wait([self._answer], timeout=_ANSWER_S)
        if self.exit_code() is None:
            self._code = -signal.SIGKILL
        self._ray.kill(self._actor)


@dataclass
class _Running:
    stage: Stage
    process: Process
    log: Path
    log_start: int
    began: float


def work(plan: StudyPlan, executor: Executor, *, progress: bool) -> list[str]:
    """Do all that is left. A signal that asks for a stop saves the trainings, and raises KeyboardInterrupt.

    Args:
        plan: what.
        executor: where.
        progress: say what begins and ends.

    Returns:
        A line for each stage that failed, or was left out because of one.

    Raises:
        SpiderUsageError: a run has other settings than the study; a stage's job waits or runs.
    """
    todo, failed = left(plan.stages, plan.wanted), dict[str, str]()
    for stage in todo:
        if stage.is_alive() is not False:
            raise SpiderUsageError(
                f"stage {stage.name}: its job waits or runs; spider cancel {plan.out} ends all of them"
            )
        if has_diverged(stage):
            failed[stage.name] = failure(stage) or ""
    waiting = [stage for stage in todo if stage.name not in failed]
    done = {stage.name for stage in plan.stages} - {stage.name for stage in todo}
    by_name = {stage.name: stage for stage in plan.stages}
    (plan.out / "logs").mkdir(parents=True, exist_ok=True)
    running: list[_Running] = []
    with (
        _stoppable() as only_once,
        Bar(total=len(plan.stages), initial=len(done), unit="stage", desc="study", shown=progress) as bar,
    ):
        try:
            while waiting or running:
                for stage in list(waiting):
                    if lost := [name for name in stage.after if name in failed]:
                        failed[stage.name] = f"left out: {lost[0]} comes before it"
                        waiting.remove(stage)
                    elif len(running) < executor.at_once and done.issuperset(stage.after):
                        waiting.remove(stage)
                        if any(take_same(stage, other) for other in _alike(stage, by_name)):
                            done.add(stage.name)
                            bar.update()
                        else:
                            running.append(_begin(stage, plan.out, executor))
                if progress:
                    bar.set_postfix_str(", ".join(map(_shown, running)), refresh=sys.stderr.isatty())
                if running:
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
            only_once()
            for each in running:
                each.process.ask_to_stop()
            deadline = time.monotonic() + _STOP_S
            for each in running:
                each.process.end(deadline)
                whole = each.process.exit_code() == 0
                write_note(each.stage, time.monotonic() - each.began, "finished" if whole else "stopped")
    return [f"{name}: {error}" for name, error in failed.items()]


def _alike(stage: Stage, by_name: dict[str, Stage]) -> list[Stage]:
    """The measurements that this one waits for: of the same run."""
    before = [by_name[name] for name in stage.after]
    is_measure = isinstance(stage.request, EvaluateRequest)
    return [each for each in before if is_measure and isinstance(each.request, EvaluateRequest)]


def _begin(stage: Stage, out: Path, executor: Executor) -> _Running:
    log = out / "logs" / f"{stage.name}.txt"
    start = log.stat().st_size if log.exists() else 0
    return _Running(stage, executor.start(stage.words, log), log, start, time.monotonic())


def _settle(ended: _Running) -> str | None:
    """Note how it ended; why it failed, in a line."""
    code, error = ended.process.exit_code(), None
    if code:
        printed = b""
        with suppress(FileNotFoundError), ended.log.open("rb") as log:
            log.seek(max(ended.log_start, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            printed = log.read()
        _, error = last_error(printed.decode(errors="replace").splitlines(), code)
    write_note(ended.stage, time.monotonic() - ended.began, "finished" if error is None else "failed", error)
    return error


def _shown(each: _Running) -> str:
    """`ada-0 3/12 kimg, 2.1 minutes`."""
    so_far = duration(time.monotonic() - each.began)
    request = each.stage.request
    if isinstance(request, TrainRequest) and request.directory.metrics_file.exists():
        with suppress(SpiderError, OSError):
            row = request.directory.last_row()
            if row is not None:
                length = "" if request.kimg is None else f"/{request.kimg}"
                return f"{each.stage.name} {row['kimg']:g}{length} kimg, {so_far}"
    return f"{each.stage.name} {so_far}"


@contextmanager
def _stoppable() -> Iterator[Any]:
    """Every signal that asks for a stop does what Ctrl-C does.

    Yields what is called when one has come: schedulers and shells repeat SIGTERM and SIGHUP, which then change nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in heard()}

    def only_once() -> None:
        for number in previous:
            if number != signal.SIGINT:
                signal.signal(number, signal.SIG_IGN)

    try:
        yield only_once
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
