"""All ranks save the same, and load the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster.checkpoint import CheckpointStore, Snapshot
from cluster.errors import ClusterError
from cluster.world import World
from tests.cluster.checkpoint.snapshots import snapshot_of, store_in, truncate

if TYPE_CHECKING:
    from tests.cluster.ranks import Ranks


def _save_what_differs(world: World, directory: Path, entry: str) -> str:
    snapshot = snapshot_of()
    if world.rank == 2:
        if entry == "state.json":
            snapshot.state["k"] = 12.500001
        else:
            group, name = entry.split("/")
            snapshot.tensors[group][name].view(-1)[-1] += 1e-6
    with pytest.raises(ClusterError) as raised:
        CheckpointStore(directory, world).save("1-kimg", snapshot)
    return str(raised.value)


@pytest.mark.parametrize("entry", ["generator/weight", "generator/bias", "optimizer/0.exp_avg", "state.json"])
def test_ranks_that_disagree_are_named(ranks: Ranks, tmp_path: Path, entry: str) -> None:
    for text in ranks(4).run(_save_what_differs, tmp_path, entry):
        assert f"checkpoint 1-kimg: '{entry}' is not the same on all ranks" in text
        assert "on ranks 0, 1, 3; " in text
        assert text.endswith("on rank 2")
    assert list(tmp_path.iterdir()) == []


def _save_nan_on_one_rank(world: World, directory: Path) -> str:
    with pytest.raises(ClusterError) as raised:
        CheckpointStore(directory, world).save("a", Snapshot({}, {"p": float("nan") if world.rank == 1 else 0.0}))
    return str(raised.value)


def test_a_state_that_one_rank_cannot_write_stops_all(ranks: Ranks, tmp_path: Path) -> None:
    assert ranks(2).run(_save_nan_on_one_rank, tmp_path) == [
        "rank 1: checkpoint: state.p is nan, which JSON cannot hold; use None",
        "checkpoint: state.p is nan, which JSON cannot hold; use None",
    ]


def _load_after_damage(world: World, directory: Path) -> tuple[str, int]:
    store = CheckpointStore(directory, world)
    latest = store.load_latest()
    assert latest is not None
    return latest[0], latest[1].state["images"]


def test_all_ranks_take_the_same_checkpoint(ranks: Ranks, tmp_path: Path) -> None:
    store = store_in(tmp_path)
    for kimg in (1.0, 2.0, 3.0):
        store.save(f"{kimg:.0f}-kimg", snapshot_of(kimg))
    truncate(tmp_path / "3-kimg")
    assert ranks(4).run(_load_after_damage, tmp_path) == [("2-kimg", 2000)] * 4
    assert (tmp_path / "quarantine" / "3-kimg" / "reason.txt").exists()


def _load_from_own_directory(world: World, directories: list[Path]) -> str:
    with pytest.raises(ClusterError) as raised:
        CheckpointStore(directories[world.rank], world).load_latest()
    return str(raised.value)


def test_a_rank_that_sees_no_checkpoint_is_named(ranks: Ranks, tmp_path: Path) -> None:
    store_in(tmp_path / "a").save("1-kimg", snapshot_of())
    of_rank_0, of_rank_1 = ranks(2).run(_load_from_own_directory, [tmp_path / "a", tmp_path / "b"])
    assert of_rank_0 == f"rank 1: {of_rank_1}"
    assert "no checkpoint 1-kimg" in of_rank_1


def test_damage_that_rank_0_does_not_see_is_named_and_not_quarantined(ranks: Ranks, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        store_in(tmp_path / folder).save("1-kimg", snapshot_of())
    truncate(tmp_path / "b" / "1-kimg")
    for text in ranks(2).run(_load_from_own_directory, [tmp_path / "a", tmp_path / "b"]):
        assert text.startswith("rank 1 cannot read what rank 0 can: checkpoint file")
    assert store_in(tmp_path / "a").names() == store_in(tmp_path / "b").names() == ["1-kimg"]
