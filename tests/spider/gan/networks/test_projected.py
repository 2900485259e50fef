"""The projected discriminator against vectors recorded from the public code; and what it looks through."""

import pytest
import torch
from torch.nn.functional import interpolate

from cluster.world import World
from spider.backbones.efficientnet_lite0 import CHANNELS
from spider.errors import SpiderUsageError
from spider.gan.networks.projected import ProjectedDiscriminator
from spider.gan.networks.projected_config import ProjectedDiscriminatorConfig
from spider.gan.networks.projected_heads import Heads
from spider.gan.networks.projected_mixing import Mixing
from spider.gan.networks.projected_names import discriminator_name
from spider.gan.networks.spectral import SpectralConv
from spider.gan.outputs import UNCONDITIONAL, Condition, ConditionShape
from tests.vectors import assert_near, recorded, weights_of

SINGLE = World.single()
HEADS = {"": (4, 0, False), "_class5": (2, 5, False), "_separable": (2, 0, True)}
SMALL = {"width": 1 / 64, "mixed_channels": 4, "enlarge_to": 128}


def ours(part):
    """From a name of the public code to ours within a part of the discriminator."""
    return lambda name: discriminator_name(name, 4).removeprefix(f"{part}.")


def test_mixed_maps_and_gradients_are_the_recorded_ones():
    vectors, mixing = recorded("projected_mixing"), Mixing(CHANNELS, 8)
    mixing.load_state_dict(weights_of(vectors, ours("mixing")))
    maps = [vectors[f"feat{i}"].clone().requires_grad_() for i in range(4)]
    mixed = mixing(maps)
    for i, each in enumerate(mixed):
        assert_near(each, vectors[f"proj2_out{i}"])
    for i, slope in enumerate(torch.autograd.grad(sum(each.square().sum() for each in mixed), maps)):
        assert_near(slope, vectors[f"grad_feat{i}"])
    assert not any(parameter.requires_grad for parameter in mixing.parameters())


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_heads_judge_as_recorded(kind, mode):
    vectors, (count, classes, separable) = recorded(f"projected_heads{kind}"), HEADS[kind]
    config = ProjectedDiscriminatorConfig(heads=count, width=1 / 32, separable=separable)
    heads = Heads(config, [4, 4, 8, 16], ConditionShape(classes), SINGLE).train(mode == "train")
    heads.load_state_dict(weights_of(vectors, ours("heads")))
    if mode == "train":  # the public code makes a round of each power iteration before it uses the weights
        for layer in heads.modules():
            if isinstance(layer, SpectralConv):
                layer.round()
    maps = [vectors[f"feat{i}"].clone().requires_grad_() for i in range(count)]
    logits = heads(maps, Condition(vectors["label"].long() if classes else None)).logits
    assert_near(logits, vectors[f"logits_{mode}"])
    if mode == "eval":
        for i, slope in enumerate(torch.autograd.grad(-logits.mean(), maps)[1:], 1):
            assert_near(slope, vectors[f"grad_eval_feat{i}"])
        return
    loss = (1 - logits).relu().mean()
    assert_near(loss, vectors["hinge_real_train"])
    loss.backward()
    for name, slope in weights_of(vectors, ours("heads"), "grad_train__").items():
        if not name.endswith("conv.bias"):  # before a batch norm its true gradient is 0
            assert_near(heads.get_parameter(name).grad, slope)
    state = heads.state_dict()
    for name, moved in weights_of(vectors, ours("heads"), "after_train__").items():
        assert_near(state[name], moved)


def test_it_is_the_pretrained_network_the_mixing_and_the_heads_of_the_enlarged_image():
    torch.manual_seed(0)
    network = ProjectedDiscriminator(ProjectedDiscriminatorConfig(**SMALL), (1, 8, 8), UNCONDITIONAL, SINGLE).eval()
    images = torch.rand(2, 1, 8, 8) * 2 - 1
    shown = interpolate(images.repeat(1, 3, 1, 1), (128, 128), mode="bilinear", align_corners=False)
    with torch.no_grad():
        expected = network.heads(network.mixing(network.backbone.stages(shown)), Condition())
        found = network(images, Condition())
    torch.testing.assert_close(found.logits, expected.logits)
    assert found.logits.shape == (2, 4)  # a place of each of the four heads
    assert found.features["last"].shape == (2, network.features)


def test_images_of_128_px_and_more_are_seen_as_they_are():
    config = ProjectedDiscriminatorConfig(enlarge_to=None)
    assert config.seen_size((3, 128, 160)) is None
    assert ProjectedDiscriminatorConfig().seen_size((3, 256, 256)) is None
    assert ProjectedDiscriminatorConfig().seen_size((3, 128, 128)) == (224, 224)
    for shape, size in {(3, 512, 128): (896, 224), (1, 60, 100): (224, 384), (3, 28, 29): (224, 224)}.items():
        assert ProjectedDiscriminatorConfig().seen_size(shape) == size
    for shape, said in (((3, 64, 64), "found 64x64"), ((3, 144, 144), "found 144x144"), ((4, 128, 128), "4 channels")):
        with pytest.raises(SpiderUsageError, match=said):
            config.seen_size(shape)


def test_only_heads_train_and_gradients_reach_the_images():
    network = ProjectedDiscriminator(ProjectedDiscriminatorConfig(**SMALL), (3, 32, 32), ConditionShape(3), SINGLE)
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    network(images, Condition(torch.tensor([0, 2]))).logits.mean().backward()
    assert images.grad.abs().sum() > 0
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(name.startswith("heads.") for name in trained)
    assert {name for name, parameter in network.named_parameters() if parameter.grad is not None} == trained
    listed = [id(p) for layer in network.layers_from_images() for part in layer for p in part.parameters()]
    assert sorted(listed) == sorted(id(p) for p in network.heads.parameters())
