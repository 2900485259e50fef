"""StyleGAN-XL's generator, which is StyleGAN3's with other settings: recorded vectors, growth, and what stays."""

import math

import pytest
import torch
from pydantic import ValidationError

from spider.errors import SpiderUsageError
from spider.gan.networks.bands import plan, stages
from spider.gan.networks.stylegan3 import Stylegan3Generator
from spider.gan.networks.stylegan3_config import Stylegan3GeneratorConfig
from spider.gan.networks.stylegan_xl_names import generator_names
from spider.gan.outputs import Condition, ConditionShape
from tests.stylegan_xl import RECORDED, XL, load, recorded_generator
from tests.vectors import assert_near, weights_of


@pytest.mark.parametrize("name", RECORDED)
def test_it_makes_the_recorded_images(name):
    generator, vectors, condition = recorded_generator(name)
    z = vectors["z"].clone().requires_grad_()
    made = generator.eval()(z, condition)
    assert_near(made.latents, vectors["w"], 1e-5)
    assert_near(made.images, vectors["img"], 1e-5)
    made.images.square().mean().backward()
    slopes = {key: each for key, each in vectors.items() if key.startswith("grad__")}
    trained = {name for name, parameter in generator.named_parameters() if parameter.grad is not None}
    if name == "stylegan_xl_grown":
        name_of = generator_names(weights_of(vectors), [5, 5])
        assert {name_of(key.removeprefix("grad__")) for key in slopes} == trained
        for key, slope in slopes.items():
            assert_near(generator.get_parameter(name_of(key.removeprefix("grad__"))).grad, slope)
    else:
        assert_near(z.grad, vectors["grad_z_of_mean_square"])
        assert trained == dict(generator.named_parameters()).keys()
    if name == "stylegan_xl_t_class4":
        assert_near(generator.mapping.class_vectors.weight.grad, vectors["grad_embed_weight"][:4])


@pytest.mark.parametrize("name", ["stylegan_xl_t_class4", "stylegan_xl_r"])
def test_truncation_pulls_to_the_mean_of_the_class(name):
    generator, vectors, condition = recorded_generator(name)
    w = vectors["w"][:, 0]
    assert_near(generator.for_layers(w, condition, 0.7), vectors["w_psi07"], 1e-5)
    assert_near(generator.for_layers(w, condition, 0.5, 3), vectors["w_psi05_cut3"], 1e-5)


def test_truncation_between_classes_pulls_between_their_means():
    generator, vectors, _ = recorded_generator("stylegan_xl_t_class4")
    shares = torch.tensor([[0.25, 0.75, 0, 0]])
    (ws,) = generator.for_layers(vectors["w"][:1, 0], Condition(shares), 0.0)
    torch.testing.assert_close(ws[0], 0.25 * generator.w_avg[0] + 0.75 * generator.w_avg[1])


@pytest.mark.parametrize("name", ["stylegan_xl_t_class4", "stylegan_xl_r"])
def test_means_of_w_move_in_the_order_of_the_batch(name):
    generator, vectors, condition = recorded_generator(name)
    kept = generator.train()(vectors["z"], condition).keep
    generator.stepped("g_main", kept)
    assert torch.equal(generator.w_avg, weights_of(vectors)["mapping.w_avg"])
    generator.stepped("d_main", kept)
    assert_near(generator.w_avg, vectors["w_avg_after_update_emas"], 1e-6)
    if "label" in vectors:
        by_one = weights_of(vectors)["mapping.w_avg"]
        for w, label in zip(kept["w"], vectors["label"], strict=True):
            by_one[label] = w.lerp(by_one[label], 0.998)
        torch.testing.assert_close(generator.w_avg, by_one)


def test_mean_squares_stay_unless_they_are_asked_for():
    """The public code has them, and never moves them; moved once, they are as recorded."""
    generator, vectors, condition = recorded_generator("stylegan_xl_t_class4")
    assert "magnitudes" not in generator.train()(vectors["z"], condition).keep
    half_life = math.log(0.5) / math.log(0.999) * len(vectors["z"]) / 1000
    moving, *_ = recorded_generator("stylegan_xl_t_class4", {**XL, "magnitude_half_life_kimg": half_life})
    moving.stepped("d_main", moving.train()(vectors["z"], condition).keep)
    found = torch.stack([layer.magnitude for layer in moving.synthesis.all_layers()])
    torch.testing.assert_close(found, vectors["magnitude_ema_after_update_emas"], rtol=0, atol=5e-6)


def test_a_stage_begins_with_the_stem_that_its_run_gives():
    """By name and shape: all but the new head is the stem's, and none of the head is."""
    generator, vectors, _ = recorded_generator("stylegan_xl_grown")
    config = Stylegan3GeneratorConfig(**XL)
    stem = load(Stylegan3Generator(config, (8,), (3, 16, 16), ConditionShape(4)), weights_of(vectors, prefix="stem."))
    given, tensors = stem.state_dict(), generator.state_dict()
    fitting = {name for name, each in tensors.items() if name in given and given[name].shape == each.shape}
    assert fitting == {name for name in tensors if not name.startswith("synthesis.heads.")}
    assert all(torch.equal(given[name], tensors[name]) for name in fitting)
    seen, made = [], []
    for each in (stem, generator):
        each.synthesis.layers[4].register_forward_hook(lambda layer, inputs, output: seen.append(output))
        made.append(each.eval()(vectors["z"], Condition(vectors["label"])).images)
    assert torch.equal(*seen)  # where the head begins, it sees what the stem had there
    assert_near(made[0], vectors["img_stem"], 1e-5)  # and the stem went on to this, which the head has yet to learn


