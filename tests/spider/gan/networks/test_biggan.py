"""BigGAN's networks against vectors recorded from the public code (facebookresearch/ic_gan), and their laws.

`biggan_class` is at 32 px, told a class; `biggan_instance` (with DiffAugment) and `biggan_both` are at 64 px.
"""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from torch import nn

from cluster.world import World
from spider.config.load import make_config
from spider.config.schema import EmaConfig
from spider.draws import Address
from spider.errors import SpiderUsageError
from spider.gan.augment.diffaugment import translate
from spider.gan.ema import Ema
from spider.gan.networks import spectral
from spider.gan.networks.attention import SelfAttention
from spider.gan.networks.biggan import BigganGenerator
from spider.gan.networks.biggan_config import SIDES, BigganDiscriminatorConfig, BigganGeneratorConfig
from spider.gan.networks.biggan_discriminator import BigganDiscriminator
from spider.gan.networks.biggan_names import discriminator_name, generator_name
from spider.gan.networks.build import build_discriminator, build_generator
from spider.gan.networks.first_weights import begin_orthogonal
from spider.gan.networks.spectral import SpectralConv, SpectralEmbedding, SpectralLinear
from spider.gan.objectives.hinge import Hinge
from spider.gan.outputs import UNCONDITIONAL, Condition, ConditionShape, DOut
from spider.gan.sources.config import GaussianConfig
from spider.gan.sources.gaussian import Gaussian
from tests.vectors import assert_near, recorded, weights_of

SINGLE = World.single()
NOWHERE = Address(0, "d_main", range(4), torch.device("cpu"))
HINGE = Hinge()
# What each vector is: side, length of z, what is told, attention of both, and of the iteration: rounds, lr, decay
SMALL = {"embedding_dim": 6, "instance_dim": 8}
VECTORS = {
    "class": (32, 5, ConditionShape(4), {"attention": (16,), "hierarchical": False}, (), (1, 1), (1e-4, 4e-4), 0),
    "instance": (64, 10, ConditionShape(0, 12), {"attention": (32,)}, (8,), (1, 1), (1e-4, 4e-4), 0),
    "both": (64, 10, ConditionShape(4, 12), {"attention": (32,)}, (8,), (2, 2), (1e-4, 1e-4), 0.9999),
}


def tiny(side, dim, told, ch=2, channels=3, **settings):
    """Both networks, of few channels."""
    shape, attention = (channels, side, side), settings.pop("d_attention", None)
    config = BigganGeneratorConfig(ch=ch, **SMALL, **settings)
    judge = BigganDiscriminatorConfig(ch=ch, attention=attention)
    return BigganGenerator(config, (dim,), shape, told, SINGLE), BigganDiscriminator(judge, shape, told)


class Recorded:
    """Both networks with the weights of a vector, under names of both."""

    def __init__(self, name):
        side, dim, told, settings, attention, *self.iteration = VECTORS[name]
        self.vectors = recorded(f"biggan_{name}")
        self.g, self.d = tiny(side, dim, told, d_attention=attention, **settings)
        sides = [8 << level for level in range(len(self.g.blocks))]
        self.name_of = {
            "G": lambda key: generator_name(key, sides),
            "D": lambda key: discriminator_name(key, len(self.d.blocks)),
        }
        for player, network in (("G", self.g), ("D", self.d)):
            given = self.named(player, f"{player}.")
            own = network.state_dict()
            assert {key for key in own if not key.endswith(".v")} == {*given}
            network.load_state_dict({**own, **given})

    def named(self, player, prefix):
        if not any(key.startswith(prefix) for key in self.vectors):
            return {}
        found = weights_of(self.vectors, self.name_of[player], prefix)
        return {key: each.flatten() if key.endswith(".u") else each for key, each in found.items()}

    def condition(self, prefix="", chosen=slice(None)):
        labels, features = (self.vectors.get(f"{prefix}{key}") for key in ("y", "h"))
        return Condition(*(None if each is None else each[chosen] for each in (labels, features)))

    def make(self, z, condition):
        """The public code makes a round of each power iteration before it uses the weights."""
        self.g.stepped("g_main", {})
        return self.g(z, condition).images

    def judge(self, images, condition):
        self.d.stepped("d_main", {})
        return self.d(images, condition).logits


