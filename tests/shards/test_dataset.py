"""Reading by number: from a folder and from a URL, and never anything but what was packed."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import shutil
import socket
import struct
import threading
import uuid
import zlib
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import ClassVar

import fsspec
import numpy as np
import pytest

from shards.dataset import ShardDataset
from shards.errors import ShardsError, ShardsMachineError, ShardsUsageError
from shards.index import parse_index
from shards.pack import pack
from shards.verify import verify


@pytest.fixture
def copy(packed, tmp_path):
    return shutil.copytree(packed, tmp_path / "copy")


def read_all(dataset):
    return dataset.read_batch(range(len(dataset)))


def test_all_ways_to_read_agree(packed):
    dataset = ShardDataset(packed)
    numbers = [149, 0, 77, 77]
    pixels, labels = dataset.read_batch(numbers)
    singles = [dataset.read(number) for number in numbers]
    assert (pixels == np.stack([single for single, _, _ in singles])).all()
    assert labels.tolist() == [label for _, label, _ in singles] == dataset.labels()[numbers].tolist()
    assert (dataset.batch(70, 80).numpy() == dataset.read_batch(range(70, 80))[0]).all()
    assert dataset.batch(5, 5).shape == (0, 3, 6, 6)
    assert dataset.name == "noise"


def test_what_is_read_may_be_written_to(packed):
    pixels, _, _ = ShardDataset(packed).read(0)
    pixels[:] = 0
    assert not pixels.any()


@pytest.mark.parametrize("number", [-1, 150])
def test_no_image_outside_of_the_set(packed, number):
    with pytest.raises(IndexError, match=f"image {number} of 150"):
        ShardDataset(packed).read(number)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_dataset_may_be_taken_to_other_processes(packed, method):
    dataset = ShardDataset(packed)
    wanted = read_all(dataset)[0]
    with multiprocessing.get_context(method).Pool(2) as pool:
        parts = pool.map(dataset.read_batch, [range(75), range(75, 150)])
    assert (np.concatenate([pixels for pixels, _ in parts]) == wanted).all()


def test_more_shards_than_open_files(packed, monkeypatch):
    monkeypatch.setattr("shards.dataset._FILES_OPEN", 2)
    descriptors = len(os.listdir("/proc/self/fd"))
    dataset = ShardDataset(packed)
    shuffled = np.random.default_rng(0).permutation(150)
    assert (dataset.read_batch(shuffled)[0] == read_all(ShardDataset(packed))[0][shuffled]).all()
    assert len(os.listdir("/proc/self/fd")) - descriptors <= 3


# A folder that is not what its index says


def test_no_dataset_is_a_usage_error(tmp_path):
    with pytest.raises(ShardsUsageError, match=r"no packed dataset here: index\.json: No such file") as caught:
        ShardDataset(tmp_path)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["000003.tar", "000003.offsets"])
def test_a_missing_file_is_named_on_opening(copy, name):
    (copy / name).unlink()
    with pytest.raises(ShardsError, match=f"{name}: missing") as caught:
        ShardDataset(copy)
    assert caught.value.exit_code == 1


def test_a_shard_of_another_size_is_named_on_opening(copy):
    with (copy / "000003.tar").open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(ShardsError, match=r"000003\.tar: damaged: 5,000 bytes, index\.json says"):
        ShardDataset(copy)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (257, "no tar header"),  # the header's magic
        (130, "no tar header"),  # the size in it
        (512 + 3, "CRC-32"),  # the PNG's signature
        (512 + 18, "CRC-32"),  # its width
        (512 + 60, "CRC-32"),  # its pixels
    ],
)
@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_damage_under_way_stops_with_the_shards_name(files, tmp_path, place, message, encoding):
    pack(files, tmp_path, shard_mb=0.06, encoding=encoding, progress=False, workers=1)
    dataset = ShardDataset(tmp_path)
    with (tmp_path / "000002.tar").open("r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 0xFF]))
    first = sum(dataset.index.shard_counts[:2])
    assert (dataset.read(first + 1)[0] >= 0).all()
    with pytest.raises(ShardsError, match=rf"000002\.tar: damaged: image 0 of the shard: .*{message}"):
        dataset.read_batch([first])


def test_a_shard_cut_short_under_way_is_no_short_read(copy):
    dataset = ShardDataset(copy)
    dataset.read(0)
    with (copy / "000000.tar").open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(ShardsError, match=r"000000\.tar: damaged: image \d+ of the shard: the file ends within it"):
        read_all(dataset)


def test_other_offsets_are_damage(copy):
    shutil.copy(copy / "000001.offsets", copy / "000000.offsets")
    with pytest.raises(ShardsError, match=r"000000\.offsets: damaged: its sha256 is not the one in index\.json"):
        ShardDataset(copy).read(0)


def reseal(folder: Path, name: str, data: bytes) -> None:
    """Put `data` in place of a file and make the index agree: what someone could do who wants to harm the reader."""
    import hashlib

    (folder / name).write_bytes(data)
    index = json.loads((folder / "index.json").read_text())
    shard = next(shard for shard in index["shards"] if shard["name"].split(".")[0] == name.split(".")[0])
    if name.endswith(".tar"):
        shard |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    else:
        shard["offsets_sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "index.json").write_text(json.dumps(index))


class Harm:
    """Unpickling this leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_in_place_of_offsets_is_not_executed(copy, tmp_path):
    trap = tmp_path / "trap"
    array = np.array([Harm(trap)], dtype=object)
    np.save(tmp_path / "trap.npy", array, allow_pickle=True)
    for data in (pickle.dumps(Harm(trap)), (tmp_path / "trap.npy").read_bytes()):
        reseal(copy, "000000.offsets", data)
        with pytest.raises(ShardsError, match=r"000000\.offsets: damaged"):
            ShardDataset(copy).read(0)
    assert not trap.exists()
    pickle.loads(pickle.dumps(Harm(trap)))
    assert trap.exists()  # the trap itself works


