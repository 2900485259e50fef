"""Everything that can be packed, and the bad members that archives may hold."""

from __future__ import annotations

import inspect
import json
import multiprocessing
import os
import pickle
import shutil
import struct
import sys
import tempfile
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from shards.builtin import SETS
from shards.errors import ShardsError, ShardsUsageError
from shards.pack import pack
from shards.sources import TORCHVISION, open_source


def test_folder_tar_and_zip_of_the_same_images_are_one_set(files, tmp_path, tar_of, zip_of):
    members = [(f"noise/{path.relative_to(files)}", path.read_bytes()) for path in sorted(files.rglob("*.png"))]
    sources = [files, tar_of(members[::-1]), zip_of(members)]
    fingerprints = {pack(s, tmp_path / f"{n}", progress=False, workers=1).fingerprint for n, s in enumerate(sources)}
    assert len(fingerprints) == 1


def reasons(source):
    return {bad.name: bad.reason for bad in source.listing.bad}


@pytest.mark.parametrize("denied", ["listdir", "stat"])
@pytest.mark.parametrize("linked", [False, True])
def test_a_folder_that_may_not_be_read_is_no_bad_file(files, tmp_path, monkeypatch, denied, linked):
    """--max-bad is a share of files: nobody knows how many are in there."""
    root = files
    closed = sorted(files.iterdir())[0]
    if linked:
        root = tmp_path / "root"
        shutil.copytree(files, root)
        closed = root / "link"
        closed.symlink_to(files / "a")
    real = getattr(os, denied)

    def refuse(path, **options):
        if os.fspath(path) == os.fspath(closed):
            raise PermissionError(13, "Permission denied")
        return real(path, **options)

    monkeypatch.setattr(os, denied, refuse)
    with pytest.raises(ShardsError, match=f"{closed}: this cannot be read: Permission denied") as caught:
        open_source(root)
    assert caught.value.exit_code == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("mode", [0o000, 0o444, 0o111])
