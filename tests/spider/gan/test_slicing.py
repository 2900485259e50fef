"""SAN: the two readings of a discriminator's last layer, and the loss of its direction, against recorded vectors."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, leaky_relu, linear, normalize

from cluster.world import World
from spider.draws import Address
from spider.errors import SpiderUsageError
from spider.gan.init.config import RunInitConfig
from spider.gan.init.derived import derive_missing
from spider.gan.init.fit import fit_weights
from spider.gan.loss import as_term
from spider.gan.method import Method
from spider.gan.networks.biggan_config import BigganDiscriminatorConfig
from spider.gan.networks.build import build_discriminator
from spider.gan.networks.config import NetworkChoice
from spider.gan.networks.dcgan_config import DcganDiscriminatorConfig
from spider.gan.networks.fastgan_config import FastganDiscriminatorConfig
from spider.gan.networks.projected_config import ProjectedDiscriminatorConfig
from spider.gan.networks.projected_heads import Heads
from spider.gan.networks.projected_names import discriminator_name
from spider.gan.networks.r3gan_config import R3ganConfig
from spider.gan.networks.slicing import read, read_dense, said
from spider.gan.networks.spectral import SpectralConv
from spider.gan.networks.stylegan_config import Stylegan2DiscriminatorConfig
from spider.gan.objectives.build import build_objective
from spider.gan.objectives.config import HingeConfig, ObjectiveChoice, ObjectiveConfig
from spider.gan.objectives.penalties import Judged, r1
from spider.gan.objectives.wasserstein import Wasserstein
from spider.gan.outputs import Condition, ConditionShape, DOut
from spider.gan.saved import load_saved, saved_tensors
from tests.vectors import assert_near, recorded, weights_of

CPU = torch.device("cpu")
SINGLE = World.single()
NOWHERE = Address(0, "d_main", range(4), CPU)
LAYERS = {
    "linear": linear,
    "linear_nobias": linear,
    "conv2d": partial(conv2d, stride=2, padding=1),
    "conv2d_pg": conv2d,
}
HINGE = HingeConfig(slicing=True)
NETWORKS = {
    "dcgan": DcganDiscriminatorConfig(width=0.1),
    "sngan": DcganDiscriminatorConfig(width=0.1, layout="sngan", norm="spectral"),
    "r3gan": R3ganConfig(width=0.05, blocks=1),
    "stylegan2": Stylegan2DiscriminatorConfig(channel_base=256, channel_max=16, mapping_layers=2),
    "projected": ProjectedDiscriminatorConfig(width=0.1, enlarge_to=128),
    "fastgan": FastganDiscriminatorConfig(ndf=4),
    "biggan": BigganDiscriminatorConfig(ch=2),
}
WITH_CLASSES = [kind for kind in NETWORKS if "class" in NETWORKS[kind].conditions]


def d_loss(objective, real, fake):
    """The mean of each term, added."""
    terms = objective.discriminator(real, fake, NOWHERE).terms
    total = 0.0
    for name, given in terms.items():
        term = as_term(name, given)
        total = total + term.share(float(term.total()) if term.weights is not None else len(term.values))
    return total


@pytest.mark.parametrize("layer", LAYERS)
def test_both_readings_and_their_gradients_are_the_recorded_ones(layer):
    """There the weight is apart from its scale: of w = s omega, fun gives the gradient of s, dir that of omega."""
    vectors = recorded("san_layers")
    own = {name: vectors[f"{layer}__{name}"] for name in ("weight", "scale", "bias") if f"{layer}__{name}" in vectors}
    spread = (-1, *[1] * (own["weight"].dim() - 1))
    length = own["weight"].flatten(1).norm(dim=1).view(spread)
    scale = own["scale"].view(spread)
    weight = (own["weight"] / length * scale).requires_grad_()
    x = vectors[f"{layer}__x"].clone().requires_grad_()
    h = x if "bias" not in own else x + own["bias"].view(-1, *[1] * (x.dim() - 2))
    judged = read(LAYERS[layer], h, weight, sliced=True)
    assert_near(judged.logits, vectors[f"{layer}__fun"])
    assert_near(judged.direction, vectors[f"{layer}__dir"])
    assert_near(judged.logits, vectors[f"{layer}__eval"])
    of_fun = torch.autograd.grad((judged.logits * vectors[f"{layer}__cot_fun"]).sum(), [x, weight], retain_graph=True)
    assert_near(of_fun[0], vectors[f"{layer}__fun__grad_x"])
    radial = vectors[f"{layer}__fun__grad_scale"].view(spread) * own["weight"] / length
    assert_near(of_fun[1], radial)
    of_dir = torch.autograd.grad(
        (judged.direction * vectors[f"{layer}__cot_dir"]).sum(), [x, weight], allow_unused=True
    )
    assert of_dir[0] is None
    assert_near(of_dir[1], vectors[f"{layer}__dir__grad_weight"] * length / scale)
    assert (of_dir[1] * weight).flatten(1).sum(1).abs().max() < 1e-5


def round_of(network):
    """A round of the power iteration before a pass, as the public code has it. Earlier passes stay as they are."""
    for layer in network.modules():
        if isinstance(layer, SpectralConv):
            layer.u, layer.v = layer.u.clone(), layer.v.clone()
            layer.round()


class SimpleSan(nn.Module):
    """The discriminator of simple-san, of a sixteenth of its channels."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(1, 8, 6, 2),
                SpectralConv(8, 16, 4, 2, 1, bias=True),
                SpectralConv(16, 32, 4, 2, 1, bias=True),
            ]
        )

    def take_over(self, name):
        theirs = {"weight_orig": "weight", "weight_u": "u", "weight_v": "v"}
        state = {}
        for key, x in weights_of(recorded(name)).items():
            if key == "fc_w":
                self.weight = nn.Parameter(x.clone())
                continue
            _, number, kind = key.split(".")
            state[f"convs.{int(number) // 2}.{theirs.get(kind, kind)}"] = x
        self.load_state_dict({**state, "weight": self.weight.detach()})
        return self

    def forward(self, images, labels, sliced=True):
        h = images
        for conv in self.convs:
            h = leaky_relu(conv(h), 0.2)
        weight = self.weight if labels is None else self.weight[labels]
        return said([read_dense(h.flatten(1), weight, sliced=sliced, of_each=labels is not None)], {})


