"""The projected discriminator against vectors recorded from the public code; and what it looks through."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from cluster.world import World
from spider.errors import SpiderUsageError
from spider.gan.networks.projected import CHANNELS, Heads, Mixing, ProjectedDiscriminator
from spider.gan.networks.projected_config import ProjectedDiscriminatorConfig
from spider.gan.networks.projected_names import discriminator_name
from spider.gan.networks.spectral import SpectralConv
from spider.gan.outputs import Condition

SINGLE = World.single()
HEADS = {"": (4, 0, False), "_class5": (2, 5, False), "_separable": (2, 0, True)}
SMALL = {"width": 1 / 64, "mixed_channels": 4, "enlarge_to": 128}


@cache
def recorded(name):
    path = Path(__file__).parents[3] / "golden" / f"projected_{name}.npz"
    return {key: torch.from_numpy(array) for key, array in np.load(path).items()}


def take_over(part, name, prefix):
    weights = {key.removeprefix("weights."): x for key, x in recorded(name).items() if key.startswith("weights.")}
    part.load_state_dict({discriminator_name(key, 4).removeprefix(prefix): x for key, x in weights.items()})
    return part


def assert_near(found, expected, of_max=1e-4):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= of_max * expected.abs().max()


def test_mixed_maps_and_gradients_are_the_recorded_ones():
    vectors = recorded("mixing")
    mixing = take_over(Mixing(CHANNELS, 8), "mixing", "mixing.")
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
    vectors, (count, classes, separable) = recorded(f"heads{kind}"), HEADS[kind]
    config = ProjectedDiscriminatorConfig(heads=count, width=1 / 32, separable=separable)
    heads = take_over(Heads(config, [4, 4, 8, 16], classes, SINGLE), f"heads{kind}", "heads.").train(mode == "train")
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
    for name, parameter in (
        (key.removeprefix("grad_train__"), x) for key, x in vectors.items() if "grad_train__" in key
    ):
        ours = discriminator_name(name, 4).removeprefix("heads.")
        if not ours.endswith("conv.bias"):  # before a batch norm its true gradient is 0
            assert_near(heads.get_parameter(ours).grad, parameter)
    state = heads.state_dict()
    for name, moved in ((key.removeprefix("after_train__"), x) for key, x in vectors.items() if "after_train__" in key):
        assert_near(state[discriminator_name(name, 4).removeprefix("heads.")], moved)


def test_it_is_the_pretrained_network_the_mixing_and_the_heads_of_the_enlarged_image():
    torch.manual_seed(0)
    network = ProjectedDiscriminator(ProjectedDiscriminatorConfig(**SMALL), (1, 8, 8), 0, SINGLE).eval()
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
    assert config.seen_side((3, 128, 160)) is None
    assert ProjectedDiscriminatorConfig().seen_side((3, 256, 256)) is None
    assert ProjectedDiscriminatorConfig().seen_side((3, 128, 128)) == 224
    for shape, said in (((3, 64, 64), "found 64x64"), ((3, 144, 144), "found 144x144"), ((4, 128, 128), "4 channels")):
        with pytest.raises(SpiderUsageError, match=said):
            config.seen_side(shape)


def test_only_heads_train_and_gradients_reach_the_images():
    network = ProjectedDiscriminator(ProjectedDiscriminatorConfig(**SMALL), (3, 32, 32), 3, SINGLE)
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    network(images, Condition(torch.tensor([0, 2]))).logits.mean().backward()
    assert images.grad.abs().sum() > 0
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(name.startswith("heads.") for name in trained)
    assert {name for name, parameter in network.named_parameters() if parameter.grad is not None} == trained
    listed = [id(p) for layer in network.layers_from_images() for part in layer for p in part.parameters()]
    assert sorted(listed) == sorted(id(p) for p in network.heads.parameters())
