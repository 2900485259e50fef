"""InsGen's heads, queues and terms against vectors recorded from the public code; FakeCLR's weights of the queue."""

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from cluster.world import World
from spider.config.load import make_config
from spider.errors import SpiderUsageError
from spider.gan.auxiliary.config import InsgenConfig
from spider.gan.auxiliary.insgen import DIM, Insgen, Queue
from spider.gan.networks.stylegan2 import Stylegan2Discriminator
from spider.gan.networks.stylegan2_names import discriminator_name
from spider.gan.networks.stylegan_config import Stylegan2DiscriminatorConfig
from spider.gan.outputs import UNCONDITIONAL, Condition
from tests.vectors import assert_near, recorded, weights_of

CPU = torch.device("cpu")
CALLS = {  # of the head: batch, dimensions of its input, whether nothing is pushed, whether queries are
    "": [(4, 4, 0, 0), (4, 4, 0, 1), (4, 2, 1, 0), (4, 2, 0, 0), (12, 2, 0, 0)],
    "_exact_fill": [(4, 2, 0, 0), (4, 2, 0, 0), (8, 2, 0, 1)],
}


class Judge(nn.Module):
    """A discriminator of which heads know the length of a map alone."""

    def __init__(self, map_features):
        super().__init__()
        self.map_features = map_features
        self.layer = nn.Linear(2, 2)


def take_over(insgen, name, vectors, prefix):
    """Head, its average and its queue as the public code has them."""
    for ours, theirs in ((name, "mlp"), (f"{name}_average", "momentum_mlp")):
        state = {key: vectors[f"{prefix}{theirs}.{key}"] for key in insgen.heads[name].state_dict()}
        insgen.heads[ours].load_state_dict(state)
    queue = insgen.queues[name]
    queue.keys.copy_(vectors[f"{prefix}queue"].T)
    queue.place.copy_(vectors[f"{prefix}queue_ptr"][0] % len(queue.keys))


def move(insgen, name):
    """The average of a head, which the public code moves before each use."""
    with torch.no_grad():
        for average, now in zip(
            insgen.heads[f"{name}_average"].parameters(), insgen.heads[name].parameters(), strict=True
        ):
            average.lerp_(now, 1 - insgen.config.momentum)


@pytest.mark.parametrize(("name", "inputs", "size", "momentum"), [("", 16, 10, 0.999), ("_exact_fill", 8, 8, 0.9)])
def test_heads_and_queues_go_as_recorded(name, inputs, size, momentum):
    """Also where a batch is larger than the queue, and where it fills it to the end."""
    vectors = recorded(f"insgen_head{name}")
    insgen = Insgen(InsgenConfig(queue=size, momentum=momentum), Judge(inputs), CPU)
    take_over(insgen, "fake", vectors, "weights.")
    for call, (batch, dims, loss_only, pushes_queries) in enumerate(CALLS[name]):
        maps, others = (vectors[f"{call}__im_{which}"].clone() for which in "qk")
        assert len(maps) == batch
        maps.requires_grad_()
        query, key = ((each.mean((2, 3)) if dims == 4 else each) for each in (maps, others))
        move(insgen, "fake")
        key = insgen._through("fake_average", key).detach()
        loss = insgen.told_apart("fake", query, key).mean()
        assert_near(loss, vectors[f"{call}__loss"])
        weights = dict(insgen.heads["fake"].named_parameters())
        slopes = torch.autograd.grad(loss, [maps, *weights.values()])
        assert_near(slopes[0], vectors[f"{call}__grad_im_q"])
        for part, slope in zip(weights, slopes[1:], strict=True):
            assert_near(slope, vectors[f"{call}__grad__mlp.{part}"])
        if not loss_only:
            insgen.queues["fake"].push(insgen._through("fake_average", query).detach() if pushes_queries else key)
        assert_near(insgen.queues["fake"].keys.T, vectors[f"{call}__queue"])
        assert insgen.queues["fake"].place == vectors[f"{call}__queue_ptr"][0] % size
        for part, average in insgen.heads["fake_average"].named_parameters():
            assert_near(average, vectors[f"{call}__after__momentum_mlp.{part}"])


class View:
    """`Seen`, with the recorded images that augmentation adds, in the order of the public code."""

    def __init__(self, network, images, adds, remade=None):
        self.network, self.images, self.adds, self.remade = network, images, list(adds), remade

    def again(self, use, images=None, network=None):
        seen = self.images if images is None else images
        return (network or self.network)(seen + self.adds.pop(0), Condition())