@pytest.mark.parametrize("name", ["uncond", "class10"])
def test_a_step_of_the_discriminator_is_the_recorded_one(name):
    vectors = recorded(f"san_simple_{name}")
    labels = vectors["y"].long() if name == "class10" else None
    network = SimpleSan().take_over(f"san_simple_{name}")
    real, fake = (vectors[key].clone().requires_grad_() for key in ("real", "fake"))
    assert_near(network(real, labels).logits[:, 0], vectors["eval_fun_real"])
    round_of(network)
    reals = network(real, labels)
    round_of(network)
    fakes = network(fake, labels)
    for which, out in (("real", reals), ("fake", fakes)):
        assert_near(out.logits[:, 0], vectors[f"fun_{which}"])
        assert_near(out.features["direction"][:, 0], vectors[f"dir_{which}"])
    loss = d_loss(build_objective(HINGE, network, CPU), reals, fakes)
    assert_near(loss, vectors["loss_real"] + vectors["loss_fake"])
    loss.backward()
    assert_near(real.grad, vectors["D_grad_real_img"])
    assert_near(fake.grad, vectors["D_grad_fake_img"])
    assert_near(network.weight.grad, vectors["D_grad__fc_w"])
    torch.optim.Adam(network.parameters(), 1e-3, (0.0, 0.99)).step()
    assert_near(network.weight, vectors["D_after__fc_w"])
    round_of(network)
    fake = vectors["fake"].clone().requires_grad_()
    paid = build_objective(HINGE, network, CPU).generator(network(fake, labels), None, NOWHERE).terms["g"].mean()
    assert_near(paid, vectors["G_loss"])
    (slope,) = torch.autograd.grad(paid, fake)
    assert_near(slope, vectors["G_grad_fake_img"], 1e-4)


