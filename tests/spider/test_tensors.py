"""A file of tensors runs no code, and its tensors have one digest in any container."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path

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


@pytest.mark.parametrize("value", [[torch.zeros(1)], {"w": 3}, {"w": torch.eye(2).to_sparse()}])
def test_other_contents_are_refused(value, tmp_path: Path):
    torch.save(value, tmp_path / "x.pth")
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