def test_a_bomb_in_a_shard_is_refused_before_it_is_decoded(copy, monkeypatch):
    """An image that says 20,000 x 20,000, with header, size and CRC-32 in order."""
    from shards.samples import OFFSETS, parse_offsets, write_offsets

    dataset = ShardDataset(copy)
    record = dataset.index.shards[0]
    entries = parse_offsets((copy / record.offsets_name).read_bytes(), record.count, "").tolist()
    tar = bytearray((copy / record.name).read_bytes())
    offset, size, _, label = entries[0]
    tar[offset + 16 : offset + 24] = struct.pack(">II", 20_000, 20_000)
    entries[0] = (offset, size, zlib.crc32(tar[offset : offset + size]), label)
    reseal(copy, record.name, bytes(tar))
    reseal(copy, record.offsets_name, write_offsets(np.array(entries, OFFSETS).tolist()))
    monkeypatch.setattr("PIL.Image.Image.load", lambda image: pytest.fail("decoded"))
    with pytest.raises(ShardsError, match=r"000000\.tar: damaged: image 0 of the shard: not a PNG of 6x6"):
        ShardDataset(copy).read(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format_version: Input should be 1"),
        ({"count": 149}, "count is 149, but the shards hold 150"),
        ({"surprise": 1}, "surprise: Extra inputs are not permitted"),
        ({"fingerprint": "../../x"}, "fingerprint: String should match"),
    ],
)
def test_a_wrong_index_is_named(copy, change, message):
    path = copy / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ShardsError, match=rf"index\.json: .*{message}"):
        ShardDataset(copy)


@pytest.mark.parametrize("name", ["../000000.tar", "/etc/passwd.tar", "a/000000.tar"])
def test_an_index_does_not_lead_out_of_its_folder(packed, name):
    index = json.loads((packed / "index.json").read_text())
    index["shards"][0]["name"] = name
    with pytest.raises(ShardsError, match=r"shards\.0\.name"):
        parse_index(json.dumps(index).encode(), "index.json")


# Behind a URL


@pytest.fixture
def remote(packed):
    """The packed set in a file system that exists in memory only."""
    root = f"/{uuid.uuid4().hex}/noise"
    memory = fsspec.filesystem("memory")
    for path in packed.iterdir():
        memory.pipe(f"{root}/{path.name}", path.read_bytes())
    yield f"memory:/{root}"
    memory.rm(root, recursive=True)


@pytest.fixture
def opened(monkeypatch):
    """The names of the files that were opened on the other side."""
    names = []
    memory = fsspec.filesystem("memory")
    original = type(memory).open

    def record(self, path, *arguments, **options):
        names.append(path.rsplit("/", 1)[-1])
        return original(self, path, *arguments, **options)

    monkeypatch.setattr(type(memory), "open", record)
    return names


