"""StyleGAN3's generator against vectors recorded from the public code, its laws, and its shapes."""

import math

import pytest
import torch
from pydantic import ValidationError

from spider import precision
from spider.errors import SpiderUsageError
from spider.gan.networks.bands import plan
from spider.gan.networks.stylegan3 import Stylegan3Generator
from spider.gan.networks.stylegan3_config import Stylegan3GeneratorConfig
from spider.gan.networks.stylegan3_names import generator_name
from spider.gan.outputs import UNCONDITIONAL, Condition, ConditionShape
from tests.vectors import assert_near, recorded, weights_of

SMALL = {"channel_base": 512, "channel_max": 24, "w_dim": 48, "layers": 6}
KINDS = ("translation", "rotation")
RECORDED = {
    "stylegan3t_g32": SMALL,
    "stylegan3r_g32": {**SMALL, "equivariance": "rotation"},
    "stylegan3r_g16": {
        "channel_base": 256, "channel_max": 16, "w_dim": 12, "layers": 6, "margin": 4, "equivariance": "rotation",
    },
}  # fmt: skip


def recorded_generator(name):
    vectors = recorded(name)
    side = vectors["img"].shape[-1]
    generator = Stylegan3Generator(
        Stylegan3GeneratorConfig(**RECORDED[name]), vectors["z"].shape[1:], (3, side, side), UNCONDITIONAL
    )
    generator.load_state_dict(weights_of(vectors, generator_name))
    return generator


@pytest.mark.parametrize("name", RECORDED)
def test_it_makes_the_recorded_images(name):
    vectors = recorded(name)
    generator = recorded_generator(name).eval()
    z = vectors["z"].clone().requires_grad_()
    made = generator(z, Condition())
    assert_near(made.latents, vectors["w"], 1e-5)
    assert_near(made.images, vectors["img"], 1e-5)
    if "w_psi07" in vectors:
        assert_near(generator.for_layers(made.keep["w"], Condition(), 0.7), vectors["w_psi07"], 1e-5)
        (slope,) = torch.autograd.grad(made.images.square().mean(), z)
        assert_near(slope, vectors["grad_z_of_mean_square"], 1e-4)


@pytest.mark.parametrize("name", RECORDED)
def test_filters_are_the_recorded_ones(name):
    filters = {each: values for each, values in weights_of(recorded(name)).items() if each.endswith("_filter")}
    layers = recorded_generator(name).synthesis.layers
    assert len(filters) == 2 * (len(layers) - 1)
    for each, values in filters.items():
        layer, which = each.removeprefix("synthesis.L").split("_")[0], each.split(".")[-1]
        filtered = layers[int(layer)].filtered
        gain = filtered.up if which == "up_filter" else 1
        torch.testing.assert_close(getattr(filtered, which), values * gain, rtol=0, atol=1e-7)


def test_names_of_other_weights_are_refused():
    for name in ("synthesis.b4.const", "synthesis.input.bias"):
        with pytest.raises(KeyError):
            generator_name(name)


def test_averages_move_by_the_discriminators_main_step():
    """As the recorded code, which moves each magnitude by a thousandth before it uses it, ours after."""
    vectors = recorded("stylegan3r_g16")
    generator = recorded_generator("stylegan3r_g16")
    assert "magnitudes" not in generator.eval()(vectors["z"], Condition()).keep
    kept = generator.train()(vectors["z"], Condition()).keep
    generator.magnitude_half_life = len(vectors["z"]) * math.log(0.5) / math.log(0.999)
    before = [tensor.clone() for tensor in generator.touched()]
    for phase, each in (("g_main", kept), ("d_reg", {})):
        generator.stepped(phase, each)
        assert all(map(torch.equal, generator.touched(), before))
    generator.stepped("d_main", kept)
    magnitudes = torch.stack([layer.magnitude for layer in generator.synthesis.layers])
    torch.testing.assert_close(magnitudes, vectors["magnitude_ema_after_update_emas"], rtol=0, atol=5e-6)
    torch.testing.assert_close(generator.w_avg, before[0].lerp(kept["w"].mean(0), 1 - 0.998))


def small(side=16, channels=3, classes=0, **settings):
    config = Stylegan3GeneratorConfig(**{"channel_base": 128, "w_dim": 8, "layers": 3, "margin": 3, **settings})
    return Stylegan3Generator(config, (6,), (channels, side, side), ConditionShape(classes))


