"""Banks of instances: the same whoever does the work, and refused where they are not what they say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.workers import Done, OneWorker
from shards.dataset import ShardDataset
from spider import api
from spider.errors import SpiderError, SpiderUsageError
from spider.gan.conditions.bank import InstanceBank
from spider.judge.instances import build
from spider.judge.instances.build import centre_images

WORDS = {"embedding": "offline", "neighbors": 4, "centres": 30}


@pytest.fixture(scope="module")
def bank(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bank")
    report = api.instances(digits, folder / "digits.safetensors", flips=True, cache=folder / "features", **WORDS)
    return report, InstanceBank.open(report.out)


class Forgetful(OneWorker):
    """Does pieces in reverse, and each of them twice."""

    def run(self, pieces):
        for piece in reversed(list(pieces)):
            for _ in range(2):
                value = getattr(self._worker, piece.method)(*piece.arguments)
            yield Done(piece, value)


def test_it_has_every_image_and_its_nearest(bank, digits):
    report, found = bank
    dataset = ShardDataset(digits)
    assert len(found) == report.images == len(dataset)
    assert np.linalg.norm(found.features.astype(np.float64), axis=1) == pytest.approx(1, abs=2e-3)
    assert found.neighbors.shape == (len(dataset), 4)
    assert not (found.neighbors == np.arange(len(dataset))[:, None]).any()
    wide = found.features.astype(np.float64)
    distances = ((wide[7] - wide) ** 2).sum(1)
    distances[7] = np.inf
    assert found.neighbors[7].tolist() == np.argsort(distances, kind="stable")[:4].tolist()
    assert found.radii[7] == pytest.approx(np.sqrt(np.sort(distances)[3]), rel=1e-6)
    agreement = dataset.labels()[found.neighbors] == dataset.labels()[:, None]
    assert report.label_agreement == agreement.mean() > 0.9
    assert found.about.dataset == dataset.fingerprint == found.about.pixels
    assert found.about.classes == tuple(dataset.class_names)
    assert found.labels.tolist() == dataset.labels().tolist()


def test_flipped_features_are_those_of_flipped_images(bank, digits):
    _, found = bank
    network = build.load_embedding("offline")
    pixels = ShardDataset(digits).batch(5, 6).flip(3)
    expected = network.features(pixels.repeat(64, 1, 1, 1))[0]
    assert found.features_flipped[5] == pytest.approx((expected / expected.norm()).numpy(), abs=1e-3)


@pytest.mark.parametrize("kept", ["nothing", "features", "all"])
def test_it_is_the_same_whoever_does_the_work_and_how_often(bank, digits, tmp_path, monkeypatch, kept):
    report, _ = bank
    out, cache = tmp_path / "again.safetensors", tmp_path / "features"
    if kept == "features":  # as a search that was stopped leaves them
        api.instances(digits, tmp_path / "first.safetensors", **{**WORDS, "cache": cache, "neighbors": 3})
    if kept == "all":
        cache = None
        api.instances(digits, tmp_path / "first.safetensors", **WORDS)
    monkeypatch.setattr("cluster.workers.OneWorker", Forgetful)
    api.instances(digits, out, flips=True, cache=cache, **WORDS)
    assert out.read_bytes() == Path(report.out).read_bytes()


@pytest.mark.parametrize("what", ["features", "nearest"])
def test_a_kept_piece_that_is_damaged_is_made_again(bank, digits, tmp_path, what):
    report, _ = bank
    words = {**WORDS, "flips": True, "cache": tmp_path / "features"}
    api.instances(digits, tmp_path / "first.safetensors", **words)
    file = next((tmp_path / "features").rglob(f"{what}-*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    api.instances(digits, tmp_path / "second.safetensors", **words)
    assert (tmp_path / "second.safetensors").read_bytes() == Path(report.out).read_bytes()


def test_more_neighbours_than_there_are_others_are_refused(digits, tmp_path):
    count = len(ShardDataset(digits))
    with pytest.raises(SpiderUsageError, match=rf"has {count} images, so each has at most {count - 1} others"):
        api.instances(digits, tmp_path / "x.safetensors", embedding="offline", neighbors=count)
    assert not list(tmp_path.iterdir())


def test_pixels_are_the_same_images_at_another_size(bank, digits, tmp_path):
    api.pack(digits, tmp_path / "large", resolution=16)
    out = tmp_path / "x.safetensors"
    report = api.instances(digits, out, pixels=tmp_path / "large", **WORDS)
    assert report.about.dataset == bank[0].about.dataset != report.about.pixels
    api.pack(digits, tmp_path / "few", subset=40)
    with pytest.raises(SpiderUsageError, match="has 40 images"):
        api.instances(digits, out, pixels=tmp_path / "few", **WORDS)


def damaged(bank, tmp_path, change):
    content = bytearray(Path(bank[0].out).read_bytes())
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header, content)
    text = json.dumps(header).encode()
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    return path


def test_one_from_before_labels_is_read(bank, tmp_path):
    def older(header, content):
        header.pop("labels")
        about = json.loads(header["__metadata__"]["about"])
        header["__metadata__"]["about"] = json.dumps({k: v for k, v in about.items() if k != "classes"})

    found = InstanceBank.open(damaged(bank, tmp_path, older))
    assert (found.labels, found.about.classes) == (None, ())


def swap(name, **values):
    return lambda header, content: header[name].update(values)


def far(header, content):
    start = 8 + int.from_bytes(content[:8], "little") + header["neighbors"]["data_offsets"][0]
    content[start : start + 4] = (10**6).to_bytes(4, "little")


def no_class(header, content):
    start = 8 + int.from_bytes(content[:8], "little") + header["labels"]["data_offsets"][0]
    content[start : start + 4] = (10).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda header, content: header.pop("radii"), "it has no radii"),
        (lambda header, content: header["__metadata__"].pop("spider.instances"), "no bank of instances"),
        (swap("features", dtype="F64"), "features is F64"),
        (swap("features", shape=[3, 2]), "features is F16"),
        (swap("radii", data_offsets=[-4, 8]), "radii is F32"),
        (swap("centres", data_offsets=[0, 10**15]), "centres is I32"),
        (far, "neighbors has images that are none of 0 to"),
        (no_class, "labels that are none of 10 classes"),
    ],
)
def test_a_damaged_one_is_refused_in_one_line(bank, tmp_path, change, words):
    with pytest.raises(SpiderError, match=words) as raised:
        InstanceBank.open(damaged(bank, tmp_path, change))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"\xff" * 64, (9).to_bytes(8, "little") + b"{broken}}"])
def test_what_is_no_bank_is_refused(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(SpiderError, match=str(path)):
        InstanceBank.open(path)
    with pytest.raises(SpiderUsageError, match="spider instances DATA"):
        InstanceBank.open(tmp_path / "none.safetensors")


def test_centres_stand_for_all():
    """Four heaps far apart: each has its own centre, which is one of its members."""
    rng = np.random.default_rng(0)
    heaps = np.repeat(np.eye(4), 20, axis=0) + 0.01 * rng.standard_normal((80, 4))
    assert (centre_images(heaps.astype(np.float16), 4, 0) // 20).tolist() == [0, 1, 2, 3]
    assert centre_images(heaps.astype(np.float16), 100, 0).tolist() == list(range(80))
    copies = np.zeros((9, 4), np.float16) + np.float16(0.5)
    copies[4] = [1, 0, 0, 0]
    assert len(set(centre_images(copies, 5, 0).tolist())) == 5


def test_centres_do_not_depend_on_threads():
    vectors = np.random.default_rng(0).standard_normal((500, 12)).astype(np.float16)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(centre_images(vectors, 20, 0).tolist())
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def test_the_nearest_image_of_a_centre_is_sought_among_all(monkeypatch):
    """K-means sees a draw; the image that lies at a centre may not be in it."""
    monkeypatch.setattr(build, "_POINTS_PER_CENTRE", 10)
    vectors = np.random.default_rng(0).standard_normal((600, 6)).astype(np.float16)
    few = centre_images(vectors, 4, 0)
    drawn = np.sort(np.random.default_rng(0).permutation(600)[:40])
    assert set(few.tolist()) - set(drawn.tolist())


def test_a_bank_of_other_images_is_not_replaced(bank, patches, digits, tmp_path):
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(Path(bank[0].out).read_bytes())
    with pytest.raises(SpiderUsageError, match=r"is of digits, which are other images"):
        api.instances(patches, mine, **WORDS)
    api.instances(digits, mine, **{**WORDS, "neighbors": 3})  # of the same images it is
    mine.write_text("other")
    with pytest.raises(SpiderUsageError, match="no bank of instances"):
        api.instances(digits, mine, **WORDS)


def test_the_images_that_stand_for_all_are_packed_by_a_list(digits, tmp_path):
    """For figure 4 of the paper: FID of the real images beside that of samples."""
    bank, listed = tmp_path / "b.safetensors", tmp_path / "centres.txt"
    api.instances(digits, bank, centre_list=listed, **WORDS)
    api.pack(digits, tmp_path / "centres", listed=listed)
    packed, dataset = ShardDataset(tmp_path / "centres"), ShardDataset(digits)
    centres = InstanceBank.open(bank).centres
    assert sorted(packed.key(n) for n in range(len(packed))) == sorted(dataset.key(int(n)) for n in centres)
    found = api.evaluate(tmp_path / "centres", reference=digits, metrics="fid", embedding="offline")
    assert found.results[0].value > 0
    with pytest.raises(SpiderUsageError, match=r"centre_list: the file ends in \.txt"):
        api.instances(digits, bank, centre_list=tmp_path / "centres", **WORDS)
