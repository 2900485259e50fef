"""A checkpoint is a directory that exists, complete and verified, or does not."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import cluster.checkpoint
from cluster.checkpoint import (
    CheckpointStore,
    DamagedCheckpointError,
    Snapshot,
    checksum,
)
from cluster.engines.optimizer_state import pack_optimizer, unpack_optimizer
from cluster.errors import ClusterError, ClusterUsageError, MachineError
from cluster.snapshot import SAFETENSORS_DTYPES, EncodedSnapshot, encode, write_directory
from cluster.world import World

if TYPE_CHECKING:
    from tests.cluster.ranks import Ranks


def _store(directory: Path) -> CheckpointStore:
    return CheckpointStore(directory, World.single())


def _snapshot(value: float = 1.0) -> Snapshot:
    tensors = {
        "generator": {"weight": torch.full((16, 8), value), "bias": torch.tensor(value, dtype=torch.float64)},
        "optimizer": {"0.exp_avg": torch.full((64,), -value)},
    }
    return Snapshot(tensors, {"images": int(1000 * value), "k": 12.5, "best": None})


def _same(a: Snapshot, b: Snapshot) -> bool:
    return a.state == b.state and _same_tensors(a.tensors, b.tensors)


def _same_tensors(a: dict[str, dict[str, Tensor]], b: dict[str, dict[str, Tensor]]) -> bool:
    """Bit for bit, so that NaN equals NaN and 0 does not equal -0."""
    return {group: set(tensors) for group, tensors in a.items()} == {
        group: set(tensors) for group, tensors in b.items()
    } and all(
        tensor.dtype == b[group][name].dtype
        and tensor.shape == b[group][name].shape
        and _bits(tensor) == _bits(b[group][name])
        for group, tensors in a.items()
        for name, tensor in tensors.items()
    )


def _bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


# ---- round trip ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", SAFETENSORS_DTYPES, ids=str)
def test_round_trip_is_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    raw = torch.arange(48, dtype=torch.uint8) * 37
    matrix = (raw % 2 if dtype == torch.bool else raw).view(dtype).view(2, -1)
    tensors = {
        "matrix": matrix,
        "transposed": matrix.t(),
        "scalar": matrix[1, 0],
        "empty": matrix.new_empty((0, 3)),
        "tied": matrix,
        "byte": torch.tensor([1], dtype=torch.uint8),
    }
    _store(tmp_path).save("a", Snapshot({"group": tensors}, {}))
    assert _same_tensors(_store(tmp_path).load("a").tensors, {"group": tensors})


def test_special_floats_survive(tmp_path: Path) -> None:
    values = torch.tensor([float("nan"), float("inf"), -0.0, 5e-324, 1 / 3], dtype=torch.float64)
    _store(tmp_path).save(
        "a", Snapshot({"g": {"x": values}}, {"third": 1 / 3, "big": 2**70, "text": "é\n", "list": [1, [2.5]]})
    )
    loaded = _store(tmp_path).load("a")
    assert _bits(loaded.tensors["g"]["x"]) == _bits(values)
    assert loaded.state == {"third": 1 / 3, "big": 2**70, "text": "é\n", "list": [1, [2.5]]}


@pytest.mark.parametrize(
    ("state", "named"),
    [
        ({"metrics": {"fid": float("nan")}}, "state.metrics.fid is nan"),
        ({"p": [0.0, float("inf")]}, r"state.p\[1\] is inf"),
        ({"net": torch.zeros(1)}, "state.net is a Tensor"),
        ({"by_size": {4: 1}}, "state.by_size has the key 4"),
    ],
)
def test_what_json_cannot_hold_is_refused_by_key(tmp_path: Path, state: dict[str, Any], named: str) -> None:
    with pytest.raises(ClusterUsageError, match=named):
        _store(tmp_path).save("a", Snapshot({}, state))
    assert list(tmp_path.iterdir()) == []


def test_what_safetensors_cannot_hold_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ClusterUsageError, match=r"phase of g\.safetensors is torch\.complex128"):
        _store(tmp_path).save("a", Snapshot({"g": {"phase": torch.zeros(2, dtype=torch.complex128)}}, {}))
    with pytest.raises(ClusterUsageError, match="layout"):
        _store(tmp_path).save("a", Snapshot({"g": {"x": torch.eye(2).to_sparse()}}, {}))


@pytest.mark.parametrize("name", ["", "../a", "a/b", ".hidden", "quarantine"])
def test_names_that_are_no_file_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ClusterUsageError, match="name"):
        _store(tmp_path / "checkpoints").save(name, _snapshot())
    with pytest.raises(ClusterUsageError, match="name"):
        _store(tmp_path / "checkpoints").load(name)
    assert list(tmp_path.iterdir()) == []


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adam": lambda groups: torch.optim.Adam(groups, lr=0.01, betas=(0.0, 0.99)),
    "adamw_amsgrad": lambda groups: torch.optim.AdamW(groups, lr=torch.tensor(0.01), amsgrad=True, foreach=False),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True),
    "plain_sgd": lambda groups: torch.optim.SGD(groups, lr=0.1),
}


def _player(kind: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.Linear(2, 1)).double()
    groups = [{"params": module[0].parameters(), "weight_decay": 0.1}, {"params": list(module[2:].parameters())}]
    return module, OPTIMIZERS[kind](groups)


def _step(module: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimizer.zero_grad()
    module(torch.randn(5, 3, dtype=torch.float64, generator=generator)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_resumed_optimizer_equals_an_uninterrupted_one(tmp_path: Path, kind: str) -> None:
    module, optimizer = _player(kind)
    for seed in range(4):
        if seed == 2:
            tensors, state = pack_optimizer(optimizer)
            _store(tmp_path).save(
                "a", Snapshot({"module": module.state_dict(), "optimizer": tensors}, {"optimizer": state})
            )
        _step(module, optimizer, seed)

    resumed, resumed_optimizer = _player(kind)
    for group in resumed_optimizer.param_groups:
        group["lr"] = 123.0
    snapshot = _store(tmp_path).load("a")
    resumed.load_state_dict(snapshot.tensors["module"])
    unpack_optimizer(resumed_optimizer, snapshot.tensors["optimizer"], snapshot.state["optimizer"])
    for seed in (2, 3):
        _step(resumed, resumed_optimizer, seed)

    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), module.parameters(), strict=True))
    packed, resumed_packed = pack_optimizer(optimizer), pack_optimizer(resumed_optimizer)
    assert _same_tensors({"o": packed[0]}, {"o": resumed_packed[0]})
    assert packed[1] == resumed_packed[1]


def test_an_optimizer_of_other_groups_is_refused() -> None:
    _, optimizer = _player("adam")
    with pytest.raises(ClusterError, match=r"groups of \[2, 4\] parameters does not fit groups of \[1\]"):
        unpack_optimizer(torch.optim.Adam([nn.Parameter(torch.zeros(1))]), *pack_optimizer(optimizer))


# ---- the set of checkpoints ------------------------------------------------------------------------------------------


def test_names_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    store = _store(tmp_path)
    assert store.load_latest() is None
    for name in ("999999-kimg", "000120-kimg", "1000000-kimg"):
        store.save(name, _snapshot())
    assert store.names() == ["000120-kimg", "999999-kimg", "1000000-kimg"]
    latest = store.load_latest()
    assert latest is not None
    assert latest[0] == "1000000-kimg"


def test_a_name_is_given_once(tmp_path: Path) -> None:
    _store(tmp_path).save("a", _snapshot(1.0))
    with pytest.raises(ClusterError, match="exists already"):
        _store(tmp_path).save("a", _snapshot(2.0))
    assert _same(_store(tmp_path).load("a"), _snapshot(1.0))


def test_a_replaced_checkpoint_is_the_new_one_and_leaves_nothing(tmp_path: Path) -> None:
    store = _store(tmp_path)
    for value in (1.0, 2.0):
        store.save("000001-kimg", _snapshot(value), replace=True)
    assert _same(store.load("000001-kimg"), _snapshot(2.0))
    assert [entry.name for entry in tmp_path.iterdir()] == ["000001-kimg"]


def test_a_refused_replacement_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = _store(tmp_path)
    store.save("000001-kimg", _snapshot(1.0))
    rename = Path.rename

    def refuse_the_new_one(source: Path, target: Path) -> Path:
        if target.name == "000001-kimg" and json.loads((source / "state.json").read_text())["images"] == 2000:
            raise PermissionError(13, "Permission denied")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", refuse_the_new_one)
    with pytest.raises(ClusterError, match="could not be written: Permission denied"):
        store.save("000001-kimg", _snapshot(2.0), replace=True)
    assert _same(store.load("000001-kimg"), _snapshot(1.0))
    assert [entry.name for entry in tmp_path.iterdir()] == ["000001-kimg"]


def test_prune_keeps_the_last_and_the_named(tmp_path: Path) -> None:
    store = _store(tmp_path)
    for kimg in range(8):
        store.save(f"{kimg}-kimg", _snapshot())
    store.prune(3, names=["3-kimg"])
    assert store.names() == ["3-kimg", "5-kimg", "6-kimg", "7-kimg"]
    assert sorted(path.name for path in tmp_path.iterdir()) == store.names()
    with pytest.raises(ClusterUsageError, match="keep_last=0"):
        store.prune(0)


def test_prune_passes_over_a_checkpoint_of_an_unknown_format(tmp_path: Path) -> None:
    store = _store(tmp_path)
    for kimg in range(1, 4):
        store.save(f"{kimg}-kimg", _snapshot())
    (tmp_path / "0-kimg").mkdir()
    (tmp_path / "0-kimg" / "manifest.json").write_text('{"format": 9}')
    store.prune(1)
    assert store.names() == ["0-kimg", "3-kimg"]
    store.save("0-kimg", _snapshot())
    assert store.names() == ["0-kimg", "3-kimg"]
    assert json.loads((tmp_path / "quarantine" / "0-kimg" / "manifest.json").read_text()) == {"format": 9}


@pytest.mark.parametrize("touched", ["cluster.manifest.read_json", "pathlib.Path.iterdir"])
def test_storage_that_does_not_answer_lets_prune_wait(
    tmp_path: Path, touched: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = _store(tmp_path)
    for kimg in range(3):
        store.save(f"{kimg}-kimg", _snapshot())
    with mock.patch(touched, side_effect=OSError(errno.EIO, "Input/output error")):
        store.prune(1)
    assert "no old checkpoint is removed this time: " in capsys.readouterr().err
    assert store.names() == ["0-kimg", "1-kimg", "2-kimg"]
    store.prune(1)
    assert store.names() == ["2-kimg"]


def test_a_missing_name_says_what_is_there(tmp_path: Path) -> None:
    _store(tmp_path).save("a", _snapshot())
    with pytest.raises(ClusterUsageError, match=r"no checkpoint b in .*; found: a"):
        _store(tmp_path).load("b")


# ---- damage ----------------------------------------------------------------------------------------------------------


def _truncate(directory: Path) -> None:
    path = directory / "generator.safetensors"
    path.write_bytes(path.read_bytes()[:-3])


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
    _truncate: "generator.safetensors is damaged: it has",
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


@pytest.mark.parametrize(("damage", "named"), DAMAGES.items(), ids=[damage.__name__[1:] for damage in DAMAGES])
def test_damage_is_named_and_the_one_before_is_taken(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    store = _store(tmp_path / "checkpoints")
    store.save("1-kimg", _snapshot(1.0))
    store.save("2-kimg", _snapshot(2.0))
    damage(store.directory / "2-kimg")
    with pytest.raises(DamagedCheckpointError) as raised:
        store.load("2-kimg")
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "2-kimg" in store.names()

    latest = store.load_latest()

    assert latest is not None
    assert latest[0] == "1-kimg"
    assert _same(latest[1], _snapshot(1.0))
    assert store.names() == ["1-kimg"]
    assert named in (store.directory / "quarantine" / "2-kimg" / "reason.txt").read_text()
    assert named in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_any_flipped_byte_is_found(tmp_path: Path) -> None:
    store = _store(tmp_path)
    store.save("a", _snapshot())
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
    assert _same(store.load("a"), _snapshot())


def test_a_flipped_byte_of_the_manifest_changes_nothing_that_is_loaded(tmp_path: Path) -> None:
    store = _store(tmp_path)
    store.save("a", _snapshot())
    path = tmp_path / "a" / "manifest.json"
    content = path.read_bytes()
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        try:
            assert _same(store.load("a"), _snapshot())
        except ClusterError:
            continue


def test_an_unknown_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    store = _store(tmp_path)
    store.save("1-kimg", _snapshot())
    store.save("2-kimg", _snapshot())
    path = tmp_path / "2-kimg" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 7}))
    for load in (store.load_latest, lambda: store.load("2-kimg")):
        with pytest.raises(ClusterUsageError, match="has format 7; this version reads format 3"):
            load()
    assert store.names() == ["1-kimg", "2-kimg"]


def test_when_all_are_damaged_nothing_starts_over(tmp_path: Path) -> None:
    store = _store(tmp_path)
    for name in ("1-kimg", "2-kimg"):
        store.save(name, _snapshot())
        _truncate(tmp_path / name)
    for _ in range(2):
        with pytest.raises(ClusterError, match=r"no checkpoint is left that verifies, see .*quarantine"):
            store.load_latest()


def test_the_same_name_can_be_damaged_twice(tmp_path: Path) -> None:
    store = _store(tmp_path)
    store.save("1-kimg", _snapshot(1.0))
    for _ in range(2):
        store.save("2-kimg", _snapshot(2.0))
        _truncate(tmp_path / "2-kimg")
        latest = store.load_latest()
        assert latest is not None
        assert latest[0] == "1-kimg"
    assert len(list((tmp_path / "quarantine").iterdir())) == 2


# ---- kills and full disks --------------------------------------------------------------------------------------------


def _in_child(work: Callable[[], None]) -> int:
    """Fork, work, and vanish; the child's process id."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def _kill_at_event(last: int) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that kills the process at its `last`-th touch of the file system."""
    seen = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in ("open", "os.mkdir", "os.rename", "os.rmdir", "os.remove", "shutil.rmtree"):
            seen += 1
            if seen > last:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


