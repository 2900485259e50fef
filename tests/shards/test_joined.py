"""Several sources packed as one: a class each, the same pixels, distinct keys, and what is refused."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from shards import series
from shards.dataset import ShardDataset
from shards.errors import ShardsError, ShardsUsageError
from shards.joined import JoinedSource
from shards.listing import MAX_KEY_BYTES
from shards.pack import pack as pack_aloud
from shards.sources import open_source


def pack(source, out, **options):
    return pack_aloud(source, out, **{"progress": False, "workers": 1, "encoding": "png", **options})


def by_class(path):
    """Name of the class -> pixels of its images, in order."""
    dataset = ShardDataset(path)
    found = {name: [] for name in dataset.index.classes}
    for number in range(len(dataset)):
        pixels, label, _ = dataset.read(number)
        found[dataset.index.classes[label]].append(pixels.tobytes())
    return found


def keys(path):
    dataset = ShardDataset(path)
    return [dataset.key(number) for number in range(len(dataset))]


@pytest.fixture
def sets(make_images, tar_of, zip_of, encoded, picture, tmp_path):
    """Five kinds of sources with images of 8x8 px: their places."""
    folder = make_images(tmp_path / "cats", 6, ("tabby", "black"), height=8, width=8)
    make_images(tmp_path / "unpacked" / "shards", 3, height=8, width=8)
    pack(tmp_path / "unpacked" / "shards", tmp_path / "owls")
    members = [(f"{number}.png", encoded(picture(number, 8, 8))) for number in range(50, 54)]
    archives = tar_of(members[:3], "dogs.tar"), zip_of(members[3:], "v1.2.zip")
    return [folder, *archives, tmp_path / "owls", "builtin:digits"]


def test_each_source_is_a_class_with_its_own_images(sets, tmp_path):
    index = pack(sets[0], tmp_path / "out", join=sets[1:], channels=3)
    assert index.classes == ["cats", "dogs", "v1.2", "owls", "digits"]
    found = by_class(tmp_path / "out")
    for place, (name, images) in zip(sets, found.items(), strict=True):
        pack(place, tmp_path / "alone" / name, channels=3)
        alone = ShardDataset(tmp_path / "alone" / name)
        assert images == [alone.read(number)[0].tobytes() for number in range(len(alone))]
    assert (ShardDataset(tmp_path / "out").labels()[:10] == [0] * 6 + [1] * 3 + [2]).all()
    assert keys(tmp_path / "out")[5:11] == ["cats/tabby/0004", "dogs/50", "dogs/51", "dogs/52", "v1_2/53", "owls/0000"]


def test_a_subset_lies_within_a_larger_one(sets, tmp_path):
    for subset in (4, 9):
        pack(sets[0], tmp_path / f"{subset}", join=sets[1:4], subset=subset, seed=1)
    assert len(keys(tmp_path / "4")) == 4
    assert set(keys(tmp_path / "4")) < set(keys(tmp_path / "9"))


def test_a_pack_that_was_stopped_goes_on_to_the_same_bytes(files, tmp_path, tree, monkeypatch):
    options = {"join": ["builtin:digits"], "resolution": 6, "channels": 3, "subset": 300, "shard_mb": 0.06}
    pack(files, tmp_path / "whole", **options)
    appeared = []

    def rename(*paths):
        appeared.append(paths)
        if len(appeared) == 10:
            raise KeyboardInterrupt
        os.rename(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(series.os, "replace", rename)
        with pytest.raises(KeyboardInterrupt):
            pack(files, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "index.json").exists()
    pack(files, tmp_path / "out", **options)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    pack(files, tmp_path / "out", **options)  # is there already
    with pytest.raises(ShardsUsageError, match="holds another dataset"):
        pack(files, tmp_path / "out", **{**options, "join": ["builtin:letters"]})


def test_the_stamp_is_over_all_sources(make_images, tmp_path):
    places = [make_images(tmp_path / name, 2) for name in ("a", "b")]

    def stamp():
        return JoinedSource([open_source(place, labels="none") for place in places]).stamp()

    before = stamp()
    assert stamp() == before
    make_images(places[1], 3)
    assert stamp() != before


def test_keys_are_distinct_and_short(make_images, tmp_path):
    long = make_images(tmp_path / ("n" * 200), 2)
    dotted, plain = make_images(tmp_path / "a.b", 2), make_images(tmp_path / "a_b", 2)
    pack(long, tmp_path / "out", join=[dotted, plain])
    found = keys(tmp_path / "out")
    assert len(set(found)) == 6
    assert max(len(key.encode()) for key in found) <= MAX_KEY_BYTES
    assert found[4:] == ["a_b/0000", "a_b/0001"]


def test_bad_files_are_named_by_their_source(make_images, tmp_path, capsys):
    cats, dogs = (make_images(tmp_path / name, 2) for name in ("cats", "dogs"))
    (dogs / "0000.png").write_bytes(b"no image")
    pack(cats, tmp_path / "out", join=[dogs], max_bad=1, progress=True)
    assert "bad: dogs/0000.png: " in capsys.readouterr().err
    assert by_class(tmp_path / "out").keys() == {"cats", "dogs"}
    assert np.bincount(ShardDataset(tmp_path / "out").labels()).tolist() == [2, 1]


def test_classes_that_the_join_replaces_are_told(sets, zip_of, encoded, picture, tmp_path, capsys):
    def zipped(name, labels):
        images = [(f"{number}.png", encoded(picture(number, 8, 8))) for number in range(3)]
        return zip_of([*images, ("dataset.json", json.dumps({"labels": labels}).encode())], name)

    labelled = zipped("labelled.zip", [["0.png", 0], ["1.png", 1], ["2.png", 2]])
    vectors = zipped("vectors.zip", [["0.png", [0.5]], ["1.png", [1.5]], ["2.png", [0.0]]])
    pack(sets[0], tmp_path / "packed")
    pack(sets[0], tmp_path / "out", join=[*sets[1:], tmp_path / "packed", labelled, vectors], channels=3, progress=True)
    told = [line for line in capsys.readouterr().err.splitlines() if "become one" in line]
    assert told == [
        "cats: its 2 classes become one",
        "digits: its 10 classes become one",
        "packed: its 2 classes become one",
        "labelled: its 3 classes become one",
    ]


def test_what_cannot_be_joined_is_refused(make_images, tmp_path):
    cats, others = make_images(tmp_path / "cats", 2), make_images(tmp_path / "other" / "cats", 2)
    with pytest.raises(ShardsUsageError, match="2 sources are called cats, and each is a class: pack it first, into a"):
        pack(cats, tmp_path / "out", join=[others])
    pack(others, tmp_path / "tigers")  # the cure
    assert pack(cats, tmp_path / "out", join=[tmp_path / "tigers"]).classes == ["cats", "tigers"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ShardsError, match="folder empty: no image"):
        pack(cats, tmp_path / "new", join=[tmp_path / "empty"])
    with pytest.raises(ShardsUsageError, match="labels is 'none', which goes without join"):
        pack(cats, tmp_path / "new", join=["builtin:digits"], labels="none")
    with pytest.raises(ShardsUsageError, match="list goes without join"):
        pack(cats, tmp_path / "new", join=["builtin:digits"], listed=tmp_path / "list.txt")
    with pytest.raises(ShardsUsageError, match="lies in the folder that is packed"):
        pack("builtin:digits", cats / "out", join=[cats])
