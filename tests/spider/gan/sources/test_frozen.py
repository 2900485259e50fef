"""A finished generator makes images of any size in memory that does not grow with their number."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from spider.gan.conditions.conditions import Conditions
from spider.gan.networks.stylegan2 import Stylegan2Generator
from spider.gan.networks.stylegan3 import Stylegan3Generator
from spider.gan.networks.stylegan3_config import Stylegan3GeneratorConfig
from spider.gan.networks.stylegan_config import Stylegan2GeneratorConfig
from spider.gan.outputs import Condition, ConditionShape, GOut
from spider.gan.sources.config import GaussianConfig
from spider.gan.sources.frozen import FrozenGenerator
from spider.gan.sources.gaussian import Gaussian
from spider.runs.generator import open_source

CPU = torch.device("cpu")


class Counting(nn.Module):
    """Images of one brightness, the first number of the input plus the label, made of a map of many channels."""

    def __init__(self, channels, side):
        super().__init__()
        self.map_shape = channels, side, side
        self.one = nn.Parameter(torch.ones(1_000_000))  # weights do not count, however many there are
        self.passes = []

    def forward(self, source, condition):
        self.passes.append(len(source))
        brightness = source[:, 0] * (2 * self.one)[0] / 2 + condition.labels
        return GOut(brightness[:, None, None, None].expand(-1, *self.map_shape)[:, :1])

    truncation = 1.0
    layer_sides = noise_sizes = ()

    def to_w(self, inputs, condition):
        return inputs

    def for_layers(self, w, condition, psi=1.0):
        return w[:, None]

    def noise(self, condition):
        return None

    def from_ws(self, ws, noise):
        return self(ws[:, 0], Condition(torch.zeros(len(ws)))).images


@pytest.mark.parametrize(
    ("channels", "side", "most"), [(128, 32, 18), (128, 256, 16), (1024, 256, 2), (32, 2048, 1), (3000, 64, 10)]
)
def test_a_pass_takes_so_much_memory_at_most(channels, side, most):
    module = Counting(channels, side)
    source = open_source(GaussianConfig(dim=2), (1, side, side), CPU)
    generator = FrozenGenerator(module, source, Conditions(), (1, side, side), CPU, training="")
    inputs, labels = torch.randn(18, 2), torch.arange(18)
    generator(inputs[:1], Condition(labels[:1]))  # which tells nothing of how much each image takes
    assert module.passes == [1]
    module.passes.clear()
    for _ in range(2):
        images = generator(inputs, Condition(labels))
    torch.testing.assert_close(images[:, 0, 0, 0], inputs[:, 0] + labels)
    passes = [most] * (18 // most) + ([18 % most] if 18 % most else [])
    measured = [] if side == 32 else [1, 2]  # few small images are not even measured
    assert module.passes == [*measured, *passes, *passes]

    module.passes.clear()
    images = generator.of_latents(inputs[:, None], Condition(labels))
    torch.testing.assert_close(images[:, 0, 0, 0], inputs[:, 0])
    assert module.passes == [*measured, *passes]


@pytest.mark.parametrize(
    ("network", "settings"),
    [
        (Stylegan2Generator, Stylegan2GeneratorConfig(channel_max=8, w_dim=8, mapping_layers=2)),
        (Stylegan3Generator, Stylegan3GeneratorConfig(channel_max=8, w_dim=8, layers=4, margin=4, w_avg_of="class")),
    ],
)
def test_w_is_had_without_an_image(network, settings, monkeypatch):
    module = network(settings, (4,), (1, 16, 16), ConditionShape(classes=3)).double()
    module.w_avg.normal_()
    generator = FrozenGenerator(module, Gaussian(GaussianConfig(dim=4)), Conditions(), (1, 16, 16), CPU, training="")
    generator.truncate(0.5)
    inputs, told = torch.randn(3, 4), Condition(torch.tensor([2, 0, 1]))
    told = generator.with_draws(told, 0, range(3))
    made = module(inputs.double(), told)
    monkeypatch.setattr(module.synthesis, "forward", None)
    ws = generator.latents(inputs, told)
    torch.testing.assert_close(ws, made.latents)
    monkeypatch.undo()
    torch.testing.assert_close(generator.of_latents(ws, told), made.images)