def grown(**settings):
    config = {"channel_base": 128, "w_dim": 8, "layers": 4, "margin": 3, "sides": (8, 16, 32), "head_layers": (3, 4)}
    return Stylegan3GeneratorConfig(**{**config, **settings})


def build(config, side=32):
    return Stylegan3Generator(config, (6,), (3, side, side), ConditionShape())


def test_a_stage_leaves_out_the_finest_layers_of_the_one_before():
    stem, one, two = stages(grown(), (3, 32, 32))
    assert [len(stem), len(one), len(two)] == [2, 1, 5]  # without the last three of all but the last
    assert one[0] == stem[-1]
    assert two[0] == one[-1]
    assert [band.shown for band in two] == [False] * 4 + [True]
    assert (two[-1].size, two[-1].cutoff) == (32, 16)
    generator = build(grown())
    assert generator(torch.randn(2, 6), Condition()).images.shape == (2, 3, 32, 32)
    assert generator.layers == 1 + 2 + 1 + 5 == 1 + len([*generator.synthesis.all_layers()])


def test_a_stage_may_follow_rotations_and_the_next_one_not():
    """As StyleSAN-XL's for FFHQ: kernels of 1 px and radial filters in the stem, and of 3 px in a head."""
    generator = build(grown(equivariance="rotation", head_equivariance=("rotation", "translation")))
    lists = [generator.synthesis.layers, *generator.synthesis.heads]
    kernels = [[layer.conv.weight.shape[-1] for layer in each] for each in lists]
    assert kernels == [[1, 1], [1], [3, 3, 3, 3, 1]]  # the last one makes the image
    radial = [layer.filtered.down_filter.dim() == 2 for each in lists for layer in each if layer.filtered is not None]
    assert radial == [True] * 3 + [False] * 4
    assert generator(torch.randn(2, 6), Condition()).images.shape == (2, 3, 32, 32)
    same = build(grown(head_equivariance=("translation",))).state_dict()
    assert {name: each.shape for name, each in same.items()} == {
        name: each.shape for name, each in build(grown()).state_dict().items()
    }


def test_without_growth_there_is_one_stage():
    alone = grown(sides=(), head_layers=(3,))
    assert stages(alone, (3, 32, 32)) == [plan(alone, (3, 32, 32))]
    assert stages(grown(sides=(32,), head_layers=(3,)), (3, 32, 32)) == stages(alone, (3, 32, 32))


@pytest.mark.parametrize("stem", ["frozen", "frozen_but_input", "trains"])
def test_what_was_there_stays_as_it_is(stem):
    generator = build(grown(stem=stem, magnitude_half_life_kimg=1))
    made = generator.train()(torch.randn(2, 6), Condition())
    made.images.square().sum().backward()
    trained = {name for name, parameter in generator.named_parameters() if parameter.grad is not None}
    head = {name for name in dict(generator.named_parameters()) if name.startswith("synthesis.heads.1.")}
    waves = {name for name in dict(generator.named_parameters()) if name.startswith("synthesis.input.")}
    everything = dict(generator.named_parameters()).keys()
    assert trained == {"frozen": head, "frozen_but_input": head | waves, "trains": everything}[stem]
    generator.stepped("d_main", made.keep)
    moved = [float(layer.magnitude) != 1 for layer in generator.synthesis.all_layers()]
    assert moved == [stem == "trains"] * 3 + [True] * 5


@pytest.mark.parametrize("stem", ["frozen", "frozen_but_input", "trains"])
def test_what_never_trains_must_be_given(stem):
    """Also what a source brings: an adapter that is frozen and random would stay so."""
    generator = Stylegan3Generator(
        grown(stem=stem), (6,), (3, 32, 32), ConditionShape(), torch.nn.Linear(5, 6, bias=False)
    )
    frozen = {name for name, parameter in generator.named_parameters() if not parameter.requires_grad}
    given = set(generator.must_be_given)
    assert frozen <= given
    assert ("frontend.weight" in given) == (stem != "trains")
    assert not any(name.startswith("synthesis.heads.1.") for name in given)


def test_an_image_is_not_the_last_stages():
    with pytest.raises(SpiderUsageError, match=r"generator\.sides=\[8, 16, 32\] ends with squares of 32 px.*16x16"):
        build(grown(), side=16)


@pytest.mark.parametrize("sides", [(16, 112), (16, 24)])
def test_sides_between_which_no_layer_can_go_are_refused(sides):
    with pytest.raises(SpiderUsageError, match="a layer would go from 16 to"):
        plan(grown(sides=sides, layers=7, margin=10, head_layers=(7,)), (3, sides[-1], sides[-1]))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sides": (16, 16)}, r"generator\.sides=\[16, 16\] must rise"),
        ({"head_layers": (3, 4, 5)}, r"generator\.head_layers=\[3, 4, 5\] must be one, or one for each stage"),
        (
            {"head_equivariance": ("rotation",) * 3},
            r"generator\.head_equivariance=.* must be one, or one for each",
        ),
        ({"head_layers": (2,)}, r"generator\.head_layers=2 must be more than generator\.critical_layers=2"),
    ],
)
def test_stages_that_do_not_grow_are_refused(settings, said):
    with pytest.raises(ValidationError, match=said):
        grown(**settings)
