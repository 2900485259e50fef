"""CHAIN's normalisation: its numbers, its laws, and how p is steered."""

import pytest
import torch

from cluster.world import World
from spider.config.load import make_config
from spider.errors import SpiderUsageError
from spider.gan.auxiliary.chain import ChainTerms
from spider.gan.auxiliary.config import ChainConfig
from spider.gan.networks.chain import OFF_ZERO, Chain
from spider.gan.networks.dcgan import DcganDiscriminator
from spider.gan.networks.dcgan_config import DcganDiscriminatorConfig
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


def discriminator():
    torch.manual_seed(0)
    return DcganDiscriminator(
        DcganDiscriminatorConfig(norm="chain", width=0.05), (3, 32, 32), UNCONDITIONAL, World.single()
    )


def test_a_discriminator_tells_how_far_its_channels_are_off_zero():
    network = discriminator()
    shape = network.draws["chain"].shape
    out = network(torch.randn(4, 3, 32, 32), Condition(draws={"chain": torch.rand(4, *shape)}))
    assert shape == (sum(each.channels for each in network.modules() if isinstance(each, Chain)),)
    assert out.logits.shape == (4, 1)
    seen = []
    for each in network.modules():
        if isinstance(each, Chain):
            each.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].mean((0, 2, 3)).square().sum()))
    out = network(torch.randn(4, 3, 32, 32), Condition(draws={"chain": torch.rand(4, *shape)}))
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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["discriminator.norm=chain"], "norm=chain is steered by auxiliary: kind=chain"),
        (["auxiliary=[{kind: chain}]"], "auxiliary: kind=chain goes with discriminator.norm=chain"),
        (
            ["discriminator.norm=chain", "auxiliary=[{kind: chain}]", "accumulation=2", "generator.norm=none"],
            "discriminator.norm=chain normalises",
        ),
    ],
)
def test_one_without_the_other_is_refused(words, said):
    with pytest.raises(SpiderUsageError, match=said):
        make_config({}, words)


def test_a_network_of_ones_own_without_such_layers_is_refused():
    with pytest.raises(SpiderUsageError, match="steers layers that Linear does not have"):
        ChainTerms(ChainConfig(), torch.nn.Linear(1, 1))