@pytest.mark.parametrize("name", ["stylesan_heads", "stylesan_heads_class5"])
def test_projected_heads_are_those_of_stylesan_xl(name):
    """There the loss is a sum over images and networks, here a mean over images."""
    vectors, classes = recorded(name), 5 if "label" in recorded(name) else 0
    stems = sorted({key.split("mini_discs")[0] for key in weights_of(recorded(name))})
    condition = Condition(vectors["label"].long() if classes else None)
    total, scores = 0.0, []
    made = {}
    for number, stem in enumerate(stems):
        config = ProjectedDiscriminatorConfig(heads=2, width=1 / 64)
        heads = Heads(config, [2, 2, 2, 2], ConditionShape(classes), SINGLE)
        heads.slice()
        state = {}
        for key, x in weights_of(recorded(name)).items():
            if not key.startswith(stem) or key.endswith(("scale", "embed.weight", "last_layer.weight")):
                continue
            state[discriminator_name(key.removeprefix(stem), 4).removeprefix("heads.")] = x
        for each in range(2):
            theirs = f"{stem}mini_discs.{each}.{'embed' if classes else 'last_layer'}"
            weight, scale = (
                weights_of(recorded(name))[f"{theirs}.weight"],
                weights_of(recorded(name))[f"{theirs}.scale"],
            )
            length = weight.flatten(1).norm(dim=1)
            ours = f"each.{each}.{'embedding' if classes else 'last'}.weight"
            state[ours] = weight * (scale.flatten() / length).view(-1, *[1] * (weight.dim() - 1))
            made[heads, ours] = (theirs, weight, scale, length)
        heads.load_state_dict(state)
        outs = {}
        for which in ("fake", "real"):
            round_of(heads)
            maps = [vectors[f"{which}_bb{number}_feat{i}"].clone().requires_grad_() for i in range(2)]
            outs[which] = heads(maps, condition)
            if which == "real":
                reals = maps
        count = len(outs["real"].logits)
        loss = count * d_loss(build_objective(HINGE, heads, CPU), outs["real"], outs["fake"])
        loss.backward()
        for i, each in enumerate(reals):
            assert_near(each.grad, vectors[f"D_grad_real_bb{number}_feat{i}"], 1e-4)
        total, scores = total + loss, [*scores, outs["real"].logits]
    assert_near(total, vectors["D_loss"])
    for (heads, ours), (theirs, weight, scale, length) in made.items():
        rows = (-1, *[1] * (weight.dim() - 1))
        unit = weight / length.view(rows)
        radial = vectors[f"D_grad__{theirs}.scale"].view(rows) * unit
        tangential = vectors[f"D_grad__{theirs}.weight"] * length.view(rows) / scale.view(rows)
        assert_near(heads.get_parameter(ours).grad, radial + tangential, 1e-4)


def test_least_squares_are_those_of_bigvsan():
    vectors = recorded("san_least_squares")
    objective = build_objective(ObjectiveConfig(kind="least_squares", slicing=True), nn.Identity(), CPU)
    total, paid = 0.0, 0.0
    for each in range(2):
        outs = {}
        for which in ("real", "fake"):
            fun, direction = (vectors[f"{which}{each}_{part}"].clone().requires_grad_() for part in ("fun", "dir"))
            outs[which] = DOut(fun, {"direction": direction})
        loss = d_loss(objective, outs["real"], outs["fake"])
        loss.backward()
        for which, out in outs.items():
            assert_near(out.logits.grad, vectors[f"D_grad_{which}{each}_fun"])
            assert_near(out.features["direction"].grad, vectors[f"D_grad_{which}{each}_dir"])
        total = total + loss
        fake = vectors[f"fake{each}_fun"].clone().requires_grad_()
        g = objective.generator(DOut(fake), None, NOWHERE).terms["g"].mean()
        assert_near(torch.autograd.grad(g, fake)[0], vectors[f"G_grad_fake{each}"])
        paid = paid + g
    assert_near(total, vectors["D_loss"])
    assert_near(paid, vectors["G_loss"])