@pytest.mark.parametrize("name", VECTORS)
def test_images_and_logits_are_the_recorded_ones(name):
    """Also in evaluation the public code makes a round, which it does not keep."""
    nets = Recorded(name)
    nets.g.stepped("g_main", {})
    nets.d.stepped("d_main", {})
    nets.g.eval()
    nets.d.eval()
    z, real, condition = nets.vectors["z"], nets.vectors["real"], nets.condition()
    with torch.no_grad():
        images = nets.g(z, condition).images
        assert_near(images[:, :, ::2, ::2], nets.vectors["img_every2"], 1e-5)
        assert_near(nets.d(real, condition).logits, nets.vectors["logits_real"], 1e-5)
        assert_near(nets.d(images, condition).logits, nets.vectors["logits_fake"], 1e-5)


def joined(*conditions):
    """A condition of the images of several batches."""
    parts = zip(*((each.labels, each.features) for each in conditions), strict=True)
    return Condition(*(None if part[0] is None else torch.cat(part) for part in parts))


def augmented(images, vectors, call):
    """DiffAugment's translation by the draws of that call, where there are such."""
    drawn = [vectors.get(f"diffaug_draw{2 * call + axis}") for axis in (0, 1)]
    return images if drawn[0] is None else translate(images, *drawn)


@pytest.mark.parametrize("name", VECTORS)
def test_a_whole_iteration_is_the_recorded_one(name):
    """Logits, losses, gradients, weights after Adam's steps, statistics, and the average of the generator."""
    nets = Recorded(name)
    (steps, parts), (g_lr, d_lr), keep = nets.iteration
    vectors, g, d = nets.vectors, nets.g, nets.d
    average = Ema(EmaConfig(half_life_kimg=0), g)
    adam = {"betas": (0.0, 0.999), "eps": 1e-6}
    g_adam, d_adam = torch.optim.Adam(g.parameters(), g_lr, **adam), torch.optim.Adam(d.parameters(), d_lr, **adam)
    count, call = len(vectors["z"]), 0
    for _ in range(steps):
        d_adam.zero_grad()
        for _ in range(parts):
            own = slice(call * count, (call + 1) * count)
            fed, seen = nets.condition(f"sample{call}_"), nets.condition("reals_", own)
            with torch.no_grad():
                fake = nets.make(vectors[f"sample{call}_z"], fed)
            images = augmented(torch.cat([fake, vectors["reals"][own]]), vectors, call)
            logits = nets.judge(images, joined(fed, seen))
            assert_near(logits, vectors[f"D_call{call}_logits"])
            fakes, reals = (DOut(each) for each in logits.split(count))
            loss = {name: each.mean() for name, each in HINGE.discriminator(reals, fakes, NOWHERE).terms.items()}
            (sum(loss.values()) / parts).backward()
            call += 1
        d_adam.step()
    torch.testing.assert_close(loss["d_real"], vectors["D_loss_real"])
    torch.testing.assert_close(loss["d_fake"], vectors["D_loss_fake"])
    slopes = {key: each.grad.clone() for key, each in d.named_parameters()}
    g_adam.zero_grad()
    for _ in range(parts):
        fed = nets.condition(f"sample{call}_")
        images = augmented(nets.make(vectors[f"sample{call}_z"], fed), vectors, call)
        logits = nets.judge(images, fed)
        assert_near(logits, vectors[f"D_call{call}_logits"])
        paid = HINGE.generator(DOut(logits), None, NOWHERE).terms["g"].mean() / parts
        paid.backward()
        call += 1
    g_adam.step()
    torch.testing.assert_close(paid, vectors["G_loss"])
    for player, network, found in (("G", g, {key: each.grad for key, each in g.named_parameters()}), ("D", d, slopes)):
        lr, state = (g_lr if player == "G" else d_lr), network.state_dict()
        expected, norms = (nets.named(player, f"{player}_{kind}__") for kind in ("grad", "gradnorm"))
        assert {*expected, *norms} == {*found}
        assert nets.named(player, f"{player}_after__")
        for key, slope in expected.items():
            error = (found[key] - slope).abs().max()
            assert error < 2e-4 * slope.abs().max() + 2e-6, (key, error, slope.abs().max())
        for key, norm in norms.items():
            torch.testing.assert_close(found[key].norm(), norm, rtol=2e-4, atol=1e-6)
        for key, after in nets.named(player, f"{player}_after__").items():
            if key in expected:  # where a gradient is rounding alone, Adam's step has any direction
                known = expected[key].abs() > 2e-4 * expected[key].abs().max() + 2e-6
                assert ((state[key] - after).abs() * known).max() < 0.1 * lr, key
            else:
                assert_near(state[key], after)
    half_life = 0.256 * math.log(0.5) / math.log(keep) if keep else 0  # kimg, of a batch of 256 in an iteration
    average.config = EmaConfig(half_life_kimg=half_life, rampup=None, statistics="averaged")
    average.update(g, 256, 0)
    kept = average.module.state_dict()
    for key, after in nets.named("G", "ema_after__").items():
        if not key.endswith((".u", ".v")):  # the vectors of the average are those of the generator
            torch.testing.assert_close(kept[key], after, rtol=1e-6, atol=1e-7 + 2 * g_lr * (1 - keep))


