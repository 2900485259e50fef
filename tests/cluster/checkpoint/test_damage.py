"""Damage is found, named and put aside, and nothing is loaded that was not saved."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from cluster.checkpoint import DamagedCheckpointError
from cluster.errors import ClusterError, ClusterUsageError, MachineError
from tests.cluster.checkpoint.snapshots import same, snapshot_of, store_in, truncate


def _remove_a_file(directory: Path) -> None:
    (directory / "optimizer.safetensors").unlink()


def _remove_the_manifest(directory: Path) -> None:
    (directory / "manifest.json").unlink()


def _add_a_pickle(directory: Path) -> None:
    (directory / "extra.pkl").write_bytes(pickle.dumps({"a": 1}))


def _add_an_unlisted_file(directory: Path) -> None:
    shutil.copy(directory / "generator.safetensors", directory / "more.safetensors")


class _Bomb:
    """Unpickling leaves a file called `ran` behind."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(Path.cwd() / "ran"),)


def _rewrite(directory: Path, file: str, content: bytes) -> None:
    """Replace a file and make the manifest vouch for it, as somebody with ill intent would."""
    (directory / file).write_bytes(content)
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["files"][file] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (directory / "manifest.json").write_text(json.dumps(manifest))


def _pickle_for_tensors(directory: Path) -> None:
    _rewrite(directory, "generator.safetensors", pickle.dumps(_Bomb()))


def _list_a_pickle(directory: Path) -> None:
    _rewrite(directory, "optimizer.pkl", pickle.dumps(_Bomb()))


def _list_a_file_outside(directory: Path) -> None:
    (directory.parent / "outside.safetensors").write_bytes(b"")
    _rewrite(directory, "../outside.safetensors", b"")


def _state_that_is_no_object(directory: Path) -> None:
    _rewrite(directory, "state.json", b"[1]")


def _manifest_that_is_no_json(directory: Path) -> None:
    (directory / "manifest.json").write_text("{'format': 1}")


DAMAGES = {
    truncate: "generator.safetensors is damaged: it has",
    _remove_a_file: "optimizer.safetensors is missing",
    _remove_the_manifest: "manifest.json is missing",
    _add_a_pickle: "holds 'extra.pkl'",
    _add_an_unlisted_file: "does not list more.safetensors",
    _pickle_for_tensors: "generator.safetensors is not safetensors",
    _list_a_pickle: "holds 'optimizer.pkl'",
    _list_a_file_outside: "holds '../outside.safetensors'",
    _state_that_is_no_object: "state.json holds a JSON list",
    _manifest_that_is_no_json: "manifest.json: not JSON",
}


@pytest.mark.parametrize(("damage", "named"), DAMAGES.items(), ids=[damage.__name__.strip("_") for damage in DAMAGES])
def test_damage_is_named_and_the_one_before_is_taken(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    store = store_in(tmp_path / "checkpoints")
    store.save("1-kimg", snapshot_of(1.0))
    store.save("2-kimg", snapshot_of(2.0))
    damage(store.directory / "2-kimg")
    with pytest.raises(DamagedCheckpointError) as raised:
        store.load("2-kimg")
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "2-kimg" in store.names()

    latest = store.load_latest()

    assert latest is not None
    assert latest[0] == "1-kimg"
    assert same(latest[1], snapshot_of(1.0))
    assert store.names() == ["1-kimg"]
    assert named in (store.directory / "quarantine" / "2-kimg" / "reason.txt").read_text()
    assert named in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_any_flipped_byte_is_found(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.save("a", snapshot_of())
    pick = random.Random(0)
    for path in sorted((tmp_path / "a").iterdir()):
        if path.name == "manifest.json":
            continue
        content = path.read_bytes()
        for position in [0, 8, len(content) - 1, *(pick.randrange(len(content)) for _ in range(20))]:
            flipped = bytearray(content)
            flipped[position] ^= 1 << pick.randrange(8)
            path.write_bytes(flipped)
            with pytest.raises(DamagedCheckpointError, match=path.name):
                store.load("a")
        path.write_bytes(content)
    assert same(store.load("a"), snapshot_of())


def test_a_flipped_byte_of_the_manifest_changes_nothing_that_is_loaded(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.save("a", snapshot_of())
    path = tmp_path / "a" / "manifest.json"
    content = path.read_bytes()
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        try:
            assert same(store.load("a"), snapshot_of())
        except ClusterError:
            continue


def test_an_unknown_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.save("1-kimg", snapshot_of())
    store.save("2-kimg", snapshot_of())
    path = tmp_path / "2-kimg" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 7}))
    for load in (store.load_latest, lambda: store.load("2-kimg")):
        with pytest.raises(ClusterUsageError, match="has format 7; this version reads format 3"):
            load()
    assert store.names() == ["1-kimg", "2-kimg"]


def test_when_all_are_damaged_nothing_starts_over(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    for name in ("1-kimg", "2-kimg"):
        store.save(name, snapshot_of())
        truncate(tmp_path / name)
    for _ in range(2):
        with pytest.raises(ClusterError, match=r"no checkpoint is left that verifies, see .*quarantine"):
            store.load_latest()


def test_the_same_name_can_be_damaged_twice(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.save("1-kimg", snapshot_of(1.0))
    for _ in range(2):
        store.save("2-kimg", snapshot_of(2.0))
        truncate(tmp_path / "2-kimg")
        latest = store.load_latest()
        assert latest is not None
        assert latest[0] == "1-kimg"
    assert len(list((tmp_path / "quarantine").iterdir())) == 2


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_storage_that_does_not_answer_damages_no_checkpoint(tmp_path: Path, code: int) -> None:
    store = store_in(tmp_path)
    store.save("1-kimg", snapshot_of(1))
    store.save("2-kimg", snapshot_of(2))
    refuses = mock.patch("cluster.snapshot._read_verified", side_effect=OSError(code, os.strerror(code)))
    with refuses, pytest.raises(MachineError, match="2-kimg could not be read: "):
        store.load_latest()
    assert not (tmp_path / "quarantine").exists()
    name, snapshot = store.load_latest() or ("", None)
    assert name == "2-kimg"
    assert snapshot is not None
