"""The axes of networks: which generators and discriminators this package has."""

from typing import Annotated

from spider.gan.networks.biggan_config import BigganDiscriminatorConfig, BigganGeneratorConfig
from spider.gan.networks.config import NetworkChoice
from spider.gan.networks.dcgan_config import DcganDiscriminatorConfig, DcganGeneratorConfig
from spider.gan.networks.fastgan_config import FastganDiscriminatorConfig, FastganGeneratorConfig
from spider.gan.networks.mlp_config import MlpConfig, PolyDiscriminatorConfig
from spider.gan.networks.projected_config import ProjectedDiscriminatorConfig
from spider.gan.networks.r3gan_config import R3ganConfig
from spider.gan.networks.stylegan3_config import Stylegan3GeneratorConfig
from spider.gan.networks.stylegan_config import (
    Stylegan2DiscriminatorConfig,
    Stylegan2GeneratorConfig,
)
from spider.settings.choices import Choices

GeneratorNetworkConfig = Annotated[
    NetworkChoice,
    Choices(
        DcganGeneratorConfig,
        R3ganConfig,
        Stylegan2GeneratorConfig,
        Stylegan3GeneratorConfig,
        FastganGeneratorConfig,
        BigganGeneratorConfig,
        MlpConfig,
    ),
]
DiscriminatorNetworkConfig = Annotated[
    NetworkChoice,
    Choices(
        DcganDiscriminatorConfig,
        R3ganConfig,
        Stylegan2DiscriminatorConfig,
        ProjectedDiscriminatorConfig,
        FastganDiscriminatorConfig,
        BigganDiscriminatorConfig,
        MlpConfig,
        PolyDiscriminatorConfig,
    ),
]
