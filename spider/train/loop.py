"""The training loop.

    while images < length:
        d_steps times: the discriminator steps on real images and on generated ones   \\
        when due:      the discriminator steps on its penalty                          | Trainer.iterate
        the generator steps on the samples that the selection leaves it               /
        the average of its weights, p and k move
        what is due is written: numbers, grids, metrics, a checkpoint

A checkpoint is compared and copied here, and written while the next iterations run (see cluster/checkpoint.py).

Everything that decides is decided by all ranks together. A request to stop is heeded after an iteration, and within an
evaluation, which is then abandoned and owed: see `spider.train.evaluator`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from types import MappingProxyType

from cluster.checkpoint import CheckpointStore, Snapshot
from cluster.errors import one_line
from cluster.lock import alone_in
from cluster.stop import Stopped, StopRequest
from cluster.watchdog import Watchdog, stacks_file
from cluster.world import World
from spider.config.load import with_values
from spider.config.schema import Config
from spider.errors import SpiderError
from spider.files import write_text
from spider.init.fit import Fit
from spider.inputs import Inputs, note_places, write_inputs
from spider.precision import set_numerics
from spider.run import RunDirectory, RunRef, checkpoint_name, images_of
from spider.train.clock import crosses
from spider.train.environment import record_environment
from spider.train.evaluator import Best, Evaluator
from spider.train.record import Recorder
from spider.train.restore import fitting, require_same_networks, require_same_run
from spider.train.trainer import Trainer
from untrusted.terminal import warn

_SLOW_S = 10.0  # a save that takes longer is said


def train(
    config: Config,
    directory: RunDirectory,
    world: World,
    *,
    inputs: Inputs = MappingProxyType({}),
    branch: RunRef | None = None,
    progress: bool = True,
) -> str:
    """Train until `config.kimg`, from the newest checkpoint that `directory` holds, or from `branch`, or from scratch.

    Args:
        config: resolved (see `spider.train.start.prepare`).
        directory: the run's.
        world: all ranks call this with the same arguments.
        inputs: what `config` names the packed copies of (see `spider.inputs`); the run notes both.
        branch: a checkpoint of another run to begin with, clock and all.
        progress: show a bar, or lines where stderr is no terminal.

    Returns:
        "finished"; "stopped" if a signal ended it, the state saved; "already finished" if there was nothing to do.

    Raises:
        SpiderError, ShardsError, ClusterError: what failed, in one line.
    """
    named = with_values(config, {key: each.path for key, each in inputs.items()})
    set_numerics(config.compute)
    with closing(Trainer(config, world)) as trainer:
        evaluator = Evaluator(trainer, directory)
        with alone_in(directory.path, world), CheckpointStore(directory.checkpoints, world) as store:
            saver = Saver(store, trainer, evaluator, directory)
            fits = saver.load(branch)
            total = round(config.kimg * 1000)
            if trainer.images >= total and world.broadcast_json(directory.success_file.is_file()):
                if world.is_main:
                    note_places(directory, named, inputs)
                return "already finished"
            saver.write_best()
            if world.is_main:  # not before all that may be refused has been
                directory.write_config(named)
                write_inputs(directory, inputs)
                if fits:
                    write_text(directory.init_file, json.dumps({n: fit.as_json() for n, fit in fits.items()}, indent=1))
                directory.failure_file.unlink(missing_ok=True)
                if trainer.images < total:
                    directory.success_file.unlink(missing_ok=True)
            with _noted_failure(directory, trainer):
                record_environment(directory, trainer, branch)
                watchdog = Watchdog(directory.stacks / stacks_file(world.rank), config.engine.timeout_s)
                with Recorder(directory, trainer, total, progress, saver.take_timing) as record, watchdog:
                    outcome = _loop(trainer, evaluator, saver, record, watchdog, total)
            if outcome == "finished" and world.is_main:
                write_text(directory.success_file, f"{trainer.images / 1000:g} kimg\n")
            return outcome


@contextmanager
def _noted_failure(directory: RunDirectory, trainer: Trainer) -> Iterator[None]:
    """What ends a training stands on a screen that nobody may see, so that `spider status` says it too."""
    try:
        yield
    except Exception as error:
        if trainer.world.is_main:
            with suppress(OSError):  # the disk may be what failed
                write_text(directory.failure_file, f"at {trainer.images / 1000:g} kimg: {one_line(error)}\n")
        raise


def _loop(
    trainer: Trainer, evaluator: Evaluator, saver: Saver, record: Recorder, watchdog: Watchdog, total: int
) -> str:
    """Iterate until `total` images, or until somebody asks for a stop."""
    log, world = trainer.config.log, trainer.world

    def measure() -> bool:
        """Whether an evaluation finds the best so far. One that is abandoned for a stop finds nothing, and is owed."""

        def heartbeat() -> None:
            watchdog.beat()
            stop.check()

        try:
            return evaluator.measure(record, heartbeat)
        except Stopped:
            return False

    for line in trainer.begun:
        record.say(line)
    for remark in trainer.remarks:
        record.say(f"warning: {remark}")
    if trainer.images:
        record.say(f"going on from {trainer.images / 1000:g} kimg")
    else:
        record.samples()
    record.reals()
    with StopRequest(world) as stop:
        if evaluator.owed:
            measure()
            if evaluator.owed:
                return _stopped(trainer, saver, record)
            saver.save(record, replace=True)
        while trainer.images < total:
            trainer.iterate()
            watchdog.beat()
            record.iteration()
            if _due(trainer, log.every_kimg):
                record.row()
            if _due(trainer, log.samples_every_kimg):
                record.samples()
            improved = _due(trainer, trainer.config.evaluate.every_kimg) and measure()
            stopping, due = stop.agreed(), world.any(saver.due())
            finished = trainer.images >= total and not evaluator.owed
            if improved or stopping or due or finished:
                saver.save(record)
            if stopping and not finished:
                return _stopped(trainer, saver, record)
        if evaluator.active and not _due(trainer, trainer.config.evaluate.every_kimg):
            measure()
            if evaluator.owed:  # The checkpoint need not say so: this one is made whenever a run ends there
                return _stopped(trainer, saver, record)
        saver.finish()
        saver.write_best()
        record.last()
    return "finished"


def _stopped(trainer: Trainer, saver: Saver, record: Recorder) -> str:
    saver.finish()
    record.last()
    record.say(f"stopped at {trainer.images / 1000:g} kimg; the same command goes on from there")
    return "stopped"


def _due(trainer: Trainer, every_kimg: float | None) -> bool:
    return crosses(trainer.images, trainer.config.batch, every_kimg)


@dataclass
class Saver:
    """Checkpoints: when by the clock on the wall, what, which to keep, and what they took."""

    store: CheckpointStore
    trainer: Trainer
    evaluator: Evaluator
    directory: RunDirectory

    def __post_init__(self) -> None:
        self._saved_at = time.monotonic()  # when the state was taken
        self._blocked_s = 0.0
        self._told = (0.0, 0.0, 0.0)

    def due(self) -> bool:
        """Whether it is time: by the images, by what is to be kept, or by the wall clock of this rank."""
        settings = self.trainer.config.checkpoint
        minutes = settings.every_min
        overdue = minutes is not None and time.monotonic() - self._saved_at > minutes * 60
        return overdue or _due(self.trainer, settings.every_kimg) or _due(self.trainer, settings.keep_every_kimg)

    def load(self, branch: RunRef | None) -> dict[str, Fit]:
        """Continue from the newest valid checkpoint of the run, or begin from `branch`, or from scratch.

        Returns how the weights fit that a beginning was given, by network; empty if it was given none.
        """
        if self.store.load_latest(self._take) is not None:
            self._forget_a_lost_best()
        elif branch is not None:
            snapshot = CheckpointStore(branch.directory.checkpoints, self.trainer.world).load(branch.checkpoint)
            with fitting(f"{branch} does not fit this configuration"):
                require_same_networks(snapshot, self.trainer)
                self.trainer.load(snapshot)
        else:
            return self.trainer.begin()
        return {}

    def _take(self, name: str, snapshot: Snapshot) -> None:
        """Take over a checkpoint of this run. Raises UnfitCheckpointError."""
        with fitting(f"checkpoint {self.store.directory / name} does not fit the run"):
            require_same_run(snapshot, self.trainer, name)
            self.trainer.load(snapshot)
            self.evaluator.load(snapshot.state["evaluator"])

    def save(self, record: Recorder, *, replace: bool = False) -> None:
        """Take the state. When it is on the disk, though training goes on: name the best, then let go of the others.

        Args:
            record: its rows are on the disk first; told of a save that is slow.
            replace: take the place of what was written at this clock.
        """
        self._saved_at = started = time.monotonic()
        name, best, before = checkpoint_name(self.trainer.images), self.evaluator.best, self.evaluator.before
        snapshot = self.trainer.snapshot()
        snapshot.state["evaluator"] = self.evaluator.state()
        record.to_disk()

        def settle() -> None:
            self._tell_best(best)
            self.store.prune(self.trainer.config.checkpoint.keep_last, self._keep(name, best, before))

        self.store.async_save(name, snapshot, then=settle, replace=replace)
        blocked_s = time.monotonic() - started
        self._blocked_s += blocked_s
        if blocked_s > _SLOW_S:
            record.say(f"training stood still for {blocked_s:.0f} s to save {name}: is the disk slow?")

    def finish(self) -> None:
        """Wait until the last save is on the disk and its best named. All ranks."""
        self.store.finish()

    def take_timing(self) -> dict[str, float]:
        """What saves took since this was last asked: training that stood still, writing beside it, and how much."""
        told, self._told = self._told, (self._blocked_s, self.store.written_s, self.store.written_bytes / 1e6)
        names = ("save_blocked_s", "save_write_s", "save_write_mb")
        return {name: now - then for name, now, then in zip(names, self._told, told, strict=True)}

    def write_best(self) -> None:
        """best.json says what the evaluator knows, also after the run was taken back, or measured out of turn.

        While no save is under way: the best may be the one that is being written.
        """
        if self.trainer.world.is_main:
            self._tell_best(self.evaluator.best)

    def _tell_best(self, best: Best | None) -> None:
        if best is None:
            self.directory.best_file.unlink(missing_ok=True)
        else:
            write_text(self.directory.best_file, json.dumps(best.as_json()) + "\n")

    def _keep(self, newest: str, best: Best | None, before: Best | None) -> set[str]:
        every = self.trainer.config.checkpoint.keep_every_kimg
        names = set(self.directory.checkpoint_names())
        kept = {name for name in names if crosses(images_of(name), self.trainer.config.batch, every)}
        if best is not None:
            kept.add(best.checkpoint)
            # Should the newest turn out damaged, the run goes back to where the best was the one before
            if before is not None and best.checkpoint == newest:
                kept.add(before.checkpoint)
        return kept & names

    def _forget_a_lost_best(self) -> None:
        world, best = self.trainer.world, self.evaluator.best
        there = world.broadcast_json(self.directory.checkpoint_names())
        if best is not None and best.checkpoint not in there:
            self.evaluator.best = None
            if world.is_main:
                warn(f"the best checkpoint, {best.checkpoint}, is no longer there; its value is forgotten")
        try:
            told = self.directory.best()  # perhaps of a last evaluation, out of turn, that no checkpoint knows of
        except SpiderError as error:
            told = None
            if world.is_main:
                warn(f"{error}; written anew")
        if told is not None and told["checkpoint"] not in there:
            self.write_best()