KINDS = ("wasserstein", "hinge", "non_saturating", "saturating", "least_squares", "relativistic")


@pytest.mark.parametrize("kind", KINDS)
def test_images_weigh_by_the_slope_of_the_generators_loss(kind):
    """Autograd of the generator's loss says how; normalised weights are these, divided by their sum."""
    real, fake = torch.randn(2, 4, 3, dtype=torch.float64).unbind(0)
    gradients = {}
    for weights in ("autograd", "normalised"):
        settings = {"slicing": True, "direction_weights": weights}
        config = HingeConfig(**settings) if kind == "hinge" else ObjectiveConfig(kind=kind, **settings)
        objective = build_objective(config, nn.Identity(), CPU)
        directions = [real.clone().requires_grad_(), fake.clone().requires_grad_()]
        outs = [DOut(x, {"direction": direction}) for x, direction in zip((real, fake), directions, strict=True)]
        gradients[weights] = torch.autograd.grad(d_loss(objective, *outs), directions)
    x, y = real.clone().requires_grad_(), fake.clone().requires_grad_()
    if kind == "relativistic":
        slope = torch.autograd.grad(-objective.generator(DOut(y), DOut(x), NOWHERE).terms["g"].sum(), y)[0]
        slopes = [slope, slope]
    else:
        slopes = [
            torch.autograd.grad(-objective.generator(DOut(each), None, NOWHERE).terms["g"].sum(), each)[0]
            for each in (x, y)
        ]
    for sign, slope, plain, normalised in zip((-1, 1), slopes, *gradients.values(), strict=True):
        torch.testing.assert_close(plain, sign * slope / slope.numel())
        torch.testing.assert_close(normalised, sign * slope / slope.sum())


