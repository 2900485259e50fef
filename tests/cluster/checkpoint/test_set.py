"""The checkpoints of a folder: their names and order, replacing and pruning."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from unittest import mock

import pytest

from cluster.errors import ClusterError, ClusterUsageError
from tests.cluster.checkpoint.snapshots import same, snapshot_of, store_in


def test_names_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    assert store.load_latest() is None
    for name in ("999999-kimg", "000120-kimg", "1000000-kimg"):
        store.save(name, snapshot_of())
    assert store.names() == ["000120-kimg", "999999-kimg", "1000000-kimg"]
    latest = store.load_latest()
    assert latest is not None
    assert latest[0] == "1000000-kimg"


def test_a_name_is_given_once(tmp_path: Path) -> None:
    store_in(tmp_path).save("a", snapshot_of(1.0))
    with pytest.raises(ClusterError, match="exists already"):
        store_in(tmp_path).save("a", snapshot_of(2.0))
    assert same(store_in(tmp_path).load("a"), snapshot_of(1.0))


def test_a_replaced_checkpoint_is_the_new_one_and_leaves_nothing(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    for value in (1.0, 2.0):
        store.save("000001-kimg", snapshot_of(value), replace=True)
    assert same(store.load("000001-kimg"), snapshot_of(2.0))
    assert [entry.name for entry in tmp_path.iterdir()] == ["000001-kimg"]


def test_a_refused_replacement_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_in(tmp_path)
    store.save("000001-kimg", snapshot_of(1.0))
    rename = Path.rename

    def refuse_the_new_one(source: Path, target: Path) -> Path:
        if target.name == "000001-kimg" and json.loads((source / "state.json").read_text())["images"] == 2000:
            raise PermissionError(13, "Permission denied")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", refuse_the_new_one)
    with pytest.raises(ClusterError, match="could not be written: Permission denied"):
        store.save("000001-kimg", snapshot_of(2.0), replace=True)
    assert same(store.load("000001-kimg"), snapshot_of(1.0))
    assert [entry.name for entry in tmp_path.iterdir()] == ["000001-kimg"]


def test_prune_keeps_the_last_and_the_named(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    for kimg in range(8):
        store.save(f"{kimg}-kimg", snapshot_of())
    store.prune(3, names=["3-kimg"])
    assert store.names() == ["3-kimg", "5-kimg", "6-kimg", "7-kimg"]
    assert sorted(path.name for path in tmp_path.iterdir()) == store.names()
    with pytest.raises(ClusterUsageError, match="keep_last=0"):
        store.prune(0)


def test_prune_passes_over_a_checkpoint_of_an_unknown_format(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    for kimg in range(1, 4):
        store.save(f"{kimg}-kimg", snapshot_of())
    (tmp_path / "0-kimg").mkdir()
    (tmp_path / "0-kimg" / "manifest.json").write_text('{"format": 9}')
    store.prune(1)
    assert store.names() == ["0-kimg", "3-kimg"]
    store.save("0-kimg", snapshot_of())
    assert store.names() == ["0-kimg", "3-kimg"]
    assert json.loads((tmp_path / "quarantine" / "0-kimg" / "manifest.json").read_text()) == {"format": 9}


@pytest.mark.parametrize("touched", ["cluster.manifest.read_json", "pathlib.Path.iterdir"])
def test_storage_that_does_not_answer_lets_prune_wait(
    tmp_path: Path, touched: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = store_in(tmp_path)
    for kimg in range(3):
        store.save(f"{kimg}-kimg", snapshot_of())
    with mock.patch(touched, side_effect=OSError(errno.EIO, "Input/output error")):
        store.prune(1)
    assert "no old checkpoint is removed this time: " in capsys.readouterr().err
    assert store.names() == ["0-kimg", "1-kimg", "2-kimg"]
    store.prune(1)
    assert store.names() == ["2-kimg"]


def test_a_missing_name_says_what_is_there(tmp_path: Path) -> None:
    store_in(tmp_path).save("a", snapshot_of())
    with pytest.raises(ClusterUsageError, match=r"no checkpoint b in .*; found: a"):
        store_in(tmp_path).load("b")


def test_a_left_over_that_cannot_be_removed_keeps_nobody_from_saving(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.save("1-kimg", snapshot_of(1))
    (tmp_path / ".tmp-2-kimg-0a1b").mkdir()
    with mock.patch("os.rmdir", side_effect=OSError(errno.EBUSY, "busy")):  # as over NFS, while a file is held
        store.save("2-kimg", snapshot_of(2))
    assert store.names() == ["1-kimg", "2-kimg"]