def _save_and_prune(directory: Path) -> None:
    _store(directory).save("2-kimg", _snapshot(2.0))
    _store(directory).prune(1)


def _save_and_prune_behind(directory: Path) -> None:
    snapshot = _snapshot(2.0)
    with _store(directory) as store:
        store.async_save("2-kimg", snapshot, then=lambda: store.prune(1))
        _zero(snapshot)


def _kill_at_every_event(world: World, directory: Path, save: Callable[[Path], None]) -> list[str]:
    """Save beside an older checkpoint and prune that, killed at each touch of the disk in turn; what was left."""
    _store(directory / "before").save("1-kimg", _snapshot(1.0))
    outcomes = []
    for last in range(1000):
        folder = directory / str(last)
        shutil.copytree(directory / "before", folder)

        def save_and_die(folder: Path = folder, last: int = last) -> None:
            sys.addaudithook(_kill_at_event(last))
            save(folder)

        _, status = os.waitpid(_in_child(save_and_die), 0)
        for name in _store(folder).names():
            assert _same(_store(folder).load(name), _snapshot(float(name[0])))
        outcomes.append(",".join(_store(folder).names()))
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            return outcomes
    raise AssertionError("the save never came to its end")


@pytest.mark.parametrize("save", [_save_and_prune, _save_and_prune_behind])
def test_a_kill_at_any_touch_of_the_disk_leaves_the_old_set_or_the_new_one(
    ranks: Ranks, tmp_path: Path, save: Callable[[Path], None]
) -> None:
    (outcomes,) = ranks(1).run(_kill_at_every_event, tmp_path, save, timeout_s=600)
    assert list(dict.fromkeys(outcomes)) == ["1-kimg", "1-kimg,2-kimg", "2-kimg"]
    assert outcomes.count("1-kimg") >= 6  # A directory, two files of tensors, the state, the manifest, the rename.
    left_over = next(path for path in tmp_path.glob("*/.tmp-2-kimg-*"))
    _store(left_over.parent).save("3-kimg", _snapshot(3.0))
    assert not left_over.exists()


