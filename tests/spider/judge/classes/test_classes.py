"""Vectors and a classifier of classes: what they are, the same whoever does the work, refused where they cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.covariance import oas

from cluster.workers import Done, OneWorker
from shards.dataset import ShardDataset
from spider import api
from spider.cli.main import app
from spider.errors import SpiderError, SpiderUsageError
from spider.gan.class_file import CLASSIFIER, VECTORS, ClassFile
from spider.judge.classes.lda import ClassSums, best_factor, cross_entropy, shrunk
from spider.judge.embed.efficientnet import EfficientNetEmbedding


@pytest.fixture(scope="module", autouse=True)
def small_pieces():
    """Of two blocks, so that there are several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spider.judge.embed.features.PIECE", 128)
        yield


@pytest.fixture(scope="module")
def made(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    report = api.classes(digits, folder / "digits.safetensors", cache=folder / "features")
    return report, ClassFile.read(report.out), folder


def test_vectors_are_means_of_the_last_stage_and_the_classifier_names_what_it_has_not_seen(made, digits):
    report, found, _ = made
    dataset = ShardDataset(digits)
    assert (report.classes, report.images, report.unlabelled, report.held) == (10, 300, 0, 29)
    assert report.accuracy > 0.6  # of ten classes, each of 27 images
    assert 0 < report.cross_entropy < 1.2
    of_class = np.flatnonzero(dataset.labels() == 3)
    images = torch.from_numpy(dataset.read_batch(of_class)[0])
    features, stages = EfficientNetEmbedding().features_and_stage(images)
    assert found.vectors[3] == pytest.approx(stages.numpy().mean(0), abs=1e-4)
    assert found.vectors.shape == (10, 320)
    scores = features.numpy() @ found.weight.T + found.bias
    assert (scores.argmax(1) == 3).mean() > 0.9
    about = found.about
    assert (about.dataset, about.classes, about.size) == (dataset.fingerprint, dataset.class_names, (8, 8))
    assert about.digest == EfficientNetEmbedding().digest


class Forgetful(OneWorker):
    """Does pieces in reverse, and each of them twice."""

    def run(self, pieces):
        for piece in reversed(list(pieces)):
            for _ in range(2):
                value = getattr(self._worker, piece.method)(*piece.arguments)
            yield Done(piece, value)


def test_it_is_the_same_whoever_does_the_work_and_how_often(made, digits, tmp_path, monkeypatch):
    report, _, folder = made
    threads = torch.get_num_threads()
    monkeypatch.setattr("cluster.workers.OneWorker", Forgetful)
    torch.set_num_threads(3)
    try:
        api.classes(digits, tmp_path / "again.safetensors", cache=tmp_path / "features")
    finally:
        torch.set_num_threads(threads)
    assert (tmp_path / "again.safetensors").read_bytes() == Path(report.out).read_bytes()
    kept = sorted(folder.rglob("stage-*.safetensors"))[1]
    kept.write_bytes(kept.read_bytes()[:-1] + b"\0")  # damaged
    api.classes(digits, report.out, cache=folder / "features")
    assert (tmp_path / "again.safetensors").read_bytes() == Path(report.out).read_bytes()


def test_a_bank_of_instances_takes_the_features_that_are_kept(made, digits, tmp_path, monkeypatch):
    _, _, folder = made
    monkeypatch.setattr(EfficientNetEmbedding, "features", None)
    words = {"embedding": "efficientnet", "neighbors": 3, "centres": 5, "cache": folder / "features"}
    assert api.instances(digits, tmp_path / "bank.safetensors", **words).dim == 1280


def normal_classes(rng, counts, dim):
    """Rows of classes that share a covariance, and their labels."""
    spread = rng.normal(size=(dim, dim))
    labels = np.repeat(np.arange(len(counts)), counts)
    means = 3 * rng.normal(size=(len(counts), dim))
    return (means[labels] + rng.normal(size=(len(labels), dim)) @ spread).astype(np.float32), labels


def test_scores_are_log_likelihoods_of_normal_classes():
    rng = np.random.default_rng(0)
    rows, labels = normal_classes(rng, [30, 9, 50], 6)
    sums = ClassSums(3, 6)
    for start in range(0, len(rows), 16):
        sums.add(rows[start : start + 16], labels[start : start + 16])
    found, means = sums.classifier(), np.stack([rows[labels == k].mean(0, dtype=np.float64) for k in range(3)])
    apart = rows - means[labels]
    inverse = np.linalg.inv(shrunk(apart.T @ apart / (len(rows) - 3), len(rows) - 3))
    likelihoods = np.stack([-np.einsum("nd,de,ne->n", rows - m, inverse, rows - m) / 2 for m in means], 1)
    scores = rows @ found.weight.T + found.bias
    assert scores - scores[:, :1] == pytest.approx(likelihoods - likelihoods[:, :1], rel=1e-6, abs=1e-6)
    assert np.array_equal(found.scores(rows), scores)
    assert (scores.argmax(1) == labels).mean() > 0.9


def test_the_factor_gives_the_least_cross_entropy():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, 200)
    scores = 8 * rng.normal(size=(200, 4)) + 10 * np.eye(4)[labels]
    factor, step = best_factor(scores, labels), 1e-3
    least = cross_entropy(scores * factor, labels)
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(scores * factor), torch.from_numpy(labels))
    assert least == pytest.approx(float(expected))
    assert 0 < factor < 0.5
    assert all(cross_entropy(scores * (factor + way), labels) > least for way in (-step, step))
    assert best_factor(scores / 100, labels) == 1


