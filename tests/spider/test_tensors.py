"""A file of tensors runs no code, and its tensors have one digest in any container."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from spider.errors import SpiderError
from spider.tensors import load_state_dict, save_state_dict, sha256_of_safetensors, sha256_of_state_dict


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))])
def test_a_file_that_would_run_code_is_refused_and_does_not(save, tmp_path: Path):
    path, crater = tmp_path / "bomb.pth", tmp_path / "crater"
    save({"w": torch.zeros(1), "x": Bomb(crater)}, path)
    with pytest.raises(SpiderError, match="refused, because it is not a file of tensors"):
        load_state_dict(path)
    assert not crater.exists()


@pytest.mark.parametrize(
    "value",
    [
        [torch.zeros(1)],
        {"w": 3},
        {1: torch.zeros(1)},
        {("a", "b"): torch.zeros(1)},
        {"w": torch.zeros(1), 1: torch.zeros(1)},
        {"w": torch.eye(2).to_sparse()},
        {"w": torch.zeros(2, device="meta")},
        {"w": torch.ones(2, dtype=torch.complex64).conj()},
    ],
)
def test_other_contents_are_refused(value, tmp_path: Path):
    torch.save(value, tmp_path / "x.pth")
    with pytest.raises(SpiderError, match="not a file of tensors by name"):
        load_state_dict(tmp_path / "x.pth")


@pytest.mark.skipif(not hasattr(torch, "quantize_per_tensor"), reason="torch has no quantized tensors any more")
@pytest.mark.filterwarnings("ignore")  # torch will drop them
def test_quantized_tensors_are_refused(tmp_path: Path):
    torch.save({"w": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, tmp_path / "x.pth")
    with pytest.raises(SpiderError, match="not a file of tensors by name"):
        load_state_dict(tmp_path / "x.pth")


def test_a_container_changes_neither_tensors_nor_their_digest(tmp_path: Path):
    state = {"w": torch.arange(6.0).reshape(2, 3).T, "n": torch.tensor(3), "p": torch.nn.Parameter(torch.ones(2))}
    torch.save(state, tmp_path / "x.pth")
    save_state_dict(state, tmp_path / "x.safetensors")
    assert sha256_of_safetensors(tmp_path / "x.safetensors") == sha256_of_state_dict(state)
    for path in (tmp_path / "x.pth", tmp_path / "x.safetensors"):
        found, sha256 = load_state_dict(path)
        assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert sha256_of_state_dict(found) == sha256_of_state_dict(state)
        assert all(torch.equal(found[name], state[name]) for name in state)
    for other in ({"w": state["w"] + 1}, {"v": state["w"]}, {"w": state["w"].T}, {"w": state["w"].double()}):
        assert sha256_of_state_dict(other) != sha256_of_state_dict({"w": state["w"]})


ALL_TYPES = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32]
ALL_TYPES += [torch.uint64, torch.float16, torch.float32, torch.float64, torch.complex64, torch.bfloat16]
ALL_TYPES += [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]


def test_each_type_is_kept_and_has_a_digest_of_its_own(tmp_path: Path):
    path, digests = tmp_path / "x.safetensors", set()
    for dtype in ALL_TYPES:
        state = {"w": torch.tensor([[0.0, 1.0], [1.0, 0.0]]).to(dtype), "s": torch.tensor(1.0).to(dtype)}
        digest = sha256_of_state_dict(state)
        try:
            save_state_dict(state, path)
        except (KeyError, ValueError):  # an older safetensors has not all types
            assert dtype not in (torch.bfloat16, torch.float32)
        else:
            assert load_state_dict(path)[0]["w"].dtype == dtype
            assert sha256_of_safetensors(path) == digest
        digests.add(digest)
    assert len(digests) == len(ALL_TYPES)


def test_a_digest_of_float32_and_int64_never_changes():
    """Digests of published weights stand in the registry."""
    state = {"w": torch.arange(6.0).reshape(2, 3).T, "n": torch.tensor(3)}
    assert sha256_of_state_dict(state) == "8b537b721af97f1655a025f8017d5ad12cecc395cc3ce5db9a804f163aa825bd"


@pytest.mark.parametrize("dtype", ["F8_E8M0", "F4", "BF16", "unheard-of"])
def test_a_type_of_safetensors_is_known_or_refused(dtype: str, tmp_path: Path):
    path, size = tmp_path / "x.safetensors", {"BF16": 4, "F4": 1}.get(dtype, 2)
    header = json.dumps({"w": {"dtype": dtype, "shape": [2], "data_offsets": [0, size]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
    digest = sha256_of_safetensors(path)
    if dtype == "BF16":
        assert digest == sha256_of_state_dict({"w": torch.zeros(2, dtype=torch.bfloat16)})
    else:
        assert digest == "none"
        with pytest.raises(SpiderError, match="refused, because it is not a file of tensors"):
            load_state_dict(path)


def damaged(blob: bytes, rng: np.random.Generator) -> bytes:
    """Bytes replaced, a piece taken out, put in twice, or the end cut off."""
    data = bytearray(blob)
    at, length = int(rng.integers(len(data))), int(rng.integers(1, 40))
    match rng.integers(4):
        case 0:
            for place in rng.integers(len(data), size=int(rng.integers(1, 6))):
                data[place] = int(rng.integers(256))
        case 1:
            del data[at : at + length]
        case 2:
            data[at:at] = data[at : at + length]
        case 3:
            del data[at:]
    return bytes(data)


@pytest.mark.filterwarnings("ignore")  # torch's own, of what it finds in damaged files
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "safetensors"])
def test_a_damaged_file_is_read_or_refused(form: str, tmp_path: Path):
    rng, state = np.random.default_rng(0), {"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3)}
    path = tmp_path / ("x.safetensors" if form == "safetensors" else "x.pth")
    if form == "safetensors":
        save_state_dict(state, path)
    elif form == "pickle":
        path.write_bytes(pickle.dumps({"w": [1.0, "text", (2, 3)], "n": {"m": None}}, protocol=2))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    whole, refused = path.read_bytes(), 0
    for _ in range(250):
        path.write_bytes(damaged(whole, rng))
        try:
            found, _ = load_state_dict(path)
        except (SpiderError, MemoryError):  # a damaged size may ask for more than there is
            refused += 1
        else:
            sha256_of_state_dict(found)
        sha256_of_safetensors(path)
    assert refused > 25


@pytest.mark.parametrize("text", [b"hello world\n", b"", b"<html>404</html>\n", bytes(100)])
@pytest.mark.parametrize("name", ["notes.pth", "notes.safetensors"])
def test_a_file_that_holds_no_weights_is_refused(name: str, text: bytes, tmp_path: Path):
    (tmp_path / name).write_bytes(text)
    with pytest.raises(SpiderError, match=rf"{name}: refused, because it is not a file of tensors alone"):
        load_state_dict(tmp_path / name)
