"""Snapshots as the public code of R3GAN pickles them, from the recorded weights and stand-ins of its classes."""

from __future__ import annotations

from collections import defaultdict
from types import ModuleType

import numpy as np
import torch
from torch import nn

from tests.spider.exchange import official
from tests.vectors import recorded

NAMES = {
    "training.networks": ("Generator", "Discriminator"),
    "R3GAN.Networks": (
        *("Generator", "GeneratorStage", "GenerativeBasis", "UpsampleLayer", "ResidualBlock", "Convolution"),
        *("Discriminator", "DiscriminatorStage", "DiscriminativeBasis", "DownsampleLayer", "ResidualBlock2"),
    ),
    "R3GAN.Resamplers": ("InterpolativeUpsamplerCUDA", "InterpolativeDownsamplerCUDA"),
    "R3GAN.FusedOperators": ("BiasedActivationCUDA",),
}  # fmt: skip
MODULES = {name: ModuleType(name) for name in NAMES}
for _module, _names in NAMES.items():
    for _name in _names:
        setattr(MODULES[_module], _name, type(_name, (nn.Module,), {"__module__": _module}))
GROUPS = 4
SIDE, Z_DIM, CLASSES = 32, 24, 5


def made(name, module="R3GAN.Networks", buffers=(), **parts):
    """An object of a stand-in; tensors are its parameters."""
    network = getattr(MODULES[module], name)()
    for part, value in parts.items():
        setattr(network, part, nn.Parameter(value, False) if torch.is_tensor(value) else value)
    for part, value in buffers:
        network.register_buffer(part, value)
    return network


def conv(weight, groups=1, padding=None):
    """torch's convolution with this weight."""
    outputs, inputs, side, _ = weight.shape
    padding = (side - 1) // 2 if padding is None else padding
    layer = nn.Conv2d(inputs * groups, outputs, side, groups=groups, padding=padding, bias=False)
    layer.weight = nn.Parameter(weight, False)
    return layer


def convolution(weight, groups=1):
    """The public code's convolution with this weight."""
    return made("Convolution", Layer=conv(weight, groups))


def linear(weight):
    """torch's dense layer with this weight."""
    layer = nn.Linear(*reversed(weight.shape), bias=False)
    layer.weight = nn.Parameter(weight, False)
    return layer


def block(weights):
    """A block, from its weights by name."""
    activation = {
        f"NonLinearity{number}": made(
            "BiasedActivationCUDA", "R3GAN.FusedOperators", Bias=weights[f"NonLinearity{number}.Bias"]
        )
        for number in (1, 2)
    }
    layers = {
        f"LinearLayer{number}": convolution(weights[f"LinearLayer{number}.Layer.weight"], GROUPS if number == 2 else 1)
        for number in (1, 2, 3)
    }
    return made("ResidualBlock", **layers, **activation)


def between(direction, weights):
    """What stands between two sides: `Up` or `Down`."""
    filtered = torch.tensor(np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64, dtype=torch.float32)
    resampler = made(f"Interpolative{direction}samplerCUDA", "R3GAN.Resamplers", [("Kernel", filtered)])
    layer = made(f"{direction}sampleLayer", Resampler=resampler)
    if weights:
        layer.LinearLayer = convolution(weights["LinearLayer.Layer.weight"])
    return layer


def network(role):
    """The recorded "G" or "D"."""
    stages, outer = defaultdict(lambda: defaultdict(dict)), {}
    for name, tensor in recorded("r3gan_32_class5").items():
        player, _, name = name.partition(".")
        if player == role and name.startswith("MainLayers"):
            _, stage, _, layer, name = name.split(".", 4)
            stages[int(stage)][int(layer)][name] = tensor
        elif player == role:
            outer[name] = tensor
    generates = role == "G"
    at_4_px = 0 if generates else len(stages) - 1
    kind = "Generator" if generates else "Discriminator"
    listed = []
    for stage in sorted(stages):
        layers = stages[stage]
        blocks = [block(each) for _, each in sorted(layers.items()) if "NonLinearity1.Bias" in each]
        rest = [each for each in layers.values() if "NonLinearity1.Bias" not in each]
        if stage == at_4_px:
            [each] = rest
            basis = each["Basis"] if generates else conv(each["Basis.weight"], len(each["Basis.weight"]), 0)
            kind_of_basis = "GenerativeBasis" if generates else "DiscriminativeBasis"
            other = made(kind_of_basis, Basis=basis, LinearLayer=linear(each["LinearLayer.weight"]))
        else:
            other = between("Up" if generates else "Down", rest[0] if rest else {})
        layers = nn.ModuleList([other, *blocks] if generates else [*blocks, other])
        listed.append(made(f"{kind}Stage", Layers=layers, DataType=(torch.float32, torch.bfloat16)[stage == 2]))
    at_images = "AggregationLayer" if generates else "ExtractionLayer"
    model = made(
        kind,
        MainLayers=nn.ModuleList(listed),
        EmbeddingLayer=linear(outer["EmbeddingLayer.weight"]),
        **{at_images: convolution(outer[f"{at_images}.Layer.weight"])},
    )
    told = {"z_dim": Z_DIM, "c_dim": CLASSES, "img_resolution": SIDE} if generates else {}
    return made(kind, "training.networks", Model=model, **told).eval()


def networks():
    """What a snapshot of the public code holds."""
    found = {"G": network("G"), "D": network("D"), "G_ema": network("G")}
    trained = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(trained.parameters(), betas=(0.0, 0.99))
    trained(torch.ones(2)).sum().backward()
    optimizer.step()
    assert 1 in optimizer.state_dict()["state"]  # whole numbers are its keys
    states = {f"{name}_opt_state": optimizer.state_dict() for name in "DG"}
    return {**found, "training_set_kwargs": {"path": "./data.zip"}, "cur_nimg": 1000, **states}


def dumped(tree, protocol=4):
    """A pickle of it, while the names of the public code stand for something."""
    return official.dumped(tree, protocol, MODULES.values())
