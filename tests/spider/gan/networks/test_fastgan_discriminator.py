"""FastGAN's discriminator, its decoders and what it pays, against a step recorded from the public code."""

from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
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

SINGLE, CPU = World.single(), torch.device("cpu")


@cache
def recorded():
    path = Path(__file__).parents[3] / "golden" / "fastgan_d256.npz"
    return {key: torch.from_numpy(array) for key, array in np.load(path).items()}


def assert_near(found, expected, of_max=1e-4):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= of_max * expected.abs().max() + 1e-9


def built():
    """The discriminator and the auxiliary with the recorded weights."""
    network = FastganDiscriminator(FastganDiscriminatorConfig(ndf=4), (3, 256, 256), SINGLE)
    auxiliary = Reconstruction(ReconstructionConfig(channels=2, distance="pixels"), network, (3, 256, 256), CPU)
    weights = {key.removeprefix("weights."): x for key, x in recorded().items() if key.startswith("weights.")}
    ours = {discriminator_name(key, 256): x for key, x in weights.items() if not key.startswith("decoder_")}
    network.load_state_dict(ours)
    auxiliary.decoders.load_state_dict(
        {decoder_name(key): x for key, x in weights.items() if key.startswith("decoder_")}
    )
    return network, auxiliary


def real_pair():
    """As the public code resizes what it reads: by the nearest pixel."""
    return (interpolate(recorded()["real"], side) for side in (256, 128))


def test_logits_and_reconstructions_are_the_recorded_ones():
    vectors, (network, auxiliary) = recorded(), built()
    for module in (network, auxiliary.decoders):
        module.eval()
    real, small = real_pair()
    out = network(real, Condition(sizes={"small": small}))
    assert_near(out.logits.flatten(), vectors["logits_real_eval"])
    fake = network(vectors["fake_big"], Condition(sizes={"small": vectors["fake_small"]}))
    assert_near(fake.logits.flatten(), vectors["logits_fake_eval"])
    drawn = auxiliary.decoders({"trunk": out.features["trunk"], "small": out.features["small"]})
    assert_near(drawn["trunk"][:, :, ::4, ::4], vectors["rec_big_every4"])
    assert_near(drawn["small"][:, :, ::4, ::4], vectors["rec_small_every4"])
    for part in range(4):
        which = torch.tensor([part])
        drawn = auxiliary.decoders({"inner": _quarters(out.features["inner"], which)})["inner"]
        assert_near(drawn[:, :, ::8, ::8], vectors[f"rec_part{part}_every8"])
        target = interpolate(_quarters(real, which), (128, 128))
        assert_near(target[:, :, ::8, ::8], vectors[f"part_target{part}_every8"])


class Margins:
    """Draws that were recorded: margins in the order of the logits, and the second quarter."""

    def uniform(self, use, shape, host=False):
        if use == "quarter":
            return torch.tensor([0.3])
        return recorded()[f"smooth_{use.removeprefix('margin.')}__0_rand_like"][None]


def test_the_discriminator_pays_as_recorded():
    """The public code makes a round of each power iteration before both of its passes."""
    vectors, (network, auxiliary) = recorded(), built()
    objective = Hinge(0.8)
    outs = []
    for big, small in (real_pair(), (vectors["fake_big"], vectors["fake_small"])):
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
    assert_near(outs[0].logits.flatten(), vectors["logits_real_train"])
    assert_near(outs[1].logits.flatten(), vectors["logits_fake_train"])
    assert_near(real.mean(), vectors["hinge_real"])
    assert_near(fake.mean(), vectors["hinge_fake"])
    slopes = [key for key in vectors if key.startswith("D_grad__")]
    assert len(slopes) > 80
    for key in slopes:
        name = key.removeprefix("D_grad__")
        module, ours = (
            (auxiliary.decoders, decoder_name(name))
            if name.startswith("decoder_")
            else (network, discriminator_name(name, 256))
        )
        assert_near(module.get_parameter(ours).grad, vectors[key], 2e-2 if "down_4.direct" in key else 1e-3)
    state = network.state_dict()
    moved = [key for key in vectors if key.startswith("D_after__") and "decoder_" not in key]
    for key in moved:
        assert_near(state[discriminator_name(key.removeprefix("D_after__"), 256)], vectors[key])


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