@pytest.mark.parametrize(
    ("kind", "classes"), [*((kind, 0) for kind in NETWORKS), *((kind, 3) for kind in WITH_CLASSES)]
)
def test_a_sliced_discriminator_says_what_the_plain_one_says(kind, classes):
    side = {"projected": 32, "fastgan": 32, "biggan": 32}.get(kind, 16)
    shape, told = (3, side, side), ConditionShape(classes=classes)
    plain, sliced = (
        build_discriminator(NETWORKS[kind], shape, SINGLE, 0, told, sliced=sliced).eval() for sliced in (False, True)
    )
    images = (torch.rand(4, *shape) * 2 - 1).requires_grad_()
    labels = torch.arange(4) % classes if classes else None
    condition = Condition(labels, sizes={"small": torch.rand(4, 3, side // 2, side // 2)})
    before, after = plain(images, condition), sliced(images, condition)
    torch.testing.assert_close(after.logits, before.logits, rtol=1e-5, atol=1e-6)
    assert ("direction" in before.features, "direction" in after.features) == (False, True)
    assert after.features["direction"].shape == after.logits.shape
    parameters = {name: each for name, each in sliced.named_parameters() if each.requires_grad}
    with torch.no_grad():  # biases begin at zero; a loss of the direction weighs images by all that is said of them
        for name, each in parameters.items():
            each.add_(0.5 if name.endswith("bias") else 0.0)
    after = sliced(images, condition)
    torch.testing.assert_close(after.features["direction"], after.logits, rtol=1e-5, atol=1e-6)
    slopes = torch.autograd.grad(after.features["direction"].sum(), [images, *parameters.values()], allow_unused=True)
    assert slopes[0] is None
    moved = [
        name for name, slope in zip(parameters, slopes[1:], strict=True) if slope is not None and slope.abs().max() > 0
    ]
    assert moved
    dcgan = ("layers", "embedding")
    last = {"dcgan": dcgan, "sngan": dcgan, "r3gan": ("dense", "embedding"), "stylegan2": ("out", "mapping")}
    allowed = {**last, "projected": ("heads",), "fastgan": ("judge",), "biggan": ("last", "told")}[kind]
    assert all(name.startswith(allowed) for name in moved)


@pytest.mark.parametrize("kind", [kind for kind in WITH_CLASSES if kind != "projected"])
def test_a_direction_of_a_class_is_not_one_of_all(kind):
    """Also where a rank has one image, whose class gives one direction: there is no optimality, on any rank."""
    side = 32 if kind == "biggan" else 16
    network = build_discriminator(NETWORKS[kind], (3, side, side), SINGLE, 0, ConditionShape(classes=3), sliced=True)
    for count in (1, 2):
        out = network.eval()(torch.rand(count, 3, side, side), Condition(torch.arange(count)))
        assert "facing" not in out.features


def test_the_optimality_of_the_direction_is_the_cosine_to_the_best_one():
    h = {"real": torch.randn(64, 8) + 1, "fake": torch.randn(64, 8)}
    best = h["real"].mean(0) - h["fake"].mean(0)
    objective = build_objective(HINGE, nn.Identity(), CPU)
    assert objective.columns(0) == {}
    for weight in (best, torch.ones(8), -best):
        outs = {use: said([read_dense(x, 3 * weight[None], sliced=True)], {}) for use, x in h.items()}
        kept = objective.discriminator(outs["real"], outs["fake"], NOWHERE).keep
        objective.stepped("d_main", kept)
        expected = torch.cosine_similarity(weight, best, dim=0)
        assert objective.columns(0)["slicing/optimality"] == pytest.approx(float(expected), abs=1e-5)


class Whole(NetworkChoice):
    """A discriminator of one's own that cannot be sliced."""

    kind: str = "mine"

    def build_discriminator(self, image_shape, told, world):
        return nn.Flatten()


class Remembering(Wasserstein, Method):
    """An objective of one's own."""


class Remembers(ObjectiveChoice):
    """Its settings."""

    kind: str = "mine"
    slicing: bool = True

    def build(self, discriminator, device):
        return Remembering()


def test_what_cannot_be_sliced_is_refused():
    with pytest.raises(
        SpiderUsageError, match=r"^objective\.slicing=true needs .* Flatten of discriminator\.kind=mine"
    ):
        build_discriminator(Whole(), (1, 8, 8), SINGLE, 0, sliced=True)
    with pytest.raises(
        SpiderUsageError, match=r"^objective\.slicing=true goes with .* objective\.kind=mine is neither"
    ):
        build_objective(Remembers(), nn.Identity(), CPU)


@pytest.mark.parametrize("kind", ["sngan", "projected", "fastgan", "biggan"])
def test_a_plain_network_finds_the_norms_of_a_sliced_one_that_it_begins_with(kind):
    """Those have no u and v in their last layers; random ones would make a norm of 0.01 and logits of hundreds."""
    shape, told = (3, 32, 32), ConditionShape()
    sliced, plain = (
        build_discriminator(NETWORKS[kind], shape, SINGLE, seed, told, sliced=seed == 0).eval() for seed in (0, 1)
    )
    networks, given = {"discriminator": plain}, {"discriminator": saved_tensors(sliced)}
    placed, fits = fit_weights({"discriminator": saved_tensors(plain)}, given, RunInitConfig(run="it"))
    fit = fits["discriminator"]
    load_saved(plain, placed["discriminator"])
    missing = {*fit.missing}
    derive_missing(networks, fits)
    assert missing
    assert {*fit.derived} == missing
    assert not fit.missing
    assert "found from the weights" in fit.line("discriminator")
    found = 0
    for name, layer in plain.named_modules():
        if f"{name}.u" in missing:
            largest = torch.linalg.matrix_norm(layer.divided().flatten(1), ord=2)
            torch.testing.assert_close(largest, torch.ones(()), rtol=0.02, atol=0)
            found += 1
    assert found == len(missing) / 2


def turns(kind, steps, *, sliced=True, unit=False):
    """By how much each step of Adam turns the direction of a last layer of 512 features, the same in any case.

    `unit`: the direction is stored apart, on the unit sphere, as StyleSAN-XL stores it, and projected after each step.
    """
    settings = {"slicing": True} if sliced else {}
    config = HingeConfig(**settings) if kind == "hinge" else ObjectiveConfig(kind=kind, **settings)
    objective = build_objective(config, nn.Identity(), CPU)
    draws = torch.Generator().manual_seed(0)
    weight = torch.randn(1, 512, generator=draws)  # as StyleGAN2's, whose gain of 512^-0.5 the features have here
    weight = (weight / weight.norm() if unit else weight).requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=2e-3, betas=(0.0, 0.99))
    angles = []
    for _ in range(steps):
        before = weight.detach().clone()
        outs = [
            said([read_dense(torch.randn(16, 512, generator=draws) / 512**0.5 + mean, weight, sliced=sliced)], {})
            for mean in (0.01, 0.0)
        ]
        optimizer.zero_grad()
        d_loss(objective, *outs).backward()
        optimizer.step()
        angles.append((normalize(weight.detach()) - normalize(before)).norm().item())
        if unit:
            weight.data.div_(weight.data.norm())
    return angles


@pytest.mark.parametrize("kind", KINDS)
def test_the_direction_turns_no_faster_than_the_plain_layer(kind):
    """At any step of Adam, but for a fifth. One that is stored on the unit sphere turns more than 20 times as fast."""
    plain, sliced, unit = turns(kind, 8, sliced=False), turns(kind, 8), turns(kind, 8, unit=True)
    assert max(there / here for there, here in zip(sliced, plain, strict=True)) < 1.2
    assert min(there / here for there, here in zip(unit, sliced, strict=True)) > 20
    if kind == "wasserstein":  # both readings together have the gradient of the plain layer
        assert sliced == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize("kind", ["dcgan", "sngan", "r3gan", "stylegan2"])
def test_r1_moves_all_but_the_direction(kind):
    """Its values, and what it asks of all other weights, are those of the plain network."""
    shape = (3, 16, 16)
    real = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    slopes, values = {}, {}
    for sliced in (False, True):
        network = build_discriminator(NETWORKS[kind], shape, SINGLE, 0, ConditionShape(), sliced=sliced)
        judged = Judged(real, lambda x, network=network: network(x, Condition()).logits)
        values[sliced] = r1(judged, None, NOWHERE)
        values[sliced].sum().backward()
        slopes[sliced] = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    assert_near(values[True], values[False])
    said_here = network(real, Condition()).features["direction"].sum()
    weights = dict(network.named_parameters())
    moved = torch.autograd.grad(said_here, [*weights.values()], allow_unused=True)
    [last] = [name for name, slope in zip(weights, moved, strict=True) if slope is not None]
    omega = normalize(weights.pop(last).detach(), dim=1)
    radial, tangential = {}, {}
    for sliced, found in slopes.items():
        along = found.pop(last)
        radial[sliced] = (along * omega).sum(1, keepdim=True)
        tangential[sliced] = (along - radial[sliced] * omega).norm() / along.norm()
    assert tangential[True] < 1e-5
    assert tangential[False] > 0.1
    if kind != "sngan":  # which divides the plain layer by its length
        assert_near(radial[True], radial[False], 1e-4)
    for name, slope in slopes[False].items():
        torch.testing.assert_close(slopes[True][name], slope, rtol=1e-4, atol=1e-6)
