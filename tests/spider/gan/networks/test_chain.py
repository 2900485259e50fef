"""CHAIN's normalisation: its numbers, its laws, and how p is steered."""

import pytest
import torch

from cluster.world import World
from spider.config.load import make_config
from spider.errors import SpiderUsageError
from spider.gan.auxiliary.chain import ChainTerms
from spider.gan.auxiliary.config import ChainConfig
from spider.gan.networks.chain import OFF_ZERO, Chain, CumulativeChain
from spider.gan.networks.dcgan import DcganDiscriminator
from spider.gan.networks.dcgan_config import DcganDiscriminatorConfig
from spider.gan.networks.fastgan_config import FastganDiscriminatorConfig
from spider.gan.networks.fastgan_discriminator import FastganDiscriminator
from spider.gan.networks.norm import GlobalBatchNorm
from spider.gan.outputs import UNCONDITIONAL, Condition

CHANNELS = 5


def layer(p):
    chain = Chain(CHANNELS, World.single()).double()
    chain.p.fill_(p)
    return chain


def images(count=6):
    torch.manual_seed(0)
    wide = torch.randn(count, CHANNELS, 4, 4, dtype=torch.float64)
    return (wide * torch.arange(1, CHANNELS + 1)[:, None, None] + 0.3).requires_grad_()


def test_at_p_1_all_channels_get_the_scale_of_the_least():
    x = images()
    y, _ = layer(1.0)(x, torch.rand(6, CHANNELS))
    roots = x.square().mean((0, 2, 3)).sqrt()
    torch.testing.assert_close(y.square().mean((0, 2, 3)).sqrt(), roots.min().expand(CHANNELS), rtol=1e-4, atol=0)


def test_no_value_is_made_larger_and_at_p_0_none_is_changed():
    """As a layer that normalises by a batch's deviation makes them: so D's slopes do not grow."""
    x, uniforms = images(), torch.rand(6, CHANNELS)
    for p in (0.3, 1.0):
        assert (layer(p)(x, uniforms)[0].abs() <= x.abs()).all()
    assert torch.equal(layer(0.0)(x, uniforms)[0], x)
    y, _ = layer(0.5)(x, uniforms)
    left = uniforms >= 0.5
    assert torch.equal(y[left], x[left])
    assert not torch.equal(y[~left], x[~left])


def test_gradients_are_those_of_the_formula_twice():
    x, uniforms = images(), torch.rand(6, CHANNELS).double()

    def formula(x):
        psi = (x.square().mean((0, 2, 3)) + 1e-5).sqrt()
        chosen = (uniforms < 0.5).double()[:, :, None, None]
        return (1 - chosen) * x + chosen * (x / psi[:, None, None] * psi.min().detach())

    chain = layer(0.5)
    torch.testing.assert_close(chain(x, uniforms)[0], formula(x))
    slopes = [
        torch.autograd.grad(f(x).pow(3).sum(), x, create_graph=True)[0]
        for f in (lambda x: chain(x, uniforms)[0], formula)
    ]
    torch.testing.assert_close(*slopes)
    torch.testing.assert_close(*(torch.autograd.grad(slope.square().sum(), x)[0] for slope in slopes))


def test_the_term_is_the_sum_of_squared_means_and_so_is_its_gradient():
    x = images()
    values = layer(0.7)(x, torch.rand(6, CHANNELS))[1]
    assert values.shape == (6,)
    expected = x.mean((0, 2, 3)).square().sum()
    torch.testing.assert_close(values.mean(), expected)
    slopes = [torch.autograd.grad(each, x)[0] for each in (values.mean(), expected)]
    torch.testing.assert_close(*slopes)


USES = ("d_main.real", "d_main.fake", "g_main.fake")


def test_the_cumulative_form_is_that_of_the_formula_written_out():
    """Images of every use in turn: v is of real or of generated ones, g of every use."""
    chain = CumulativeChain(CHANNELS, World.single()).double()
    torch.manual_seed(0)
    v = {"real": torch.ones(CHANNELS).double(), "fake": torch.ones(CHANNELS).double()}
    g = {use: torch.zeros(CHANNELS).double() for use in USES}
    for p in (0.6, 0.0, 1.0, 0.4):
        chain.p.fill_(p)
        for use in USES:
            x, uniforms, slope = images(), torch.rand(6, CHANNELS), torch.randn(6, CHANNELS, 4, 4).double()
            y, _ = chain(x, uniforms, use)
            (found,) = torch.autograd.grad((y * slope).sum(), x)
            if p == 0:
                assert torch.equal(y, x)
                assert torch.equal(found, slope)
                continue
            kind = use.partition(".")[2]
            v[kind] = 0.9 * v[kind] + 0.1 * x.detach().square().mean((0, 2, 3))
            chosen = (uniforms < p).double()[:, :, None, None]
            psi = (v[kind] + 1e-5).sqrt()[:, None, None]
            z, least = x.detach() / psi, v[kind].min().sqrt()
            torch.testing.assert_close(y, (1 - chosen) * x + chosen * z * least)
            u = slope * chosen * least
            g[use] = 0.9 * g[use] + 0.1 * (z * u).mean((0, 2, 3))
            torch.testing.assert_close(found, (1 - chosen) * slope + (u - g[use][:, None, None] * z) / psi)
    torch.testing.assert_close(chain.squares, torch.stack([*v.values()]))
    torch.testing.assert_close(chain.slopes, torch.stack([*g.values()]))