class Moves:
    """Draws of which one is recorded."""

    def normal(self, use, shape, host=False):
        return recorded("insgen_losses")["delta_z_0_randn"]


def test_both_players_pay_as_recorded():
    vectors = recorded("insgen_losses")
    config = Stylegan2DiscriminatorConfig(channel_base=128, channel_max=16, conv_clamp=None, mbstd_group=2)
    network = Stylegan2Discriminator(config, (3, 16, 16), UNCONDITIONAL, World.single())
    insgen = Insgen(InsgenConfig(queue=10), network, CPU)
    for part, module in (("D", network), ("D_ema", insgen.average)):
        module.load_state_dict(weights_of(vectors, discriminator_name, f"{part}."))
    adds = [vectors[f"aug_add{i}"] for i in range(9)]
    way = vectors["A.A"].clone().requires_grad_()

    def made(z):
        return (z @ way).tanh().view(-1, 3, 16, 16)

    for name, prefix in (("real", "DHead."), ("fake", "GHead.")):
        take_over(insgen, name, vectors, prefix)
        move(insgen, name)
    fake = made(vectors["z"]).detach()
    told = insgen.discriminator(
        View(network, vectors["real"], adds[2:4]),
        View(network, fake, adds[4:6], lambda change: made(change(vectors["z"]))),
        Moves(),
    )
    assert_near(told.terms["real"].mean(), vectors["D_loss_D_cl"])
    assert_near(told.terms["fake"].mean(), vectors["D_loss_G_cl"])
    logits = [
        network(images + add, Condition()).logits for images, add in ((fake, adds[0]), (vectors["real"], adds[1]))
    ]
    loss = softplus(logits[0]).mean() + softplus(-logits[1]).mean() + sum(term.mean() for term in told.terms.values())
    loss.backward()
    for name, slope in weights_of(vectors, discriminator_name, "Dphase_grad__").items():
        assert_near(network.get_parameter(name).grad, slope)
    for name, prefix in (("real", "DHead"), ("fake", "GHead")):
        insgen.queues[name].push(told.keep[name])
        assert_near(insgen.queues[name].keys.T, vectors[f"Dphase_after__{prefix}.queue"])

    take_over(insgen, "fake", vectors, "Dphase_after__GHead.")
    move(insgen, "fake")
    fake = made(vectors["z_G"])
    paid = insgen.generator(View(network, fake, adds[7:9]), Moves()).terms["fake"]
    assert_near(paid.mean(), 0.1 * vectors["G_loss_cl_on_g"])
    loss = softplus(-network(fake + adds[6], Condition()).logits).mean() + paid.mean()
    assert_near(torch.autograd.grad(loss, way)[0], vectors["G_grad_A"])


def test_newer_keys_weigh_more_where_old_ones_are_forgotten():
    torch.manual_seed(0)
    queue = Queue(6, CPU)
    for _ in range(4):
        queue.push(torch.randn(2, DIM))
    assert queue.pushed.tolist() == [4, 4, 2, 2, 3, 3]
    weights = queue.recency("paper")
    assert float(weights.sum()) == pytest.approx(1)
    assert weights[0] == weights[1] > weights[4] == weights[5] > weights[2] == weights[3]
    assert queue.recency("none").tolist() == [0] * 6
    assert queue.recency("code").tolist() == [1] * 6


def test_noise_of_the_input_is_fixed_or_goes_with_it():
    class Ones:
        def normal(self, use, shape, host=False):
            return torch.ones(1, *shape)

    z = torch.tensor([[0.5, -2.0, 4.0]])
    fixed, scaled = (Insgen(InsgenConfig(near=near, near_std=0.1), Judge(4), CPU) for near in ("fixed", "scaled"))
    torch.testing.assert_close(fixed._moved(Ones(), z), z + 0.1)
    torch.testing.assert_close(scaled._moved(Ones(), z), z + 0.1 * torch.tensor([[0.5, 2.0, 3.0]]))


def test_a_discriminator_that_does_not_tell_its_map_is_refused():
    with pytest.raises(
        SpiderUsageError, match=r"kind=insgen looks at .* which discriminator\.kind=dcgan does not tell"
    ):
        make_config({}, ["auxiliary=[{kind: insgen}]"])
    with pytest.raises(SpiderUsageError, match="which Linear does not tell"):
        Insgen(InsgenConfig(), nn.Linear(2, 2), CPU)