def test_remote_and_local_are_the_same(packed, remote, tmp_path):
    near, far = ShardDataset(packed), ShardDataset(remote, cache_dir=tmp_path)
    assert (read_all(near)[0] == read_all(far)[0]).all()
    assert (far.name, far.fingerprint, far.labels().tolist()) == ("noise", near.fingerprint, near.labels().tolist())


def test_a_file_url_is_remote_too(packed, tmp_path):
    assert (read_all(ShardDataset(f"file://{packed}", tmp_path))[0] == read_all(ShardDataset(packed))[0]).all()
    assert len(list(tmp_path.glob("noise-*/*.tar"))) == 8


def test_only_the_shards_that_are_read_are_fetched_and_only_once(remote, tmp_path, opened):
    ShardDataset(remote, cache_dir=tmp_path).read(0)
    assert sorted(opened) == ["000000.offsets", "000000.tar", "index.json"]
    ShardDataset(remote, cache_dir=tmp_path).read(0)
    assert sorted(opened) == ["000000.offsets", "000000.tar", "index.json", "index.json"]


def test_two_sets_never_share_a_cached_file(files, packed, tmp_path):
    """Their shards have the same names; also two copies of one set, of which one may be damaged."""
    pack(files, tmp_path / "noise", subset=100, progress=False, workers=1)
    shutil.copytree(packed, tmp_path / "other" / "noise")
    for folder in (packed, tmp_path / "noise", tmp_path / "other" / "noise"):
        assert (
            ShardDataset(f"file://{folder}", tmp_path / "cache").read(0)[0] == ShardDataset(folder).read(0)[0]
        ).all()
    assert len(list((tmp_path / "cache").iterdir())) == 3
    assert all(folder.stat().st_mode & 0o077 == 0 for folder in (tmp_path / "cache").iterdir())


@pytest.mark.parametrize("options", [{"encoding": "raw"}, {"shard_mb": 0.01}])
def test_a_set_packed_anew_at_its_url_is_fetched_anew(files, tmp_path, options):
    """With the same fingerprint, and other files of the same names."""
    url, cache = f"file://{tmp_path / 'noise'}", tmp_path / "cache"
    pack(files, tmp_path / "noise", shard_mb=0.06, progress=False, workers=1)
    before = read_all(ShardDataset(url, cache))[0]
    shutil.rmtree(tmp_path / "noise")
    pack(files, tmp_path / "noise", **{"shard_mb": 0.06, "progress": False, "workers": 1} | options)
    assert (read_all(ShardDataset(url, cache))[0] == before).all()


@pytest.mark.parametrize("name", ["000000.tar", "000000.offsets"])
@pytest.mark.parametrize("left", [0, 100])
def test_a_cut_file_in_the_cache_is_fetched_again(packed, remote, tmp_path, opened, name, left):
    ShardDataset(remote, cache_dir=tmp_path).read(0)
    (cached,) = tmp_path.glob(f"*/{name}")
    os.truncate(cached, left)
    opened.clear()
    assert (ShardDataset(remote, cache_dir=tmp_path).read(0)[0] == ShardDataset(packed).read(0)[0]).all()
    assert sorted(opened) == sorted([name, "index.json"])


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_cache_without_locks_will_do(packed, remote, tmp_path, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)
    assert (ShardDataset(remote, tmp_path).read(0)[0] == ShardDataset(packed).read(0)[0]).all()


def test_remote_shards_are_kept_where_all_caches_are(remote, tmp_path, monkeypatch):
    monkeypatch.setenv("SPIDER_CACHE", str(tmp_path))
    ShardDataset(remote).read(0)
    assert len(list(tmp_path.glob("shards/noise-*/000000.tar"))) == 1


def test_a_remote_shard_with_another_digest_is_not_used(remote, tmp_path):
    memory = fsspec.filesystem("memory")
    path = f"{remote.removeprefix('memory:/')}/000000.tar"
    data = bytearray(memory.cat(path))
    data[-1] ^= 1
    memory.pipe(path, bytes(data))
    with pytest.raises(ShardsError, match=r"000000\.tar: damaged: its sha256 is not the one in index\.json"):
        ShardDataset(remote, cache_dir=tmp_path).read(0)
    assert not list(tmp_path.glob("*/000000.tar"))
    assert [path.name for path in tmp_path.glob("*/*")] == ["000000.tar.lock"]


