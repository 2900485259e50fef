"""The Inception embedding is pytorch-fid's network, under named resize rules, and says whose weights it has."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytorch_fid.inception
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.models import Inception3

from spider.errors import SpiderError, SpiderUsageError
from spider.judge.embed import resize
from spider.judge.embed.inception import InceptionEmbedding
from spider.judge.embed.load import load_embedding
from spider.weights import REGISTRY, get

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 20, 28), dtype=np.uint8))


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Random weights of the network's shapes, with batch statistics that keep activations moderate."""
    torch.manual_seed(0)
    tensors = Inception3(num_classes=1008, aux_logits=False, init_weights=False).state_dict()
    for name, tensor in tensors.items():
        if name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape) * 0.05 + 0.05)
        elif name.endswith("running_mean"):
            tensor.copy_(torch.randn(tensor.shape) * 0.1)
    return tensors


@pytest.fixture(scope="module")
def weights(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(state, path)
    return path


def test_pytorch_fid_protocol_is_pytorch_fids_own_module(state, weights, monkeypatch):
    monkeypatch.setattr(pytorch_fid.inception, "load_state_dict_from_url", lambda *args, **kwargs: state)
    reference = pytorch_fid.inception.InceptionV3([3]).eval()
    expected = reference(IMAGES.float() / 255)[0].flatten(1)
    found = InceptionEmbedding("pytorch_fid", weights).features(IMAGES)
    assert found.shape == (2, 2048)
    assert expected.std(0).max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_logits_are_without_the_bias_which_is_at_hand(state, weights):
    embedding = InceptionEmbedding("tf", weights)
    features, logits = embedding.features_and_logits(IMAGES)
    torch.testing.assert_close(logits, features @ state["fc.weight"].T)
    torch.testing.assert_close(embedding.logit_bias, state["fc.bias"])
    torch.testing.assert_close(features, embedding.features(IMAGES))


def test_gray_is_replicated(weights):
    embedding = InceptionEmbedding("tf", weights)
    gray = IMAGES[:1, :1]
    torch.testing.assert_close(embedding.features(gray), embedding.features(gray.expand(-1, 3, -1, -1)))


def test_protocols_and_weights_have_their_own_digests_and_labels(weights, state, tmp_path, monkeypatch):
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    embeddings = [InceptionEmbedding(protocol, weights) for protocol in resize.INCEPTION_PROTOCOLS]
    assert len({embedding.digest for embedding in embeddings}) == 3
    assert [e.label for e in embeddings] == [f"inception/{p}@{sha256[:8]}" for p in ("tf", "pytorch_fid", "clean")]
    other = tmp_path / "other.pth"
    torch.save(state | {"fc.bias": state["fc.bias"] + 1}, other)
    assert InceptionEmbedding("tf", other).digest != embeddings[0].digest


def test_weights_that_are_not_there_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIDER_CACHE", str(tmp_path))
    with pytest.raises(SpiderError, match="spider weights get inception") as error:
        load_embedding()
    assert "--weights" in str(error.value)
    assert "\n" not in str(error.value)


def test_published_weights_are_fetched_kept_and_named_plainly(weights, tmp_path, monkeypatch):
    """As a user would: get, then load by name. A file stands for the published one, at a URL."""
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    published = replace(REGISTRY["inception"], url=weights.as_uri(), sha256=sha256[:8])
    monkeypatch.setitem(REGISTRY, "inception", published)
    monkeypatch.setenv("SPIDER_CACHE", str(tmp_path))
    get("inception", progress=False)
    embedding = load_embedding(protocol="clean")
    assert embedding.label == "inception/clean"
    assert embedding.digest == InceptionEmbedding("clean", weights).digest


def test_another_networks_weights_are_refused(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"layer.weight": torch.zeros(3)}, path)
    with pytest.raises(SpiderError, match=f"{path}: not the weights of the FID Inception"):
        InceptionEmbedding("tf", path)


def test_an_unknown_protocol_is_refused(weights):
    with pytest.raises(SpiderUsageError, match="tf, pytorch_fid, clean"):
        load_embedding("inception", protocol="bilinear", weights=weights)


