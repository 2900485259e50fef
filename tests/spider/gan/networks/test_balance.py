"""When the sizes of the two players are worth a word."""

from types import SimpleNamespace

import pytest
from torch import nn

from spider.config.schema import Config
from spider.gan.init.config import RandomInitConfig
from spider.gan.init.freeze import expected
from spider.gan.networks.balance import remarks_on_sizes
from spider.gan.networks.dcgan_config import DcganDiscriminatorConfig, DcganGeneratorConfig
from spider.gan.networks.stylegan3 import Stylegan3Generator
from spider.gan.networks.stylegan3_config import Stylegan3GeneratorConfig
from spider.gan.outputs import UNCONDITIONAL


def remarks(generator, discriminator, *, d_width=0.4, frozen="", given=None):
    """On two networks of two square layers, of which the first is the wider one and may be frozen."""
    players = []
    for name, width in ("generator", generator), ("discriminator", discriminator):
        module = nn.Sequential(nn.Linear(width, width, bias=False), nn.Linear(4, 8))
        module[0].requires_grad_(name != frozen)
        trainable = [each for each in module.named_parameters() if each[1].requires_grad]
        players.append(SimpleNamespace(name=name, module=module, trainable=trainable))
    config = Config(generator=DcganGeneratorConfig(width=0.5), discriminator=DcganDiscriminatorConfig(width=d_width))
    return remarks_on_sizes(players, {"generator": [], "discriminator": [], **(given or {})}, config)


def test_the_proportions_of_the_authors_are_not_remarked_on():
    for width, said in (0.5, 0), (0.4, 1):
        assert len(remarks(100, 2, d_width=width)) == said


def test_only_what_was_learnt_counts():
    """Not a random layer that never trains, but one that is frozen after it was learnt."""
    assert remarks(10, 40) != []
    assert remarks(10, 40, frozen="discriminator") == []
    assert remarks(10, 40, frozen="discriminator", given={"discriminator": ["0.weight"]}) != []


@pytest.mark.parametrize("stem", ["frozen", "frozen_but_input"])
def test_a_frozen_stem_counts_and_the_key_is_of_the_head(stem):
    choice = Stylegan3GeneratorConfig(
        layers=4, margin=2, channel_base=32, w_dim=8, sides=(8, 16), head_layers=(3,), stem=stem
    )
    generator, discriminator = Stylegan3Generator(choice, (8,), (1, 16, 16), UNCONDITIONAL), nn.Linear(1000, 1000)
    players = [
        SimpleNamespace(
            name=name, module=module, trainable=[p for p in module.named_parameters() if p[1].requires_grad]
        )
        for name, module in (("generator", generator), ("discriminator", discriminator))
    ]
    given = expected({"generator": generator, "discriminator": discriminator}, RandomInitConfig()).frozen
    (said,) = remarks_on_sizes(
        players, given, SimpleNamespace(generator=choice, discriminator=DcganDiscriminatorConfig())
    )
    whole = sum(each.numel() for each in generator.parameters())
    assert f"as the generator ({whole:,}, its frozen stem included): compare " in said
    assert said.endswith("discriminator.width and generator.head_layers")
