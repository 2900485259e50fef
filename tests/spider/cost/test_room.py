"""What an iteration will take of the host's memory, before one is made."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from contextlib import closing

import pytest
import torch

from cluster.errors import MachineError
from cluster.world import World
from spider import memory
from spider.config.load import make_config
from spider.cost import room
from spider.cost.dry_run import dry_run
from spider.train.trainer import Trainer
from tests.spider.train.laws import tensors_of

BASE = ["batch=16", "generator.width=0.2", "discriminator.width=0.2", "penalties.r1_gamma=1", "generator.norm=batch"]


def trainer_for(data, *more):
    return Trainer(make_config({"data": {"path": str(data)}}, [*BASE, *more]), World.single())


def test_graphs_of_one_image_and_of_two_foretell_those_of_all(digits):
    """Every phase is seen, and with micro-batches each of those alone."""
    with closing(trainer_for(digits)) as trainer:
        one, whole = ([*room._passes(trainer, count)] for count in (1, 16))
        need = room.needed(trainer)
    assert len(whole) == 3  # of both players, and the penalty
    assert all(2 * sum(before.tensors) < sum(after.tensors) for before, after in zip(one, whole, strict=True))
    parameters = sum(each.nbytes for player in trainer.plan.players for each in player.parameters)
    most = max(sum(held.tensors) + 3 * max(held.tensors) for held in whole)
    assert need.all == pytest.approx(most + 3 * parameters, rel=0.1)
    with closing(trainer_for(digits, "accumulation=4", "generator.norm=none")) as trainer:
        parts = room.needed(trainer)
    assert (need.images, parts.images) == (16, 4)
    assert parts.each == pytest.approx(need.each, rel=0.3)


def test_looking_ahead_changes_nothing(digits):
    trainer, other = trainer_for(digits), trainer_for(digits)
    assert room.needed(trainer) is not None
    for each in (trainer, other):
        each.iterate()
        each.close()
    torch.testing.assert_close(tensors_of(trainer), tensors_of(other), rtol=0, atol=0)


def test_a_dry_run_for_which_there_is_no_room_is_refused(digits, monkeypatch):
    monkeypatch.setattr(room, "free_bytes", lambda: 2**19)
    monkeypatch.setattr(Trainer, "iterate", lambda trainer: pytest.fail("an iteration was made"))
    with pytest.raises(
        MachineError,
        match=r"^an iteration needs [\d.]+ MB of memory or more, .* of 16 images at a time, and 512 KB are free: a s",
    ):
        dry_run(make_config({"data": {"path": str(digits)}}, BASE), World.single())


def test_what_limits_leave_is_what_is_free():
    """As `ulimit -v` sets it."""
    code = "from spider.memory import free_bytes; print(free_bytes())"
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))  # noqa: E731
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, preexec_fn=limit)
    assert 0 < int(found.stdout) < 2**30


def test_what_a_cgroup_leaves(tmp_path):
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 30\n")
    (tmp_path / "memory.current").write_text("100\n")
    for limit, left in (("170\n", [100]), ("50\n", [0]), ("max\n", [])):
        (tmp_path / "memory.max").write_text(limit)
        assert [*memory._left(tmp_path, "memory.max", "memory.current")] == left
    assert [*memory._left(tmp_path / "none", "memory.max", "memory.current")] == []
    assert re.fullmatch(r"\d+", str(memory.free_bytes()))
