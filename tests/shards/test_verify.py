"""`verify` passes what was packed, and names everything that is not as it was."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from shards.dataset import ShardDataset
from shards.errors import ShardsError, ShardsUsageError
from shards.pack import pack
from shards.verify import verify as verify_in_parallel


def verify(path, **options):
    return verify_in_parallel(path, **{"workers": 1, **options})


@pytest.fixture
def copy(packed, tmp_path):
    return shutil.copytree(packed, tmp_path / "copy")


def rewrite(folder, name, change):
    """Change the members of a shard, a list of (TarInfo, bytes), and make the index agree with the new file."""
    with tarfile.open(folder / name) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(folder / name, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member, data in change(members):
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    index = json.loads((folder / "index.json").read_text())
    shard = next(shard for shard in index["shards"] if shard["name"] == name)
    data = (folder / name).read_bytes()
    shard |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (folder / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_what_was_packed_is_whole(files, tmp_path, encoding, workers):
    pack(files, tmp_path, shard_mb=0.06, encoding=encoding, progress=False, workers=1)
    report = verify(tmp_path, workers=workers)
    assert (report.ok, report.problems, report.images) == (True, [], 150)


def test_an_unlabelled_set_is_whole(tmp_path, make_images):
    pack(make_images(tmp_path / "files", 5), tmp_path / "out", progress=False, workers=1)
    assert verify(tmp_path / "out").ok


def test_a_remote_set_is_verified_too(packed, tmp_path):
    assert verify(f"file://{packed}", cache_dir=tmp_path).ok


def test_a_copy_that_was_harmed_in_the_cache_is_fetched_again(packed, tmp_path):
    """What is verified is the set, and reading it, which names the copy, works from then on."""
    url, cache = f"file://{packed}", tmp_path / "cache"
    ShardDataset(url, cache).read(0)
    (cached,) = cache.glob("*/000000.tar")
    cached.write_bytes(bytes(cached.stat().st_size))
    with pytest.raises(ShardsError, match=f"^{cached}: damaged"):
        ShardDataset(url, cache).read(0)
    assert verify(url, cache_dir=cache).ok
    ShardDataset(url, cache).read(0)


def test_every_flipped_byte_is_found(packed, tmp_path):
    """One byte anywhere in the tar, the offsets or the fingerprint."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(["000000.tar"] * 6 + ["000001.offsets"] * 3):
        copy = shutil.copytree(packed, tmp_path / f"{number}")
        data = bytearray((copy / name).read_bytes())
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        (copy / name).write_bytes(data)
        problems = verify(copy).problems
        assert any(name in problem and "sha256" in problem for problem in problems)


def test_all_that_is_bad_is_named(copy):
    (copy / "000001.tar").unlink()
    (copy / "000002.offsets").unlink()
    (copy / "000003.tar").write_bytes((copy / "000003.tar").read_bytes()[:9000])
    report = verify(copy)
    assert "000001.tar: missing" in report.problems
    assert "000002.offsets: missing" in report.problems
    assert any(problem.startswith("000003.tar: damaged") for problem in report.problems)
    assert any(problem.startswith("000003.tar: holds ") for problem in report.problems)
    assert report.images < 150


def test_an_image_of_another_shape_is_named(copy, encoded, picture):
    def change(members):
        members[0] = (members[0][0], encoded(picture(0, 7, 6)))
        return members

    rewrite(copy, "000000.tar", change)
    assert any("000000.tar: a/0000: not a PNG of 6x6" in problem for problem in verify(copy).problems)


def test_a_duplicate_key_is_named(copy):
    rewrite(copy, "000000.tar", lambda members: members + members[:3])
    assert "000000.tar: duplicate key 'a/0000': 000000.tar has it" in verify(copy).problems


def test_a_duplicate_key_in_another_shard_is_named(copy):
    with tarfile.open(copy / "000000.tar") as tar:
        stolen = [(member, tar.extractfile(member).read()) for member in list(tar)[:3]]
    rewrite(copy, "000005.tar", lambda members: stolen + members[3:])
    assert "000005.tar: duplicate key 'a/0000': 000000.tar has it" in verify(copy).problems


def test_another_label_is_named(copy):
    def change(members):
        members[1] = (members[1][0], b"2")
        return members

    rewrite(copy, "000000.tar", change)
    problems = verify(copy).problems
    assert any("000000.tar: a/0000: place, size, CRC-32 or label" in problem for problem in problems)
    rewrite(copy, "000000.tar", lambda members: [(m, b"99" if m.name.endswith(".cls") else d) for m, d in members])
    assert any("its label is b'99', must be a whole number below 3" in problem for problem in verify(copy).problems)


def test_missing_and_strange_members_are_named(copy):
    rewrite(copy, "000000.tar", lambda members: members[:2] + members[3:])
    assert any(
        "000000.tar: a/0000: has members .cls .png, must have .cls .json .png" in p for p in verify(copy).problems
    )

    def link(members):
        members[3][0].type, members[3][0].linkname = tarfile.SYMTYPE, "/etc/passwd"
        return [(member, b"" if member.issym() else data) for member, data in members]

    rewrite(copy, "000002.tar", link)
    assert any("000002.tar: " in p and "not a plain file" in p for p in verify(copy).problems)


def test_another_fingerprint_is_named(copy):
    index = json.loads((copy / "index.json").read_text())
    index["fingerprint"] = "0" * 64
    (copy / "index.json").write_text(json.dumps(index))
    assert verify(copy).problems == ["index.json: the fingerprint is not that of the images"]


class Harm:
    """Unpickling this leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("suffix", [".pyd", ".pickle", ".pth", ".json", ".cls"])
def test_a_pickle_in_a_shard_is_named_and_not_executed(copy, tmp_path, suffix):
    trap = tmp_path / "trap"
    member = tarfile.TarInfo(f"a/0000{suffix}")

    def change(members):
        kept = [(m, d) for m, d in members[:3] if not m.name.endswith(suffix)]
        return [*kept, (member, pickle.dumps(Harm(trap))), *members[3:]]

    rewrite(copy, "000000.tar", change)
    problems = verify(copy).problems
    assert any(problem.startswith("000000.tar: a/0000: ") for problem in problems)
    assert not trap.exists()


def test_no_dataset_is_a_usage_error(tmp_path):
    with pytest.raises(ShardsUsageError, match="no packed dataset here") as caught:
        verify(tmp_path)
    assert caught.value.exit_code == 2
