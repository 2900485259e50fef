"""ADA's pipe against vectors recorded from StyleGAN2-ADA, and its laws."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cluster.world import World
from spider.draws import Address
from spider.errors import SpiderUsageError
from spider.gan.augment import deterministic
from spider.gan.augment.ada import PIPES, Ada
from spider.gan.augment.build import build_augmentations
from spider.gan.augment.config import AdaConfig
from spider.gan.augment.happening import GATES, NORMALS, UNIFORMS, Happening
from spider.gan.augment.operations import cut, filter_bank, reband, recolour
from spider.gan.augment.warp import warp
from spider.gan.networks.build import build_discriminator
from spider.gan.networks.fastgan_config import FastganDiscriminatorConfig
from spider.gan.overfit.config import OverfitConfig
from spider.gan.overfit.controller import OverfitController
from spider.settings.schedule import Moving
from tests.vectors import recorded

VECTORS = recorded("ada_ops")
AT = Address(1, "d_main", range(6), torch.device("cpu"))


@pytest.mark.parametrize("name", [name for name in VECTORS if name != "img"])
def test_an_operation_gives_the_recorded_images(name):
    """Every draw at one percentile, as the reference's test mode has it: there the second rotation is off."""
    operation, percentile = name.split("@")
    operations = dict.fromkeys(PIPES.get(operation, [operation]), 1.0)
    u = torch.full((1, UNIFORMS), float(percentile))
    u[:, 5] = 0.5
    happens = Happening(operations, torch.erfinv(2 * u[:, :1] - 1).expand(1, NORMALS), u, torch.zeros(1, GATES), 1.0)
    images = recolour(warp(VECTORS["img"], happens.geometry(32, 32)), happens.colour(3))
    if "imgfilter" in operations:
        images = reband(images, happens.bands())
    if "cutout" in operations:
        images = cut(images, happens.cutout())
    torch.testing.assert_close(images, VECTORS[name], rtol=0, atol=3e-5)


def augmentation(p, pipe="bgcfnc", **settings):
    return Ada(AdaConfig(pipe=pipe, p=p, **settings), 6, (3, 32, 32))


def test_at_p_0_it_is_the_identity():
    images = torch.randn(6, 3, 16, 16)
    assert augmentation(0.0)(images, AT, "real") is images


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("pipe", PIPES)
def test_an_image_is_changed_by_its_own_draws_alone(pipe, channels):
    """Whoever shares its batch; and images to which nothing happens stay as they are, to the bit."""
    images = torch.randn(6, channels, 32, 24, dtype=torch.float64)
    whole = augmentation(0.3, pipe)(images, AT, "real")
    alone = augmentation(0.3, pipe)(images[1::2], replace(AT, positions=range(1, 6, 2)), "real")
    torch.testing.assert_close(alone, whole[1::2], rtol=0, atol=1e-10)
    assert whole.shape == images.shape
    certain = augmentation(1.0, pipe)
    assert not torch.equal(certain(images, AT, "fake"), certain(images, AT, "real"))
    rare = augmentation(0.02, pipe)(images, replace(AT, positions=range(100, 106)), "real")
    same = [torch.equal(a, b) for a, b in zip(rare, images, strict=True)]
    assert any(same)


def test_the_warp_of_an_identity_gives_the_image_back():
    """The wavelet's filter is orthogonal to its even shifts. So images that keep their geometry may skip the warp."""
    images = torch.randn(2, 3, 16, 12, dtype=torch.float64)
    identity = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    torch.testing.assert_close(warp(images, identity), images, rtol=0, atol=1e-6)


def test_deterministic_derivatives_are_the_others(monkeypatch):
    """Of the warp and the bands, once and twice: what a GPU takes under compute.deterministic."""
    found = []
    for needed in (False, True):
        monkeypatch.setattr(deterministic, "needed", lambda images, needed=needed: needed)
        images = torch.randn(6, 3, 32, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        images.requires_grad_()
        changed = augmentation(1.0)(images, AT, "real")
        (once,) = torch.autograd.grad(changed.pow(3).sum(), images, create_graph=True)
        (twice,) = torch.autograd.grad(once.square().sum(), images)
        found.append((changed, once, twice))
    for own, torchs in zip(*reversed(found), strict=True):
        torch.testing.assert_close(own, torchs, rtol=1e-10, atol=1e-10)


def test_a_warp_does_not_depend_on_what_is_warped_beside_it():
    """Turned and shrunk images look farther than their corners say: so far must the padding go for each of them."""
    images = torch.randn(24, 1, 32, 32, dtype=torch.float64)
    angles, scales = torch.arange(24, dtype=torch.float64), torch.linspace(0.5, 2, 24, dtype=torch.float64)
    inverse = torch.eye(3, dtype=torch.float64).repeat(24, 1, 1)
    inverse[:, 0, 0] = inverse[:, 1, 1] = scales * angles.cos()
    inverse[:, 1, 0] = scales * angles.sin()
    inverse[:, 0, 1] = -inverse[:, 1, 0]
    together = warp(images, inverse)
    alone = torch.cat([warp(images[i : i + 1], inverse[i : i + 1]) for i in range(24)])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-12)


