"""The blur against vectors recorded from the public code of StyleGAN-XL, which has StyleGAN3's, and its fading."""

import pytest
import torch

from spider.draws import Address
from spider.gan.augment.blur import Blur, blurred
from spider.gan.augment.config import BlurConfig
from spider.settings.schedule import Moving
from tests.vectors import recorded

GOLDEN = recorded("blur")
SIGMAS = [name.removeprefix("blurred_sigma") for name in GOLDEN if name.startswith("blurred_sigma")]


@pytest.mark.parametrize("sigma", SIGMAS)
def test_it_gives_the_recorded_images(sigma):
    torch.testing.assert_close(blurred(GOLDEN["img"], float(sigma)), GOLDEN[f"blurred_sigma{sigma}"], rtol=0, atol=1e-6)


def test_it_fades_by_the_recorded_schedule():
    blur = Blur(BlurConfig(sigma=Moving(linear=(2, 0), until_kimg=300)))
    assert blur.sigma == 2
    for kimg, sigma in zip(GOLDEN["blur_kimg"].tolist(), GOLDEN["blur_sigma"].tolist(), strict=True):
        blur.iterated(0, round(kimg * 1000), {})
        assert blur.sigma == pytest.approx(sigma, abs=1e-6)
        assert blur.columns(0) == {"augment/blur_sigma": blur.sigma}
    resumed = Blur(BlurConfig())
    assert resumed.sigma == 10
    resumed.load(blur.state())
    assert resumed.sigma == 0


def test_all_images_are_blurred_alike_and_each_by_itself():
    blur = Blur(BlurConfig(sigma=1.2))
    images, at = torch.randn(4, 2, 9, 14), Address(1, "d_main", range(4), torch.device("cpu"))
    whole = blur(images, at, "real")
    assert torch.equal(blur(images, at, "fake"), whole)
    torch.testing.assert_close(blur(images[1:2], at, "real"), whole[1:2])
    ones = blur(torch.ones(1, 1, 9, 14), at, "real")
    assert ones[0, 0, 4, 6] == pytest.approx(1)
    assert ones[0, 0, 0, 0] < 0.5  # zeros outside


def test_it_is_exact_under_double_backward():
    images = torch.randn(1, 1, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: blurred(x, 0.7).pow(3), images, fast_mode=True)