def awake(generator):
    """With an input that moves by w, and averages away from 1."""
    torch.nn.init.normal_(generator.synthesis.input.affine.weight, std=0.3)
    for layer in generator.synthesis.layers:
        torch.nn.init.normal_(layer.bias, std=0.3)
        layer.magnitude.uniform_(0.5, 2)
    return generator


@pytest.mark.parametrize("equivariance", KINDS)
@pytest.mark.parametrize(("side", "channels", "classes"), [(5, 1, 0), (8, 8, 3), (18, 2, 0), (48, 3, 2)])
def test_sides_of_5_to_17_px_times_a_power_of_2(equivariance, side, channels, classes):
    labels = torch.tensor([0, 1]) if classes else None
    generator = small(side, channels, classes, equivariance=equivariance)
    made = generator(torch.randn(2, 6), Condition(labels))
    assert made.images.shape == (2, channels, side, side)
    assert made.latents.shape == (2, 5, 8)
    made.images.square().sum().backward()
    assert all(parameter.grad is not None for parameter in generator.parameters())


@pytest.mark.parametrize("shape", [(3, 32, 16), (3, 4, 4), (3, 19, 19), (3, 50, 50)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(SpiderUsageError, match=f"5 to 17 px times a power of 2, found {shape[2]}x{shape[1]}"):
        plan(Stylegan3GeneratorConfig(), shape)


def test_layers_that_are_all_critical_are_refused():
    with pytest.raises(ValidationError, match=r"generator\.critical_layers=3 must be less than generator\.layers=3"):
        Stylegan3GeneratorConfig(layers=3, critical_layers=3)


def test_bands_of_256_px_are_the_published_ones():
    bands = plan(Stylegan3GeneratorConfig(bf16_resolutions=2), (3, 256, 256))
    assert [band.rate for band in bands] == [16] * 3 + [32] * 2 + [64] * 2 + [128] * 3 + [256] * 5
    assert [band.size for band in bands[-3:]] == [276, 256, 256]
    assert [band.channels for band in bands[-3:]] == [128, 128, 3]
    assert [band.bf16 for band in bands] == [band.rate >= 128 for band in bands]


def test_an_image_is_made_of_its_own_input():
    generator = awake(small())
    z = torch.randn(5, 6)
    torch.testing.assert_close(generator(z[2:4], Condition()).images, generator(z, Condition()).images[2:4])


def test_second_derivatives_are_exact():
    generator = awake(small(6, 1)).double()
    z = torch.randn(1, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda z: generator(z, Condition()).images, z, fast_mode=True)


def outcome(generator):
    z = torch.randn(2, 6, generator=torch.Generator().manual_seed(3)).to(generator.w_avg.dtype).requires_grad_()
    images = generator(z, Condition()).images
    return images, torch.autograd.grad(images.square().sum(), z)[0]


ROUNDING = {"channels_last": 1e-4, "float64": 1e-4, "compiled": 1e-5, "bf16": 0.1, "amp": 0.1}  # of the norm


@pytest.mark.parametrize(
    ("how", "equivariance"), [*((how, "rotation") for how in ROUNDING), ("float64", "translation")]
)
def test_formats_change_numbers_only_by_their_rounding(how, equivariance, monkeypatch):
    monkeypatch.setattr(precision, "FULL_ON", ())
    torch.manual_seed(0)
    generator = awake(small(equivariance=equivariance))
    other = small(equivariance=equivariance, bf16_resolutions=2 if how == "bf16" else 0)
    other.load_state_dict(generator.state_dict())
    other.to(torch.float64 if how == "float64" else torch.float32)
    other.to(memory_format=torch.channels_last if how == "channels_last" else torch.contiguous_format)
    if how == "compiled":
        other.compile(backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "amp"):
        found = outcome(other)
    for a, b in zip(found, outcome(generator), strict=True):
        assert (a - b).norm() < ROUNDING[how] * b.norm()
        assert how not in ("bf16", "amp") or (a - b).norm() > 1e-4 * b.norm()  # it did round


def test_a_clamp_bounds_activations():
    generator, other = awake(small()), small(conv_clamp=0.01)
    other.load_state_dict(generator.state_dict())
    assert outcome(other)[0].abs().max() <= 0.01 * 0.25
    assert outcome(generator)[0].abs().max() > 0.01
