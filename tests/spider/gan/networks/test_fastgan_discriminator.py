"""FastGAN's discriminator, its decoders and what it pays, against a step recorded from the public code."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import interpolate

from cluster.world import World
from spider.config.load import make_config
from spider.errors import SpiderUsageError
from spider.gan.auxiliary.config import ReconstructionConfig
from spider.gan.auxiliary.reconstruction import Reconstruction, _quarters
from spider.gan.networks.fastgan_config import FastganDiscriminatorConfig
from spider.gan.networks.fastgan_discriminator import FastganDiscriminator
from spider.gan.networks.fastgan_discriminator_names import decoder_name, discriminator_name
from spider.gan.objectives.hinge import Hinge
from spider.gan.outputs import Condition
from tests.vectors import assert_near, recorded, weights_of

SINGLE, CPU = World.single(), torch.device("cpu")
VECTORS = recorded("fastgan_d256")


def of_network(prefix):
    return weights_of(VECTORS, partial(discriminator_name, side=256), prefix)


def of_decoders(prefix):
    return weights_of(VECTORS, lambda key: decoder_name(f"decoder_{key}"), f"{prefix}decoder_")


def built():
    """The discriminator and the auxiliary with the recorded weights."""
    network = FastganDiscriminator(FastganDiscriminatorConfig(ndf=4), (3, 256, 256), SINGLE)
    auxiliary = Reconstruction(ReconstructionConfig(channels=2, distance="pixels"), network, (3, 256, 256), CPU)
    network.load_state_dict(of_network("weights."))
    auxiliary.decoders.load_state_dict(of_decoders("weights."))
    return network, auxiliary


def real_pair():
    """As the public code resizes what it reads: by the nearest pixel."""
    return (interpolate(VECTORS["real"], side) for side in (256, 128))


def test_logits_and_reconstructions_are_the_recorded_ones():
    network, auxiliary = built()
    for module in (network, auxiliary.decoders):
        module.eval()
    real, small = real_pair()
    out = network(real, Condition(sizes={"small": small}))
    assert_near(out.logits.flatten(), VECTORS["logits_real_eval"])
    fake = network(VECTORS["fake_big"], Condition(sizes={"small": VECTORS["fake_small"]}))
    assert_near(fake.logits.flatten(), VECTORS["logits_fake_eval"])
    drawn = auxiliary.decoders({"trunk": out.features["trunk"], "small": out.features["small"]})
    assert_near(drawn["trunk"][:, :, ::4, ::4], VECTORS["rec_big_every4"])
    assert_near(drawn["small"][:, :, ::4, ::4], VECTORS["rec_small_every4"])
    for part in range(4):
        which = torch.tensor([part])
        drawn = auxiliary.decoders({"inner": _quarters(out.features["inner"], which)})["inner"]
        assert_near(drawn[:, :, ::8, ::8], VECTORS[f"rec_part{part}_every8"])
        target = interpolate(_quarters(real, which), (128, 128))
        assert_near(target[:, :, ::8, ::8], VECTORS[f"part_target{part}_every8"])


class Margins:
    """Draws that were recorded: margins in the order of the logits, and the second quarter."""

    def uniform(self, use, shape, host=False):
        if use == "quarter":
            return torch.tensor([0.3])
        return VECTORS[f"smooth_{use.removeprefix('margin.')}__0_rand_like"][None]


def test_the_discriminator_pays_as_recorded():
    """The public code makes a round of each power iteration before both of its passes."""
    network, auxiliary = built()
    objective = Hinge(0.8)
    outs = []
    for big, small in (real_pair(), (VECTORS["fake_big"], VECTORS["fake_small"])):
        network.stepped("d_main", {})
        outs.append(network(big, Condition(sizes={"small": small})))
        if len(outs) == 1:
            auxiliary.stepped("d_main", {})
            seen = SimpleNamespace(augmented=big, out=outs[0])
            told = auxiliary.discriminator(seen, None, Margins())
            # the vectors of that pass, whose gradients are asked for once those of the next have moved
            real = objective.discriminator(outs[0], outs[0], Margins()).terms["d_real"]
            (real.mean() + sum(term.sum() for term in told.terms.values())).backward()
    fake = objective.discriminator(outs[1], outs[1], Margins()).terms["d_fake"]
    fake.mean().backward()
    assert_near(outs[0].logits.flatten(), VECTORS["logits_real_train"])
    assert_near(outs[1].logits.flatten(), VECTORS["logits_fake_train"])
    assert_near(real.mean(), VECTORS["hinge_real"])
    assert_near(fake.mean(), VECTORS["hinge_fake"])
    slopes = of_network("D_grad__")
    for name, slope in slopes.items():
        assert_near(network.get_parameter(name).grad, slope, 2e-2 if "blocks.128.direct" in name else 1e-3)
    slopes_of_decoders = of_decoders("D_grad__")
    for name, slope in slopes_of_decoders.items():
        assert_near(auxiliary.decoders.get_parameter(name).grad, slope, 1e-3)
    assert len(slopes) + len(slopes_of_decoders) > 80
    state = network.state_dict()
    for name, moved in of_network("D_after__").items():
        assert_near(state[name], moved)


@pytest.mark.parametrize(("side", "small", "logits"), [(32, 16, 50), (64, 32, 50), (512, 128, 50), (1024, 128, 50)])
def test_every_size_has_two_heads_of_25_places(side, small, logits):
    network = FastganDiscriminator(FastganDiscriminatorConfig(ndf=2), (1, side, side), SINGLE)
    assert network.sizes == {"small": (small, small)}
    images, smaller = torch.randn(2, 1, side, side), torch.randn(2, 1, small, small)
    out = network(images, Condition(sizes={"small": smaller}))
    assert out.logits.shape == (2, logits)
    assert out.features["last"].shape == (2, network.features)
    drawn = network.decoders(2, min(128, side))(
        {**{name: out.features[name] for name in ("trunk", "small")}, "inner": out.features["inner"][:, :, :8, :8]}
    )
    assert {each.shape for each in drawn.values()} == {(2, 1, min(128, side), min(128, side))}
    (out.logits.sum() + sum(each.sum() for each in drawn.values())).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_quarters_are_of_their_image():
    images = torch.arange(2 * 16.0).view(2, 1, 4, 4)
    found = _quarters(images, torch.tensor([1, 2]))
    assert torch.equal(found[0], images[0, :, :2, 2:])
    assert torch.equal(found[1], images[1, :, 2:, :2])


def test_what_cannot_go_together_is_refused():
    for words, said in (
        (["auxiliary=[{kind: reconstruction}]"], "needs a discriminator that brings decoders, found .*kind=dcgan"),
        (["auxiliary=[{kind: reconstruction}]", "discriminator.kind=mlp"], "brings decoders, found .*kind=mlp"),
        (
            ["auxiliary=[{kind: insgen}]", "discriminator.kind=fastgan", "generator.norm=none"],
            "insgen looks at D's last map, which discriminator.kind=fastgan does not tell",
        ),
        (
            ["discriminator.kind=fastgan", "generator.norm=none", "accumulation=2"],
            "kind=fastgan normalises over the global batch",
        ),
    ):
        with pytest.raises(SpiderUsageError, match=said):
            make_config({}, words)
    with pytest.raises(SpiderUsageError, match=r"discriminator\.kind=fastgan is for squares"):
        FastganDiscriminatorConfig().side((3, 48, 48))
    with pytest.raises(SpiderUsageError, match="32 to 1024 px, found 16"):
        FastganDiscriminatorConfig().side((3, 16, 16))