def test_maps_are_the_first_channels_of_the_block_that_sfid_compares(state, weights, monkeypatch):
    """pytorch-fid's own network, hooked; of a block's output the first channels are those of its 1x1 convolution."""
    monkeypatch.setattr(pytorch_fid.inception, "load_state_dict_from_url", lambda *args, **kwargs: state)
    reference = pytorch_fid.inception.fid_inception_v3().eval()
    seen = {}
    reference.Mixed_6d.register_forward_hook(lambda module, args, output: seen.update(maps=output))
    with torch.no_grad():
        reference(resize.INCEPTION_PROTOCOLS["tf"](IMAGES.float()))
    embedding = load_embedding("inception_maps", weights=weights)
    found = embedding.features(IMAGES)
    expected = seen["maps"][:, :7].flatten(1)
    assert found.shape == (2, embedding.dim) == (2, 7 * 17 * 17)
    assert expected.std(0).max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert embedding.label.startswith("inception_maps/sfid@")


def test_torchvisions_network_is_torchvisions(state, tmp_path):
    """Its own module, its own classes and auxiliary head, which is left out, on images as IC-GAN prepares them."""
    torch.manual_seed(1)
    reference = Inception3(aux_logits=True, init_weights=False).eval()
    own = reference.state_dict()
    taken = {name: tensor for name, tensor in state.items() if name in own and own[name].shape == tensor.shape}
    reference.load_state_dict(own | taken)
    path = tmp_path / "inception.pth"
    torch.save(reference.state_dict(), path)
    reference.fc = torch.nn.Identity()
    mean, std = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    scaled = (IMAGES.float() / 255 - mean) / std
    with torch.no_grad():
        expected = reference(F.interpolate(scaled, size=(299, 299), mode="bilinear", align_corners=True))
    embedding = load_embedding("inception_torchvision", weights=path)
    found = embedding.features(IMAGES)
    assert found.shape == (2, 2048)
    assert expected.std(0).max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    with pytest.raises(SpiderUsageError, match="no class logits"):
        embedding.features_and_logits(IMAGES)


@pytest.mark.parametrize(
    ("name", "of"), [("inception_maps", "the FID Inception"), ("inception_torchvision", "torchvision's Inception")]
)
def test_each_network_refuses_the_others_weights(name, of, weights, tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"layer.weight": torch.zeros(3)}, path)
    with pytest.raises(SpiderError, match=f"{path}: not the weights of {of}"):
        load_embedding(name, weights=path)


@pytest.mark.parametrize("shape", [(5, 7), (40, 33)])
def test_tf1_bilinear_is_the_formula(shape: tuple[int, int]):
    image = np.random.default_rng(1).random(shape, np.float32)
    size = 17
    expected = np.empty((size, size))
    for i in range(size):
        for j in range(size):
            y, x = i * shape[0] / size, j * shape[1] / size
            top, left = int(y), int(x)
            bottom, right = min(top + 1, shape[0] - 1), min(left + 1, shape[1] - 1)
            fy, fx = y - top, x - left
            upper = image[top, left] * (1 - fx) + image[top, right] * fx
            lower = image[bottom, left] * (1 - fx) + image[bottom, right] * fx
            expected[i, j] = upper * (1 - fy) + lower * fy
    found = resize.tf1_bilinear(torch.from_numpy(image)[None, None], size)[0, 0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(20, 28), (300, 41)])
@pytest.mark.parametrize(
    ("kernel", "pillow"), [("triangle", Image.Resampling.BILINEAR), ("cubic", Image.Resampling.BICUBIC)]
)
def test_filtered_is_pillows(shape: tuple[int, int], kernel, pillow):
    image = (255 * np.random.default_rng(2).random(shape)).astype(np.float32)
    expected = np.asarray(Image.fromarray(image).resize((64, 64), pillow))
    found = resize.filtered(torch.from_numpy(image)[None, None], 64, kernel)[0, 0]
    np.testing.assert_allclose(found, expected, atol=1e-3)
