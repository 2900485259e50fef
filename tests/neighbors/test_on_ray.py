"""A neighbour search finds the same with any number of workers, whatever dies on the way."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from cluster.children import descendants
from cluster.errors import ClusterError
from neighbors.find import neighbors
from neighbors.report import NeighborReport
from neighbors.request import NeighborOptions
from shards.pack import pack
from spider.errors import SpiderError

if TYPE_CHECKING:
    from tests.conftest import Head

COUNTS = {"digits": 1797, "letters": 2500, "patches": 2200}
PIECES = 2 + 3 + 3


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three datasets of two and three pieces of features each."""
    root = tmp_path_factory.mktemp("packed")
    for name, count in COUNTS.items():
        pack(f"builtin:{name}", root / name, resolution=16, subset=count, encoding="raw", workers=1, progress=False)
    return root


@pytest.fixture(scope="module")
def head(start_ray: Callable[[int, int], Head]) -> Head:
    """A Ray cluster with room for four workers."""
    return start_ray(4, 0)


def search(packed: Path, cache: Path, out: Path, **options: Any) -> NeighborReport:
    chosen = NeighborOptions(embedding="offline", orders=(-1, 1), cache=cache, progress=False, **options)
    return neighbors(packed / "digits", [packed / "letters", packed / "patches"], out=out, options=chosen)


def command(packed: Path, out: Path, *words: str) -> list[str]:
    places = [str(packed / name) for name in COUNTS]
    spider = [sys.executable, "-m", "spider", "neighbors", *places, "--embedding", "offline", "--orders=-1,1"]
    return [*spider, "--out", str(out), *words]


@pytest.fixture(scope="module")
def alone(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What one process finds."""
    root = tmp_path_factory.mktemp("alone")
    search(packed, root / "cache", root / "out")
    return (root / "out" / "neighbors.json").read_text()


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_finds_the_same(workers: int, head: Head, packed: Path, alone: str, tmp_path: Path):
    search(packed, tmp_path / "cache", tmp_path / "out", ray=head.address, workers=workers)
    assert (tmp_path / "out" / "neighbors.json").read_text() == alone


def test_threads_do_not_matter(packed: Path, alone: str, tmp_path: Path):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        search(packed, tmp_path / "cache", tmp_path / "out")
    finally:
        torch.set_num_threads(threads)
    assert (tmp_path / "out" / "neighbors.json").read_text() == alone


def test_shards_of_any_size_give_the_same(packed: Path, alone: str, tmp_path: Path):
    for name in COUNTS:
        pack(packed / name, tmp_path / name, shard_mb=0.1, encoding="raw", workers=1, progress=False)
    search(tmp_path, tmp_path / "cache", tmp_path / "out")
    found, expected = (json.loads(text) for text in ((tmp_path / "out" / "neighbors.json").read_text(), alone))
    assert found["rows"] == expected["rows"]
    assert found["curves"] == expected["curves"]


def test_a_killed_worker_costs_nothing_but_time(head: Head, packed: Path, alone: str, tmp_path: Path):
    environment = os.environ | {"SPIDER_CACHE": str(tmp_path / "cache")}
    words = ["--ray", head.address, "--workers", "2"]
    with subprocess.Popen(command(packed, tmp_path / "out", *words), env=environment, stdout=subprocess.DEVNULL) as run:
        pieces_kept(tmp_path / "cache", 1)
        victim = workers_of(head)[0]
        os.kill(victim, signal.SIGKILL)
        assert run.poll() is None  # it was not over
        assert run.wait(600) == 0
    assert (tmp_path / "out" / "neighbors.json").read_text() == alone


def test_a_killed_search_goes_on_where_it_was(head: Head, packed: Path, alone: str, tmp_path: Path):
    environment = os.environ | {"SPIDER_CACHE": str(tmp_path / "cache")}
    words = ["--ray", head.address, "--workers", "1"]
    with subprocess.Popen(command(packed, tmp_path / "out", *words), env=environment, stdout=subprocess.DEVNULL) as run:
        kept = pieces_kept(tmp_path / "cache", 2)
        run.kill()
    assert not (tmp_path / "out").exists()  # it was not over
    subprocess.run(command(packed, tmp_path / "out", *words), env=environment, check=True, stdout=subprocess.DEVNULL)
    assert (tmp_path / "out" / "neighbors.json").read_text() == alone
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # nothing was made twice


def test_pieces_that_cannot_be_made_are_named_and_the_rest_is_kept(
    head: Head, packed: Path, alone: str, tmp_path: Path
):
    shutil.copytree(packed, tmp_path / "packed")
    shard = sorted((tmp_path / "packed" / "letters").glob("*.tar"))[0]
    blob = bytearray(shard.read_bytes())
    whole = bytes(blob)
    blob[len(blob) // 2] ^= 0xFF  # in one image of the second of three pieces
    shard.write_bytes(blob)
    with pytest.raises(SpiderError, match="1 of the pieces of work failed three times") as raised:
        search(tmp_path / "packed", tmp_path / "cache", tmp_path / "out", ray=head.address, workers=2)
    assert "features of letters, images 1024 to 2047: " in str(raised.value)
    assert f"{shard.name}: damaged" in str(raised.value)
    kept = pieces_kept(tmp_path / "cache", PIECES - 1)
    shard.write_bytes(whole)
    search(tmp_path / "packed", tmp_path / "cache", tmp_path / "out", ray=head.address, workers=2)
    found, expected = (json.loads(text) for text in ((tmp_path / "out" / "neighbors.json").read_text(), alone))
    assert found["rows"] == expected["rows"]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_cluster_that_is_not_there_is_said(packed: Path, tmp_path: Path):
    with pytest.raises(ClusterError, match=r"no Ray cluster at 127\.0\.0\.1:1: "):
        search(packed, tmp_path / "cache", tmp_path / "out", ray="127.0.0.1:1")


def pieces_kept(cache: Path, at_least: int) -> dict[Path, int]:
    """The pieces of features in a cache, as soon as there are so many, with the times of their writing."""
    give_up = time.monotonic() + 300
    while time.monotonic() < give_up:
        found = {path: path.stat().st_mtime_ns for path in cache.rglob("features-*.safetensors")}
        if len(found) >= at_least:
            return found
        time.sleep(0.01)
    raise AssertionError("no features were written")


def workers_of(head: Head) -> list[int]:
    """Processes of workers on this cluster."""
    found = []
    for pid in descendants(head.pid):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::_Actor"):
                found.append(pid)
    return found
