"""Diffusion-GAN's noise: against vectors recorded from the public code, and by its laws."""

import pytest
import torch

from cluster.world import World
from spider.config.load import make_config
from spider.draws import Address
from spider.errors import SpiderUsageError
from spider.gan.augment.build import build_augmentations
from spider.gan.augment.config import AdaConfig, DiffusionConfig
from spider.gan.augment.diffusion import POOL, Diffusion, kept_variance, steps, times
from spider.gan.networks.projected import ProjectedDiscriminator
from spider.gan.networks.projected_config import ProjectedDiscriminatorConfig
from spider.gan.networks.projected_mixing import Mixing, noisy
from spider.gan.networks.projected_names import discriminator_name as projected_name
from spider.gan.networks.stylegan2 import Stylegan2Discriminator
from spider.gan.networks.stylegan2_names import discriminator_name
from spider.gan.networks.stylegan_config import Stylegan2DiscriminatorConfig
from spider.gan.outputs import UNCONDITIONAL, Condition, ConditionShape, with_draws
from tests.vectors import assert_near, recorded, weights_of

IMAGES = {"t_min": 10, "t_max": 1000, "beta_end": 0.02}
MAPS = {"t_min": 5, "t_max": 500, "beta_end": 0.01}


@pytest.mark.parametrize(("variant", "range_"), [("images", IMAGES), ("maps", MAPS)])
def test_steps_and_pools_are_the_recorded_ones(variant, range_):
    """Of the projected variant, also how many of the pool are diffused."""
    vectors = recorded("diffusion")
    for p in (0.0, 0.1, 0.5, 0.75, 1.0):
        if f"{variant}_{p}__T" not in vectors:
            continue
        count = steps(p, range_["t_min"], range_["t_max"])
        assert count == vectors[f"{variant}_{p}__T"]
        pool = vectors[f"{variant}_{p}__t_pool"]
        drawn = times(vectors[f"{variant}_{p}__pool_uniforms"].numpy(), count, "priority")
        assert sorted(drawn) == sorted(pool[pool > 0].tolist())
        if variant == "images":
            kept = kept_variance(count, 1e-4, range_["beta_end"])[:: max(1, (count + 1) // 40)]
            assert_near(kept.sqrt(), vectors[f"images_{p}__alphas_bar_sqrt"], 1e-6)
            assert_near((1 - kept).sqrt(), vectors[f"images_{p}__one_minus_alphas_bar_sqrt"], 1e-5)
        else:
            made = Diffusion(DiffusionConfig(into="maps", p=p, diffused=None, **MAPS), 64)
            assert made.state()["diffused"] == vectors[f"maps_{p}__nonzero_slots"]


class Fixed(Diffusion):
    """With recorded numbers of steps."""

    def _times(self, draws, use, shape):
        return recorded("diffusion")["x_t__t"]


class Recorded(Address):
    """Gives recorded noise."""

    def normal(self, use, shape, host=False):
        return recorded("diffusion")["x_t__0_randn_like"]


def test_diffused_images_are_the_recorded_ones():
    vectors = recorded("diffusion")
    diffusion = Fixed(DiffusionConfig(p=0.5, **IMAGES), 4)
    diffusion.load({**diffusion.state(), "steps": int(vectors["x_t__T"])})
    images = vectors["x0"].clone().requires_grad_()
    draws = Recorded(0, "d_main", range(4), torch.device("cpu"))
    found = diffusion(images, draws, "real")
    assert_near(found, vectors["x_t"], 1e-6)
    (slope,) = torch.autograd.grad(found.square().sum(), images)
    assert_near(slope, vectors["x_t__grad_of_sum_sq"], 1e-6)
    assert torch.equal(diffusion.told(Condition(), draws, "real").time, vectors["x_t__t"].float())


def test_a_discriminator_that_is_told_the_time_judges_as_recorded():
    vectors = recorded("diffusion_d32_class3")
    config = Stylegan2DiscriminatorConfig(
        channel_base=256, channel_max=16, mapping_layers=2, told_time=True, conv_clamp=None
    )
    network = Stylegan2Discriminator(config, (3, 32, 32), ConditionShape(3), World.single())
    network.load_state_dict(weights_of(vectors, discriminator_name))
    images = vectors["img"].clone().requires_grad_()
    logits = network(images, Condition(vectors["c"].argmax(1), time=vectors["t"][:, 0].float())).logits
    assert_near(logits, vectors["logits"])
    embedding = network.mapping.embedding.weight
    slope, told = torch.autograd.grad(logits.sum(), [images, embedding], create_graph=True)
    assert_near(slope, vectors["grad_img_of_sum_logits"])
    assert_near(told, vectors["logits_grad__mapping.embed.weight"])
    r1 = slope.square().sum((1, 2, 3))
    assert_near(r1, vectors["r1"])
    assert_near(torch.autograd.grad(r1.sum(), embedding)[0], vectors["r1_grad__mapping.embed.weight"])


@pytest.mark.parametrize("place", ["first", "last"])
def test_noisy_maps_are_the_recorded_ones(place):
    vectors = recorded("diffusion")
    mixing = Mixing([4, 6, 8, 10], 4)
    mixing.load_state_dict(weights_of(vectors, lambda key: projected_name(key, 4).removeprefix("mixing.")))
    added = 1 - kept_variance(int(vectors["maps__T"]), 1e-4, 0.01)
    shares = torch.cat([added[vectors[f"maps__{place}__t{i}"]].view(2, -1) for i in range(4)], 1)
    noise = [vectors[f"maps__{place}__noise{i}_randn_like"] for i in range(4)]
    maps = [vectors[f"maps__feat{i}"] for i in range(4)]
    found = mixing(noisy(maps, shares, noise, 0.5)) if place == "first" else noisy(mixing(maps), shares, noise, 0.5)
    for i, each in enumerate(found):
        assert_near(each, vectors[f"maps__{place}__out{i}"])


def at(step=0, count=256):
    return Address(5, "d_main", range(step * count, (step + 1) * count), torch.device("cpu"))


def test_half_of_the_images_stay_as_they_are_and_the_others_are_told_apart():
    diffusion = Diffusion(DiffusionConfig(p=0.5), 4)
    images = torch.rand(256, 3, 4, 4)
    found, time = diffusion(images, at(), "real"), diffusion.told(Condition(), at(), "real").time
    assert torch.equal(time, diffusion.told(Condition(), at(), "real").time)
    same = (found == images).flatten(1).all(1)
    assert torch.equal(same, time == 0)
    assert 0.35 < same.float().mean() < 0.65
    assert time.max() <= diffusion.steps == 505
    assert not torch.equal(time, diffusion.told(Condition(), at(), "fake").time)
    noised = torch.cat([found[time > 400].flatten(), found[time > 400].flatten()])
    assert noised.std() < images.std()


def moved(diffusion, iterations):
    for step in range(iterations):
        diffusion.iterated(step, step * 4, {"signs/real": (4.0, 4.0)})
    return diffusion


def test_steps_and_pool_follow_p_and_come_back():
    config = DiffusionConfig(control={"rise_kimg": 0.1})
    diffusion = Diffusion(config, 4)
    assert diffusion.steps == 10
    first = diffusion.told(Condition(), at(), "real").time
    moved(diffusion, 3)
    assert torch.equal(diffusion.told(Condition(), at(), "real").time, first)  # not due yet
    moved(diffusion, 4)
    assert diffusion.p == pytest.approx(0.16)
    assert diffusion.columns(0)["augment/diffusion_steps"] == diffusion.steps == steps(0.16, 10, 1000)
    other = Diffusion(config, 4)
    other.load(diffusion.state())
    now = diffusion.told(Condition(), at(), "real").time
    assert torch.equal(other.told(Condition(), at(), "real").time, now)
    assert not torch.equal(now, first)
    pool = set(moved(diffusion, 4).told(Condition(), at(), "real").time.tolist())
    assert len(pool) <= POOL // 2 + 1
    assert pool != set(now.tolist())


def test_an_ada_that_follows_has_the_diffusions_p_up_to_its_bound_and_comes_back():
    """It stays at the bound while the diffusion's p is above it, and falls when that falls below."""
    diffusion = DiffusionConfig(control={"rise_kimg": 0.02, "interval_steps": 1, "target": 0.5})
    followed, ada = build_augmentations([diffusion, AdaConfig(p="diffusion")], 4, (3, 32, 32), torch.nn.Identity())
    seen = []
    for step in range(8):
        for each in (followed, ada):
            each.iterated(step, step * 4, {"signs/real": (4.0 if step < 4 else -4.0, 4.0)})
        assert ada.p == min(followed.p, 0.25)
        seen.append(followed.p)
        again = build_augmentations([AdaConfig(p="diffusion"), diffusion], 4, (3, 32, 32), torch.nn.Identity())[0]
        again.load(ada.state())
        assert again.p == ada.p
    assert 0 < seen[0] < 0.25 < max(seen) < 1
    assert seen[-1] < 0.25


def test_an_ada_that_follows_a_schedule_or_nothing():
    at = {"p": 0.4}
    _, ada = build_augmentations(
        [DiffusionConfig(**at), AdaConfig(p="diffusion", diffusion_max=0.3)], 4, (3, 32, 32), torch.nn.Identity()
    )
    assert ada.p == 0.3
    with pytest.raises(SpiderUsageError, match="kind=ada p=diffusion follows kind=diffusion, which augment does not"):
        make_config({}, ["augment=[{kind: ada, p: diffusion}]"])


def test_a_projected_discriminator_noises_channels_by_what_it_is_told():
    torch.manual_seed(0)
    config = ProjectedDiscriminatorConfig(width=1 / 64, mixed_channels=4, enlarge_to=128, noised="first")
    network = ProjectedDiscriminator(config, (3, 16, 16), UNCONDITIONAL, World.single()).eval()
    diffusion = Diffusion(DiffusionConfig(into="maps", p=1.0, diffused=None, **MAPS), 4)
    images = torch.rand(4, 3, 16, 16) * 2 - 1
    assert diffusion(images, at(0, 4), "real") is images
    told = with_draws(diffusion.told(Condition(), at(0, 4), "real"), network, 0, "d", range(4), images)
    assert told.time.min() == 0 < told.time.max() < 1
    with torch.no_grad():
        plain = network(images, Condition()).logits
        still = network(
            images, with_draws(Condition(time=torch.zeros(4, 512)), network, 0, "d", range(4), images)
        ).logits
        noised = network(images, told).logits
    torch.testing.assert_close(still, plain)
    assert not torch.allclose(noised, plain, atol=1e-3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["discriminator.kind=dcgan"], "into=images needs discriminator.told_time=true .*kind=dcgan is told nothing"),
        (["discriminator.kind=stylegan2"], "into=images needs .* discriminator.kind=stylegan2 is told nothing"),
    ],
)
def test_a_discriminator_that_is_not_told_is_refused(words, said):
    with pytest.raises(SpiderUsageError, match=said):
        make_config({}, [*words, "augment=[{kind: diffusion}]"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["discriminator.kind=stylegan2", "discriminator.told_time=true"], "told_time=true heeds .* into=images tells"),
        (["discriminator.kind=projected", "discriminator.noised=last"], "noised=last heeds .* into=maps tells"),
    ],
)
def test_a_discriminator_that_nothing_tells_is_refused(words, said):
    with pytest.raises(SpiderUsageError, match=said):
        make_config({}, words)