LAYERS = {
    "conv": (lambda: SpectralConv(5, 7, 3, 1, 1, bias=True), 1),
    "linear": (lambda: SpectralLinear(5, 7), 1),
    "linear_3itrs": (lambda: SpectralLinear(5, 7), 3),
    "embedding": (lambda: SpectralEmbedding(7, 5), 1),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_spectral_layers_are_the_recorded_ones(kind):
    """Three passes in training, each after a round (or three), then one in evaluation."""
    make, rounds = LAYERS[kind]
    vectors, layer = recorded("biggan_layers"), make()
    given = weights_of(vectors, prefix=f"{kind}.")
    given["u"] = given.pop("u0").flatten()
    layer.load_state_dict({**layer.state_dict(), **given})
    x = vectors[f"{kind}__x"]
    for number, wanted in enumerate(["y0", "y1", "y2", "y_eval0"]):
        for _ in range(rounds):
            layer.round()
        layer.weight.grad = None
        y = layer(Condition(x) if kind == "embedding" else x)
        assert_near(y, vectors[f"{kind}__{wanted}"], 1e-5)
        if number < 3:
            y.square().sum().backward()
            assert_near(layer.weight.grad, vectors[f"{kind}__grad_weight{number}"])
            assert_near(layer.u, vectors[f"{kind}__u0_{number}"].flatten())


def test_the_hinge_is_the_recorded_one():
    vectors = recorded("biggan_layers")
    real, fake = (vectors[f"hinge__D_{which}"].clone().requires_grad_() for which in ("real", "fake"))
    terms = HINGE.discriminator(DOut(real), DOut(fake), NOWHERE).terms
    for which, logits in (("real", real), ("fake", fake)):
        loss = terms[f"d_{which}"].mean()
        torch.testing.assert_close(loss, vectors[f"hinge__loss_{which}"])
        torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], vectors[f"hinge__grad_D_{which}"])
    paid = HINGE.generator(DOut(fake), None, NOWHERE).terms["g"].mean()
    torch.testing.assert_close(paid, vectors["hinge__loss_G"])


@pytest.mark.parametrize("kind", ["conv", "tall", "wide"])
def test_weights_begin_as_the_recorded_draws_do(kind, monkeypatch):
    vectors = recorded("biggan_layers")
    drawn, wanted = (vectors[f"ortho_init__{kind}__{what}"] for what in ("normal_draw", "weight"))
    outputs, inputs = wanted.shape[:2]
    layer = nn.Conv2d(inputs, outputs, 3) if kind == "conv" else nn.Linear(inputs, outputs)
    monkeypatch.setattr(torch.Tensor, "normal_", lambda self, *args, **kwargs: self.copy_(drawn.view(self.shape)))
    begin_orthogonal(nn.Sequential(layer))
    assert_near(layer.weight, wanted, 1e-5)


