"""StyleGAN2's networks against vectors recorded from the public code, their options and their draws."""

from dataclasses import replace

import pytest
import torch

from cluster.world import World
from spider import precision
from spider.config.load import make_config
from spider.errors import SpiderUsageError
from spider.gan.networks.equalized import ModulatedConv
from spider.gan.networks.stylegan2 import Stylegan2Discriminator, Stylegan2Generator
from spider.gan.networks.stylegan2_names import discriminator_name, generator_name
from spider.gan.networks.stylegan_config import Stylegan2DiscriminatorConfig, Stylegan2GeneratorConfig
from spider.gan.outputs import UNCONDITIONAL, Condition, ConditionShape, with_draws
from tests.stylegan2 import CLASSES, SMALL, recorded_generator
from tests.vectors import assert_near, recorded, weights_of

SINGLE = World.single()


def condition_of(vectors):
    return Condition(vectors["c"].argmax(1) if "c" in vectors and vectors["c"].shape[1] else None)


@pytest.mark.parametrize("suffix", CLASSES)
def test_generator_makes_the_recorded_images(suffix):
    vectors = recorded(f"stylegan2_g32{suffix}")
    generator = recorded_generator(suffix).eval()
    z = vectors["z"].clone().requires_grad_()
    made = generator(z, condition_of(vectors))
    assert_near(made.latents, vectors["w"], 1e-5)
    assert_near(made.images, vectors["img"], 1e-5)
    assert_near(generator.for_layers(made.keep["w"], Condition(), 0.7), vectors["w_psi07"], 1e-5)
    (slope,) = torch.autograd.grad(made.images.square().mean(), z)
    assert_near(slope, vectors["grad_z_of_mean_square"], 1e-4)


