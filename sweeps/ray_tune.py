"""The trials of a sweep on Ray Tune, which has the resources, the retries, ASHA's rule and the waiting.

What Ray Tune does not have is the memory: its own files come a while after what they tell, leave out what its scheduler
knew, and run as code when they are read. So every start gets a new Tuner, which is handed the trials that the ledger
says have not ended, and a scheduler that has been told what the others were measured at.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from cluster.errors import ClusterUsageError, MachineError, one_line
from cluster.jobs.saves import note_progress
from cluster.lock import is_taken
from cluster.ray import RayCluster
from cluster.stop import heard
from sweeps.config import AshaConfig, SweepConfig, trials_on
from sweeps.ledger import Configuration, Ledger, Outcome, Trial
from sweeps.progress import Progress
from sweeps.trial.actor import TIME, VALUE, TrialActor, TrialFailed, TrialLost
from sweeps.trial.spec import TrialSpec

_LEAVE_MIN = 10.0  # trainings that were asked to stop have so long, as in `sweeps.trial.process`
_LOW_MEMORY = "Ray killed it, because its machine was low on memory"
_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # every run writes its own curves
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a report may say only how far a training is
    "RAY_AIR_NEW_OUTPUT": "0",
}


def run_trials(
    sweep: SweepConfig,
    ledger: Ledger,
    cluster: RayCluster,
    spec: Callable[[Configuration, Trial], TrialSpec],
    progress: Progress,
) -> None:
    """Run what has not ended until it has, or until somebody asks for a stop; trainings are then saved.

    Raises:
        ClusterUsageError: no machine of the cluster has what a trial needs.
        MachineError: Ray failed, and not a trial.
    """
    resources = sweep.resources
    gpus = resources.gpus_where(has_any=cluster.gpus > 0)
    require_room(resources.cpus, gpus, cluster.address)
    scratch = ledger.out / "tune"
    shutil.rmtree(scratch, ignore_errors=True)
    mode = "min" if ledger.measure.better == "lower" else "max"
    with _quiet(), _stoppable(), _killed_for_memory_is_dead(), _fallen_ray():
        tune.Tuner(
            tune.with_resources(TrialActor, tune.PlacementGroupFactory([_bundle(resources.cpus, gpus)])),
            tune_config=tune.TuneConfig(
                num_samples=-1,  # as many as the queue has
                search_alg=_Queue(ledger, spec),
                scheduler=_scheduler(sweep, ledger, mode),
                max_concurrent_trials=sweep.at_once or room_for(resources.cpus, gpus),
                trial_dirname_creator=lambda trial: str(trial.config["name"]),
                trial_name_creator=lambda trial: str(trial.config["name"]),
            ),
            run_config=tune.RunConfig(
                name=scratch.name,
                storage_path=str(ledger.out),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # the run has its own
                failure_config=tune.FailureConfig(max_failures=sweep.retries),
                callbacks=[_Watch(ledger, progress)],
                verbose=0,
            ),
        ).fit()
        _wait_for_trainings(ledger)


def room_for(cpus: float, gpus: float) -> int:
    """How many trials the cluster has room for."""
    return sum(trials_on(node.get("CPU", 0.0), node.get("GPU", 0.0), cpus, gpus) for node in _nodes())


def require_room(cpus: float, gpus: float, address: str) -> None:
    """Refuse what would wait for ever."""
    if room_for(cpus, gpus) == 0:
        largest = max(_nodes(), key=lambda node: (node.get("GPU", 0.0), node.get("CPU", 0.0)), default={})
        raise ClusterUsageError(
            f"resources: a trial needs cpus={cpus:g} and gpus={gpus:g} on one machine, and the largest of the cluster "
            f"at {address} has {largest.get('CPU', 0):g} and {largest.get('GPU', 0):g}"
        )


class _Queue(Searcher):
    """Hands out the ledger's trials, and tells it how they ended."""

    def __init__(self, ledger: Ledger, spec: Callable[[Configuration, Trial], TrialSpec]) -> None:
        super().__init__()
        self._ledger, self._spec = ledger, spec
        self._names: dict[str, str] = {}  # by Ray's own identifier

    def suggest(self, trial_id: str) -> Any:
        following = self._ledger.next_trial()
        if following is None:
            return Searcher.FINISHED
        self._names[trial_id] = following[1].name
        return self._spec(*following).to_config()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        name, result = self._names[trial_id], result or {}
        outcome: Outcome = "failed" if error else result.get("outcome", "stopped")
        self._ledger.settle(name, outcome, result.get(TIME, 0.0), result.get("error"))

    def save(self, checkpoint_path: str) -> None:
        """The ledger is on disk already."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing is restored: every start has a queue of its own."""


