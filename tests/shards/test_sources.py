"""Everything that can be packed, and the bad members that archives may hold."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import pickle
import shutil
import struct
import tarfile
import urllib.request
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from shards.builtin import SETS
from shards.errors import ShardsError, ShardsUsageError
from shards.images import BadImage
from shards.pack import pack
from shards.sources import TORCHVISION, open_source


@pytest.fixture
def tar_of(tmp_path):
    def make(members, name="set.tar"):
        with tarfile.open(tmp_path / name, "w") as tar:
            for member, data in members:
                info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return tmp_path / name

    return make


@pytest.fixture
def zip_of(tmp_path):
    def make(members, name="set.zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member, data in members:
                archive.writestr(member, data)
        return tmp_path / name

    return make


def reasons(source):
    return {bad.name: bad.reason for bad in source.listing.bad}


def test_folder_tar_and_zip_of_the_same_images_are_one_set(files, tmp_path, tar_of, zip_of):
    members = [(f"noise/{path.relative_to(files)}", path.read_bytes()) for path in sorted(files.rglob("*.png"))]
    sources = [files, tar_of(members[::-1]), zip_of(members)]
    fingerprints = {pack(s, tmp_path / f"{n}", progress=False, workers=1).fingerprint for n, s in enumerate(sources)}
    assert len(fingerprints) == 1


def test_links_within_a_tar_are_followed_and_ways_out_are_bad(tar_of, picture, encoded):
    image = encoded(picture(0))

    def link(name, target, kind=tarfile.SYMTYPE):
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        return info, b""

    device = tarfile.TarInfo("device.png")
    device.type = tarfile.CHRTYPE
    links = [
        link("out.png", "/etc/passwd"),
        link("a/up.png", "../../good.png"),
        link("nowhere.png", "none.png"),
        link("ring.png", "ring.png"),
        link("hard.png", "good.png", tarfile.LNKTYPE),
        link("a/soft.png", "../b/chain.png"),
        link("b/chain.png", "../good.png"),
    ]
    names = ["good.png", "../above.png", "a/../../above.png", "/absolute.png", "./good.png"]
    source = open_source(tar_of([*((name, image) for name in names), *links, (device, b"")]))
    assert [item.name for item in source.listing.items] == ["a/soft.png", "b/chain.png", "good.png", "hard.png"]
    assert [source.read(number) for number in range(4)] == [image] * 4
    assert reasons(source) == {
        "../above.png": "leads out of the archive",
        "a/../../above.png": "leads out of the archive",
        "/absolute.png": "leads out of the archive",
        "out.png": "a link that leads out of the archive",
        "a/up.png": "a link that leads out of the archive",
        "nowhere.png": "a link that leads to no file of the archive",
        "ring.png": "a link that leads to no file of the archive",
        "device.png": "not a plain file",
        "good.png": "duplicate key: the archive holds this path twice",
    }


def test_links_within_a_zip_are_followed_and_ways_out_are_bad(zip_of, picture, encoded):
    out, inside = zipfile.ZipInfo("out.png"), zipfile.ZipInfo("a/in.png")
    out.external_attr = inside.external_attr = 0o120777 << 16
    image = encoded(picture(0))
    source = open_source(
        zip_of([("good.png", image), ("../above.png", b""), (out, "/etc/passwd"), (inside, "../good.png")])
    )
    assert reasons(source) == {
        "../above.png": "leads out of the archive",
        "out.png": "a link that leads out of the archive",
    }
    assert [source.read(number) for number in range(len(source.listing.items))] == [image] * 2


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_cut_anywhere_is_refused_or_whole(tar_of, zip_of, tmp_path, kind):
    """Never fewer images without a word: the cut may fall between two members, where a tar looks whole."""
    members = [(f"{number}.png", bytes([number]) * 700) for number in range(4)]
    whole = (tar_of if kind == "tar" else zip_of)(members).read_bytes()
    last = len(whole.rstrip(b"\0"))
    cut = tmp_path / f"cut.{kind}"
    for size in {*range(0, len(whole), 97), *range(0, len(whole), 512), last - 1, last, last + 1, len(whole) - 1}:
        cut.write_bytes(whole[:size])
        with suppress(ShardsError):
            source = open_source(cut)
            assert [source.read(number) for number in range(4)] == [data for _, data in members], size


def test_what_follows_the_end_of_a_tar_is_not_lost_without_a_word(tar_of, tmp_path):
    joined = tmp_path / "joined.tar"
    joined.write_bytes(tar_of([("1.png", b"x")]).read_bytes() + tar_of([("2.png", b"y")], "b.tar").read_bytes())
    with pytest.raises(ShardsError, match="something follows the end of the archive"):
        open_source(joined)


def test_a_folder_that_may_not_be_read_is_no_bad_file(files, monkeypatch):
    """--max-bad is a share of files: nobody knows how many are in there."""
    scan = os.scandir

    def refuse(folder):
        if Path(folder).name == sorted(files.iterdir())[0].name:
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ShardsError, match="this folder cannot be read: Permission denied"):
        open_source(files)


def test_a_name_that_is_no_utf8_is_written_in_ascii(files, tmp_path):
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    shutil.copytree(files, odd)
    source = open_source(odd)
    assert source.name == "caf\\xe9"
    assert pack(odd, tmp_path / "out", progress=False, workers=1).source.name == source.name


def test_a_zip_of_an_unknown_version_or_method_is_refused_in_a_line(zip_of, picture, encoded):
    path = zip_of([("0.png", encoded(picture(0)))])
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 6] = 99  # the version needed to extract it
    path.write_bytes(data)
    with pytest.raises(ShardsError, match="a damaged zip"):
        open_source(path)


def test_a_forked_worker_has_its_own_place_in_a_zip(zip_of, picture, encoded):
    """A shared one would move under the reader, and give it parts of other members."""
    source = open_source(zip_of([(f"{number}.png", encoded(picture(number, 60, 60))) for number in range(9)]))
    source.read(0)
    place = os.lseek(source._zip().fp.fileno(), 0, os.SEEK_CUR)
    child = multiprocessing.get_context("fork").Process(target=source.read, args=(8,))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert os.lseek(source._zip().fp.fileno(), 0, os.SEEK_CUR) == place


def test_a_damaged_zip_member_is_bad(zip_of, picture, encoded):
    path = zip_of([("0.png", encoded(picture(0, 32, 32)))])
    data = bytearray(path.read_bytes())
    data[200] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(BadImage, match="damaged member"):
        open_source(path).read(0)


def test_a_zip_bomb_is_bad(zip_of, monkeypatch):
    monkeypatch.setattr("shards.sources.MAX_FILE_BYTES", 1000)
    source = open_source(zip_of([("0.png", bytes(2000))]))
    with pytest.raises(BadImage, match="too large: 2,000 bytes"):
        source.read(0)


def test_a_tar_that_ends_early_gives_no_short_image(tar_of, picture, encoded):
    path = tar_of([(f"{number}.png", encoded(picture(number, 30, 30))) for number in range(3)])
    source = open_source(path)
    with path.open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(BadImage, match="cut off"):
        source.read(2)


def test_a_folder_follows_links_but_not_in_circles(tmp_path, picture, encoded):
    store, root = tmp_path / "store", tmp_path / "root"
    store.mkdir()
    root.mkdir()
    (store / "0.png").write_bytes(encoded(picture(0)))
    (root / "linked.png").symlink_to(store / "0.png")
    (root / "nowhere.png").symlink_to(store / "gone.png")
    (root / "circle").symlink_to(root)
    source = open_source(root)
    assert [item.name for item in source.listing.items] == ["linked.png"]
    assert reasons(source) == {
        "nowhere.png": "a link that leads nowhere",
        "circle": "a link to a folder that is already read",
    }


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
def test_torchvision_offline_says_where_it_looked(name, tmp_path, monkeypatch):
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
    assert message.endswith(f"into {looked}")


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
    ("builtin:cats", "builtin:cats is unknown; known: builtin:digits, builtin:letters, builtin:patches"),
    ("torchvision:Cats", "torchvision:Cats is unknown; known: MNIST, "),
    ("/no/such/folder", "/no/such/folder: no such file or folder"),
    ("imagefolder:foo", "imagefolder is no kind of source: builtin, torchvision, or a path alone$"),
    ("imagefolder:/", "imagefolder is no kind of source: .*; did you mean /"),
    ("bultin:digits", r"did you mean builtin:digits\?$"),
])  # fmt: skip
def test_unknown_sources_are_named(spec, message):
    with pytest.raises(ShardsUsageError, match=message) as caught:
        open_source(spec)
    assert caught.value.exit_code == 2


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "x.tar.gz").write_bytes(b"\x1f\x8b compressed")
    with pytest.raises(ShardsUsageError, match=r"x\.tar\.gz: neither a zip nor an uncompressed tar"):
        open_source(tmp_path / "x.tar.gz")


def test_sources_survive_a_pickle(files, tmp_path, zip_of, picture, encoded):
    """On systems that spawn their workers."""
    for source in (open_source(files), open_source(zip_of([("0.png", encoded(picture(0)))]))):
        source.read(0)
        assert pickle.loads(pickle.dumps(source)).read(0) == source.read(0)