@pytest.mark.parametrize("suffix", CLASSES)
def test_discriminator_gives_the_recorded_logits_and_r1(suffix):
    vectors = recorded(f"stylegan2_d32{suffix}")
    config = Stylegan2DiscriminatorConfig(**SMALL, conv_clamp=None)
    discriminator = Stylegan2Discriminator(config, (3, 32, 32), ConditionShape(CLASSES[suffix]), SINGLE)
    discriminator.load_state_dict(weights_of(vectors, discriminator_name))
    images = vectors["img"].clone().requires_grad_()
    logits = discriminator(images, condition_of(vectors)).logits
    assert_near(logits, vectors["logits"], 1e-5)
    (slope,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    r1 = slope.square().sum((1, 2, 3))
    assert_near(r1, vectors["r1"], 1e-4)
    [(name, slope)] = weights_of(vectors, discriminator_name, "r1_grad__").items()
    assert_near(torch.autograd.grad(r1.sum(), discriminator.get_parameter(name))[0], slope, 1e-4)


def test_filters_of_the_public_code_are_not_weights():
    assert generator_name("synthesis.b16.conv0.resample_filter") is None
    assert discriminator_name("b16.skip.resample_filter") is None
    for name_of in (generator_name, discriminator_name):
        with pytest.raises(KeyError, match=r"other\.weight"):
            name_of("other.weight")


def small(side=16, channels=3, classes=0, **settings):
    """A generator of this size."""
    config = Stylegan2GeneratorConfig(**{"w_dim": 16, "mapping_layers": 2, **SMALL, **settings})
    return Stylegan2Generator(config, (10,), (channels, side, side), ConditionShape(classes))


def judge(side=16, channels=3, classes=0, **settings):
    """A discriminator."""
    config = Stylegan2DiscriminatorConfig(**{"mapping_layers": 2, **SMALL, **settings})
    return Stylegan2Discriminator(config, (channels, side, side), ConditionShape(classes), SINGLE)


def told(generator, count, labels=None, seed=0):
    """Inputs of the first samples, and what the generator is told."""
    numbers = torch.Generator().manual_seed(seed)
    z, other = (torch.randn(count, 10, generator=numbers).to(generator.w_avg.dtype) for _ in range(2))
    fed = Condition(labels, draws={"mixing.source": other})
    return z, with_draws(fed, generator, seed, "test", range(count), z)


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
@pytest.mark.parametrize(("side", "channels", "classes"), [(4, 1, 0), (8, 8, 3), (64, 3, 0)])
def test_any_power_of_two_and_any_channels(architecture, side, channels, classes):
    labels = torch.tensor([0, 2, 1, 1]) % max(1, classes) if classes else None
    generator = small(side, channels, classes, architecture=architecture)
    made = generator(*told(generator, 4, labels))
    assert made.images.shape == (4, channels, side, side)
    assert made.latents.shape == (4, 2 * (side.bit_length() - 2), 16)
    discriminator = judge(side, channels, classes, architecture=architecture)
    out = discriminator(made.images, Condition(labels))
    assert out.logits.shape == (4, 1)
    assert out.features["last"].shape == (4, discriminator.features)
    (out.logits.sum() + made.images.square().sum()).backward()
    for network in (generator, discriminator):
        assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
@pytest.mark.parametrize("size", [(16, 32), (12, 12), (28, 20)])
def test_sides_that_halve_down_together_need_no_power_of_two_and_no_square(architecture, size):
    """Layers give images their noise at their own places, which a turned network would not."""
    config = Stylegan2GeneratorConfig(w_dim=16, mapping_layers=2, architecture=architecture, **SMALL)
    generator = Stylegan2Generator(config, (10,), (3, *size), UNCONDITIONAL)
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(1)
    z, condition = told(generator, 4)
    made = generator(z, condition).images
    assert made.shape == (4, 3, *size)
    assert condition.draws["noise"].shape[1] == sum(height * width for height, width in generator.noise_sizes)
    moved = condition.draws["noise"].clone()
    moved[:, -1] += 5  # of the last layer, whose last number is the lower right corner's
    changed = (generator(z, replace(condition, draws={**condition.draws, "noise": moved})).images - made).abs().sum(1)
    assert changed[:, -1, -1].min() > 0
    assert changed[:, :-1].max() == changed[:, :, :-1].max() == 0
    config = Stylegan2DiscriminatorConfig(mapping_layers=2, architecture=architecture, **SMALL)
    out = Stylegan2Discriminator(config, (3, *size), UNCONDITIONAL, SINGLE)(made, Condition())
    (out.logits.sum() + made.square().sum()).backward()
    assert all(parameter.grad is not None for parameter in generator.parameters())


@pytest.mark.parametrize("size", [(3, 12), (30, 30), (64, 36), (97, 131)])
def test_sides_that_do_not_halve_down_are_refused(size):
    for role, config in (("generator", Stylegan2GeneratorConfig()), ("discriminator", Stylegan2DiscriminatorConfig())):
        said = rf"{role}\.kind=stylegan2 .* halve down together .* found {size[1]}x{size[0]}"
        with pytest.raises(SpiderUsageError, match=said):
            config.plan((3, *size))


def test_channels_and_precision_by_resolution():
    config = Stylegan2GeneratorConfig(bf16_resolutions=4)
    assert config.plan((3, 256, 256)) == [
        ((4, 4), 512, False), ((8, 8), 512, False), ((16, 16), 512, False), ((32, 32), 512, True),
        ((64, 64), 512, True), ((128, 128), 256, True), ((256, 256), 128, True),
    ]  # fmt: skip
    wide = [(size, channels) for size, channels, _ in config.plan((3, 64, 160))]
    assert wide == [((4, 10), 512), ((8, 20), 512), ((16, 40), 512), ((32, 80), 512), ((64, 160), 512)]
    assert [bf16 for *_, bf16 in config.plan((3, 8, 8))] == [False, True]


def test_between_classes_the_mean_of_their_vectors_is_told():
    generator = small(classes=2, noise="none").eval()
    z, _ = told(generator, 2)
    shares = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    one, other = (generator(z, Condition(labels)).images for labels in (torch.tensor([0, 1]), shares))
    torch.testing.assert_close(one, other)


def scaled(network):
    """With noise and biases, which begin at zero."""
    for name, parameter in network.named_parameters():
        if "noise_strength" in name or "bias" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return network


def test_an_image_is_made_of_its_own_draws():
    generator = scaled(small(style_mixing=0.5))
    z, condition = told(generator, 8)
    images = generator(z, condition).images
    torch.testing.assert_close(generator(z[3:5], condition.part(slice(3, 5))).images, images[3:5])
    others = replace(condition, draws={**condition.draws, "noise": condition.draws["noise"].flip(0)})
    assert (generator(z, others).images - images).abs().flatten(1).amax(1).min() > 1e-3


@pytest.mark.parametrize("mixing_source", ["source", "gaussian"])
def test_style_mixing_takes_the_later_layers_of_some_images(mixing_source):
    generator = small(side=64, style_mixing=0.5, mixing_source=mixing_source)
    z, condition = told(generator, 400)
    first = generator(z[:1], condition.part(slice(1))).keep["w"]
    w, other = generator.mapping(z, condition), generator.mapping(condition.draws["mixing.source"], condition)
    ws = generator._mixed(generator.for_layers(w, condition), condition)
    own = (ws == w[:, None]).all(2)
    assert torch.equal(~own, (ws == other[:, None]).all(2))
    assert torch.equal(own, own.cummin(1).values)  # once another w is taken, no layer has its own
    mixed = own.sum(1)[~own.all(1)]
    assert mixed.unique().tolist() == [*range(1, 10)]
    assert len(mixed) / 400 == pytest.approx(0.5, abs=0.1)
    torch.testing.assert_close(first, w[:1])
    assert torch.equal(generator.eval()(z[:8], condition.part(slice(8))).latents[:, -1], w[:8])


def test_noise_is_of_each_image_or_of_none():
    for noise, names in (("random", {"noise"}), ("const", set()), ("none", set())):
        generator = scaled(small(noise=noise, style_mixing=0))
        assert set(generator.draws) == names
        assert [name for name, _ in generator.named_buffers() if "noise" in name] == [
            f"synthesis.blocks.{block}.layers.{i}.noise_const" for block in range(3) for i in range(2 if block else 1)
        ] * (noise == "const")
        z, _ = told(generator, 1)
        pair = generator(z.expand(2, -1), with_draws(Condition(), generator, 0, "test", range(2), z)).images
        assert ((pair[0] - pair[1]).abs().max() < 1e-4) == (noise != "random")


def test_truncation_pulls_the_first_layers_to_the_mean():
    generator = small()
    generator.w_avg.normal_()
    w = torch.randn(2, 16)
    ws = generator.for_layers(w, Condition(), 0.25, 2)
    torch.testing.assert_close(ws[:, :2], (0.75 * generator.w_avg + 0.25 * w)[:, None].expand(-1, 2, -1))
    assert torch.equal(ws[:, 2:], w[:, None].expand(-1, 4, -1))
    assert torch.equal(generator.for_layers(w, Condition(), 0.0)[1, 5], generator.w_avg)


def test_the_mean_of_w_moves_by_images_that_were_made():
    generator = small(w_avg_beta=0.9)
    w = torch.randn(4, 16)
    generator.stepped("d_reg", {})
    assert not generator.w_avg.any()
    generator.stepped("g_main", {"w": w})
    torch.testing.assert_close(generator.w_avg, 0.1 * w.mean(0))


def outcome(generator, discriminator):
    """Images, logits, and the gradient of the logits by the inputs."""
    z, condition = told(generator, 4)
    z.requires_grad_()
    images = generator(z, condition).images
    logits = discriminator(images, Condition()).logits
    return images, logits, torch.autograd.grad(logits.sum(), z)[0]


def same(networks, **settings):
    """Networks of other settings with the same weights."""
    others = small(**settings), judge(**settings)
    for network, other in zip(networks, others, strict=True):
        other.load_state_dict(network.state_dict())
    return others


ROUNDING = {  # of the norm: of images and logits, and of the slope
    "channels_last": (1e-4, 1e-4),
    "float64": (1e-4, 1e-4),
    "compiled": (1e-5, 1e-5),
    "bf16": (0.05, 0.3),
    "fp16": (0.01, 0.15),
}


@pytest.mark.parametrize("how", ROUNDING)
def test_formats_change_numbers_only_by_their_rounding(how, monkeypatch):
    monkeypatch.setattr(precision, "FULL_ON", ())
    torch.manual_seed(0)
    networks = scaled(small()), scaled(judge())
    others = same(networks, bf16_resolutions=2 if how == "bf16" else 0)
    for network in others:
        network.to(torch.float64 if how == "float64" else torch.float32)
        network.to(memory_format=torch.channels_last if how == "channels_last" else torch.contiguous_format)
        if how == "compiled":
            network.compile(backend="aot_eager")
    with torch.autocast("cpu", torch.float16, enabled=how == "fp16"):
        given = outcome(*others)
    value, slope = ROUNDING[how]
    for found, expected, of_norm in zip(given, outcome(*networks), (value, value, slope), strict=True):
        assert found.dtype == (torch.float64 if how == "float64" else torch.float32)
        assert (found - expected).norm() < of_norm * expected.norm()
        assert how not in ("bf16", "fp16") or (found - expected).norm() > 1e-4 * expected.norm()  # it did round


def test_float16_holds_large_maps_and_styles():
    """A map of 100 and styles of 600: their product would be no number of float16. Other dtypes are left alone."""
    torch.manual_seed(0)
    conv = ModulatedConv(8, 4, 3, 6)
    x, w, bias = 100 * torch.randn(2, 8, 4, 4), 600 * torch.randn(2, 6), torch.zeros(4)
    exact = conv(x, w, bias)
    with torch.autocast("cpu", torch.float16):
        assert conv.affine(w).abs().max() * x.abs().max() > 65504
        rounded = conv(x, w, bias)
    assert rounded.isfinite().all()
    assert (rounded - exact).norm() < 0.01 * exact.norm()


def test_autocast_rounds_convolutions_alone():
    """w, styles, the end of the discriminator: all but convolutions of the resolutions above the first."""
    torch.manual_seed(0)
    generator, discriminator, smallest = scaled(small()), scaled(judge()), scaled(judge(side=4))
    z, condition = told(generator, 4)
    w, images = generator.to_w(z, condition), generator(z, condition).images
    conv = generator.synthesis.blocks[0].layers[0].conv
    flat = torch.ones(4, conv.weight.shape[1], 4, 4)
    blank = torch.zeros(conv.weight.shape[0])
    modulated = conv(flat, w, blank)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(generator.to_w(z, condition), w)
        assert torch.equal(generator.to_w(z.bfloat16().float(), condition), generator.to_w(z.bfloat16(), condition))
        rounded = conv(flat, w, blank)
        assert not torch.equal(rounded, modulated)
        small_images = images[:, :, :4, :4].contiguous()
        judged = smallest(small_images, Condition()).logits
        assert discriminator(images, Condition()).logits.dtype == torch.float32
    assert torch.equal(judged, smallest(small_images, Condition()).logits)


def test_a_clamp_bounds_activations():
    networks = scaled(small()), scaled(judge())
    for found, expected in zip(outcome(*same(networks, conv_clamp=1e6)), outcome(*networks), strict=True):
        torch.testing.assert_close(found, expected)
    images, *_ = outcome(*same(networks, conv_clamp=0.01))
    assert images.abs().max() < 0.2


def test_layers_are_numbered_from_the_images():
    discriminator = judge(side=16)
    first, *_ = layers = discriminator.layers_from_images()
    assert first == [discriminator.blocks[1].from_image]
    assert len(layers) == 1 + 3 + 3 + 1
    listed = {id(p) for layer in layers for module in layer for p in module.parameters()}
    assert listed == {id(p) for p in discriminator.parameters()}


STYLEGAN2 = ["generator.kind=stylegan2", "discriminator.kind=stylegan2"]


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["batch=6"], "discriminator.mbstd_group=4 does not divide batch=6"),
        (
            ["batch=8", "accumulation=4"],
            r"mbstd_group=4 does not divide the micro-batches: batch=8 / \(accumulation=4\) is 2",
        ),
        (
            ["source.kind=cauchy", "generator.mixing_source=gaussian"],
            "source.kind=cauchy needs generator.mixing_source=source",
        ),
        (["discriminator.mbstd_features=3"], "mbstd_features=3 must divide the 512 channels at 4 px"),
    ],
)
def test_what_cannot_go_together_is_refused(overrides, why):
    with pytest.raises(SpiderUsageError, match=why):
        make_config({"data": {"path": "d"}}, [*STYLEGAN2, *overrides])


def test_a_world_that_splits_groups_of_micro_batches_is_refused():
    config = make_config({"data": {"path": "d"}}, [*STYLEGAN2, "batch=16", "accumulation=2"])
    config.for_world(2)
    with pytest.raises(SpiderUsageError, match=r"batch=16 / \(accumulation=2 x 4 ranks\) is 2"):
        config.for_world(4)
    make_config({"data": {"path": "d"}}, [*STYLEGAN2, "batch=16"]).for_world(16)  # ranks add up
