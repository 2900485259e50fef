"""A distilled DeiT is read from the files of facebookresearch/deit and of timm, and from no others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from spider import weights
from spider.backbones.deit import quarters, read_deit, read_deit_classifier
from spider.errors import SpiderError
from tests.deit import deit_state


def test_both_publishers_files_give_the_same_network(tmp_path: Path):
    state = deit_state()
    torch.save({"model": state}, tmp_path / "theirs.pth")  # facebookresearch/deit's
    save_file(state, tmp_path / "timms.safetensors")
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    maps = []
    for name in ("theirs.pth", "timms.safetensors"):
        network, read = read_deit(tmp_path / name)
        assert (network.width, network.depth, network.grid, network.patch) == (64, 4, 2, 16)
        assert network.weights_digest == read.sha256 == weights.sha256_of_file(tmp_path / name)
        assert not any(parameter.requires_grad for parameter in network.parameters())
        maps.append(network.maps(images, quarters(network)))
    assert [each.shape for each in maps[0]] == [(2, 64, 2, 2)] * 4
    torch.testing.assert_close(maps[0], maps[1], rtol=0, atol=0)


def test_gradients_are_those_of_torchs_own_attention_and_can_be_differentiated(tmp_path: Path):
    torch.save(deit_state(), tmp_path / "mine.pth")
    network = read_deit(tmp_path / "mine.pth")[0].double()
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (with_gradient,) = network.maps(images.requires_grad_(), [4])
    torch.testing.assert_close(with_gradient.detach(), network.maps(images.detach(), [4])[0])
    (slope,) = torch.autograd.grad(with_gradient.square().mean(), images, create_graph=True)
    towards = torch.randn_like(images)
    (curved,) = torch.autograd.grad((slope * towards).sum(), images)
    moved = []
    for sign in (1, -1):
        there = (images.detach() + sign * 1e-5 * towards).requires_grad_()
        moved.append(torch.autograd.grad(network.maps(there, [4])[0].square().mean(), there)[0])
    torch.testing.assert_close(curved, (moved[0] - moved[1]) / 2e-5, rtol=1e-4, atol=1e-6 * float(curved.abs().max()))


def test_other_networks_are_refused_by_the_name_of_a_tensor(tmp_path: Path):
    state, file = deit_state(), tmp_path / "mine.pth"
    plain = {name: tensor for name, tensor in state.items() if "dist" not in name}
    without = {name: tensor for name, tensor in state.items() if name != "blocks.2.mlp.fc1.bias"}
    for given, said in (
        (plain, "it has no dist_token"),
        (without, "it has no blocks.2.mlp.fc1.bias"),
        (state | {"blocks.0.ls1.gamma": torch.ones(64)}, "it also has blocks.0.ls1.gamma"),
        (state | {"pos_embed": torch.zeros(1, 5, 64)}, "pos_embed is not of a class token, one of distillation and a "),
        (deit_state(depth=3), "it has 3 blocks, which are no multiple of 4"),
    ):
        torch.save(given, file)
        with pytest.raises(SpiderError, match=f"mine.pth: not the weights of a distilled DeiT: {said}"):
            read_deit(file)
    for given in ({"model": [1]}, {"model": {"x": "text"}}, {"model": torch.ones(1).tolist(), "x": torch.ones(1)}):
        torch.save(given, file)
        with pytest.raises(SpiderError, match="refused, because it is not a file of tensors by name"):
            read_deit(file)


def test_as_a_classifier_it_is_the_mean_of_both(tmp_path: Path):
    """Of the normalised tokens of the class and of distillation, for images of the side of its positions."""
    state, file = deit_state(classes=5), tmp_path / "mine.pth"
    torch.save({"model": state}, file)
    classifier, network = read_deit_classifier(file), read_deit(file)[0]
    assert (classifier.side, classifier.classes) == (32, 5)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    seen = network.first(images)
    assert torch.equal(seen[:, 0], network(images))
    pairs = zip(("head", "head_dist"), seen.unbind(1), strict=True)
    scores = [token @ state[f"{name}.weight"].T + state[f"{name}.bias"] for name, token in pairs]
    assert not torch.allclose(*scores)
    torch.testing.assert_close(classifier(images), (scores[0] + scores[1]) / 2)
    for spoilt, said in (
        ({name: each for name, each in state.items() if name != "head_dist.bias"}, "it has no head_dist.bias"),
        ({name: each for name, each in state.items() if name != "head.weight"}, "it has no head.weight"),
    ):
        torch.save(spoilt, file)
        with pytest.raises(SpiderError, match=f"mine.pth: not the weights of a distilled DeiT: {said}"):
            read_deit_classifier(file)
    with pytest.raises(SpiderError, match="run `spider weights get deit_small` where there is a network"):
        read_deit_classifier()


def test_without_a_file_the_published_one_is_asked_for():
    with pytest.raises(SpiderError, match="run `spider weights get deit_base` where there is a network") as caught:
        read_deit()
    assert "--embedding" not in str(caught.value)