@pytest.fixture
def cut(remote, monkeypatch):
    """The remote set, where every transfer of a tar breaks off without a word."""
    memory = type(fsspec.filesystem("memory"))
    original = memory.open

    def cut_tars(self, path, *arguments, **options):
        file = original(self, path, *arguments, **options)
        return BytesIO(file.read()[:1000]) if path.endswith(".tar") else file

    monkeypatch.setattr(memory, "open", cut_tars)
    return remote


def test_a_transfer_that_broke_off_is_no_damage(cut, tmp_path):
    dataset = ShardDataset(cut, cache_dir=tmp_path)
    total = dataset.index.shards[0].bytes
    with pytest.raises(ShardsMachineError, match=rf"000000\.tar: .* after 1,000 of {total:,} bytes"):
        dataset.read(0)
    with pytest.raises(ShardsMachineError, match=rf"000000\.tar: .* after 1,000 of {total:,} bytes"):
        verify(cut, workers=1, cache_dir=tmp_path)
    assert not list(tmp_path.glob("*/*.tar"))


def test_a_shard_that_is_short_over_there_is_damaged(remote, tmp_path):
    memory, path = fsspec.filesystem("memory"), f"{remote.removeprefix('memory:/')}/000000.tar"
    memory.pipe(path, memory.cat(path)[:1000])
    (problem,) = verify(remote, workers=1, cache_dir=tmp_path).problems
    assert "000000.tar: damaged" in problem


def test_a_missing_remote_shard_is_named_on_opening(remote, tmp_path):
    fsspec.filesystem("memory").rm(f"{remote.removeprefix('memory:/')}/000005.tar")
    with pytest.raises(ShardsError, match=r"noise/000005\.tar: missing"):
        ShardDataset(remote, cache_dir=tmp_path)


def test_an_unknown_protocol_is_named(tmp_path):
    with pytest.raises(ShardsError, match=r"nowhere://bucket/set: .*nowhere"):
        ShardDataset("nowhere://bucket/set", cache_dir=tmp_path)


def fetch_at_once(url, cache, barrier):
    barrier.wait(300)
    ShardDataset(url, cache_dir=cache).read_batch(range(150))


