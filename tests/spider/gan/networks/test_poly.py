"""The discriminator of Poly-LSGAN in closed form."""

import pytest
import torch

from spider.gan.networks.mlp_config import PolyDiscriminatorConfig
from spider.gan.networks.poly import PolyDiscriminator
from spider.gan.outputs import Condition


def filled(order, real, fake):
    network = PolyDiscriminator(PolyDiscriminatorConfig(order=order, held=len(real)), (1, 1, 2))
    network.stepped("d_main", {"real.x": real, "fake.x": fake})
    return network


@pytest.mark.parametrize("order", [-1.0, 1.0, 2.0, 3.0])
def test_it_is_the_sum_of_kernels(order):
    real, fake, x = torch.randn(3, 8, 2).unbind(0)
    found = filled(order, real, fake)(x.view(8, 1, 1, 2), Condition()).logits[:, 0]
    apart = [torch.cdist(x, centres) for centres in (fake, real)]
    psi = [r**order * r.log() if order == 2 else r**order if order > 0 else -(r**order) for r in apart]
    torch.testing.assert_close(found, psi[0].mean(1) - psi[1].mean(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("order", [-1.0, 1.0, 2.0])
def test_real_is_high_and_its_slope_leads_to_the_real_ones(order):
    """Far from both for orders that grow, and near them for all."""
    real, fake = torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]])
    x = torch.tensor([[[[0.9, 0.0]]], [[[-0.9, 0.0]]], [[[0.0, 0.1]]]]).requires_grad_()
    logits = filled(order, real, fake)(x, Condition()).logits[:, 0]
    assert logits[0] > 0 > logits[1]
    (slope,) = torch.autograd.grad(logits[2], x)
    assert slope[2, 0, 0, 0] > 0


def test_it_holds_the_last_images_and_says_its_constant_before():
    network = PolyDiscriminator(PolyDiscriminatorConfig(held=4), (1, 1, 2))
    x = torch.randn(2, 1, 1, 2)
    assert torch.equal(network(x, Condition()).logits, torch.zeros(2, 1))
    batches = torch.randn(3, 2, 3, 2)
    for real, fake in batches:
        network.stepped("d_main", {"real.x": real, "fake.x": fake})
    network.stepped("d_reg", {})
    torch.testing.assert_close(network.real, torch.cat([batches[2, 0], batches[1, 0]])[:4])
    torch.testing.assert_close(network.fake, torch.cat([batches[2, 1], batches[1, 1]])[:4])
    assert int(network.filled) == 4
