"""When the sizes of the two players are worth a word."""

from torch import nn

from spider.gan.networks.balance import remarks_on_sizes
from spider.gan.networks.dcgan_config import DcganDiscriminatorConfig, DcganGeneratorConfig


def test_the_proportions_of_the_authors_are_not_remarked_on():
    generator, discriminator = nn.Linear(100, 100), nn.Linear(2, 2)
    for width, said in (0.5, 0), (0.4, 1):
        choices = DcganGeneratorConfig(width=0.5), DcganDiscriminatorConfig(width=width)
        assert len(remarks_on_sizes(generator, discriminator, *choices)) == said
