"""Images by whatever name, needed by several processes at once."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import shards.pack
import spider.data
from cluster.world import World
from shards.dataset import ShardDataset
from shards.errors import ShardsUsageError
from spider.data import locate_images, on_main_rank
from tests.cluster.ranks import Ranks


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve images in a folder, and an empty cache beside it."""
    monkeypatch.setenv("SPIDER_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def packs_slowly(world: World, photos: str, cache: str, noted: str, locks: bool) -> str:
    """What each of several processes does that were started together, none of which knows of the others."""
    pack = shards.pack.pack

    def slowly(*args: Any, **options: Any) -> Any:
        with Path(noted).open("a") as file:
            file.write("packs\n")
        time.sleep(0.5)
        return pack(*args, workers=1, **options)

    def unknown(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPIDER_CACHE", cache)
        patch.setattr(shards.pack, "pack", slowly)
        if not locks:
            patch.setattr(fcntl, "flock", unknown)
        world.barrier()
        return locate_images(photos)


@pytest.mark.parametrize(("locks", "packed"), [(True, 1), (False, 3)], ids=["locks", "no locks"])
def test_processes_that_need_the_same_images_all_get_them(
    ranks: Ranks, photos: Path, tmp_path: Path, locks: bool, packed: int
) -> None:
    """One packs and the others wait. Where the file system knows no locks all of them pack, and none is harmed."""
    cache, noted = tmp_path / "cache", tmp_path / "noted"
    [place] = set(ranks(3).run(packs_slowly, str(photos), str(cache), str(noted), locks))
    assert len(ShardDataset(place)) == 12
    assert len(noted.read_text().split()) == packed
    assert [path.name for path in Path(place).parent.iterdir() if path.is_dir()] == ["photos"]


def looks_until_others_have_heard(world: World, heard: str, fails: bool) -> str:
    """On a rank. Rank 0 looks until another rank has been told three times that it still does."""
    broadcast, told = World.broadcast_json, []

    def counted(self: World, value: Any, src: int = 0) -> Any:
        told.append(broadcast(self, value, src))
        if world.rank == 1 and len(told) == 3:
            Path(heard).touch()
        return told[-1]

    def look() -> str:
        deadline = time.monotonic() + 20
        while not Path(heard).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        if fails:
            raise ShardsUsageError("there are none")
        return "found" if Path(heard).exists() else "nobody has heard"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(World, "broadcast_json", counted)
        patch.setattr(spider.data, "_AGAIN_S", 0.01)
        try:
            return f"{on_main_rank(world, look)} {world.broadcast_json(world.rank)}"
        except ShardsUsageError as error:
            return f"{error} {world.broadcast_json(world.rank)}"


@pytest.mark.parametrize(("fails", "answer"), [(False, "found 0"), (True, "there are none 0")])
def test_ranks_wait_as_long_as_rank_0_looks(ranks: Ranks, tmp_path: Path, fails: bool, answer: str) -> None:
    """However long that takes: each word of it comes within the patience of a collective."""
    assert ranks(2).run(looks_until_others_have_heard, str(tmp_path / "heard"), fails) == [answer] * 2
    assert (tmp_path / "heard").exists()


def test_who_waits_says_so_and_takes_over_from_one_that_is_killed(
    photos: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = Path(locate_images(photos))
    shutil.rmtree(place)
    code = "import sys, time; from pathlib import Path; from cluster.lock import awaited_turn\n"
    code += "with awaited_turn(Path(sys.argv[1]), ''): print('in', flush=True); time.sleep(600)"
    words = [sys.executable, "-c", code, str(place.parent)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.getcwd()}) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"in\n"
            waiting = threading.Thread(target=locate_images, args=[photos], daemon=True)
            waiting.start()
            said, ends = "", time.monotonic() + 60
            while "waiting" not in said and waiting.is_alive() and time.monotonic() < ends:
                said += capfd.readouterr().err
                time.sleep(0.01)
            assert f"{photos}: is being packed: waiting for process {holder.pid} on" in said
            assert not place.exists()
        finally:
            holder.kill()
        waiting.join(60)
    assert not waiting.is_alive()
    assert len(ShardDataset(place)) == 12


def test_a_copy_that_has_lost_files_is_made_again(photos: Path) -> None:
    """Caches are cleared by age, file by file."""
    place = Path(locate_images(photos))
    for name in ("000000.tar", "000000.offsets"):
        (place / name).unlink()
        assert locate_images(photos) == str(place)
        assert (place / name).exists()
