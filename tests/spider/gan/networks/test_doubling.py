"""Convolutions beside a change of size are what they are apart, also differentiated twice."""

import pytest
import torch
from torch.nn.functional import avg_pool2d, conv2d, interpolate

from spider.gan.networks import doubling
from spider.gan.networks.doubling import convolve_doubled, convolve_halved


def apart_doubled(x, weight, bias):
    return conv2d(interpolate(x, scale_factor=2, mode="nearest"), weight, bias, padding=1)


def apart_halved(x, weight, bias):
    return avg_pool2d(conv2d(x, weight, bias, padding=1), 2)


def drawn(side):
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 3, side, side + 2), (4, 3, 3, 3), (4,)
    return [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize(
    ("joined", "apart", "side"), [(convolve_doubled, apart_doubled, 8), (convolve_halved, apart_halved, 16)]
)
def test_they_are_the_two_done_apart(joined, apart, side):
    inputs = drawn(side)
    torch.testing.assert_close(joined(*inputs), apart(*inputs), rtol=1e-10, atol=1e-10)
    slopes = []
    for way in (joined, apart):
        first = torch.autograd.grad(way(*inputs).pow(3).sum(), inputs, create_graph=True)
        slopes.append([*first, *torch.autograd.grad(sum(each.square().sum() for each in first), inputs)])
    for found, expected in zip(*slopes, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-6)


def test_small_maps_are_done_apart(monkeypatch):
    monkeypatch.setattr(doubling, "_at_four_places", None)
    x, weight, bias = drawn(6)
    assert torch.equal(convolve_doubled(x, weight, bias), apart_doubled(x, weight, bias))
    assert torch.equal(convolve_halved(x, weight, bias), apart_halved(x, weight, bias))
    with pytest.raises(TypeError):
        convolve_doubled(*drawn(8))
