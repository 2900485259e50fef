"""What is loaded is what was saved, bit for bit; what cannot be is refused by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.checkpoint import Snapshot, checksum
from cluster.errors import ClusterUsageError
from cluster.snapshot import SAFETENSORS_DTYPES, encode
from tests.cluster.checkpoint.snapshots import bits, same_tensors, snapshot_of, store_in


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
    store_in(tmp_path).save("a", Snapshot({"group": tensors}, {}))
    assert same_tensors(store_in(tmp_path).load("a").tensors, {"group": tensors})


def test_special_floats_survive(tmp_path: Path) -> None:
    values = torch.tensor([float("nan"), float("inf"), -0.0, 5e-324, 1 / 3], dtype=torch.float64)
    store_in(tmp_path).save(
        "a", Snapshot({"g": {"x": values}}, {"third": 1 / 3, "big": 2**70, "text": "é\n", "list": [1, [2.5]]})
    )
    loaded = store_in(tmp_path).load("a")
    assert bits(loaded.tensors["g"]["x"]) == bits(values)
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
        store_in(tmp_path).save("a", Snapshot({}, state))
    assert list(tmp_path.iterdir()) == []


def test_what_safetensors_cannot_hold_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ClusterUsageError, match=r"phase of g\.safetensors is torch\.complex128"):
        store_in(tmp_path).save("a", Snapshot({"g": {"phase": torch.zeros(2, dtype=torch.complex128)}}, {}))
    with pytest.raises(ClusterUsageError, match="layout"):
        store_in(tmp_path).save("a", Snapshot({"g": {"x": torch.eye(2).to_sparse()}}, {}))


@pytest.mark.parametrize("name", ["", "../a", "a/b", ".hidden", "quarantine"])
def test_names_that_are_no_file_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ClusterUsageError, match="name"):
        store_in(tmp_path / "checkpoints").save(name, snapshot_of())
    with pytest.raises(ClusterUsageError, match="name"):
        store_in(tmp_path / "checkpoints").load(name)
    assert list(tmp_path.iterdir()) == []


def test_a_save_copies_no_more_than_it_writes() -> None:
    """Though an engine may keep all parameters in one buffer, of which a state is many views."""
    buffer = torch.arange(1000.0)
    views = {"part": buffer[10:14], "column": buffer.view(10, 100)[:, 3], "scalar": buffer[5]}
    copies = encode(Snapshot({"g": views}, {})).copy().files["g.safetensors"]
    assert all(torch.equal(copies[name], view) for name, view in views.items())
    assert [copy.untyped_storage().nbytes() for copy in copies.values()] == [4 * 4, 10 * 4, 4]


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
