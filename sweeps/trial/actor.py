"""What one trial does on a Ray cluster: it starts its training, and reports what the run measures, as it does.

The run's own files say everything: an actor that takes over from one that died reports from the first evaluation on,
and its training goes on from its last checkpoint.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ray import tune
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from cluster.jobs.verdict import Cause
from cluster.lock import is_taken
from spider.runs.directory import NOT_FINITE, RunDirectory
from spider.runs.listing import images_written
from sweeps.measure import Evaluated, evaluations
from sweeps.trial.process import TrainProcess
from sweeps.trial.spec import TrialSpec

TIME = "kimg"
VALUE = "value"

_POLL_S = 0.2
_TELL_S = 5.0  # between two reports, also where nothing was measured: a trial can be stopped only between them


class TrialFailed(Exception):
    """A training ended that should not have, by a fault that it did not name."""


class TrialLost(TrialFailed):
    """A training ended that should not have, by the machine."""


class TrialActor(tune.Trainable):
    """A training, watched. Every step reports one evaluation, in order; or, after a while, only how far it is."""

    def setup(self, config: dict[str, Any]) -> None:
        """Nothing is started before the first step."""
        self._spec = TrialSpec.from_config(config)
        self._measure = self._spec.measure
        self._run = RunDirectory(Path(self._spec.run))
        self._training: TrainProcess | None = None
        self._last: dict[str, Any] = {}

    def step(self) -> dict[str, Any]:
        """The next evaluation, or how the training ended.

        Raises:
            TrialFailed: it failed and may go well the next time. Ray then starts it again. TrialLost if the machine
                failed.
        """
        told = time.monotonic()
        while time.monotonic() - told < _TELL_S:
            # Whoever had the run before may still be saving it
            if self._training is None and not is_taken(self._run.path):
                self._start()
            ended = self._training is not None and self._training.has_ended()
            cause = self._training.failure() if self._training is not None and ended else None
            following = self._next(finished=ended and cause is None)
            if following is not None:
                return self._report(following)
            if ended:
                return self._end(cause)
            time.sleep(_POLL_S)
        return {"trained_kimg": self._trained_kimg()}  # without a value, of which nothing is decided twice

    def cleanup(self) -> None:
        """The training saves and ends."""
        if self._training is not None:
            self._training.stop()

    def _start(self) -> None:
        spec = self._spec
        if spec.hyperparameters:
            write_hyperparameters(self._run.tensorboard, spec.name, spec.hyperparameters)
        self._training = TrainProcess(
            self._run.path,
            spec.words,
            Path(spec.cwd),
            Path(spec.log),
            processes=spec.processes,
            threads=spec.threads,
            gpus=spec.gpus,
        )

    def _next(self, *, finished: bool) -> Evaluated | None:
        """The evaluation after the one reported last; that of the length only when the training has finished."""
        for each in evaluations(self._run, self._measure):
            if each.kimg > self._last.get(TIME, 0.0) and (finished or each.kimg < self._measure.length_kimg):
                return each
        return None

    def _report(self, found: Evaluated) -> dict[str, Any]:
        self._last = {TIME: found.kimg, VALUE: found.value, "timesteps_total": found.images}
        if found.value is None:
            return self._not_finite(f"{found.label} is undefined at {found.kimg:g} kimg")
        if found.kimg >= self._measure.length_kimg:
            return {**self._last, "trained_kimg": found.kimg, "outcome": "finished", "done": True}
        return {**self._last, "trained_kimg": found.kimg}

    def _end(self, cause: Cause | None) -> dict[str, Any]:
        """The report of a training that ended before its last evaluation, if the next one would end the same."""
        assert self._training is not None
        if cause is None:
            raise TrialFailed("the training finished without its last evaluation")
        if NOT_FINITE in cause.reason:
            return self._not_finite(cause.reason)
        if cause.lasting:
            last = {TIME: self._last.get(TIME, 0.0), "trained_kimg": self._trained_kimg()}
            return {**last, "outcome": "failed", "error": cause.reason, "done": True}
        raise (TrialLost if self._training.is_of_machine(cause) else TrialFailed)(cause.reason)

    def _not_finite(self, error: str) -> dict[str, Any]:
        """The report of a trial that is over: to train it again would end the same."""
        last = {TIME: self._last.get(TIME, 0.0), VALUE: self._measure.penalty}
        return {**last, "trained_kimg": self._trained_kimg(), "outcome": "not finite", "error": error, "done": True}

    def _trained_kimg(self) -> float:
        return (images_written(self._run) or 0) / 1000


def write_hyperparameters(folder: Path, name: str, hyperparameters: dict[str, Any]) -> None:
    """What was chosen for a run, beside the curves that it will write, for TensorBoard's table; once."""
    if any(folder.glob("events.out.tfevents.*")):
        return
    writer = EventFileWriter(str(folder))
    writer.add_event(Event(wall_time=time.time(), step=0, summary=hparams_pb(hyperparameters, trial_id=name)))
    writer.close()
