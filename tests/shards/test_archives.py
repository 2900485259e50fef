"""Archives: read to their proven end or not at all, and their bad members."""

from __future__ import annotations

import io
import multiprocessing
import os
import re
import subprocess
import tarfile
import zipfile
from contextlib import contextmanager, suppress
from operator import add

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.errors import ShardsError, ShardsUsageError
from shards.images import BadImage
from shards.sources import open_source


def reasons(source):
    return {bad.name: bad.reason for bad in source.listing.bad}


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
        "good.png": "the archive holds this path twice",
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


FILES = [(f"{number}.png", bytes([number]) * 700) for number in range(4)]


def tar_bytes(tar_format):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for name, data in FILES:
            info = tarfile.TarInfo(name if tar_format == tarfile.USTAR_FORMAT else f"{'鋼' * 40}/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zip_bytes(method, within=b""):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in FILES[:2]:
            archive.writestr(name, data)
        if within:
            archive.writestr("within.zip", within, zipfile.ZIP_STORED)
        for name, data in FILES[2:]:
            archive.writestr(name, data)
    return buffer.getvalue()


ARCHIVES = [tar_bytes(tar_format) for tar_format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]
ARCHIVES += [zip_bytes(method) for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)]
ARCHIVES += [zip_bytes(zipfile.ZIP_STORED, within=zip_bytes(zipfile.ZIP_STORED))]


def read_all(data, folder):
    (folder / "archive").write_bytes(data)
    source = open_source(folder / "archive")
    return [source.read(number) for number in range(len(source.listing.items))]


