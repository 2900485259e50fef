"""Ways between inputs, at every stage of a cascade of StyleGAN2, and mixed styles."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from cluster.world import World
from spider.errors import SpiderUsageError
from spider.gan.conditions.conditions import Conditions
from spider.gan.networks.build import build_generator
from spider.gan.networks.stylegan3_config import Stylegan3GeneratorConfig
from spider.gan.networks.stylegan_config import Stylegan2GeneratorConfig
from spider.gan.outputs import Condition
from spider.gan.sources.config import GaussianConfig, GeneratorConfig
from spider.gan.sources.frozen import FrozenGenerator
from spider.gan.sources.gaussian import Gaussian
from spider.gan.sources.generator import Generator
from spider.pictures.generate import generate
from spider.pictures.interpolate import _between, _run, interpolate, stages
from spider.pictures.request import GenerateRequest, InterpolateRequest
from spider.pictures.style_mixing import mixed_styles, named_layers, style_layers
from spider.pictures.ways import grid_weights, loop_weights, shares

CPU = torch.device("cpu")
NUMBERS = [2, 3, 5, 8]


def frozen(source, shape, seed):
    """A generator as it begins, which makes other images of other inputs."""
    config = Stylegan2GeneratorConfig(channel_base=64, w_dim=16, mapping_layers=2)
    module = build_generator(config, source, shape, World.single(), seed)
    module.w_avg.normal_()
    for name, parameter in module.named_parameters():
        if "noise_strength" in name:
            torch.nn.init.constant_(parameter, 0.5)
    return FrozenGenerator(module, source, Conditions(), shape, CPU, training="")


@pytest.fixture(scope="module")
def cascade():
    """z -> 16 px colour -> 8 px grey."""
    torch.manual_seed(0)
    first = frozen(Gaussian(GaussianConfig(dim=16)), (3, 16, 16), 0)
    source = Generator(GeneratorConfig(run="first", adapter="luma-23x23", noise_std=0.1), first, (1, 8, 8))
    return frozen(source, (1, 8, 8), 1)


@pytest.mark.parametrize("blend", ["linear", "cubic"])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_loop_visits_every_input_and_comes_back(blend, count):
    weights = loop_weights(count, 6, blend)
    torch.testing.assert_close(weights[::6], torch.eye(count), rtol=0, atol=1e-6)
    torch.testing.assert_close(weights.sum(1), torch.ones(6 * count))
    torch.testing.assert_close(weights.roll((6, 1), (0, 1)), weights)  # no input is another one's better


def test_a_cubic_loop_has_no_corners():
    """Its direction changes by little from step to step, also where it closes; that of a linear one jumps at inputs."""
    turns = {}
    for blend in ("linear", "cubic"):
        step = loop_weights(3, 50, blend).roll(-1, 0) - loop_weights(3, 50, blend)
        turns[blend] = float((step.roll(-1, 0) - step).norm(dim=1).max() / step.norm(dim=1).mean())
    assert turns["cubic"] < 0.2
    assert turns["linear"] > 1


def test_a_circular_loop_goes_round_evenly_and_keeps_the_law():
    weights = loop_weights(2, 5, "circular")
    torch.testing.assert_close(weights[::5], torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]]), rtol=0, atol=1e-6)
    torch.testing.assert_close(weights.square().sum(1), torch.ones(20))
    steps = (weights.roll(-1, 0) - weights).norm(dim=1)
    torch.testing.assert_close(steps, torch.full((20,), 2 * math.sin(math.pi / 20)))


@pytest.mark.parametrize("blend", ["linear", "cubic", "circular"])
def test_shares_of_classes_are_shares(blend):
    found = shares(loop_weights(2 if blend == "circular" else 4, 7, blend), blend)
    assert found.min() >= 0
    torch.testing.assert_close(found.sum(1), torch.ones(len(found)))


@pytest.mark.parametrize(("stage", "space"), [(1, "z"), (1, "w"), (2, "image"), (2, "w")])
def test_the_corners_are_the_images_of_those_numbers(cascade, stage, space):
    """In every space of every stage; and between them the spaces differ."""
    chain, told = stages(cascade)[stage - 1 :], cascade.condition_at(0, NUMBERS)
    ways = {each: next(_run(chain, NUMBERS, grid_weights(4), "linear", told, each))[0] for each in ("z", "w")}
    images = ways["w" if space == "w" else "z"]
    torch.testing.assert_close(images[[0, 3, 12, 15]], cascade.images(0, NUMBERS), rtol=0, atol=1e-4)
    assert (ways["w"][5] - ways["z"][5]).abs().max() > 1e-3


def test_noise_between_images_has_its_law_or_is_that_of_all(cascade):
    first, seen = stages(cascade)[0], []
    told = first.condition_at(0, NUMBERS)
    for shared in (False, True):
        first.shares_draws = shared
        told = first.condition_at(0, NUMBERS)
        seen.append(_between(told, grid_weights(5), grid_weights(5), first).draws["noise"])
    first.shares_draws = False
    torch.testing.assert_close(seen[0].std(1), torch.ones(25), rtol=0, atol=0.12)
    assert torch.equal(seen[1], told.draws["noise"][:1].expand(25, -1))


def test_halfway_in_w_is_the_image_of_the_mean_w(cascade):
    first = stages(cascade)[0]
    ws = first.latents(first.source.at(0, [4, 7]), first.condition_at(0, [4, 7]))
    told = first.condition_at(0, [4, 7])
    [(made, fed)] = _run([first], [4, 7], loop_weights(2, 2), "linear", told, "w")
    noise = told.draws["noise"].sum(0, keepdim=True) / math.sqrt(2)
    expected = first.of_latents(ws.mean(0, keepdim=True), Condition(draws={"noise": noise}))
    torch.testing.assert_close(made[1:2], expected)
    assert fed is None


@pytest.mark.parametrize("space", ["z", "w"])
def test_without_truncation_images_differ_and_with_all_of_it_none_does(tmp_path, space):
    generator = frozen(Gaussian(GaussianConfig(dim=16)), (1, 8, 8), 3)
    generator.shares_draws = True
    for psi, count in ((1, 9), (0, 1)):
        request = InterpolateRequest("run", out=tmp_path / f"{psi:.0f}", space=space, steps=3, truncation=psi)
        interpolate(generator, request)
        assert len({file.read_bytes() for file in request.out.glob("*.png")}) == count


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, ("z", 1, "spherical")),
        ({"stage": 2}, ("image", 2, "linear")),
        ({"space": "w"}, ("w", 1, "linear")),
        ({"space": "w", "stage": 2}, ("w", 2, "linear")),
        ({"space": "w", "stage": 2, "blend": "cubic", "out": "a.gif"}, ("w", 2, "cubic")),
        ({"blend": "circular", "seeds": (1, 2), "out": "a.gif"}, ("z", 1, "circular")),
    ],
)
def test_where_to_interpolate_follows_from_what_is_asked(cascade, tmp_path, asked, found):
    out = tmp_path / asked.get("out", "a.png")
    written = interpolate(cascade, InterpolateRequest("run", **{**asked, "out": out, "steps": 3}))
    assert (written.space, written.stage, written.blend) == found
    assert written.images == {"z": 12, "w": 12}.get(found[0], 9) if out.suffix == ".gif" else 9
    with Image.open(out) as picture:
        assert getattr(picture, "n_frames", 1) in (1, written.images)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"space": "w", "blend": "spherical"}, "--blend spherical is of vectors"),
        ({"space": "z", "stage": 2}, "that stage has no z; stage 1 is fed z and has w, stage 2 is fed image and has w"),
        ({"blend": "cubic"}, "--blend cubic is of loops"),
        ({"blend": "circular", "out": "a.gif"}, "two inputs, --seeds gives 4"),
    ],
)
def test_what_cannot_be_interpolated_is_refused(cascade, tmp_path, asked, why):
    with pytest.raises(SpiderUsageError, match=why):
        interpolate(cascade, InterpolateRequest("run", **{**asked, "out": tmp_path / asked.get("out", "a.png")}))


def test_mixed_styles_take_w_of_both_images(cascade):
    rows, columns = [4, 9, 11], [7, 2]
    first_half = style_layers(cascade, None)
    assert first_half == [0, 1]
    of_rows, of_columns, mixed = mixed_styles(cascade, 0, rows, columns, first_half)
    torch.testing.assert_close(of_rows, cascade.images(0, rows), rtol=0, atol=1e-4)
    torch.testing.assert_close(of_columns, cascade.images(0, columns), rtol=0, atol=1e-4)
    told = cascade.condition_at(0, [4, 2])
    own, other = cascade.latents(cascade.source.at(0, [4, 2]), told).split(1)
    expected = cascade.of_latents(torch.cat([other[:, :2], own[:, 2:]], dim=1), told.part(slice(1)))
    torch.testing.assert_close(mixed[1:2], expected)  # the first row, the second column; 4 layers at 8 px
    *_, all_layers = mixed_styles(cascade, 0, rows, columns, range(4))
    torch.testing.assert_close(all_layers[1:2], cascade.of_latents(other, told.part(slice(1))))
    with pytest.raises(SpiderUsageError, match=r"--style-layers: layer 4 is none of this generator's, 0-3"):
        style_layers(cascade, [1, 4])


def test_layers_are_named_by_what_they_decide(cascade):
    assert named_layers(cascade, [0, 1, 3]) == "0-1,3: coarse (0-1,3, 4-8 px)"
    coarse = frozen(Gaussian(GaussianConfig(dim=16)), (3, 64, 64), 0)
    assert coarse.module.layer_sides == [4, 8, 8, 16, 16, 32, 32, 64, 64, 64]
    told = "0-4,9: coarse (0-2, 4-8 px), middle (3-4, 16 px), fine (9, 64 px)"
    assert named_layers(coarse, [0, 1, 2, 3, 4, 9]) == told
    config = Stylegan3GeneratorConfig(channel_base=64, channel_max=8, w_dim=16)
    module = build_generator(config, coarse.source, (3, 64, 64), World.single(), 0)
    assert len(module.layer_sides) == module.layers == 16
    third = FrozenGenerator(module, coarse.source, Conditions(), (3, 64, 64), CPU, training="")
    assert named_layers(third, range(9)) == "0-8: 16-32 px"


def test_mixed_styles_are_a_grid(cascade, tmp_path):
    written = generate(cascade, GenerateRequest("run", seeds="0-1", styles="5-7", grid=tmp_path / "grid.png"))
    assert written.files == []
    pixels = np.asarray(Image.open(tmp_path / "grid.png"))
    pitch, gap, head = 128 + 32, 32, 14  # 8 px enlarged by 16, with gaps of 2 px
    left = pixels.shape[1] - 4 * pitch - gap
    assert left > 30
    assert (pixels[head : head + pitch, : left + pitch] == 255).all()  # no style above the column of images
    for names in (pixels[:head, left + pitch :], pixels[head + pitch :, :left], pixels[head + 3 * pitch + gap :]):
        assert (names < 100).any()  # of columns and rows, and the note