def test_the_cumulative_form_refuses_second_derivatives_and_other_uses():
    chain, x = CumulativeChain(CHANNELS, World.single()).double(), images()
    y, _ = chain(x, torch.rand(6, CHANNELS), "d_main.real")
    (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.square().sum().backward()
    with pytest.raises(SpiderUsageError, match=r"judged for d_main.real.view: there are d_main.real, d_main.fake"):
        chain(x, torch.rand(6, CHANNELS), "d_main.real.view")


def discriminator():
    torch.manual_seed(0)
    return DcganDiscriminator(
        DcganDiscriminatorConfig(norm="chain", width=0.05), (3, 32, 32), UNCONDITIONAL, World.single()
    )


def fastgan_discriminator():
    torch.manual_seed(0)
    return FastganDiscriminator(FastganDiscriminatorConfig(norm="chain", ndf=2), (3, 32, 32), World.single())


@pytest.mark.parametrize("build", [discriminator, fastgan_discriminator])
def test_a_discriminator_tells_how_far_its_channels_are_off_zero(build):
    """And each layer has draws of its own: a channel that is not chosen leaves its layer as it came."""
    network = build()
    layers = [each for each in network.modules() if isinstance(each, Chain)]
    assert network.draws["chain"].shape == (sum(each.channels for each in layers),)
    assert not any(isinstance(each, GlobalBatchNorm) for each in network.modules())
    seen, left = [], []
    for number, each in enumerate(layers):
        each.p.fill_(0.5)

        def see(_, inputs, outputs, number=number):
            seen.append(inputs[0].mean((0, 2, 3)).square().sum())
            left.extend([number] * torch.equal(inputs[0], outputs[0]))

        each.register_forward_hook(see)
    chosen = [torch.zeros(4, each.channels) for each in layers]
    chosen[1].fill_(0.9)  # of the second layer no channel
    condition = Condition(draws={"chain": torch.cat(chosen, 1)}, sizes={"small": torch.randn(4, 3, 16, 16)})
    out = network(torch.randn(4, 3, 32, 32), condition)
    assert left == [1]
    assert len(seen) == len(layers)
    torch.testing.assert_close(out.features[OFF_ZERO].mean(), sum(seen))


def test_p_follows_the_mean_sign_of_real_images_and_comes_back():
    """s = 0.9 s + 0.1 sign, and p rises by the step while s is above the target; never below 0."""
    network = discriminator()
    terms = ChainTerms(ChainConfig(step=0.25), network)
    signs, expected = [1.0] * 8 + [-1.0] * 6, []
    s = p = 0.0
    for step, sign in enumerate(signs):
        terms.iterated(step, step, {"signs/real": (4 * sign, 4.0)})
        s = 0.9 * s + 0.1 * sign
        p = min(1.0, max(0.0, p + (0.25 if s > 0.5 else -0.25)))
        expected.append(p)
        assert terms.columns(0) == {"chain/p": pytest.approx(p)}
    assert max(expected) == 0.5
    assert expected[-1] == 0
    terms.iterated(0, 0, {})  # a step that was not taken reports nothing
    terms.load({"p": 0.5, "signs": 0.6})
    assert all(each.p == 0.5 for each in network.modules() if isinstance(each, Chain))
    other = ChainTerms(ChainConfig(step=0.25), discriminator())
    other.load(terms.state())
    assert other.state() == {"p": 0.5, "signs": 0.6}


CUMULATIVE = ["discriminator.norm=chain_cumulative", "auxiliary=[{kind: chain}]"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["discriminator.norm=chain"], "norm=chain is steered by auxiliary: kind=chain"),
        (["auxiliary=[{kind: chain}]"], "auxiliary: kind=chain goes with discriminator.norm=chain"),
        (
            ["discriminator.norm=chain", "auxiliary=[{kind: chain}]", "accumulation=2", "generator.norm=none"],
            "discriminator.norm=chain normalises",
        ),
        (
            ["discriminator.kind=fastgan", "discriminator.norm=chain", "generator.norm=none"],
            "norm=chain is steered by auxiliary: kind=chain",
        ),
        (["discriminator.kind=fastgan", "discriminator.norm=none"], "allowed: batch, chain, chain_cumulative"),
        (["discriminator.norm=chain_cumulative"], "norm=chain_cumulative is steered by auxiliary: kind=chain"),
        ([*CUMULATIVE, "penalties.gp_weight=1"], "norm=chain_cumulative cannot be differentiated twice"),
        ([*CUMULATIVE, "objective.kind=relativistic"], "has no means of real images in the generator's step"),
        (
            [*CUMULATIVE[:1], "auxiliary=[{kind: chain}, {kind: consistency}]"],
            "no means of images that are judged again",
        ),
        ([*CUMULATIVE, "engine.kind=deepspeed"], "engine.kind=deepspeed multiplies"),
        ([*CUMULATIVE, "compute.compile=true"], "set compute.compile=false"),
    ],
)
def test_what_does_not_go_with_it_is_refused(words, said):
    with pytest.raises(SpiderUsageError, match=said):
        make_config({}, words)


def test_a_network_of_ones_own_without_such_layers_is_refused():
    with pytest.raises(SpiderUsageError, match="steers layers that Linear does not have"):
        ChainTerms(ChainConfig(), torch.nn.Linear(1, 1))
