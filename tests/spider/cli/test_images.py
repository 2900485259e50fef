"""spider pack, verify; and images by whatever name."""

from __future__ import annotations

import pytest
from PIL import Image

from shards import progress
from shards.errors import ShardsUsageError
from spider.data import locate_images, open_images


def test_pack_and_verify(spider, photos, tmp_path):
    packed = spider("pack", photos, tmp_path / "packed", "--resolution", "8", "--channels", "1", "--json")
    assert (packed.json["count"], packed.json["classes"]) == (10, ["a", "b"])
    again = spider("pack", photos, tmp_path / "packed", "--resolution", "8", "--channels", "1")
    assert again.code == 0
    assert "10 images 8x8 grey, 2 classes" in again.out
    assert spider("verify", tmp_path / "packed", "--json").json["ok"] is True


def test_a_subset_is_reported_by_what_is_packed(spider, photos, tmp_path):
    found = spider("pack", photos, tmp_path / "packed", "--resolution", "5", "--subset", "1")
    assert found.code == 0
    assert "1 image of 10 becomes " in found.err
    assert "(1 image resized from " in found.err
    assert ": 1 image 5x5 " in found.out
    assert ", 1 of 2 classes, " in found.out


def test_pack_writes_the_encoding_asked_for(spider, photos, tmp_path):
    for encoding in ("png", "raw"):
        spider("pack", photos, tmp_path / encoding, "--encoding", encoding)
        assert open_images(tmp_path / encoding).index.options.encoding == encoding
    assert spider("pack", photos, tmp_path / "jpg", "--encoding", "jpg").code == 2


def test_verify_names_the_damaged_shard(spider, photos, tmp_path):
    spider("pack", photos, tmp_path / "packed")
    tar = tmp_path / "packed" / "000000.tar"
    content = bytearray(tar.read_bytes())
    content[600] ^= 1
    tar.write_bytes(content)
    found = spider("verify", tmp_path / "packed")
    assert found.code == 1
    assert "bad: 000000.tar: damaged" in found.out
    assert spider("verify", tmp_path / "packed", "--json").json["problems"]


def test_neighbors_are_ranked_by_the_names_given(spider, digits, patches, photos, tmp_path):
    words = ["neighbors", digits, f"colour={patches}", digits, "--out", tmp_path / "near", "--embedding", "offline"]
    found = spider(*words, "--orders=-1,1", "--mode", "screen", "--json").json
    assert {row["source"] for row in found["rows"]} == {"colour", "digits"}
    assert list(found["rows"][0]["csid"]) == ["-1", "1"]
    assert "look at" in spider(*words, "--mode", "screen").out
    assert (tmp_path / "near" / "neighbors.csv").is_file()


def test_kernels_are_named_as_tables_name_them(spider, digits, patches, tmp_path):
    words = ["neighbors", digits, patches, "--out", tmp_path / "near", "--embedding", "offline", "--mode", "screen"]
    csid = spider(*words, "--orders=0.5,2 log,5/4", "--json").json["rows"][0]["csid"]
    assert list(csid) == ["0.5", "2 log", "6 log"]
    assert spider(*words, f"--orders={','.join(csid)}", "--json").json["rows"][0]["csid"] == csid


def test_packed_shards_are_taken_as_they_are(digits):
    assert locate_images(digits) == str(digits)
    assert locate_images(digits, resolution=8, channels=1) == str(digits)


def test_anything_else_is_packed_once(caches, photos):
    dataset = open_images(photos)
    assert (dataset.name, len(dataset), dataset.index.shape) == ("photos", 10, (3, 12, 12))
    assert dataset.path.startswith(str(caches))
    assert open_images(photos).path == dataset.path
    assert open_images(photos, resolution=8).index.shape == (3, 8, 8)
    assert open_images(dataset.path, resolution=6, channels=1).index.shape == (1, 6, 6)


def test_a_folder_that_has_changed_is_packed_anew(photos):
    before = open_images(photos)
    (photos / "a" / "0.png").unlink()
    assert (len(before), len(open_images(photos))) == (10, 9)


def test_images_of_many_sizes_must_be_packed_by_hand(photos):
    Image.new("RGB", (20, 9)).save(photos / "a" / "wide.png")
    with pytest.raises(ShardsUsageError, match=r"differ in size .*: spider pack .*photos OUT --resolution N$"):
        open_images(photos)


def pack_on_ranks(world, path):
    """On a rank."""
    try:
        return locate_images(path, world=world)
    except ShardsUsageError as error:
        return f"refused: {error}"


def test_one_rank_packs_and_all_of_them_read(ranks, photos, tmp_path, caches):
    first, second = ranks(2).run(pack_on_ranks, photos)
    assert first == second
    assert open_images(first).index.count == 10
    refusals = ranks(2).run(pack_on_ranks, tmp_path / "nothing")
    assert refusals[0] == refusals[1]
    assert "no such file or folder" in refusals[0]


def test_bars_are_for_terminals(spider, digits, photos, patches, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 1e9)  # nothing takes long, however slow the machine
    near = ["neighbors", digits, patches, "--out", tmp_path / "near", "--embedding", "offline", "--images", "150"]
    for words in (["pack", photos, tmp_path / "packed"], ["verify", tmp_path / "packed"], near):
        done = spider(*words)
        assert (done.code, "%" in done.err, "\r" in done.err) == (0, False, False)
