"""DiffAugment against vectors recorded from data-efficient-gans, and its laws."""

from dataclasses import replace

import pytest
import torch

from spider.draws import Address
from spider.gan.augment import diffaugment
from spider.gan.augment.config import DiffAugmentConfig
from spider.gan.augment.diffaugment import DiffAugment
from tests.vectors import recorded

GOLDEN = recorded("diffaugment_32")
OPERATIONS = {
    "brightness": diffaugment.brightness,
    "saturation": diffaugment.saturation,
    "contrast": diffaugment.contrast,
    "translation": lambda x, u, v: diffaugment.translate(x, u, v),
    "cutout": lambda x, u, v: diffaugment.cutout(x, u, v, (16, 16)),
    "cutout_ratio02": lambda x, u, v: diffaugment.cutout(x, u, v, (6, 6)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_gives_the_recorded_images_and_gradients(name):
    images = GOLDEN["img"].clone().requires_grad_()
    drawn = [value.flatten() for key, value in GOLDEN.items() if key.startswith(f"{name}__draw")]
    output = OPERATIONS[name](images, *drawn)
    torch.testing.assert_close(output, GOLDEN[name], rtol=0, atol=1e-6)
    (gradient,) = torch.autograd.grad(output.square().sum(), images)
    torch.testing.assert_close(gradient, GOLDEN[f"{name}__grad"], rtol=0, atol=1e-5)


POLICIES = [("color",), ("translation",), ("cutout",), ("color", "translation", "cutout")]


@pytest.mark.parametrize("policy", POLICIES, ids="-".join)
def test_an_image_is_changed_by_its_own_draws_alone(policy):
    """At any place of any batch, and by other draws for another use."""
    augment = DiffAugment(DiffAugmentConfig(policy=policy))
    images = torch.randn(6, 3, 16, 12, dtype=torch.float64)
    at = Address(1, "d_main", range(6), torch.device("cpu"))
    whole = augment(images, at, "real")
    alone = augment(images[1::2], replace(at, positions=range(1, 6, 2)), "real")
    torch.testing.assert_close(alone, whole[1::2], rtol=0, atol=1e-12)
    assert not torch.equal(augment(images, at, "fake"), whole)
    assert whole.shape == images.shape


def test_it_is_exact_under_double_backward():
    augment = DiffAugment(DiffAugmentConfig())
    at = Address(1, "d_main", range(2), torch.device("cpu"))
    images = torch.randn(2, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: augment(x, at, "r1").pow(3), images, fast_mode=True)


def test_translation_and_holes_reach_all_the_places_that_they_may():
    """Shifts of both signs up to an eighth of the side; a hole's centre anywhere, also on the border."""
    images = torch.ones(600, 1, 16, 16)
    at = Address(3, "d_main", range(600), torch.device("cpu"))
    moved = DiffAugment(DiffAugmentConfig(policy=("translation",)))(images, at, "real")
    edges = [(moved[:, 0, 8] == 0).sum(1), (moved[:, 0, :, 8] == 0).sum(1)]
    assert [set(edge.tolist()) for edge in edges] == [{0, 1, 2}] * 2
    holes = DiffAugment(DiffAugmentConfig(policy=("cutout",)))(images, at, "real")
    sizes = (holes == 0).sum((1, 2, 3))
    assert sizes.max() == 8 * 8
    assert sizes.min() >= 1
    assert len(sizes.unique()) > 5


def test_a_hole_of_less_than_half_a_pixel_is_none():
    images = torch.ones(200, 1, 8, 8)
    at = Address(3, "d_main", range(200), torch.device("cpu"))
    assert torch.equal(DiffAugment(DiffAugmentConfig(policy=("cutout",), cutout=0.03))(images, at, "real"), images)