def test_bands_of_gain_1_sum_to_the_image():
    total = filter_bank().sum(0)
    middle = torch.zeros_like(total)
    middle[len(total) // 2] = 1
    torch.testing.assert_close(total, middle, rtol=0, atol=1e-11)


def test_operations_happen_as_often_as_p_says():
    count = 4000
    u = torch.rand(3, count, GATES, generator=torch.Generator().manual_seed(0))
    happens = Happening(dict.fromkeys(PIPES["bgcfnc"], 1.0), u[0, :, :NORMALS], u[1, :, :UNIFORMS], u[2], 0.36)
    turned = Happening({"rotate": 1.0}, u[0, :, :NORMALS], u[1, :, :UNIFORMS], u[2], 0.36).geometry(8, 8)
    moved = (turned != torch.eye(3)).flatten(1).any(1).double().mean()
    assert moved == pytest.approx(0.36, abs=0.03)  # either of two rotations
    assert (happens.noise() > 0).double().mean() == pytest.approx(0.36, abs=0.03)
    halved = Happening({"noise": 0.5}, u[0, :, :NORMALS], u[1, :, :UNIFORMS], u[2], 0.36)
    assert (halved.noise() > 0).double().mean() == pytest.approx(0.18, abs=0.03)
    assert happens.cutout().isfinite().all(1).double().mean() == pytest.approx(0.36, abs=0.03)


@pytest.mark.parametrize(("pipe", "side"), [("bg", 8), ("color", 8), ("filter", 22), ("cutout", 8)])
def test_it_is_exact_under_double_backward(pipe, side):
    images = torch.randn(2, 3, side, side, dtype=torch.float64, requires_grad=True)
    at = replace(AT, positions=range(2))
    augment = augmentation(1.0, pipe)
    assert torch.autograd.gradgradcheck(lambda x: augment(x, at, "r1").pow(3), images, fast_mode=True)


def test_p_follows_the_reference_where_the_penaltys_signs_are_counted_too():
    """160 iterations of batch 8, nominally of 1,024. There R1's pass reports the signs once more every 16; a trainer
    here does not (`OverfitController`), so they are added by hand: it is the rule that is compared."""
    vectors = recorded("ada_controller")
    controller = OverfitController(OverfitConfig(rise_kimg=500, p_max=None), batch=1024)
    found = []
    for step, (main, again) in enumerate(zip(vectors["real_logits"], vectors["real_logits_reg_phase"], strict=True)):
        signs = (torch.cat([main, again]) if step % 16 == 0 else main).sign()
        controller.iterated(step, 0, {"signs/real": (float(signs.sum()), signs.numel())})
        if (step + 1) % 4 == 0:
            found.append(controller.p)
    np.testing.assert_allclose(found, vectors["p"], rtol=0, atol=1e-6)


def test_p_is_steered_or_follows_a_schedule_and_is_remembered():
    signs = {"signs/real": (8.0, 8.0)}
    control = OverfitConfig(p_start=0.1, interval_steps=1)
    settings = {"adaptive": 0.101, 0.2: 0.2, Moving(linear=(0.0, 0.5), until_kimg=1): 0.25}
    for p, expected in settings.items():
        augment, again = (Ada(AdaConfig(p=p, control=control), 500, (3, 32, 32)) for _ in range(2))
        augment.iterated(0, 500, signs)
        assert augment.p == pytest.approx(expected)
        again.load(augment.state())
        assert again.p == augment.p


def test_images_too_small_for_the_band_filters_are_refused():
    with pytest.raises(SpiderUsageError, match="imgfilter of pipe bgcf needs images of more than 21 px, found 20 px"):
        Ada(AdaConfig(pipe="bgcf"), 6, (3, 32, 20))
    Ada(AdaConfig(pipe="bgcf", strengths={"imgfilter": 0}), 6, (3, 32, 20))


def test_the_filter_needs_room_in_every_size_that_the_discriminator_asks_for():
    discriminator = build_discriminator(FastganDiscriminatorConfig(ndf=1), (3, 32, 32), World.single(), 0)
    said = r"found 16 px of the smaller images that discriminator\.kind asks for: .* set strengths: \{imgfilter: 0\}"
    with pytest.raises(SpiderUsageError, match=said):
        build_augmentations([AdaConfig(pipe="bgcf")], 6, (3, 32, 32), discriminator)
    build_augmentations([AdaConfig(pipe="bgc")], 6, (3, 32, 32), discriminator)
