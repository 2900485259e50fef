"""Packing: the same bytes however it is done, every bad file by its name."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import webdataset
from PIL import Image

from shards import series
from shards.dataset import ShardDataset
from shards.errors import ShardsError, ShardsMachineError, ShardsUsageError
from shards.pack import pack as pack_aloud
from shards.samples import _member
from shards.series import open_series
from shards.verify import verify


def pack(source, out, **options):
    return pack_aloud(source, out, **{"progress": False, "workers": 1, "encoding": "png", **options})


def contents(path):
    dataset = ShardDataset(path)
    return {dataset.key(number): dataset.read(number)[0].tobytes() for number in range(len(dataset))}


def test_a_packed_set_holds_the_images_and_labels(files, packed):
    dataset = ShardDataset(packed)
    assert (len(dataset), dataset.index.shape, dataset.index.classes) == (150, (3, 6, 6), ["a", "b", "c"])
    for number in range(0, 150, 7):
        pixels, label, key = dataset.read(number)
        assert (pixels.transpose(1, 2, 0) == np.asarray(Image.open(files / f"{key}.png"))).all()
        assert "abc"[label] == key[0]


@pytest.mark.parametrize("workers", [2, 5])
def test_the_bytes_do_not_depend_on_the_workers(files, packed, tmp_path, tree, workers):
    pack(files, tmp_path / "out", shard_mb=0.06, workers=workers)
    assert tree(tmp_path / "out") == tree(packed)


def kill_at_rename(files, out, number):
    """Pack, and die as kill -9 does just before the file of this number appears."""
    appeared = 0

    def rename(*paths):
        nonlocal appeared
        appeared += 1
        if appeared == number:
            os.kill(os.getpid(), signal.SIGKILL)
        os.rename(*paths)

    series.os.replace = rename
    pack(files, out, shard_mb=0.06)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 13, 25, 26, 27, 28])
def test_a_killed_pack_goes_on_to_the_same_bytes(files, packed, tmp_path, tree, number):
    """The plan, then tar, offsets and journal of each of eight shards, then index and contact sheet."""
    process = multiprocessing.get_context("fork").Process(target=kill_at_rename, args=(files, tmp_path / "out", number))
    process.start()
    process.join()
    killed = number <= 27
    assert process.exitcode == (-signal.SIGKILL if killed else 0)
    assert (tmp_path / "out" / "index.json").exists() == (number > 26)
    pack(files, tmp_path / "out", shard_mb=0.06)
    assert tree(tmp_path / "out") == tree(packed)


def test_finished_shards_are_not_made_again(files, tmp_path, monkeypatch):
    process = multiprocessing.get_context("fork").Process(target=kill_at_rename, args=(files, tmp_path / "out", 20))
    process.start()
    process.join()
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    assert len(before) == 6
    pack(files, tmp_path / "out", shard_mb=0.06)
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    assert {name: after[name] for name in before} == before


def test_a_shard_harmed_between_two_packs_is_made_again(files, packed, tmp_path, tree):
    process = multiprocessing.get_context("fork").Process(target=kill_at_rename, args=(files, tmp_path / "out", 20))
    process.start()
    process.join()
    (tmp_path / "out" / "000001.tar").write_bytes(b"harmed")
    pack(files, tmp_path / "out", shard_mb=0.06)
    assert tree(tmp_path / "out") == tree(packed)


def test_a_shard_is_never_larger_than_asked(packed):
    index = ShardDataset(packed).index
    assert len(index.shards) == 8
    assert all(shard.bytes <= 60_000 for shard in index.shards)


def test_the_fingerprint_knows_neither_shards_nor_encoding(files, packed, tmp_path):
    fingerprint = ShardDataset(packed).fingerprint
    assert pack(files, tmp_path / "one", shard_mb=64).fingerprint == fingerprint
    assert pack(files, tmp_path / "raw", encoding="raw").fingerprint == fingerprint
    assert contents(tmp_path / "raw") == contents(packed)


def kinds(path):
    """The suffixes under which the images of each key lie in the shards."""
    suffixes = {}
    for shard in ShardDataset(path).index.shards:
        with tarfile.open(path / shard.name) as tar:
            for name in tar.getnames():
                key, suffix = name.split(".")
                suffixes.setdefault(key, set()).add(suffix)
    return {key: (found - {"cls", "json"}).pop() for key, found in suffixes.items()}


def test_auto_is_raw_for_small_images_and_keeps_the_files_of_large_ones(tmp_path, make_images):
    for side, suffix in ((128, "npy"), (129, "png")):
        make_images(tmp_path / f"{side}", 1, height=side, width=side)
        pack(tmp_path / f"{side}", tmp_path / f"out{side}", encoding="auto")
        assert kinds(tmp_path / f"out{side}") == {"0000": suffix}


@pytest.fixture
def assorted(tmp_path, encoded):
    """Files of 40x40 pixels, by what becomes of them under "keep"."""
    smooth = Image.fromarray(np.outer(np.arange(40), np.ones(40)).astype(np.uint8) * 6)
    colour, turned = smooth.convert("RGB"), Image.Exif()
    turned[0x0112] = 3
    made = {
        "kept_jpg": encoded(colour, "JPEG"),
        "kept_png": encoded(colour),
        "grey_jpg": encoded(smooth, "JPEG"),
        "turned_jpg": encoded(colour, "JPEG", exif=turned),
        "cmyk_jpg": encoded(Image.new("CMYK", (40, 40)), "JPEG"),
        "alpha_png": encoded(colour.convert("RGBA")),
        "palette_png": encoded(colour.quantize(4)),
        "other_gif": encoded(colour, "GIF"),
        "long_png": encoded(colour) + bytes(40 * 40 * 3),
    }
    (tmp_path / "files").mkdir()
    for name, data in made.items():
        (tmp_path / "files" / f"{name}.{name.split('_')[1]}").write_bytes(data)
    return tmp_path / "files"


def test_a_file_is_kept_only_if_it_holds_just_the_pixels_to_store(assorted, tmp_path):
    pack(assorted, tmp_path / "kept", encoding="keep")
    pack(assorted, tmp_path / "png", encoding="png")
    assert contents(tmp_path / "kept") == contents(tmp_path / "png")
    assert {key: kind for key, kind in kinds(tmp_path / "kept").items() if kind != "png"} == {"kept_jpg": "jpg"}
    tar = (tmp_path / "kept" / "000000.tar").read_bytes()
    files = {path.stem: path.read_bytes() for path in assorted.iterdir()}
    assert {name for name, data in files.items() if data in tar} == {"kept_jpg", "kept_png"}
    assert ShardDataset(tmp_path / "kept").fingerprint == ShardDataset(tmp_path / "png").fingerprint
    assert verify(tmp_path / "kept").ok
    pack(assorted, tmp_path / "small", encoding="keep", resolution=20)
    assert set(kinds(tmp_path / "small").values()) == {"png"}


def test_another_jpeg_decoder_is_refused(assorted, tmp_path, monkeypatch):
    """It would give other pixels, under the same fingerprint."""
    pack(assorted, tmp_path / "kept", encoding="keep")
    pack(assorted, tmp_path / "png", encoding="png")
    monkeypatch.setattr("shards.encodings.jpeg_pixels", lambda: "0" * 64)
    for read in (ShardDataset, verify):
        read(tmp_path / "png")
        with pytest.raises(ShardsError, match="Pillow's decoder on this machine makes other pixels"):
            read(tmp_path / "kept")


def test_an_earlier_encoding_will_do_where_none_is_asked_for(files, packed, tmp_path):
    assert pack(files, packed, shard_mb=0.06, encoding="auto") == ShardDataset(packed).index
    with pytest.raises(ShardsUsageError, match="encoding is png, not raw"):
        pack(files, packed, shard_mb=0.06, encoding="raw")


@pytest.mark.parametrize("change", ["pixel", "label", "key"])
def test_the_fingerprint_knows_pixels_labels_and_keys(files, packed, tmp_path, change, encoded):
    other = shutil.copytree(files, tmp_path / "files")
    if change == "pixel":
        pixels = np.array(Image.open(other / "a" / "0003.png"))
        pixels[0, 0, 0] ^= 1
        (other / "a" / "0003.png").write_bytes(encoded(pixels))
    elif change == "label":
        (other / "0").mkdir()  # a class before the others: the same keys, other numbers
        (other / "0" / "0000.png").write_bytes(b"")
    else:
        (other / "a" / "0003.png").rename(other / "a" / "0003x.png")
    assert pack(other, tmp_path / "out").fingerprint != ShardDataset(packed).fingerprint


@pytest.mark.parametrize("seed", [0, 1])
def test_subsets_are_nested(files, packed, tmp_path, seed):
    small, large = tmp_path / "small", tmp_path / "large"
    pack(files, small, subset=20, seed=seed)
    pack(files, large, subset=40, seed=seed)
    assert len(contents(small)) == 20
    assert contents(small).items() <= contents(large).items() <= contents(packed).items()


def test_another_seed_is_another_subset(files, tmp_path):
    for seed in (0, 1):
        pack(files, tmp_path / f"{seed}", subset=20, seed=seed)
    assert contents(tmp_path / "0").keys() != contents(tmp_path / "1").keys()


def test_any_webdataset_user_can_read_the_shards(packed):
    dataset = ShardDataset(packed)
    urls = [str(packed / shard.name) for shard in dataset.index.shards]
    samples = list(
        webdataset.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("__key__", "png", "cls", "json")
    )
    assert len(samples) == 150
    for number, (key, image, label, about) in enumerate(samples):
        pixels, own_label, own_key = dataset.read(number)
        assert (key, label) == (own_key, own_label)
        assert (np.asarray(image).transpose(2, 0, 1) == pixels).all()
        assert about == {"name": f"{key}.png", "width": 6, "height": 6, "class": key[0]}


def test_raw_shards_are_readable_too(files, tmp_path):
    index = pack(files, tmp_path, encoding="raw")
    samples = (
        webdataset.WebDataset(str(tmp_path / index.shards[0].name), shardshuffle=False).decode().to_tuple("npy", "cls")
    )
    first, label = next(iter(samples))
    pixels, own_label, _ = ShardDataset(tmp_path).read(0)
    assert (first == pixels).all()
    assert label == own_label


@pytest.mark.parametrize("name", ["a.npy", "花/" + "k" * 90 + ".png", "x.cls"])
@pytest.mark.parametrize("size", [0, 1, 512, 70_000])
def test_a_member_is_what_tarfile_writes(name, size):
    info = tarfile.TarInfo(name)
    info.size = size
    header = info.tobuf(tarfile.USTAR_FORMAT)
    assert _member(name, bytes(size)) == header + bytes(-(-size // 512) * 512)


def test_members_have_no_date_and_no_owner(packed):
    with tarfile.open(packed / "000000.tar") as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in tar} == {(0, 0, 0, "", "")}


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (1, 3), (5, 3)])
def test_no_colour_is_lost(tmp_path, picture, encoded, colour, channels, capsys):
    """Of five images some have colour; one palette of greys has none."""
    (tmp_path / "files").mkdir()
    for number in range(5):
        data = encoded(picture(number, channels=3 if number < colour else 1))
        (tmp_path / "files" / f"{number}.png").write_bytes(data)
    index = pack(tmp_path / "files", tmp_path / "out", progress=True)
    counted = f"({colour} in colour, {5 - colour} grey)"
    assert index.channels == channels
    assert counted in index.rules["channels"]
    assert f"5 images become {'grey' if channels == 1 else 'RGB'} {counted}; 8 bits" in capsys.readouterr().err
    assert pack(tmp_path / "files", tmp_path / "asked", channels=4 - channels).channels == 4 - channels


def test_what_is_decided_is_said_in_one_line(tmp_path, picture, encoded, capsys):
    (tmp_path / "files").mkdir()
    see_through = Image.fromarray(picture(0, 9, 7)).convert("RGBA")
    deep = Image.fromarray(picture(1, channels=1).astype(np.uint16) << 4)
    for number, image in enumerate((see_through, deep, picture(2), picture(3, 20, 30))):
        (tmp_path / "files" / f"{number}.png").write_bytes(encoded(image))
    pack(tmp_path / "files", tmp_path / "out", resolution=6, progress=True)
    assert capsys.readouterr().err.splitlines()[0] == (
        "4 images become RGB (3 in colour, 1 grey); 8 bits (1 of 16 with values up to 4080: v >> 4); "
        "alpha over white (1); 6x6 (2 images resized from sizes between 7x9 and 30x20, crop center); stored as PNG"
    )


def deep_images(folder, encoded, bits):
    """Two images of 16 bits, of which `bits` are in use, and one of 8."""
    folder.mkdir()
    values = np.random.default_rng(0).integers(0, 1 << bits, (2, 6, 6)).astype(np.uint16)
    values[1, 0, 0] = (1 << bits) - 1
    for number in range(2):
        (folder / f"{number}.png").write_bytes(encoded(values[number]))
    (folder / "2.png").write_bytes(encoded(np.full((6, 6), 77, np.uint8)))
    return values


@pytest.mark.parametrize(("bits", "depth"), [(8, 8), (10, 10), (12, 12), (14, 14), (15, 16), (16, 16)])
def test_one_depth_holds_for_all_images_of_16_bits(tmp_path, encoded, bits, depth):
    values = deep_images(tmp_path / "files", encoded, bits)
    for options in ({}, {"resolution": 6, "channels": 1}, {"subset": 2}):  # asked or not, and for a subset too
        out = tmp_path / f"out{len(options)}"
        index = pack(tmp_path / "files", out, **options)
        assert index.rules["16bit"].endswith(f"v >> {depth - 8}")
        pixels = {key: np.frombuffer(data, np.uint8) for key, data in contents(out).items()}
        for key in pixels.keys() & {"0", "1"}:
            assert (pixels[key] == (values[int(key)] >> (depth - 8)).ravel()).all()
        assert set(pixels.get("2", [77])) == {77}


@pytest.mark.parametrize("limit_mb", [0.004, 64])
def test_almost_black_and_white_pictures_are_named(tmp_path, picture, encoded, capsys, limit_mb):
    """Also when they lie in shards that an earlier start has finished."""
    (tmp_path / "files").mkdir()
    one_speck = np.full((20, 20), 3, np.uint8)
    one_speck[4, 4] = 255
    drawn = np.full((20, 20), 255, np.uint8)
    drawn[9:11, 4:8] = 0  # few strokes on white are a picture
    for number, image in enumerate((one_speck, drawn, picture(0, 20, 20, 1), np.full((20, 20), 250, np.uint8))):
        (tmp_path / "files" / f"{number}.png").write_bytes(encoded(image))
    pack(tmp_path / "files", tmp_path / "out", shard_mb=limit_mb, progress=True)
    assert "2 of 4 pictures are almost all black or white: 0.png (black), 3.png (white)" in capsys.readouterr().err


def test_images_of_two_sizes_need_a_resolution(tmp_path, make_images):
    make_images(make_images(tmp_path / "files", 4, ("a",)), 4, ("b",), height=9)
    with pytest.raises(ShardsUsageError, match=r"differ in size \(a/0000.png 6x6, b/0000.png 6x9\): say --resolution"):
        pack(tmp_path / "files", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert pack(tmp_path / "files", tmp_path / "out", resolution=5).shape == (3, 5, 5)


def test_a_set_of_one_shape_keeps_it(tmp_path, make_images):
    index = pack(make_images(tmp_path / "files", 3, height=4, width=7), tmp_path / "out")
    assert (index.shape, index.rules["crop"]) == ((3, 4, 7), "none")


@pytest.fixture
def with_bad(tmp_path, make_images, encoded, picture):
    """100 good files and three bad ones."""
    folder = make_images(tmp_path / "files", 100)
    (folder / "torn.png").write_bytes(encoded(picture(0, 40, 40))[:2000])
    (folder / "text.jpg").write_text("not an image")
    (folder / "raw.png").write_text("not an image either")
    return folder


def test_bad_files_are_named_and_packing_goes_on(with_bad, tmp_path, capsys):
    index = pack(with_bad, tmp_path / "out", resolution=6, max_bad="3%", progress=True)
    lines = [json.loads(line) for line in (tmp_path / "out" / "bad.jsonl").read_text().splitlines()]
    reasons = {line["name"]: line["reason"] for line in lines}
    assert reasons.keys() == {"torn.png", "text.jpg", "raw.png"}
    assert "cannot be decoded" in reasons["torn.png"]
    assert "not an image" in reasons["text.jpg"]
    assert (index.count, index.source.bad, index.source.files) == (100, 3, 103)
    shown = capsys.readouterr().err
    assert all(f"bad: {name}: {reason}" in shown for name, reason in reasons.items())


@pytest.mark.parametrize("max_bad", ["2%", "2", 2, "0"])
def test_too_many_bad_files_fail(with_bad, tmp_path, max_bad):
    with pytest.raises(
        ShardsError, match=r"3 of 103 files are bad, more than --max-bad .*the first is raw.png: not an image"
    ) as caught:
        pack(with_bad, tmp_path / "out", resolution=6, max_bad=max_bad)
    assert caught.value.exit_code == 1
    assert not (tmp_path / "out" / "index.json").exists()
    assert len((tmp_path / "out" / "bad.jsonl").read_text().splitlines()) == 3
    assert pack(with_bad, tmp_path / "out", resolution=6, max_bad=3).count == 100


def test_only_some_bad_files_are_shown(tmp_path, make_images, capsys):
    folder = make_images(tmp_path / "files", 4)
    for number in range(30):
        (folder / f"bad{number:02d}.png").write_text("x")
    pack(folder, tmp_path / "out", max_bad=30, progress=True)
    shown = capsys.readouterr().err
    assert shown.count("bad: bad") == 10
    assert "bad: 20 more, all in" in shown
    assert len((tmp_path / "out" / "bad.jsonl").read_text().splitlines()) == 30


def test_nothing_to_pack_is_an_error(tmp_path):
    (tmp_path / "files").mkdir()
    with pytest.raises(ShardsError, match="folder files: no image that can be packed"):
        pack(tmp_path / "files", tmp_path / "out")
    (tmp_path / "files" / "0.png").write_text("x")
    with pytest.raises(
        ShardsError, match=r"no image that can be packed; the first of 1 bad files is 0.png: not an image"
    ):
        pack(tmp_path / "files", tmp_path / "out", max_bad="100%")


def test_what_is_packed_already_is_left_alone(files, packed, tmp_path, tree, capsys):
    out = shutil.copytree(packed, tmp_path / "out")
    dates = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    index = pack(files, out, shard_mb=0.06, progress=True, max_bad=0)
    assert index == ShardDataset(packed).index
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == dates
    assert "already packed from the same images" in capsys.readouterr().err


@pytest.mark.parametrize(("options", "message"), [
    ({"shard_mb": 1}, "shard_mb is 0.06, not 1.0"),
    ({"shard_mb": 0.06, "resolution": 3}, "resolution is None, not 3"),
    ({"shard_mb": 0.06, "subset": 9}, "subset is None, not 9"),
])  # fmt: skip
def test_other_options_do_not_overwrite(files, packed, options, message):
    with pytest.raises(ShardsUsageError, match=f"holds another dataset: .*{message}") as caught:
        pack(files, packed, **options)
    assert caught.value.exit_code == 2


def test_other_images_do_not_overwrite(files, packed, tmp_path, encoded, picture):
    other = shutil.copytree(files, tmp_path / "files")
    (other / "a" / "0003.png").write_bytes(encoded(picture(99)))  # the same name and size
    with pytest.raises(ShardsUsageError, match="it was packed from other images"):
        pack(other, packed, shard_mb=0.06)


def relabel(folder, labels):
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))


@pytest.mark.parametrize(("options", "before", "after", "message"), [
    ({}, [1, 0, None], [0, 1, None], "the labels of 2 of its 3 images are other ones now; the first is 0000;"),
    ({}, [1, 0, 0], [1, 0, None], "the labels of 1 of its 3 images are other ones now; the first is 0002;"),
    ({}, ["b", "a", "a"], ["c", "a", "a"], "its class 1 is b, not c;"),
    ({"labels": "vector"}, [[1, 0.5], [2, 3], None], [[1, 0.5], [2, 4], None], ".* of 1 of its 3 images .* is 0001;"),
    ({"labels": "vector"}, [[1, 0.5], [2, 3], None], [[1], [2], None], "its labels are vectors of 2 numbers, not 1;"),
])  # fmt: skip
def test_other_labels_do_not_overwrite(tmp_path, make_images, options, before, after, message):
    """Also where a file between them is bad, and has no label in the set."""
    files, out = make_images(tmp_path / "files", 3), tmp_path / "out"
    (files / "00001.png").write_text("not an image")
    names = [f"{number:04d}.png" for number in range(3)]
    relabel(files, list(zip(names, before, strict=True)))
    index = pack(files, out, max_bad=1, **options)
    assert pack(files, out, max_bad=1, **options) == index
    relabel(files, list(zip(names, after, strict=True)))
    with pytest.raises(ShardsUsageError, match=f"holds another dataset: {message}"):
        pack(files, out, max_bad=1, **options)


def test_an_image_of_another_set_is_named_when_labels_are_compared(files, packed, monkeypatch):
    monkeypatch.setattr(ShardDataset, "key", lambda self, number: f"elsewhere/{number}")
    with pytest.raises(ShardsUsageError, match="it holds an image elsewhere/0, which is not among them"):
        pack(files, packed, shard_mb=0.06)


def test_the_beginning_of_another_pack_is_not_continued(files, tmp_path):
    process = multiprocessing.get_context("fork").Process(target=kill_at_rename, args=(files, tmp_path / "out", 9))
    process.start()
    process.join()
    with pytest.raises(ShardsUsageError, match="beginning of a pack of other input or options"):
        pack(files, tmp_path / "out", shard_mb=1)


def test_a_folder_with_something_else_is_refused(files, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ShardsUsageError, match="is not empty, and holds no packed dataset"):
        pack(files, tmp_path)


def test_two_packs_do_not_write_at_once(files, tmp_path):
    with open_series(tmp_path / "out", "{}", 1000), pytest.raises(ShardsMachineError, match="written by another"):
        pack(files, tmp_path / "out")


def test_the_output_may_not_lie_in_the_input(files):
    with pytest.raises(ShardsUsageError, match="lies in the folder that is packed"):
        pack(files, files / "packed")


@pytest.mark.parametrize(("options", "message"), [
    ({"resolution": 0}, "resolution is 0"),
    ({"channels": 2}, "channels is 2"),
    ({"crop": "left"}, "crop is 'left'"),
    ({"encoding": "jpeg"}, "encoding is 'jpeg'"),
    ({"max_bad": "few"}, "max_bad is 'few'; known: a count such as 5, or a share such as 1%"),
    ({"subset": 151}, "subset is 151, but noise has 150 images"),
])  # fmt: skip
def test_wrong_options_are_named(files, tmp_path, options, message):
    with pytest.raises(ShardsUsageError, match=message) as caught:
        pack(files, tmp_path / "out", **options)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_a_dead_worker_is_reported(files, tmp_path, monkeypatch):
    monkeypatch.setattr("shards.convert.normalise", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(ShardsError, match="a worker process died"):
        pack(files, tmp_path / "out", workers=2)


def test_the_contact_sheet_shows_every_class(packed):
    with Image.open(packed / "contact-sheet.png") as sheet:
        colours = np.asarray(sheet.convert("RGB"))
    noise = colours.std(2) > 20  # the sheet is grey and the images are not
    rows = np.flatnonzero(np.diff((noise.mean(1) > 0.3).astype(int)) > 0)
    assert len(rows) == 3
    assert sheet.width > 16 * 60


def test_packing_needs_no_torch():
    script = "import shards.pack, shards.verify, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
