"""One process at a time in a directory."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from cluster.errors import ClusterError
from cluster.lock import alone_in
from cluster.world import World
from tests.cluster.ranks import Ranks


def test_a_second_one_is_kept_out_until_the_first_has_left(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with alone_in(run, World.single()):
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        with pytest.raises(ClusterError, match=f"run is in use by {holder}"), alone_in(run, World.single()):
            pass
    with alone_in(run, World.single()):
        pass


def _enter(world: World, directory: Path) -> str:
    try:
        with alone_in(directory, world):
            return "in"
    except ClusterError as error:
        return str(error)


def test_ranks_enter_together_or_not_at_all(ranks: Ranks, tmp_path: Path) -> None:
    assert ranks(2).run(_enter, tmp_path) == ["in", "in"]
    with alone_in(tmp_path, World.single()):
        assert all("in use by" in answer for answer in ranks(2).run(_enter, tmp_path))
