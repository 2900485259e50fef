"""When a training saves, what it keeps, and what it goes on from.

A checkpoint is compared and copied while training stands still, and written while the next iterations run (see
cluster/checkpoint.py). best.json follows the rename, and so does the removal of what need not be kept.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from cluster.checkpoint import CheckpointStore, Snapshot
from spider.clock import crosses
from spider.errors import SpiderError
from spider.gan.init.fit import Fit
from spider.runs.directory import RunDirectory, RunRef, checkpoint_name, images_of
from spider.runs.records import BestRecord
from spider.runs.stored import fitting, require_same_kinds, require_same_networks, require_same_run
from spider.train.evaluator import Evaluator
from spider.train.record import Recorder
from spider.train.trainer import Trainer
from untrusted.terminal import warn

_SLOW_S = 10.0  # a save that takes longer is said


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
        overdue = settings.every_min is not None and time.monotonic() - self._saved_at > settings.every_min * 60
        return overdue or self.trainer.due(settings.every_kimg) or self.trainer.due(settings.keep_every_kimg)

    def load(self, branch: RunRef | None) -> dict[str, Fit]:
        """Continue from the newest valid checkpoint of the run, or begin from `branch`, or from scratch.

        Returns how the weights fit that a beginning was given, by network; empty if it was given none.
        """
        if self.store.load_latest(self._take) is not None:
            self._forget_a_lost_best()
        elif branch is not None:
            snapshot = CheckpointStore(branch.directory.checkpoints, self.trainer.world).load(branch.checkpoint)
            with fitting(f"{branch} does not fit this configuration"):
                trainer, mine = self.trainer, self.trainer.snapshot()
                require_same_kinds(branch.directory.config(), mine, trainer.config)
                require_same_networks(snapshot, mine, trainer.optimized(), trainer.config)
                trainer.load(snapshot)
        else:
            return self.trainer.begin()
        return {}

    def _take(self, name: str, snapshot: Snapshot) -> None:
        """Take over a checkpoint of this run. Raises UnfitCheckpointError."""
        with fitting(f"checkpoint {self.store.directory / name} does not fit the run"):
            trainer = self.trainer
            require_same_run(snapshot, trainer.snapshot(), trainer.optimized(), trainer.config, name)
            trainer.load(snapshot)
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
            self.directory.write_best(best)
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
            self.directory.write_best(self.evaluator.best)

    def _keep(self, newest: str, best: BestRecord | None, before: BestRecord | None) -> set[str]:
        every = self.trainer.config.checkpoint.keep_every_kimg
        names = set(self.directory.checkpoint_names())
        kept = {name for name in names if crosses(images_of(name), self.trainer.config.batch, every)}
        if best is not None:
            kept.add(best["checkpoint"])
            # Should the newest turn out damaged, the run goes back to where the best was the one before
            if before is not None and best["checkpoint"] == newest:
                kept.add(before["checkpoint"])
        return kept & names

    def _forget_a_lost_best(self) -> None:
        world, best = self.trainer.world, self.evaluator.best
        there = world.broadcast_json(self.directory.checkpoint_names())
        if best is not None and best["checkpoint"] not in there:
            self.evaluator.best = None
            if world.is_main:
                warn(f"the best checkpoint, {best['checkpoint']}, is no longer there; its value is forgotten")
        try:
            told = self.directory.best()  # perhaps of a last evaluation, out of turn, that no checkpoint knows of
        except SpiderError as error:
            told = None
            if world.is_main:
                warn(f"{error}; written anew")
        if told is not None and told["checkpoint"] not in there:
            self.write_best()