@pytest.mark.parametrize(("count", "dim"), [(40, 5), (12, 30), (3, 200)])
def test_a_covariance_is_shrunk_by_the_rule_of_scikit_learn(count, dim):
    rows = np.random.default_rng(count).normal(size=(count, dim)) * np.linspace(0.1, 3, dim)
    expected, _ = oas(rows, assume_centered=True)
    assert shrunk(rows.T @ rows / count, count) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def labelled(root, labels, flat=False):
    """A folder of images with these labels, None: none."""
    rng = np.random.default_rng(0)
    root.mkdir()
    for number in range(len(labels)):
        pixels = np.zeros((8, 8, 3), np.uint8) if flat else rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{number:02}.png")
    rows = [[f"{number:02}.png", label] for number, label in enumerate(labels) if label is not None]
    (root / "dataset.json").write_text(json.dumps({"labels": rows}))
    return root


def test_few_images_leave_no_class_empty_and_images_without_a_label_are_left_out(tmp_path):
    few = labelled(tmp_path / "few", [0, None, *[0] * 8, 1, 2])  # the tenth with a label is the only one of its class
    report = api.classes(few, tmp_path / "x.safetensors", cache=tmp_path / "features")
    assert (report.images, report.unlabelled, report.held, report.accuracy) == (11, 1, 0, None)
    assert ClassFile.read(report.out).about.images == 11


def test_what_has_no_classes_is_refused_by_name(tmp_path, patches, made, digits):
    out, cache = tmp_path / "x.safetensors", tmp_path / "features"
    for data, why in {
        patches: "has no labels",
        labelled(tmp_path / "one", [0, 0]): "has one class, 0",
        labelled(tmp_path / "gap", [0, 2, 2]): "has no image of 1 of its 3 classes: 1",
        labelled(tmp_path / "flat", [0, 0, 1], flat=True): "no class has two images that differ",
    }.items():
        with pytest.raises(SpiderUsageError, match=why):
            api.classes(data, out, cache=cache)
    assert not out.exists()
    with pytest.raises(SpiderUsageError, match="is of digits, which are other images"):
        api.classes(labelled(tmp_path / "two", [0, 1]), made[0].out)
    out.write_bytes(b"precious")
    with pytest.raises(SpiderUsageError, match="is there, and no file of classes"):
        api.classes(digits, out)


def test_a_damaged_file_is_refused_in_one_line(made, tmp_path):
    whole, path = Path(made[0].out).read_bytes(), tmp_path / "x.safetensors"
    length = int.from_bytes(whole[:8], "little")

    def changed(change):
        header = json.loads(whole[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + whole[8 + length :]

    for content in (
        b"",
        whole[:-5],
        changed(lambda header: header.pop("__metadata__")),
        changed(lambda header: header["__metadata__"].update({"spider.classes.1": "{}"})),
        changed(lambda header: header[CLASSIFIER[0]].update(shape=[1280, 10])),
        changed(lambda header: header[VECTORS[1]].update(dtype="I32")),
        whole[:-4] + np.float32(np.nan).tobytes(),
    ):
        path.write_bytes(content)
        with pytest.raises(SpiderError, match=str(path)) as raised:
            ClassFile.read(path)
        assert "\n" not in str(raised.value)
    with pytest.raises(SpiderUsageError, match="no such file; spider classes DATA --out"):
        ClassFile.read(tmp_path / "nowhere.safetensors")


def test_the_command_says_what_it_made(made, digits, capsys, monkeypatch):
    monkeypatch.setattr(api, "classes", lambda **words: made[0])
    app(["classes", str(digits), "--out", "x.safetensors"], standalone_mode=False)
    assert "10 classes of 300 images of digits" in capsys.readouterr().out
