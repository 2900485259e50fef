"""Modulated convolution against its definition with weights of each image, and exact derivatives of the layers."""

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import conv2d, conv_transpose2d, leaky_relu

from spider.gan.networks.equalized import EqualConv, EqualLinear, ModulatedConv, activated
from spider.gan.networks.resample import blur


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
def test_a_modulated_convolution_has_weights_of_each_image(up, demodulate):
    layer = ModulatedConv(3, 5, 3, 4, up=up, demodulate=demodulate).double()
    x, w, bias = draw(2, 3, 6, 6), draw(2, 4), draw(5)
    made = layer(x, w, bias, 1.5)
    for i, styles in enumerate(layer.affine(w)):
        weight = layer.weight * styles[None, :, None, None]
        if demodulate:
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        else:
            weight = weight / math.sqrt(27)
        if up:
            y = blur(conv_transpose2d(x[i : i + 1], weight.transpose(0, 1), stride=2), layer.kernel, 1, 4.0)
        else:
            y = conv2d(x[i : i + 1], weight, padding=1)
        torch.testing.assert_close(made[i : i + 1], 1.5 * (y + bias[:, None, None]))


def test_layers_have_the_gains_of_the_paper():
    x = draw(2, 3, 4, 4)
    convolution = EqualConv(3, 5, 3, clamp=0.5).double()
    expected = math.sqrt(2) * leaky_relu(conv2d(x, convolution.weight, padding=1) / math.sqrt(27), 0.2)
    torch.testing.assert_close(convolution(x), expected.clamp(-0.5, 0.5))
    torch.testing.assert_close(convolution(x, 0.5), 0.5 * convolution(x))
    dense = EqualLinear(3, 5, activate=True, bias=2.0, lr_multiplier=0.01).double()
    assert dense.weight.std() > 30  # is stored larger
    y = x.mean((2, 3)) @ (0.01 * dense.weight).T / math.sqrt(3) + 0.02
    torch.testing.assert_close(dense(x.mean((2, 3))), math.sqrt(2) * leaky_relu(y, 0.2))


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (ModulatedConv(2, 3, 3, 2), [(2, 2, 4, 4), (2, 2), (3,)]),
        (ModulatedConv(2, 3, 3, 2, up=True), [(1, 2, 3, 3), (1, 2), (3,)]),
        (ModulatedConv(2, 3, 1, 2, demodulate=False), [(2, 2, 3, 3), (2, 2), (3,)]),
        (EqualConv(2, 3, 3, resample="half", clamp=1.0), [(1, 2, 4, 4)]),
        (EqualConv(2, 3, 1, resample="double", plain=True), [(1, 2, 3, 3)]),
        (EqualLinear(3, 4, activate=True), [(2, 3)]),
    ],
    ids=["modulated", "up", "to-image", "half", "double", "linear"],
)
def test_derivatives_are_exact_also_by_weights(layer, inputs):
    layer = layer.double()
    names = [name for name, _ in layer.named_parameters()]
    parameters = [p.detach().clone().requires_grad_() for p in layer.parameters()]

    def run(*given):
        values, weights = given[: len(inputs)], dict(zip(names, given[len(inputs) :], strict=True))
        return torch.func.functional_call(layer, weights, values)

    torch.manual_seed(1)  # far from the corners of the activation
    given = [*(draw(*shape) for shape in inputs), *parameters]
    assert gradcheck(run, given)
    assert gradgradcheck(run, given)


def test_an_activation_is_clamped_to_the_magnitude():
    x = torch.tensor([-20.0, -1.0, 0.5, 3.0])
    assert activated(x, 2.0).tolist() == pytest.approx([-2.0, -0.2, 0.5, 2.0])
    assert activated(x).tolist() == pytest.approx([-4.0, -0.2, 0.5, 3.0])