def test_all_weights_begin_orthogonal():
    g, d = tiny(32, 8, ConditionShape(5, 7))
    for network in (g, d):
        for name, weight in network.named_parameters():
            if weight.dim() > 1:
                rows = weight.flatten(1) if len(weight) <= weight[0].numel() else weight.flatten(1).T
                torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)), rtol=0, atol=1e-5, msg=name)


# Million parameters of G and D, with ch, classes and length of the feature. IC-GAN's table 2 rounds them; these are
# counted from its code, whose G without classes has a table of 1,000 x 128 that it never reads
PUBLISHED = {
    "IC-GAN 64": (64, 64, 0, 2048, 36.66, 21.65),
    "IC-GAN 64, classes": (64, 64, 1000, 2048, 37.87, 21.11),
    "IC-GAN 128": (128, 96, 0, 2048, 77.16, 89.59),
    "IC-GAN 128, classes": (128, 96, 1000, 2048, 79.05, 88.79),
    "IC-GAN 256": (256, 96, 0, 2048, 90.01, 100.84),
    "IC-GAN 256, classes": (256, 96, 1000, 2048, 92.30, 100.03),
    "IC-GAN 256, half": (256, 64, 0, 2048, 42.86, 45.52),
    "BigGAN 128": (128, 96, 1000, 0, 70.43, 87.98),
    "IC-GAN 128, COCO": (128, 48, 0, 2048, 22.27, 23.19),
    "IC-GAN 256, COCO": (256, 48, 0, 2048, 25.86, 26.00),
    "BigGAN 128, COCO": (128, 48, 0, 0, 18.38, 22.38),
    "BigGAN 256, COCO": (256, 48, 0, 0, 21.38, 25.20),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_many_as_published(name, monkeypatch):
    side, ch, classes, features, of_g, of_d = PUBLISHED[name]
    monkeypatch.setattr(spectral, "_FIRST_ROUNDS", 0)
    monkeypatch.setattr(nn.init, "orthogonal_", lambda weight: weight)
    shape, told, dim = (3, side, side), ConditionShape(classes, features), 119 if side == 256 else 120
    with torch.device("meta"):
        networks = (
            BigganGenerator(BigganGeneratorConfig(ch=ch), (dim,), shape, told, SINGLE),
            BigganDiscriminator(BigganDiscriminatorConfig(ch=ch), shape, told),
        )
    counts = [sum(each.numel() for each in network.parameters()) for network in networks]
    unread = 1000 - max(1, classes) if told != UNCONDITIONAL else 999  # rows of tables that it has and never reads
    counts[0] += (1000 if classes == 0 and features else unread) * 128
    counts[1] += unread * 16 * ch if told == UNCONDITIONAL else 0
    assert [round(count / 1e6, 2) for count in counts] == [of_g, of_d]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_side_has_networks(side, channels):
    """512 px is dear, so with one image there. All parameters learn but the attention whose strength is 0."""
    blocks = side.bit_length() - 3
    g, d = tiny(side, 2 * (blocks + 1), UNCONDITIONAL, ch=1, channels=channels)
    count = 1 if side == 512 else 2
    images = g(torch.randn(count, 2 * (blocks + 1)), Condition()).images
    assert images.shape == (count, channels, side, side)
    assert images.abs().max() <= 1
    out = d(images, Condition())
    assert out.logits.shape == (count, 1)
    assert out.features["last"].shape == (count, d.features)
    out.logits.sum().backward()
    for network in (g, d):
        unmoved = {name for name, each in network.named_parameters() if each.grad is None}
        assert not unmoved
    attended = [int(name) for name in g.attention]
    assert attended == {32: [], 64: [32]}.get(side, [64])
    assert sum(len(layers) for layers in d.layers_from_images()) == len(d.blocks) + len(d.attention) + 2


def test_the_places_that_attention_sees_are_all():
    """By its formula, of one place."""
    layer, x = SelfAttention(16), torch.randn(2, 16, 4, 6)
    with torch.no_grad():
        layer.strength.fill_(0.7)
    query, key, value = (each(x) for each in (layer.query, layer.key, layer.value))
    quarters = [nn.functional.max_pool2d(each, 2).flatten(2) for each in (key, value)]
    beta = torch.einsum("nc,nck->nk", query[:, :, 3, 1], quarters[0]).softmax(1)
    seen = torch.einsum("nk,nck->nc", beta, quarters[1])
    expected = x[:, :, 3, 1] + 0.7 * seen @ layer.out.divided().flatten(1).T
    torch.testing.assert_close(layer(x)[:, :, 3, 1], expected)


TOLD = {
    "nothing": UNCONDITIONAL,
    "classes": ConditionShape(3),
    "instances": ConditionShape(0, 5),
    "both": ConditionShape(3, 5),
}


def told_of(shape, count):
    labels = torch.arange(count) % shape.classes if shape.classes else None
    return Condition(labels, nn.functional.normalize(torch.randn(count, shape.features)) if shape.features else None)


@pytest.mark.parametrize("name", TOLD)
def test_both_players_heed_what_they_are_told(name):
    """The same input under another class, or another instance, is another image, and another logit."""
    told = TOLD[name]
    g, d = (each.eval() for each in tiny(32, 8, told))
    condition = told_of(told, 3)
    z = torch.randn(1, 8).expand(3, -1)
    with torch.no_grad():
        images = g(z, condition).images
        logits = d(images[:1].expand(3, -1, -1, -1), condition).logits
    for values in (images, logits):
        differs = (values[0] - values[1]).abs().max() > 1e-4
        assert differs == (name != "nothing")


def test_between_classes_is_the_mean_of_their_vectors():
    g, d = (each.eval() for each in tiny(32, 8, ConditionShape(3, 5)))
    whole = told_of(ConditionShape(3, 5), 3)
    shares = Condition(torch.eye(3), whole.features)
    z, images = torch.randn(3, 8), torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(g(z, shares).images, g(z, whole).images)
        torch.testing.assert_close(d(images, shares).logits, d(images, whole).logits)
        halves = Condition(torch.tensor([[0.5, 0.5, 0.0]]).expand(3, -1), whole.features)
        ends = [Condition(torch.full((3,), label), whole.features) for label in (0, 1)]
        mean = sum(d(images, each).logits for each in ends) / 2  # linear in the vector
        torch.testing.assert_close(d(images, halves).logits, mean)
        assert not torch.allclose(g(z, halves).images, g(z, ends[0]).images)


@pytest.mark.parametrize("name", TOLD)
def test_penalties_reach_all_weights_of_the_discriminator(name):
    """R1's gradient, by finite differences in double precision along one direction."""
    told = TOLD[name]
    _, d = tiny(32, 8, told, d_attention=(16,))
    d = d.double()
    condition = told_of(told, 2)
    condition = Condition(condition.labels, None if condition.features is None else condition.features.double())
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        d.attention["0"].strength.fill_(0.5)

    def r1():
        (slope,) = torch.autograd.grad(d(images, condition).logits.sum(), images, create_graph=True)
        return slope.square().sum()

    weights = [each for each in d.parameters() if each.dim() > 1]
    near = 0
    for seed in range(5):  # a step may cross a kink of a ReLU, where R1 jumps: not in most directions
        torch.manual_seed(seed)
        ways = [torch.randn_like(each) for each in weights]
        slopes = torch.autograd.grad(r1(), weights)
        expected = sum((slope * way).sum() for slope, way in zip(slopes, ways, strict=True))
        found = []
        for sign in (1, -1):
            with torch.no_grad():
                for weight, way in zip(weights, ways, strict=True):
                    weight += sign * 1e-7 * way
            found.append(r1().detach())
            with torch.no_grad():
                for weight, way in zip(weights, ways, strict=True):
                    weight -= sign * 1e-7 * way
        near += torch.allclose((found[0] - found[1]) / 2e-7, expected, rtol=1e-4, atol=1e-6)
    assert near >= 3


def test_bfloat16_and_channels_last_are_near_float32():
    told = ConditionShape(3, 5)
    g, d = tiny(64, 10, told, d_attention=(8,), ch=4)
    with torch.no_grad():
        for each in (*g.attention.values(), *d.attention.values()):
            each.strength.fill_(0.5)
    condition, z = told_of(told, 6), torch.randn(6, 10)
    exact = d(g(z, condition).images, condition).logits
    g, d = (each.to(memory_format=torch.channels_last) for each in (g, d))
    torch.testing.assert_close(d(g(z, condition).images, condition).logits, exact, rtol=1e-3, atol=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        rough = d(g(z, condition).images, condition).logits
    rough.float().sum().backward()
    assert (rough - exact).abs().max() < 0.1 * exact.abs().max()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in (*g.parameters(), *d.parameters()))


def test_weights_are_a_function_of_the_seed():
    told, source = ConditionShape(3, 5), Gaussian(GaussianConfig(dim=8))
    config, judge = BigganGeneratorConfig(ch=1), BigganDiscriminatorConfig(ch=1)
    made = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(made))
        g = build_generator(config, source, (3, 32, 32), SINGLE, seed, told)
        d = build_discriminator(judge, (3, 32, 32), SINGLE, seed, told)
        made.append({**g.state_dict(prefix="g."), **d.state_dict(prefix="d.")})
    assert all(torch.equal(each, made[1][name]) for name, each in made[0].items())
    assert not torch.equal(made[0]["g.start.weight"], made[2]["g.start.weight"])