class _Asha(ASHAScheduler):
    """ASHA that knows trials by their names, and so those of earlier starts."""

    def __init__(self, config: AshaConfig, ledger: Ledger, mode: str) -> None:
        # Nothing in there needs whole numbers, whatever it says
        kimg: dict[str, Any] = {"max_t": ledger.measure.length_kimg, "grace_period": config.grace_kimg}
        super().__init__(time_attr=TIME, metric=VALUE, mode=mode, reduction_factor=config.reduction_factor, **kimg)
        self._ledger = ledger
        self._judged = {trial.name: trial.judged_kimg for trial in ledger.trials}
        for trial in ledger.trials:
            self._recall(trial)

    def _recall(self, trial: Trial) -> None:
        """What was decided stays decided, and nothing else counts as if it had been."""
        named, nobody = _named(trial.name), cast(Any, None)
        super().on_trial_add(nobody, named)
        upto = max(trial.judged_kimg, trial.kimg if trial.is_over else 0.0)
        for each in self._ledger.curve(trial):
            if each.value is not None and each.kimg <= upto:
                super().on_trial_result(nobody, named, {TIME: each.kimg, VALUE: each.value})
        if trial.outcome == "not finite":
            penalty = self._ledger.measure.penalty
            super().on_trial_complete(nobody, named, {TIME: trial.kimg, VALUE: penalty})

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, _named(trial.config["name"]))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        name = trial.config["name"]
        if VALUE not in result or result[TIME] <= self._judged.get(name, 0.0):
            return TrialScheduler.CONTINUE  # an actor that takes over tells again what was told before
        decision = str(super().on_trial_result(tune_controller, _named(name), result))
        self._judged[name] = result[TIME]
        if decision != TrialScheduler.STOP:  # which is written down as the trial's end
            self._ledger.judge(name, result[TIME])
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        super().on_trial_complete(tune_controller, _named(trial.config["name"]), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_remove(tune_controller, _named(trial.config["name"]))


class _Watch(tune.Callback):
    """Passes what happens to whoever watches."""

    def __init__(self, ledger: Ledger, progress: Progress) -> None:
        self._ledger, self._progress = ledger, progress

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles what it is given, which nobody reads, and a terminal cannot be pickled."""
        return {}

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._progress.started(trial.config["name"])

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        if result.get(VALUE) is not None:
            note_progress()
        self._progress.reported(trial.config["name"], result.get("trained_kimg", 0.0), result.get(VALUE))

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._progress.retried(trial.config["name"], _cause(trial)[0])

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._progress.ended(trial.config["name"])

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        # `retries` times: a training that names a lasting error is no error to Ray
        error, by_machine = _cause(trial)
        self._ledger.settle(trial.config["name"], "failed", error=error, by_machine=by_machine)
        self._progress.ended(trial.config["name"])


def _scheduler(sweep: SweepConfig, ledger: Ledger, mode: str) -> TrialScheduler:
    if isinstance(sweep.scheduler, AshaConfig):
        return _Asha(sweep.scheduler, ledger, mode)
    return FIFOScheduler()  # type: ignore[no-untyped-call]


def _named(name: str) -> Any:
    """A trial as far as ASHA looks at it."""
    return SimpleNamespace(trial_id=name)


def _cause(trial: Any) -> tuple[str, bool]:
    """Why the trial's last attempt failed, in one line: its training's error, or what became of its process.

    And whether that was the machine.
    """
    file = trial.error_file  # written at once; `get_error` reads a copy, which comes later
    if file is None or not Path(file).is_file():
        return "it died", True
    told = Path(file).read_text("utf-8").rpartition("Failure # ")[2].strip().splitlines()[1:]
    if not told:
        return "it died", True
    if "Trainable" not in told[0]:  # it says what became of the process; where that was comes after
        return told[0], True
    for kind in (TrialFailed, TrialLost):
        _, is_raised, error = told[-1].partition(f"{kind.__name__}: ")
        if is_raised:
            return error, kind is TrialLost
    return told[-1], True


def _bundle(cpus: float, gpus: float) -> dict[str, float]:
    """One bundle, which is on one machine."""
    return {"CPU": cpus, **({"GPU": gpus} if gpus else {})}


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _wait_for_trainings(ledger: Ledger) -> None:
    """Until those that were asked to stop have saved, as far as their locks can be asked."""
    deadline = time.monotonic() + _LEAVE_MIN * 60
    while time.monotonic() < deadline and any(is_taken(ledger.run(trial).path) for trial in ledger.trials):
        time.sleep(0.2)


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray Tune prints nothing, and keeps no curves of its own."""
    before = {name: os.environ.get(name) for name in _SETTINGS}
    os.environ.update(_SETTINGS)
    logger = logging.getLogger("ray")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _killed_for_memory_is_dead() -> Iterator[None]:
    """Ray's memory monitor kills an actor with an error that Ray Tune does not know as a death, and falls over.

    No setting of Ray Tune changes that, so its own handler gets the error that other deaths have, and counts `retries`.
    """
    from ray.air.execution import _internal as ray_internals

    manager: Any = ray_internals.RayActorManager
    handle = getattr(manager, "_actor_task_failed", None)
    if handle is None:  # another version; `_fallen_ray` says what happened
        yield
        return

    def handle_death(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, ray.exceptions.OutOfMemoryError):
            exception = ray.exceptions.RayActorError(error_msg=_LOW_MEMORY)
        handle(self, tracked_actor_task, exception)

    manager._actor_task_failed = handle_death
    try:
        yield
    finally:
        manager._actor_task_failed = handle


@contextmanager
def _fallen_ray() -> Iterator[None]:
    """One line of an error that Ray Tune falls over. The trainings notice, save and end."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error.__cause__, ray.exceptions.RayError):
            raise
        raise MachineError(f"Ray fell over: {one_line(error.__cause__)}; the same command goes on") from error


@contextmanager
def _stoppable() -> Iterator[None]:
    """All signals that ask for a stop do what Ctrl-C does; Ray Tune heeds one of them, outside of other threads."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    others = [number for number in heard() if number != signal.SIGINT]
    previous = {number: signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT)) for number in others}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