def test_several_processes_fetch_at_once(packed, tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    arguments = (f"file://{packed}", tmp_path / "cache", barrier)
    processes = [context.Process(target=fetch_at_once, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    assert len(list((tmp_path / "cache").glob("*/*.tar"))) == 8


@pytest.mark.parametrize(("code", "exit_code"), [(errno.EIO, 3), (errno.ESTALE, 3), (errno.EACCES, 1)])
def test_storage_that_does_not_answer_is_no_damage(copy, monkeypatch, code, exit_code):
    dataset = ShardDataset(copy)

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.pread", refuse)
    with pytest.raises(ShardsError, match=rf"000000\.tar: cannot be read: {os.strerror(code)}") as refused:
        dataset.read(0)
    assert refused.value.exit_code == exit_code
    assert pickle.loads(pickle.dumps(refused.value)).exit_code == exit_code  # also from a reading process


@pytest.mark.parametrize(
    ("where", "error", "exit_code"),
    [
        ("_open", TimeoutError("no answer"), 3),
        ("_open", PermissionError("not yours"), 1),
        ("_open", ValueError("503"), 3),
        ("ls", TimeoutError("no answer"), 3),
    ],
)
def test_a_server_that_does_not_answer_is_no_fault_of_ours(remote, tmp_path, monkeypatch, where, error, exit_code):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(type(fsspec.filesystem("memory")), where, refuse)
    with pytest.raises(ShardsError, match=str(error)) as refused:
        ShardDataset(remote, cache_dir=tmp_path).read(0)
    assert refused.value.exit_code == exit_code


def test_a_server_need_not_list_folders(packed, remote, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("no listing")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "ls", refuse)
    assert (ShardDataset(remote, tmp_path).read(0)[0] == ShardDataset(packed).read(0)[0]).all()


class Answer(Exception):
    """As a driver of HTTP reports a status."""

    def __init__(self, status):
        self.status, self.message = status, "so it is"


@pytest.mark.parametrize(
    ("behind", "exit_code", "message"),
    [
        (Answer(404), 1, r"/index\.json: missing"),
        (Answer(403), 1, "refused, for want of rights or credentials: 403 so it is"),
        (Answer(400), 1, "the server answers 400"),
        (Answer(429), 3, "the server answers 429"),
        (Answer(503), 3, "the server answers 503 so it is"),
        (ConnectionRefusedError("Cannot connect to host"), 3, "cannot be read: Cannot connect to host"),
    ],
)
def test_failures_over_http_are_told_apart(tmp_path, monkeypatch, behind, exit_code, message):
    """fsspec calls all of them FileNotFoundError."""

    class Server:
        def open(self, path, mode, block_size):
            raise FileNotFoundError(path) from behind

    monkeypatch.setattr(fsspec, "url_to_fs", lambda url: (Server(), url))
    with pytest.raises(ShardsError, match=message) as refused:
        ShardDataset("http://host/set", cache_dir=tmp_path)
    assert refused.value.exit_code == exit_code


class Plain(SimpleHTTPRequestHandler):
    """Knows no ranges, as `python -m http.server`."""

    statuses: ClassVar[dict[str, int]] = {}

    def send_head(self):
        status = next((status for end, status in self.statuses.items() if self.path.endswith(end)), None)
        return super().send_head() if status is None else self.send_error(status)

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(packed):
    """The URL of the packed set on a server of this machine that answers with a status for paths that end so."""
    pytest.importorskip("aiohttp", reason="needs the extra http")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Plain, directory=packed.parent))
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def url(**statuses):
        Plain.statuses = statuses
        return f"http://127.0.0.1:{server.server_port}/{packed.name}"

    yield url
    server.shutdown()
    server.server_close()


def test_a_server_without_ranges_will_do(packed, serve, tmp_path, monkeypatch):
    """Also where a file is larger than what fsspec would take in one request."""
    monkeypatch.setattr("shards.remote._CHUNK_BYTES", 1024)
    fsspec.config.conf["http"] = {"block_size": 4096}
    try:
        assert (read_all(ShardDataset(serve(), tmp_path))[0] == read_all(ShardDataset(packed))[0]).all()
        refusing = serve(**{"/noise/": 403})  # the list of files only
        assert len(ShardDataset(refusing, tmp_path)) == 150
    finally:
        del fsspec.config.conf["http"]


@pytest.mark.parametrize(("status", "exit_code", "message"), [
    (404, 1, "index.json: missing"), (403, 1, "refused, .*403"), (503, 3, "answers 503"),
])  # fmt: skip
def test_a_true_server_answers_as_the_played_one(serve, tmp_path, status, exit_code, message):
    with pytest.raises(ShardsError, match=message) as refused:
        ShardDataset(serve(**{"index.json": status}), tmp_path)
    assert refused.value.exit_code == exit_code


def test_a_host_that_is_down_is_the_machines(tmp_path):
    pytest.importorskip("aiohttp", reason="needs the extra http")
    with socket.socket() as nobody:  # bound, so that nobody else takes the port, and not listening
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(ShardsError, match="cannot be read: Cannot connect") as refused:
            ShardDataset(f"http://127.0.0.1:{nobody.getsockname()[1]}/set", tmp_path)
    assert refused.value.exit_code == 3


@pytest.mark.parametrize(("url", "advice"), [
    ("http://host/set", "pip install aiohttp"),
    ("s3://bucket/set", "pip install s3fs"),
    ("sftp://host/set", "Install paramiko"),
])  # fmt: skip
def test_a_driver_that_is_not_installed_is_named(tmp_path, monkeypatch, url, advice):
    def refuse(url):
        raise ImportError("Install paramiko")

    monkeypatch.setattr(fsspec, "url_to_fs", refuse)
    with pytest.raises(ShardsUsageError, match=f"is not installed: {advice}"):
        ShardDataset(url, cache_dir=tmp_path)


def test_a_cache_that_cannot_be_written_is_named(remote, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way of the cache's folder")
    with pytest.raises(ShardsError, match=r"file/.*: shards cannot be kept there: .*; the variable SPIDER_CACHE says"):
        ShardDataset(remote, cache_dir=tmp_path / "file")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    dataset = ShardDataset(remote, cache_dir=tmp_path / "cache")
    monkeypatch.setattr("shards.files.os.fsync", full)
    with pytest.raises(ShardsError, match="No space left on device; the variable SPIDER_CACHE") as refused:
        dataset.read(0)
    assert refused.value.exit_code == 3
