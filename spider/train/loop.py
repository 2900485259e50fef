"""The training loop.

    while images < length:
        d_steps times: the discriminator steps on real images and on generated ones   \\
        when due:      the discriminator steps on its penalty                          | Trainer.iterate
        the generator steps (or first: `first_player`) on what the selection leaves   /
        the average of its weights, p and k move
        what is due is written: numbers, grids, metrics, a checkpoint

Everything that decides is decided by all ranks together. A request to stop is heeded after an iteration, and within an
evaluation, which is then abandoned and owed: see `spider.train.evaluator`.
"""

from __future__ import annotations

from contextlib import closing, nullcontext
from types import MappingProxyType

from cluster.checkpoint import CheckpointStore
from cluster.lock import alone_in
from cluster.stop import Stopped, StopRequest
from cluster.watchdog import Watchdog, stacks_file
from cluster.world import World
from spider.config.load import with_values
from spider.config.schema import Config
from spider.files import write_text
from spider.precision import set_numerics
from spider.runs.directory import RunDirectory, RunRef
from spider.runs.environment import note_start
from spider.runs.given import lines_of_given
from spider.runs.inputs import Inputs, note_places, write_inputs
from spider.train.evaluator import Evaluator
from spider.train.record import Recorder
from spider.train.saver import Saver
from spider.train.trainer import Trainer

_STOPPING = "the run saves after this iteration and stops; Ctrl-C (SIGINT) now ends it without saving"


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
        config: resolved (see `spider.runs.start.prepare`).
        directory: the run's.
        world: all ranks call this with the same arguments.
        inputs: what `config` names the packed copies of (see `spider.runs.inputs`); the run notes both.
        branch: a checkpoint of another run to begin with, clock and all.
        progress: show a bar, or lines where stderr is no terminal.

    Returns:
        "finished"; "stopped" if a signal ended it, the state saved; "already finished" if there was nothing to do.

    Raises:
        SpiderError, ShardsError, ClusterError: what failed, in one line.
    """
    named = with_values(config, {key: each.path for key, each in inputs.items()})
    set_numerics(deterministic=config.compute.deterministic, tf32=config.compute.tf32, compiled=config.compute.compile)
    with closing(Trainer(config, world)) as trainer:
        evaluator = Evaluator(trainer, directory)
        with alone_in(directory.path, world), CheckpointStore(directory.checkpoints, world) as store:
            saver = Saver(store, trainer, evaluator, directory)
            begins, fits = not directory.checkpoint_names(), saver.load(branch)
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
                    directory.write_init({network: fit.as_json() for network, fit in fits.items()})
                directory.failure_file.unlink(missing_ok=True)
                if trainer.images < total:
                    directory.success_file.unlink(missing_ok=True)
            with directory.noting_failure(lambda: trainer.images) if world.is_main else nullcontext():
                if world.is_main:
                    note_start(directory, trainer.images, branch, trainer.facts())
                watchdog = Watchdog(directory.stacks / stacks_file(world.rank), config.engine.timeout_s)
                with closing(Recorder(directory, trainer, total, progress, saver.take_timing)) as record, watchdog:
                    remarks = [f"warning: {each}" for each in [*config.remarks, *trainer.remarks] if begins]
                    for line in [*lines_of_given(config, trainer.image_shape, fits), *remarks]:
                        record.say(line)
                    outcome = _loop(trainer, evaluator, saver, record, watchdog, total)
            if outcome == "finished" and world.is_main:
                write_text(directory.success_file, f"{trainer.images / 1000:g} kimg\n")
            return outcome


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
            with record.timing.evaluation(trainer.images):
                return evaluator.measure(record, heartbeat)
        except Stopped:
            return False

    if trainer.images:
        record.say(f"going on from {trainer.images / 1000:g} kimg")
    else:
        record.samples()
    record.reals()
    with StopRequest(world, _STOPPING if record.progress else "") as stop:
        if evaluator.owed:
            measure()
            if evaluator.owed:
                return _stopped(trainer, saver, record)
            saver.save(record, replace=True)
        while trainer.images < total:
            with record.timing.iteration():
                trainer.iterate()
            watchdog.beat()
            record.iteration()
            if trainer.due(log.every_kimg):
                record.row()
            if trainer.due(log.samples_every_kimg):
                record.samples()
            improved = trainer.due(trainer.config.evaluate.every_kimg) and measure()
            stopping, due = stop.agreed(), world.any(saver.due())
            finished = trainer.images >= total and not evaluator.owed
            if improved or stopping or due or finished:
                saver.save(record)
            if stopping and not finished:
                return _stopped(trainer, saver, record)
        if evaluator.opened and not trainer.due(trainer.config.evaluate.every_kimg):
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
