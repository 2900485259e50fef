"""A discriminator that looks through several networks: StyleGAN-XL's against recorded vectors, and its parts."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate, softplus
from torchvision.models import resnet18

from cluster.world import World
from spider.backbones.normalisation import IMAGENET
from spider.errors import SpiderUsageError
from spider.gan.loss import as_term
from spider.gan.networks.backbone_config import (
    BackboneChoice,
    DeitConfig,
    EfficientnetLite0Config,
    TorchvisionConfig,
)
from spider.gan.networks.build import build_discriminator
from spider.gan.networks.look import Shown
from spider.gan.networks.projected import ProjectedDiscriminator
from spider.gan.networks.projected_config import ProjectedDiscriminatorConfig
from spider.gan.networks.projected_names import discriminator_name
from spider.gan.networks.spectral import SpectralConv
from spider.gan.objectives.non_saturating import NonSaturating
from spider.gan.objectives.slicing import Slicing
from spider.gan.outputs import UNCONDITIONAL, Condition, ConditionShape
from spider.gan.saved import copy_of, named_weights, saved_tensors
from tests.deit import deit_state
from tests.vectors import assert_near, recorded, weights_of

SINGLE = World.single()
LITE0 = EfficientnetLite0Config()
SMALL = {"width": 1 / 64, "mixed_channels": 4, "enlarge_to": 128}


@pytest.fixture(scope="module")
def deit(tmp_path_factory: pytest.TempPathFactory) -> DeitConfig:
    """A tiny one, which is shown images of 128 px."""
    file = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save({"model": deit_state(grid=8)}, file)
    return DeitConfig(weights=str(file))


@cache
def network(config: ProjectedDiscriminatorConfig, told: ConditionShape = UNCONDITIONAL, sliced: bool = False):
    return build_discriminator(config, (3, 32, 32), SINGLE, 0, told, sliced=sliced).eval()


def fresh(*looks: BackboneChoice, told: ConditionShape = UNCONDITIONAL, sliced: bool = False, **settings):
    config = ProjectedDiscriminatorConfig(backbones=looks, **{**SMALL, **settings})
    return copy.deepcopy(network(config, told, sliced))


def given_maps(discriminator: ProjectedDiscriminator, vectors, use: str, heads: int):
    """Let it judge recorded maps in the place of its own; they are returned, one list for each network."""
    maps = [
        [vectors[f"{use}_bb{number}_feat{i}"].clone().requires_grad_() for i in range(heads)]
        for number in range(len(discriminator.looks))
    ]
    for look, own in zip(discriminator.looks, maps, strict=True):
        look.backbone.stages = lambda images: images
        look.mixing.forward = lambda images, own=own: own
    return maps


def round_of(discriminator: ProjectedDiscriminator) -> None:
    """A round of the power iteration before a pass, as the public code has it. Earlier passes stay as they are."""
    for layer in discriminator.modules():
        if isinstance(layer, SpectralConv):
            layer.u, layer.v = layer.u.clone(), layer.v.clone()
            layer.round()


@pytest.mark.parametrize("name", ["stylegan_xl_heads", "stylegan_xl_heads_class5"])
def test_both_phases_are_those_of_stylegan_xl(name: str, deit: DeitConfig):
    """There a loss is a sum over images and networks of the mean of their logits; here it is a mean over all."""
    vectors, classes = recorded(name), 5 if "class" in name else 0
    heads = 2 if classes else 3
    made = fresh(
        deit, LITE0, told=ConditionShape(classes), heads=heads, mixed_channels=3, embedding_dim=20,
        class_layer="equalised",
    )  # fmt: skip
    beginning = saved_tensors(made)
    own = {}
    for number, theirs in enumerate(("deit_base_distilled_patch16_224", "tf_efficientnet_lite0")):
        prefix = "" if number == 0 else "others.0."
        for key in weights_of(vectors):
            if key.startswith(f"discriminators.{theirs}.") and (ours := discriminator_name(key, 4)) is not None:
                own[prefix + ours] = key
    assert sorted(own) == sorted(each for each in beginning if "heads." in each)
    for ours, key in own.items():
        beginning[ours].copy_(vectors[f"weights.{key}"])
    condition = Condition(vectors["label"] if classes else None)
    images, count = torch.zeros(2, 3, 32, 32), 2 * 2  # images and networks

    def rows(logits):  # ours are [N, P] -> [networks N, P / networks]
        return torch.cat(logits.chunk(2, dim=1))

    given_maps(made, vectors, "fake", heads)
    assert_near(rows(made.eval()(images, condition).logits), vectors["logits_eval_rows"])

    other = copy.deepcopy(made).train()
    maps = given_maps(other, vectors, "fake", heads)
    round_of(other)
    logits = other(images, condition).logits
    assert_near(rows(logits), vectors["G_logits"])
    paid = -count * logits.mean()
    assert_near(paid, vectors["G_loss"])
    slopes = iter(torch.autograd.grad(paid, [each for look in maps for each in look]))
    for number in range(2):
        for i in range(heads):
            slope, key = next(slopes), f"G_grad_fake_bb{number}_feat{i}"
            expected = vectors.get(key, vectors.get(f"{key}_every4"))
            assert_near(slope if key in vectors else slope[:, :, ::4, ::4], expected)

    made.train()
    judged = {}
    for use in ("fake", "real"):
        given_maps(made, vectors, use, heads)
        round_of(made)
        judged[use] = made(images, condition).logits
        assert_near(rows(judged[use]), vectors[f"D_logits_{use}"])
    loss = count * ((1 + judged["fake"]).relu().mean() + (1 - judged["real"]).relu().mean())
    assert_near(loss, vectors["D_loss"])
    loss.backward()
    for ours, key in own.items():
        if f"D_grad__{key}" in vectors and not ours.endswith("conv.bias"):  # before a batch norm its gradient is 0
            assert_near(made.get_parameter(ours).grad, vectors[f"D_grad__{key}"])


def test_each_network_is_shown_images_as_it_was_recorded_to_be():
    vectors = recorded("stylegan_xl_heads")
    for number, normalised in ((0, True), (1, False)):  # lite0's mean and deviation, 0.5 and 0.5, leave -1 to 1
        shown = Shown(IMAGENET if normalised else None, (224, 224))(vectors["img"])
        assert_near(shown[:, :, ::16, ::16], vectors[f"backbone{number}_input_every16"], 1e-5)
    grey = torch.rand(1, 1, 4, 4)
    assert torch.equal(Shown(None, None)(grey), grey.expand(1, 3, 4, 4))


def test_it_is_its_networks_side_by_side(deit: DeitConfig):
    """Each with its own view, mixing and heads; a transformer is shown images in its own size."""
    made, images, view = fresh(deit, LITE0), *(torch.rand(2, 2, 3, 32, 32) * 2 - 1)
    with torch.no_grad():
        found = made(images, Condition(views={"backbone1": view}))
        both = []
        for look, seen, normalised in ((made.looks[0], images, True), (made.looks[1], view, False)):
            seen = interpolate(seen, (128, 128), mode="bilinear", align_corners=False)
            if normalised:
                mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
                seen = (seen / 2 + 0.5 - mean) / std
            both.append(look.heads(look.mixing(look.backbone.stages(seen)), Condition()))
    torch.testing.assert_close(found.logits, torch.cat([each.logits for each in both], dim=1), rtol=1e-4, atol=1e-5)
    assert found.logits.shape == (2, 8)
    assert found.features["last"].shape == (2, made.features)
    assert made.views == ("backbone1",)
    assert not torch.equal(found.logits[:, 4:], made(images, Condition()).logits[:, 4:])


def test_networks_weigh_alike_however_many_logits_they_have(deit: DeitConfig):
    """As in StyleGAN-XL's code, whose losses are sums over images and networks of the mean of a network's logits."""
    assert fresh(deit, LITE0)(torch.rand(2, 3, 32, 32), Condition()).weights is None
    config = ProjectedDiscriminatorConfig(backbones=(deit, LITE0), **SMALL)
    made = build_discriminator(config, (3, 160, 160), SINGLE, 0, sliced=True)
    real, fake = (made(images, Condition()) for images in torch.rand(2, 2, 3, 160, 160))
    parts = slice(4), slice(4, None)  # a place in each of the transformer's four maps, 2 x 2 in each of the others
    assert real.logits.shape == (2, 4 + 16)

    def mean(values):
        return sum(values[:, part].mean() for part in parts) / 2

    objective = Slicing(NonSaturating(), "normalised", SINGLE.device)
    loss = objective.discriminator(real, fake, None).weighed(real.weights)
    slope = (-real.logits).sigmoid().detach()
    expected = {
        "d_real": mean(softplus(-real.logits)),
        "d_fake": mean(softplus(fake.logits)),
        "d_direction_real": -mean(slope * real.features["direction"]) / mean(slope),
    }
    for name, paid in expected.items():
        term = as_term(name, loss.terms[name])
        torch.testing.assert_close(term.share(term.total()), paid)


def test_the_first_network_is_called_as_if_it_were_alone(deit: DeitConfig):
    """So a checkpoint of one network fits, and its first weights are those that it has alone."""
    alone, both = saved_tensors(fresh()), saved_tensors(fresh(LITE0, deit))
    assert set(alone) < set(both)
    assert all(torch.equal(alone[name], both[name]) for name in alone)
    assert {name.split(".")[2] for name in both.keys() - alone.keys()} == {"backbone", "mixing", "heads"}
    digests = named_weights({"d": fresh(LITE0, deit)})
    assert list(digests) == ["d.backbone", "d.others.0.backbone.network"]
    assert len(set(digests.values())) == 2


def test_only_heads_train_and_gradients_reach_all_views(deit: DeitConfig):
    made = fresh(deit, LITE0, told=ConditionShape(3)).train()
    images, view = torch.rand(2, 2, 3, 32, 32).requires_grad_()
    out = made(images, Condition(torch.tensor([0, 2]), views={"backbone1": view}))
    of_images, of_view = torch.autograd.grad(out.logits.mean(), [images, view], create_graph=True)
    assert of_images.abs().sum() > 0 < of_view.abs().sum()
    (of_images.square().sum() + of_view.square().sum()).backward()  # as a gradient penalty does
    trained = {name for name, each in made.named_parameters() if each.requires_grad}
    assert all("heads." in name for name in trained)
    assert {name for name, each in made.named_parameters() if each.grad is not None} <= trained
    listed = [id(p) for layer in made.layers_from_images() for part in layer for p in part.parameters()]
    assert sorted(listed) == sorted(id(each) for each in made.parameters() if each.requires_grad)


@pytest.mark.parametrize("classes", [0, 3])
def test_sliced_it_says_the_same_and_a_direction_of_every_logit(deit: DeitConfig, classes: int):
    settings = {"told": ConditionShape(classes), "class_layer": "equalised"}
    plain, sliced = (fresh(deit, LITE0, **settings, sliced=sliced) for sliced in (False, True))
    condition = Condition(torch.arange(2) if classes else None)
    images = torch.rand(2, 3, 32, 32)
    before, after = plain(images, condition), sliced(images, condition)
    torch.testing.assert_close(after.logits, before.logits, rtol=1e-4, atol=1e-6)
    assert after.features["direction"].shape == after.logits.shape
    torch.testing.assert_close(after.features["direction"], after.logits, rtol=1e-4, atol=1e-6)


def test_a_classifier_of_torchvision_is_looked_through(tmp_path: Path):
    torch.save(resnet18(weights=None).state_dict(), tmp_path / "mine.pth")
    look = TorchvisionConfig(network="resnet18", weights=str(tmp_path / "mine.pth"))
    made, plain = fresh(look).train(), fresh(look.model_copy(update={"normalise": False}))
    assert (made.looks[0].shown.normalisation, plain.looks[0].shown.normalisation) == (IMAGENET, None)
    images = torch.rand(2, 3, 32, 32).requires_grad_()
    (slope,) = torch.autograd.grad(made(images, Condition()).logits.sum(), images)
    assert slope.abs().sum() > 0
    assert not any(module.training for module in made.backbone.modules())
    assert not torch.equal(made.eval()(images, Condition()).logits, plain(images, Condition()).logits)
    assert [*named_weights({"d": made})] == ["d.backbone"]
    assert not any("backbone" in name for name in saved_tensors(made))


def test_a_copy_shares_the_pretrained_networks_and_nothing_else(deit: DeitConfig):
    made = fresh(deit, LITE0)
    copied = copy_of(made)
    for ours, theirs in zip(made.looks, copied.looks, strict=True):
        assert copied.get_submodule("others.0.heads") is copied.looks[1].heads
        assert theirs.heads is not ours.heads
    assert copied.looks[0].backbone.network is made.looks[0].backbone.network
    assert copied.looks[1].backbone is made.looks[1].backbone
    assert copied.looks[0].backbone.resize is not made.looks[0].backbone.resize


class Pooled(BackboneChoice):
    """A network of one's own."""

    kind: str = "mine"

    def build(self):
        return nn.AvgPool2d(2) if self.kind == "mine" else None


def test_what_cannot_be_looked_through_is_refused(deit: DeitConfig, tmp_path: Path):
    torch.save(deit_state(grid=3), tmp_path / "few.pth")
    for look, shape, said in (
        (deit, (4, 32, 32), "sees grey or RGB images, found 4 channels"),
        (DeitConfig(weights=str(tmp_path / "few.pth")), (3, 32, 32), "kind=deit: its images have 48 px"),
        (Pooled(), (3, 32, 32), "kind=mine: build returned AvgPool2d, and not a torch.nn.Module with 4 maps"),
    ):
        config = ProjectedDiscriminatorConfig(backbones=(look,), **SMALL)
        with pytest.raises(SpiderUsageError, match=said):
            ProjectedDiscriminator(config, shape, UNCONDITIONAL, SINGLE)
