"""A finished generator makes images of any size in memory that does not grow with their number."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from spider.gan.conditions.conditions import Conditions
from spider.gan.outputs import Condition, GOut
from spider.gan.sources.config import GaussianConfig
from spider.gan.sources.frozen import FrozenGenerator
from spider.runs.generator import open_source

CPU = torch.device("cpu")


class Counting(nn.Module):
    """Images of one brightness, the first number of the input plus the label."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.one = nn.Parameter(torch.ones(()))
        self.passes = []

    def forward(self, source, condition):
        self.passes.append(len(source))
        brightness = source[:, 0] * self.one + condition.labels
        return GOut(brightness[:, None, None, None].expand(-1, *self.shape))


@pytest.mark.parametrize(("side", "most"), [(64, 64), (256, 16), (512, 4), (2048, 1)])
def test_a_pass_on_a_cpu_holds_so_many_pixels(side, most):
    shape = (1, side, side)
    module = Counting(shape)
    source = open_source(GaussianConfig(dim=2), shape, CPU)
    generator = FrozenGenerator(module, source, Conditions(), shape, CPU, training="")
    inputs, labels = torch.randn(18, 2), torch.arange(18)
    images = generator(inputs, Condition(labels))
    assert sum(module.passes) == 18
    assert max(module.passes) == min(most, 18)
    torch.testing.assert_close(images[:, 0, 0, 0], inputs[:, 0] + labels)