@given(st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_archive_cut_at_any_byte_is_refused_or_whole(tmp_path, data):
    """Never fewer images without a word: the cut may fall between two members, where a tar looks whole, or behind a
    zip within a zip, where that looks like the end."""
    archive = data.draw(st.sampled_from(ARCHIVES))
    aligned = st.integers(0, len(archive) // 512).map(lambda block: 512 * block)
    size = data.draw(st.one_of(st.integers(0, len(archive)), aligned))
    with suppress(ShardsError):
        assert read_all(archive[:size], tmp_path) == [content for _, content in FILES]


def test_an_archive_cut_behind_each_end_is_refused(tmp_path):
    """The places that a random cut may miss."""
    for archive in ARCHIVES:
        assert read_all(archive, tmp_path) == [content for _, content in FILES]
        is_zip = archive.startswith(b"PK")
        ends = [m.end() + 18 for m in re.finditer(b"PK\x05\x06", archive)] if is_zip else range(512, len(archive), 512)
        last = len(archive) if is_zip else len(archive.rstrip(b"\0")) // 512 * 512 + 512
        for size in (end for end in ends if end < last):
            with pytest.raises(ShardsError):
                read_all(archive[:size], tmp_path)


@contextmanager
def contained():
    """Lets those errors pass that people are told in one line."""
    try:
        yield
    except (ShardsError, BadImage) as error:
        if "\n" in str(error):
            raise


@given(st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_archive_gives_errors_of_one_line(tmp_path, data):
    """Whatever a byte is changed to: a negative size, an unknown version or method, a link to nowhere."""
    archive = bytearray(data.draw(st.sampled_from(ARCHIVES)))
    place = st.integers(0, len(archive) - 1)
    headers = [match.start() - 257 for match in re.finditer(b"ustar", archive)]
    if headers:
        place = st.one_of(place, st.builds(add, st.sampled_from(headers), st.integers(0, 511)))
    for at in data.draw(st.lists(place, min_size=1, max_size=3)):
        archive[at] = data.draw(st.one_of(st.sampled_from([0, 0x30, 0x80, 0xFF]), st.integers(0, 255)))
    for start in headers:
        block = archive[start : start + 512]
        archive[start + 148 : start + 156] = b"%06o\0 " % (sum(block[:148]) + 8 * 32 + sum(block[156:]))
    with contained():
        read_all(archive, tmp_path)


def test_a_tar_with_a_negative_size_is_refused(tar_of, tmp_path):
    """tarfile would read the same header again and again."""
    data = bytearray(tar_of([("a.png", b""), ("b.png", b"")]).read_bytes())
    data[512 + 124 : 512 + 136] = (256**12 - 512).to_bytes(12, "big")
    data[512 + 148 : 512 + 156] = b"%06o\0 " % (sum(data[512:660]) + 8 * 32 + sum(data[668:1024]))
    (tmp_path / "set.tar").write_bytes(data)
    with pytest.raises(ShardsError, match=r"a damaged tar: the size of b\.png is negative"):
        open_source(tmp_path / "set.tar")


def test_two_zips_that_were_joined_are_refused(tmp_path):
    with pytest.raises(ShardsError, match="broke off and holds another zip, or two were joined"):
        read_all(zip_bytes(zipfile.ZIP_STORED) * 2, tmp_path)


def test_a_zip_whose_directory_is_short_is_refused(tmp_path):
    data = bytearray(zip_bytes(zipfile.ZIP_STORED))
    data[data.rindex(b"PK\x05\x06") + 10] += 1
    with pytest.raises(ShardsError, match="lists 4 members, and says 5"):
        read_all(data, tmp_path)


def test_a_zip_behind_a_program_that_unpacks_it_is_read(tmp_path):
    assert len(read_all(b"#!/bin/sh\n" + zip_bytes(zipfile.ZIP_STORED), tmp_path)) == 4


def test_a_sparse_member_is_bad(tmp_path):
    """Its bytes do not lie in one piece."""
    (tmp_path / "0.png").write_bytes(b"x")
    with (tmp_path / "holes.png").open("wb") as file:
        file.truncate(1 << 20)
    subprocess.run(["tar", "-S", "-cf", "set.tar", "0.png", "holes.png"], cwd=tmp_path, check=True)
    source = open_source(tmp_path / "set.tar")
    assert [item.name for item in source.listing.items] == ["0.png"]
    assert "sparse" in reasons(source)["holes.png"]


def test_a_zip_of_windows_has_class_folders(zip_of):
    members = [zipfile.ZipInfo("a\\1.png"), zipfile.ZipInfo("b\\2.png"), zipfile.ZipInfo("b\\")]
    for member in members:
        member.create_system = 0
    source = open_source(zip_of([(member, b"") for member in members]))
    assert [item.key for item in source.listing.items] == ["a/1", "b/2"]
    assert source.listing.classes == ["a", "b"]


def test_a_link_to_a_folder_of_the_archive_is_bad(tar_of):
    link = tarfile.TarInfo("b")
    link.type, link.linkname = tarfile.SYMTYPE, "a"
    odd = tarfile.TarInfo("c/odd.png")
    odd.type, odd.linkname = tarfile.SYMTYPE, "../..a/2.png"
    source = open_source(tar_of([("a/1.png", b"x"), ("..a/2.png", b"y"), (link, b""), (odd, b"")]))
    assert reasons(source) == {"b": "a link to a folder that is already read"}
    assert [item.name for item in source.listing.items] == ["a/1.png", "c/odd.png"]


@pytest.mark.parametrize(("start", "hint"), [(b"\x1f\x8b\x08", "compressed with gzip: unpack it first: gunzip"),
                                             (b"Rar!\x1a", "compressed with rar"), (b"", "empty file")])  # fmt: skip
def test_what_is_no_archive_says_what_unpacks_it(tmp_path, start, hint):
    (tmp_path / "set.tar").write_bytes(start)
    with pytest.raises(ShardsUsageError, match=f"neither a zip nor an uncompressed tar.*{hint}"):
        open_source(tmp_path / "set.tar")


@pytest.mark.parametrize(
    ("name", "start", "said"),
    [
        ("a.png", b"\x89PNG\r\n\x1a\n", "a single image.* put the images into a folder"),
        ("a.jpg", b"\xff\xd8\xff\xe0", "a single image"),
        ("a.webp", b"RIFF\0\0\0\0WEBP", "a single image"),
        ("a.mp4", b"\0\0\0\x20ftypisom", r"a video.* extract its frames .*ffmpeg -i .*a\.mp4 "),
        ("a.h5", b"\x89HDF\r\n\x1a\n", "an HDF5 file.* save its images as PNG"),
        ("a.parquet", b"PAR1", "a Parquet table"),
        ("a.npz", b"PK\x03\x04", "NumPy arrays: save its images as PNG"),
        ("a.txt", b"hello", "a folder of image files, or a zip or tar"),
    ],
)
def test_what_is_no_archive_of_images_says_what_it_is_and_what_to_do(tmp_path, name, start, said):
    (tmp_path / name).write_bytes(start + bytes(2000))
    with pytest.raises(ShardsUsageError, match=said):
        open_source(tmp_path / name)


def test_a_closed_archive_is_named(tar_of, monkeypatch):
    path = tar_of([("1.png", b"x")])
    monkeypatch.setattr("tarfile.bltn_open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(ShardsError, match=r"set\.tar: cannot be read: Permission denied"):
        open_source(path)


def test_what_follows_the_end_of_a_tar_is_not_lost_without_a_word(tar_of, tmp_path):
    joined = tmp_path / "joined.tar"
    joined.write_bytes(tar_of([("1.png", b"x")]).read_bytes() + tar_of([("2.png", b"y")], "b.tar").read_bytes())
    with pytest.raises(ShardsError, match="something follows the end of the archive"):
        open_source(joined)


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
    monkeypatch.setattr("shards.archives.MAX_FILE_BYTES", 1000)
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
