"""Spectral normalisation against PyTorch's, with the same vectors; and when its vectors move."""

import pytest
import torch
from torch import nn

from spider.config.schema import ComputeConfig
from spider.gan.networks.spectral import SpectralConv, SpectralConvTranspose, SpectralLinear, SpectralNetwork
from spider.train.compute import Compute

LAYERS = {
    "conv": (lambda: SpectralConv(3, 5, 3, 2, 1, bias=True), lambda: nn.Conv2d(3, 5, 3, 2, 1), (2, 3, 8, 8)),
    "depthwise": (
        lambda: SpectralConv(4, 4, 3, 1, 1, groups=4),
        lambda: nn.Conv2d(4, 4, 3, 1, 1, groups=4, bias=False),
        (2, 4, 6, 6),
    ),
    "transposed": (
        lambda: SpectralConvTranspose(3, 5, 4),
        lambda: nn.ConvTranspose2d(3, 5, 4, bias=False),
        (2, 3, 1, 1),
    ),
    "linear": (lambda: SpectralLinear(6, 4), lambda: nn.Linear(6, 4), (3, 6)),
}


def pair(kind):
    """Ours and PyTorch's with equal weights and vectors, and an input."""
    make, plain, shape = LAYERS[kind]
    torch.manual_seed(0)
    ours, theirs = make().double(), torch.nn.utils.spectral_norm(plain()).double()
    state = ours.state_dict()
    names = {"weight_orig": "weight", "weight_u": "u", "weight_v": "v"}
    theirs.load_state_dict({name: state[names.get(name, name)].clone() for name in theirs.state_dict()})
    return ours, theirs, torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("kind", LAYERS)
def test_outputs_gradients_and_rounds_are_pytorchs(kind):
    ours, theirs, x = pair(kind)
    for layer in (ours, theirs.eval()):
        layer(x).square().sum().backward()
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.weight.grad, theirs.weight_orig.grad)
    with torch.no_grad():
        for weight in (ours.weight, theirs.weight_orig):
            weight += 0.1 * x.flatten()[0].abs() * torch.ones_like(weight).cumsum(0)
    assert not torch.allclose(ours(x), theirs.train()(x))  # that pass made a round
    ours.round()
    torch.testing.assert_close(ours(x), theirs.eval()(x))


@pytest.mark.parametrize("kind", LAYERS)
def test_the_largest_singular_value_is_1(kind):
    ours, _, _ = pair(kind)
    for _ in range(200):
        ours.round()
    rows = ours.rows() * (ours.divided() / ours.weight).mean()
    assert torch.linalg.matrix_norm(rows, 2).item() == pytest.approx(1, rel=1e-6)


class Judge(SpectralNetwork):
    def __init__(self, player):
        super().__init__(player)
        self.layers = nn.Sequential(SpectralLinear(6, 4), SpectralLinear(4, 1))


@pytest.mark.parametrize(
    ("player", "own", "other"), [("generator", "g_main", "d_main"), ("discriminator", "d_reg", "g_reg")]
)
def test_vectors_move_after_the_steps_of_their_player_alone(player, own, other):
    network = Judge(player)
    with torch.no_grad():
        network.layers[0].weight.normal_()
        network.layers[1].weight.normal_()
    assert len(network.touched()) == 4
    before = [vector.clone() for vector in network.touched()]
    network.stepped(other, {})
    assert all(map(torch.equal, before, network.touched()))
    network.stepped(own, {})
    assert not torch.equal(before[0], network.touched()[0])


def test_a_frozen_layer_does_not_move():
    network = Judge("discriminator")
    with torch.no_grad():
        network.layers[0].weight.normal_()
        network.layers[1].weight.normal_()
    network.layers[0].requires_grad_(False)
    network = Compute(ComputeConfig(), torch.device("cpu")).prepared(network)
    before = [layer.v.clone() for layer in network.layers]
    network.requires_grad_(True)  # as in a step, whatever is frozen
    network.stepped("d_main", {})
    assert len(network.touched()) == 2
    assert torch.equal(network.layers[0].v, before[0])
    assert not torch.equal(network.layers[1].v, before[1])
