"""The maps of a vision transformer against those recorded of StyleGAN-XL's public code."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch.nn.functional import interpolate

from spider.backbones.deit import read_deit
from spider.backbones.normalisation import IMAGENET
from spider.gan.networks.reassembly import Reassembled
from spider.gan.saved import named_weights, saved_tensors
from tests.deit import by_rule, deit_state
from tests.vectors import assert_near, recorded


def test_maps_and_gradients_are_the_recorded_ones(tmp_path: Path):
    """Of DeiT tiny. Those of DeiT base were compared as well, whose weights take longer to make."""
    vectors = recorded("deit_tiny")
    torch.save({"model": deit_state(width=192, depth=12, grid=14, classes=1000)}, tmp_path / "tiny.pth")
    network = Reassembled(read_deit(tmp_path / "tiny.pth")[0])
    for name, tensor in saved_tensors(network).items():
        layer, number, kind = re.fullmatch(r"(narrow|resize)\.(\d)\.(.+)", name).groups()
        theirs = f"layer{int(number) + 1}.{3 if layer == 'narrow' else 4}.{kind}"
        tensor.copy_(by_rule(theirs, *tensor.shape))
    images = vectors["img"].requires_grad_()
    shown = interpolate(IMAGENET.of_signed(images), (224, 224), mode="bilinear", align_corners=False)
    maps = network.stages(shown)
    assert [each.shape[1] for each in maps] == [*network.channels]
    for i, each in enumerate(maps):
        assert_near(each[:, :, :: 2 if i < 3 else 1, :: 2 if i < 3 else 1], vectors[f"feat{i}"], 1e-5)
    (slope,) = torch.autograd.grad(sum(each.square().mean() for each in maps), images)
    assert_near(slope, vectors["grad_img"], 1e-5)


def test_random_layers_are_saved_and_the_transformer_is_named(tmp_path: Path):
    torch.save(deit_state(), tmp_path / "mine.pth")
    network = Reassembled(read_deit(tmp_path / "mine.pth")[0])
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert {name.split(".")[0] for name in saved_tensors(network)} == {"narrow", "resize"}
    assert list(named_weights({"it": network})) == ["it.network"]
    assert [each.shape for each in network.stages(torch.zeros(1, 3, 32, 32))] == [
        (1, 8, 8, 8), (1, 16, 4, 4), (1, 32, 2, 2), (1, 64, 1, 1),
    ]  # fmt: skip