def test_statistics_of_the_average_are_copied_or_averaged():
    g, _ = tiny(32, 8, UNCONDITIONAL)
    averages = {how: Ema(EmaConfig(half_life_kimg=1, rampup=None, statistics=how), g) for how in ("copied", "averaged")}
    before = deepcopy(g.state_dict())
    g(torch.randn(8, 8), Condition())
    g.stepped("g_main", {})
    for how, average in averages.items():
        average.update(g, 1000, 0)  # a half life
        after, now = average.module.state_dict(), g.state_dict()
        mean = (before["norm.running_mean"] + now["norm.running_mean"]) / 2
        expected = {"copied": now["norm.running_mean"], "averaged": mean}[how]
        torch.testing.assert_close(after["norm.running_mean"], expected)
        assert torch.equal(after["start.u"], now["start.u"])


@pytest.mark.parametrize(
    ("settings", "dim", "side", "says"),
    [
        ({}, 120, 256, r"hierarchical=true .* 7 parts, and 120 .* set source\.dim=119,"),
        ({}, 2, 64, r"set source\.dim=5,"),
        ({}, 8, 48, r"generator\.kind=biggan .* 32, 64, 128, 256, 512 px, found 48x48"),
        ({"attention": (64, 48)}, 10, 64, r"generator\.attention=\[64, 48\]: .* no map of 48 px; there are 8, 16, 32"),
    ],
)
def test_what_does_not_fit_is_refused(settings, dim, side, says):
    config = BigganGeneratorConfig(ch=1, **settings)
    with pytest.raises(SpiderUsageError, match=says):
        BigganGenerator(config, (dim,), (3, side, side), UNCONDITIONAL, SINGLE)


def test_a_discriminator_has_no_map_of_the_images_own_side():
    with pytest.raises(SpiderUsageError, match=r"discriminator\.attention=\[64\]: .* there are 4, 8, 16, 32 px"):
        BigganDiscriminatorConfig(attention=(64,)).attended((3, 64, 64))


def test_the_global_batch_is_not_normalised_in_micro_batches():
    words = ["generator.kind=biggan", "accumulation=2", "batch=4"]
    with pytest.raises(SpiderUsageError, match=r"kind=biggan .* accumulation=2 splits: .*=micro_batch"):
        make_config({}, words)
    assert make_config({}, [*words, "generator.statistics=micro_batch"]).accumulation == 2