def _kill_at_random(world: World, directory: Path, trials: int) -> None:
    """Kill children that save one checkpoint after the other, and look at what each of them left."""
    pick = random.Random(0)
    for trial in range(trials):
        folder, said = directory / str(trial), directory / f"{trial}.saved"
        said.touch()

        def save_for_ever(folder: Path = folder, said: Path = said) -> None:
            with open(said, "w", buffering=1) as note:
                for kimg in range(10**6):
                    _store(folder).save(f"{kimg}-kimg", _snapshot(float(kimg)))
                    note.write(f"{kimg}\n")

        pid = _in_child(save_for_ever)
        while not said.read_text():
            time.sleep(0.001)
        time.sleep(pick.uniform(0.0, 0.03))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        store, promised = _store(folder), len(said.read_text().splitlines())
        assert promised <= len(store.names()) <= promised + 1
        for kimg, name in enumerate(store.names()):
            assert name == f"{kimg}-kimg"
            assert _same(store.load(name), _snapshot(float(kimg)))


def test_a_kill_at_a_random_moment_leaves_only_whole_checkpoints(ranks: Ranks, tmp_path: Path) -> None:
    ranks(1).run(_kill_at_random, tmp_path, 50, timeout_s=600)
    assert len(list(tmp_path.glob("*/.tmp-*"))) > 5, "hardly any kill hit a save"


