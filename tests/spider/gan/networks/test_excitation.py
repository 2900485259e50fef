"""FastGAN's gates average maps as published, by what is deterministic on every device."""

import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d
from torch.utils._python_dispatch import TorchDispatchMode

from cluster.world import World
from spider.gan.networks.excitation import averaged
from spider.gan.networks.fastgan import FastganGenerator
from spider.gan.networks.fastgan_config import FastganDiscriminatorConfig, FastganGeneratorConfig
from spider.gan.networks.fastgan_discriminator import FastganDiscriminator
from spider.gan.outputs import UNCONDITIONAL, Condition


class Called(TorchDispatchMode):
    """Notes the operations, also those of gradients."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("side", [4, 8, 32])
def test_it_is_the_adaptive_average(side):
    x = torch.randn(2, 3, side, side, dtype=torch.float64)
    torch.testing.assert_close(averaged(x, 4), adaptive_avg_pool2d(x, 4))


def test_no_gradient_goes_through_an_adaptive_average():
    """Its gradient adds in any order on a GPU, so compute.deterministic=true refuses it there."""
    torch.manual_seed(0)
    generator = FastganGenerator(FastganGeneratorConfig(ngf=1), (4,), (3, 64, 64), UNCONDITIONAL, World.single())
    judge = FastganDiscriminator(FastganDiscriminatorConfig(ndf=1), (3, 64, 64), World.single())
    decoders = judge.decoders(1, 64)
    called = Called()
    with called:
        images = generator(torch.randn(2, 4), Condition()).images
        small = torch.nn.functional.avg_pool2d(images, 2)
        judged = judge(images, Condition(sizes={"small": small}))
        drawn = decoders({name: judged.features[name] for name in ("trunk", "small", "inner")})
        (judged.logits.sum() + sum(each.sum() for each in drawn.values())).backward()
    assert any("conv" in name for name in called.names)
    assert not any("adaptive" in name for name in called.names)
