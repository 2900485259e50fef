"""Weights come into the cache only with their digest, and cannot run code."""

from __future__ import annotations

import hashlib
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spider import weights
from spider.errors import SpiderError, SpiderUsageError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPIDER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small file that stands for the published one."""
    path = tmp_path / "net.pth"
    torch.save({"w": torch.arange(3.0)}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    entry = replace(weights.REGISTRY["inception"], url=path.as_uri(), sha256=digest[:8])
    monkeypatch.setitem(weights.REGISTRY, "inception", entry)
    return path


def state() -> str:
    return weights.list_weights()[0].state


def test_get_fetches_verifies_and_keeps(published: Path, cache: Path):
    assert state() == "absent"
    path = weights.get("inception", progress=False)
    assert path == cache / "net.pth"
    assert path.read_bytes() == published.read_bytes()
    assert state() == "ready"
    assert weights.verify("inception") == path
    published.unlink()  # what is there is not fetched again
    assert weights.get("inception", progress=False) == path


def test_a_damaged_file_is_told_and_fetched_again(published: Path, cache: Path):
    path = weights.get("inception", progress=False)
    path.write_bytes(b"damaged")
    assert state() == "damaged"
    with pytest.raises(SpiderError, match=r"sha256 is .*spider weights get inception"):
        weights.verify("inception")
    weights.get("inception", progress=False)
    assert state() == "ready"


def test_a_file_with_another_digest_never_comes_into_the_cache(published: Path, cache: Path):
    published.write_bytes(b"something else")
    with pytest.raises(SpiderError, match="sha256 is"):
        weights.get("inception", progress=False)
    assert list(cache.iterdir()) == []


def test_a_mirror_must_have_the_same_file(published: Path, tmp_path: Path):
    mirror = tmp_path / "mirror.pth"
    mirror.write_bytes(published.read_bytes())
    assert weights.get("inception", url=mirror.as_uri(), progress=False).name == "net.pth"


def test_what_cannot_be_fetched_says_so(published: Path, cache: Path):
    published.unlink()
    with pytest.raises(SpiderError, match=r"net.pth: cannot be fetched") as caught:
        weights.get("inception", progress=False)
    assert f"put it at {cache}/net.pth, or name it: --weights FILE; --embedding offline" in str(caught.value)
    assert list(cache.iterdir()) == []


def test_a_cache_that_others_may_write_to_is_refused(published: Path, cache: Path):
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    with pytest.raises(SpiderError, match="others may write"):
        weights.get("inception", progress=False)


def test_the_cache_is_private(published: Path, cache: Path):
    weights.get("inception", progress=False)
    assert cache.stat().st_mode & 0o777 == 0o700


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
        weights.load_state_dict(path)
    assert not crater.exists()


@pytest.mark.parametrize("value", [[torch.zeros(1)], {"w": 3}])
def test_other_contents_are_refused(value, tmp_path: Path):
    torch.save(value, tmp_path / "x.pth")
    with pytest.raises(SpiderError, match="not a file of tensors by name"):
        weights.load_state_dict(tmp_path / "x.pth")


def test_the_digest_is_of_what_was_read(published: Path):
    tensors, sha256 = weights.load_state_dict(published)
    torch.testing.assert_close(tensors["w"], torch.arange(3.0))
    assert weights.is_published("inception", sha256)
    assert not weights.is_published("inception", "0" * 64)


def test_unknown_names_are_usage_errors():
    for function in (weights.get, weights.verify):
        with pytest.raises(SpiderUsageError, match="there are: inception"):
            function("vgg")