def _save_on_a_full_disk(world: World, directory: Path) -> tuple[str, list[str], list[str]]:
    """A limit on the size of files stands for a disk that is full in the middle of a file."""
    store = CheckpointStore(directory, world)
    store.save("1-kimg", _snapshot())
    large = Snapshot({"generator": {"weight": torch.zeros(10_000)}}, {})
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if world.is_main:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(ClusterError) as raised:
            store.save("2-kimg", large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    found = store.names(), [path.name for path in directory.iterdir()]
    world.barrier()
    store.save("2-kimg", large)
    return str(raised.value), *found


def test_a_full_disk_is_named_on_all_ranks_and_leaves_the_old_set(ranks: Ranks, tmp_path: Path) -> None:
    for text, names, entries in ranks(2).run(_save_on_a_full_disk, tmp_path):
        assert f"checkpoint {tmp_path / '2-kimg'} could not be written: File too large" in text
        assert names == entries == ["1-kimg"]
    assert _store(tmp_path).names() == ["1-kimg", "2-kimg"]


# ---- writing while training goes on ----------------------------------------------------------------------------------


def _zero(snapshot: Snapshot) -> None:
    """What a step may do to a state that was handed over."""
    for tensors in snapshot.tensors.values():
        for tensor in tensors.values():
            tensor.zero_()
    snapshot.state.clear()


@contextmanager
def _disk(work: Callable[[], object]) -> Iterator[None]:
    """Have something done before every write."""

    def write(directory: Path, name: str, snapshot: EncodedSnapshot) -> int:
        work()
        return write_directory(directory, name, snapshot)

    with mock.patch.object(cluster.checkpoint, "write_directory", write):
        yield


def _fill() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_is_written_is_the_state_at_the_save(tmp_path: Path) -> None:
    snapshot, trained = _snapshot(), threading.Event()
    with _disk(lambda: trained.wait(10)), _store(tmp_path) as store:
        store.async_save("a", snapshot)
        assert store.names() == []
        _zero(snapshot)
        trained.set()
        store.finish()
        assert _same(store.load("a"), _snapshot())
        assert store.written_bytes > 16 * 8 * 4
        assert store.written_s > 0


def test_a_save_copies_no_more_than_it_writes() -> None:
    """Though an engine may keep all parameters in one buffer, of which a state is many views."""
    buffer = torch.arange(1000.0)
    views = {"part": buffer[10:14], "column": buffer.view(10, 100)[:, 3], "scalar": buffer[5]}
    copies = encode(Snapshot({"g": views}, {})).copy().files["g.safetensors"]
    assert all(torch.equal(copies[name], view) for name, view in views.items())
    assert [copy.untyped_storage().nbytes() for copy in copies.values()] == [4 * 4, 10 * 4, 4]


def test_saves_are_written_one_after_the_other(tmp_path: Path) -> None:
    under_way: list[list[str]] = []
    with _disk(lambda: (time.sleep(0.05), under_way.append(os.listdir(tmp_path)))), _store(tmp_path) as store:
        for kimg in range(3):
            store.async_save(f"{kimg}-kimg", _snapshot(float(kimg)))
        assert len(under_way) >= 2
    assert [sorted(name for name in names if not name.startswith(".")) for names in under_way] == [
        [],
        ["0-kimg"],
        ["0-kimg", "1-kimg"],
    ]
    assert all(sum(name.startswith(".tmp-") for name in names) == 1 for names in under_way)
    assert all(_same(store.load(f"{kimg}-kimg"), _snapshot(float(kimg))) for kimg in range(3))


def test_what_follows_a_save_finds_it_there(tmp_path: Path) -> None:
    found: list[list[str]] = []
    with _disk(lambda: time.sleep(0.05)), _store(tmp_path) as store:
        store.async_save("a", _snapshot(), then=lambda: found.append(store.names()))
    assert found == [["a"]]


def _save_on_a_disk_that_fills(world: World, directory: Path, end: str) -> tuple[type[Exception], str, list[str]]:
    """Rank 0 meets a full disk while training goes on; who is told, and what is there then."""
    store, called = CheckpointStore(directory, world), []
    store.save("1-kimg", _snapshot(1.0))
    with _disk(_fill):
        store.async_save("2-kimg", _snapshot(2.0), then=lambda: called.append("then"))
        with pytest.raises(ClusterError) as raised:
            store.finish() if end == "finish" else getattr(store, end)("3-kimg", _snapshot(3.0))
    assert called == []
    names, entries = store.names(), [path.name for path in directory.iterdir()]
    assert names == entries
    world.barrier()
    store.finish()  # it is said once
    store.async_save("2-kimg", _snapshot(2.0))
    store.finish()
    return type(raised.value), str(raised.value), names


@pytest.mark.parametrize("end", ["finish", "async_save", "save"])
def test_a_write_that_fails_is_raised_later_on_all_ranks(ranks: Ranks, tmp_path: Path, end: str) -> None:
    text = f"checkpoint {tmp_path / '2-kimg'} could not be written: No space left on device"
    assert ranks(2).run(_save_on_a_disk_that_fills, tmp_path, end) == [
        (MachineError, text, ["1-kimg"]),
        (MachineError, f"rank 0: {text}", ["1-kimg"]),
    ]
    assert MachineError.exit_code == 3
    assert _store(tmp_path).names() == ["1-kimg", "2-kimg"]


def test_what_fails_after_a_write_is_raised_too(tmp_path: Path) -> None:
    store = _store(tmp_path)
    store.async_save("a", _snapshot(), then=_fill)
    with pytest.raises(MachineError, match="a is written, but not what follows it: No space left on device"):
        store.finish()
    assert store.names() == ["a"]


def _fail_while_saving(world: World, directory: Path) -> list[str]:
    """On rank 0 alone, which must not wait for the others then."""
    store = CheckpointStore(directory, world)
    with _disk(lambda: time.sleep(0.1)):
        store.async_save("a", _snapshot())
        if world.is_main:
            with pytest.raises(KeyError, match="a mistake"), store:
                raise KeyError("a mistake")
    return store.names() if world.is_main else []


def test_an_error_lets_the_write_end(ranks: Ranks, tmp_path: Path) -> None:
    assert ranks(2).run(_fail_while_saving, tmp_path)[0] == ["a"]


def test_a_write_that_fails_hides_no_other_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = _store(tmp_path)
    with _disk(_fill):
        store.async_save("a", _snapshot())
        with pytest.raises(KeyError, match="a mistake"), store:
            raise KeyError("a mistake")
    assert "warning: checkpoint" in capsys.readouterr().err


# ---- ranks -----------------------------------------------------------------------------------------------------------


def _save_what_differs(world: World, directory: Path, entry: str) -> str:
    snapshot = _snapshot()
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
    store = _store(tmp_path)
    for kimg in (1.0, 2.0, 3.0):
        store.save(f"{kimg:.0f}-kimg", _snapshot(kimg))
    _truncate(tmp_path / "3-kimg")
    assert ranks(4).run(_load_after_damage, tmp_path) == [("2-kimg", 2000)] * 4
    assert (tmp_path / "quarantine" / "3-kimg" / "reason.txt").exists()


def _load_from_own_directory(world: World, directories: list[Path]) -> str:
    with pytest.raises(ClusterError) as raised:
        CheckpointStore(directories[world.rank], world).load_latest()
    return str(raised.value)


def test_a_rank_that_sees_no_checkpoint_is_named(ranks: Ranks, tmp_path: Path) -> None:
    _store(tmp_path / "a").save("1-kimg", _snapshot())
    of_rank_0, of_rank_1 = ranks(2).run(_load_from_own_directory, [tmp_path / "a", tmp_path / "b"])
    assert of_rank_0 == f"rank 1: {of_rank_1}"
    assert "no checkpoint 1-kimg" in of_rank_1


def test_damage_that_rank_0_does_not_see_is_named_and_not_quarantined(ranks: Ranks, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        _store(tmp_path / folder).save("1-kimg", _snapshot())
    _truncate(tmp_path / "b" / "1-kimg")
    for text in ranks(2).run(_load_from_own_directory, [tmp_path / "a", tmp_path / "b"]):
        assert text.startswith("rank 1 cannot read what rank 0 can: checkpoint file")
    assert _store(tmp_path / "a").names() == _store(tmp_path / "b").names() == ["1-kimg"]


def test_checksum_sees_every_change() -> None:
    tensor = torch.randn(3_000_001, generator=torch.Generator().manual_seed(0))
    whole = checksum(tensor).item()
    assert checksum(tensor.clone()).item() == whole
    for position in (0, 1, 2**20 - 1, 2**21, 2**21 + 1, 3_000_000):
        changed = tensor.clone()
        changed.view(torch.int32)[position] ^= -(2**31)  # The sign bit alone.
        assert checksum(changed).item() != whole
    assert checksum(tensor.flip(0)).item() != whole
    assert checksum(torch.zeros(0)).item() == 0


@pytest.mark.parametrize("start", range(9))
def test_checksum_is_of_the_values_wherever_they_lie(start: int) -> None:
    """An engine may keep all parameters in one buffer."""
    buffer = torch.arange(40, dtype=torch.float32)
    for stop in (start + 6, start + 7):
        assert checksum(buffer[start:stop]) == checksum(buffer[start:stop].clone())


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_storage_that_does_not_answer_damages_no_checkpoint(tmp_path: Path, code: int) -> None:
    store = _store(tmp_path)
    store.save("1-kimg", _snapshot(1))
    store.save("2-kimg", _snapshot(2))
    refuses = mock.patch("cluster.snapshot._read_verified", side_effect=OSError(code, os.strerror(code)))
    with refuses, pytest.raises(MachineError, match="2-kimg could not be read: "):
        store.load_latest()
    assert not (tmp_path / "quarantine").exists()
    name, snapshot = store.load_latest() or ("", None)
    assert name == "2-kimg"
    assert snapshot is not None


def test_a_left_over_that_cannot_be_removed_keeps_nobody_from_saving(tmp_path: Path) -> None:
    store = _store(tmp_path)
    store.save("1-kimg", _snapshot(1))
    (tmp_path / ".tmp-2-kimg-0a1b").mkdir()
    with mock.patch("os.rmdir", side_effect=OSError(errno.EBUSY, "busy")):  # as over NFS, while a file is held
        store.save("2-kimg", _snapshot(2))
    assert store.names() == ["1-kimg", "2-kimg"]
