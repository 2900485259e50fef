"""When the sizes of the two players are worth a word."""

from types import SimpleNamespace

from torch import nn

from spider.config.schema import Config
from spider.gan.networks.balance import remarks_on_sizes
from spider.gan.networks.dcgan_config import DcganDiscriminatorConfig, DcganGeneratorConfig


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