def test_what_the_user_may_not_read_is_refused_in_a_line(files, mode):
    """Of a folder without the right to enter it even the kinds of its entries are unknown."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to other users
        Path(folder).chmod(0o755)
        root = Path(shutil.copytree(files, f"{folder}/root"))
        (root / "a").chmod(mode)
        for start in (root, root / "a"):
            reader = multiprocessing.get_context("fork").Process(target=_open_as_nobody, args=(start,))
            reader.start()
            reader.join()
            assert reader.exitcode == 7


def _open_as_nobody(path):
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    try:
        open_source(path)
    except ShardsError as error:
        os._exit(7 if "cannot be read: Permission denied" in str(error) else 8)
    os._exit(9)


def test_folders_may_be_nested_deeper_than_calls(tmp_path, picture, encoded):
    folder = tmp_path.joinpath(*["d"] * 60)
    folder.mkdir(parents=True)
    (folder / "0.png").write_bytes(encoded(picture(0)))
    limit = sys.getrecursionlimit()
    depth = len(inspect.stack(0))
    try:
        sys.setrecursionlimit(depth + 50)
        source = open_source(tmp_path)
    finally:
        sys.setrecursionlimit(limit)
    assert [item.key for item in source.listing.items] == ["0"]


def test_a_name_that_is_no_utf8_is_written_in_ascii(files, tmp_path):
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    shutil.copytree(files, odd)
    source = open_source(odd)
    assert source.name == "caf\\xe9"
    assert pack(odd, tmp_path / "out", progress=False, workers=1).source.name == source.name


def test_a_folder_follows_links_but_not_in_circles(tmp_path, picture, encoded):
    store, root = tmp_path / "store", tmp_path / "root"
    store.mkdir()
    root.mkdir()
    (store / "0.png").write_bytes(encoded(picture(0)))
    (root / "linked.png").symlink_to(store / "0.png")
    (root / "nowhere.png").symlink_to(store / "gone.png")
    (root / "circle").symlink_to(root)
    (root / "ring").symlink_to("ring")
    source = open_source(root)
    assert [item.name for item in source.listing.items] == ["linked.png"]
    assert reasons(source) == {
        "nowhere.png": "a link that leads nowhere",
        "ring": "a link that leads nowhere",
        "circle": "a link to a folder that is already read",
    }


@pytest.mark.parametrize("link", ["a_link", "z_link", "cat/a_link"])
def test_a_link_never_takes_the_place_of_a_folder(tmp_path, make_images, link):
    """Whichever of their names comes first."""
    root = make_images(tmp_path / "root", 4, ("cat", "dog"))
    (root / link).symlink_to(root / "dog")
    source = open_source(root)
    assert source.listing.classes == ["cat", "dog"]
    assert [item.key for item in source.listing.items] == ["cat/0000", "cat/0002", "dog/0001", "dog/0003"]
    assert reasons(source) == {link: "a link to a folder that is already read"}


def test_a_folder_that_is_seen_twice_without_a_link_is_not_called_one(tmp_path, make_images, monkeypatch):
    """As where a folder is mounted a second time."""
    root = make_images(tmp_path / "root", 2, ("cat", "mount"))
    stat = os.stat
    monkeypatch.setattr(
        os, "stat", lambda path, **options: stat(root / "cat" if path == root / "mount" else path, **options)
    )
    assert reasons(open_source(root)) == {"mount": "a folder that is already read under another name"}


def test_nvidia_zip_has_its_labels(zip_of, tmp_path, picture, encoded):
    images = [(f"00000/img{number:08d}.png", encoded(picture(number))) for number in range(4)]
    labels = {"labels": [[name, number % 2] for number, (name, _) in enumerate(images)]}
    index = pack(zip_of([*images, ("dataset.json", json.dumps(labels))]), tmp_path / "out", progress=False, workers=1)
    assert index.classes == ["0", "1"]
    assert [item.label for item in open_source(tmp_path / "set.zip").listing.items] == [0, 1, 0, 1]


@pytest.mark.parametrize(("name", "count", "shape", "classes"), [
    ("digits", 1797, (8, 8), 10), ("letters", 3900, (32, 32), 26), ("patches", 4000, (32, 32, 3), 0),
])  # fmt: skip
def test_builtin_sets(name, count, shape, classes, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("went to the network"))
    source, again = open_source(f"builtin:{name}"), open_source(f"builtin:{name}")
    assert len(source.listing.items) == count
    assert len(source.listing.classes) == classes
    assert source.read(0).shape == shape
    assert source.stamp() == again.stamp()
    assert {item.label for item in source.listing.items} == (set(range(classes)) if classes else {-1})


def test_letters_are_white_on_black_and_whole():
    letters = SETS["letters"]().pixels
    assert letters.max((1, 2)).min() > 200
    assert (letters > 128).mean((1, 2)).min() > 0.05
    assert (letters > 128).mean((1, 2)).max() < 0.6
    border = np.concatenate([letters[:, 0], letters[:, -1], letters[:, :, 0], letters[:, :, -1]], 1)
    assert (border.max(1) > 128).mean() < 0.15


def write_mnist(root, images, labels):
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for split in ("train", "t10k"):
        pixels = struct.pack(">4i", 0x803, *images.shape) + images.tobytes()
        (folder / f"{split}-images-idx3-ubyte").write_bytes(pixels)
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, len(labels)) + labels.tobytes())


def test_torchvision_reads_what_is_there(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    write_mnist(tmp_path, images, np.array([3, 1, 4, 1, 5], np.uint8))
    source = open_source("torchvision:MNIST", torchvision_root=tmp_path)
    assert [item.label for item in source.listing.items] == [3, 1, 4, 1, 5]
    assert len(source.listing.classes) == 10
    assert (source.read(2) == images[2]).all()


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_offline_says_where_it_looked(name, tmp_path, monkeypatch, capsys):
    def offline(*_, **__):
        raise urllib.request.URLError("no network here")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    monkeypatch.setenv("SPIDER_CACHE", str(tmp_path))
    root = tmp_path / "torchvision"
    with pytest.raises(
        ShardsError, match=f"torchvision:{name} is not under {root} and cannot be downloaded .*no network here"
    ) as caught:
        open_source(f"torchvision:{name}")
    assert caught.value.exit_code == 1
    message = str(caught.value)
    assert "\n" not in message
    looked = max(root.rglob("*/"), default=root)  # the folder that torchvision made ready for its download
    assert f", into {looked}; or " in message
    assert capsys.readouterr().err.startswith(f"torchvision:{name}: downloading to {looked}; ")


def test_torchvision_names_exist():
    import torchvision.datasets

    assert all(hasattr(torchvision.datasets, name) for name in TORCHVISION)


def test_a_packed_set_can_be_packed_again(packed, tmp_path):
    smaller = pack(packed, tmp_path / "smaller", resolution=3, progress=False, workers=1)
    again = pack(packed, tmp_path / "again", progress=False, workers=1)
    original = open_source(packed)._dataset.index
    assert (smaller.count, smaller.shape, smaller.classes) == (150, (3, 3, 3), ["a", "b", "c"])
    assert again.fingerprint == original.fingerprint


@pytest.mark.parametrize(("spec", "message"), [
    ("builtin:cats", "'builtin:cats' is unknown; known: builtin:digits, builtin:letters, builtin:patches"),
    ("torchvision:Cats", "'torchvision:Cats' is unknown; known: torchvision:MNIST, "),
    ("/no/such/folder", "/no/such/folder: no such file or folder"),
    ("imagefolder:foo", "imagefolder is no kind of source: builtin, torchvision, or a path alone$"),
    ("imagefolder:/", "imagefolder is no kind of source: .*; did you mean /"),
    ("/tmp/" + "x" * 300, "no such file or folder, nor /tmp"),
    ("a\0b", "no such file or folder"),
    ("bultin:digits", r"did you mean builtin:digits\?$"),
])  # fmt: skip
def test_unknown_sources_are_named(spec, message):
    with pytest.raises(ShardsUsageError, match=message) as caught:
        open_source(spec)
    assert caught.value.exit_code == 2


def test_sources_survive_a_pickle(files, tmp_path, zip_of, picture, encoded):
    """On systems that spawn their workers."""
    for source in (open_source(files), open_source(zip_of([("0.png", encoded(picture(0)))]))):
        source.read(0)
        assert pickle.loads(pickle.dumps(source)).read(0) == source.read(0)
