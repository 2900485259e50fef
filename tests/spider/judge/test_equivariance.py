"""Equivariance against vectors recorded from the public code of StyleGAN3."""

import math
from functools import cache

import pytest
import torch

from cluster.world import World
from spider.errors import SpiderUsageError
from spider.gan.networks.stylegan3 import Stylegan3Generator
from spider.gan.networks.stylegan3_config import Stylegan3GeneratorConfig
from spider.gan.networks.stylegan3_names import generator_name
from spider.gan.outputs import UNCONDITIONAL, Condition
from spider.judge import equivariance as eq
from tests.vectors import recorded, weights_of

SHIFTS = {"int0": (0.09375, -0.0625), "frac0": (0.09375, -0.0625), "frac2": (0.071, -0.0333)}
ANGLES = {"t": [0.3, -2.2], "r": [0.7854]}
KINDS = {"t": "translation", "r": "rotation"}


@cache
def generator(kind):
    settings = {"channel_base": 512, "channel_max": 24, "w_dim": 48, "layers": 6, "equivariance": KINDS[kind]}
    made = Stylegan3Generator(Stylegan3GeneratorConfig(**settings), (32,), (3, 32, 32), UNCONDITIONAL).eval()
    made.load_state_dict(weights_of(recorded(f"stylegan3{kind}_g32"), generator_name))
    return made


def images(kind, z, transform):
    with torch.no_grad(), eq.transformed(generator(kind), transform):
        return generator(kind)(z, Condition()).images


def assert_near(found, vectors, prefix, atol):
    moved, mask = found
    assert torch.equal(mask, vectors[f"{prefix}_mask"])
    torch.testing.assert_close(moved, vectors[prefix], rtol=0, atol=atol)


@pytest.mark.parametrize("name", SHIFTS)
def test_images_are_shifted_as_recorded(name):
    vectors = recorded("equivariance_t")
    move = eq.shifted_by_pixels if name.startswith("int") else eq.shifted
    assert_near(move(vectors["img"], *SHIFTS[name]), vectors, name, 1e-6)


@pytest.mark.parametrize("number", [0, 1])
def test_images_are_turned_as_recorded(number):
    vectors, angle = recorded("equivariance_t"), ANGLES["t"][number]
    assert_near(eq.turned(vectors["img"][:1], angle), vectors, f"rot{number}", 1e-4)
    assert_near(eq.as_if_turned(vectors["img"][:1], angle), vectors, f"pseudorot{number}", 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_moved_input_makes_the_recorded_images(kind):
    vectors = recorded(f"equivariance_{kind}")
    for name, (x, y) in (("G_plain", (0, 0)), ("G_translated0", SHIFTS["int0"])):
        transform = torch.eye(3)
        transform[:2, 2] = -torch.tensor([x, y])
        if name in vectors:
            torch.testing.assert_close(images(kind, vectors["z"], transform), vectors[name], rtol=0, atol=1e-5)
    for number, angle in enumerate(ANGLES[kind]):
        cos, sin, transform = math.cos(angle), math.sin(angle), torch.eye(3)
        transform[:2, :2] = torch.tensor([[cos, -sin], [sin, cos]])
        torch.testing.assert_close(
            images(kind, vectors["z"], transform), vectors[f"G_rotated{number}"], rtol=0, atol=1e-5
        )
    assert torch.equal(generator(kind).synthesis.input.transform, torch.eye(3))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", ["metric", "biased"])
def test_decibels_are_the_recorded_ones(kind, which):
    """Of generators that follow their input down to rounding, and of the same with an image added, which stays."""
    vectors = recorded(f"equivariance_{kind}")
    drawn = [vectors[key] for key in sorted(vectors) if key.startswith(f"{which}__draw")]
    added, each = vectors["bias_image"] if which == "biased" else 0, len(drawn) // 2
    total = 0
    for z, shift, fraction, *angle in (drawn[:each], drawn[each:]):
        turn = (2 * float(angle[0]) - 1) * math.pi if angle else None
        largest = eq.LARGEST_SHIFT
        total += eq.errors(
            lambda transform, z=z: images(kind, z, transform) + added,
            (2 * shift - 1) * largest, (2 * fraction - 1) * largest, turn,
        )  # fmt: skip
    found, expected = eq.psnr(total), vectors[f"{which}__psnr"]
    if which == "biased":
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    else:
        assert found[0] > 90  # nothing but rounding
        torch.testing.assert_close(found[1:], expected[1:], rtol=0, atol=0.1)


class Numbered:
    """What `equivariance` needs of a finished generator."""

    def __init__(self, kind, asked):
        self.module = generator(kind)
        self.asked = asked

    @torch.no_grad()
    def images(self, seed, chosen):
        self.asked.append((seed, chosen))
        numbers = torch.Generator().manual_seed(seed)
        return self.module(torch.randn(6, 32, generator=numbers)[chosen.start : chosen.stop], Condition()).images


def test_a_finished_generator_is_measured_by_its_numbers(monkeypatch):
    monkeypatch.setattr(eq, "BLOCK", 2)
    asked = []
    found = eq.equivariance(Numbered("t", asked), 4, 3, World.single())
    assert [*found] == ["eq_t", "eq_t_frac", "eq_r"]
    assert found["eq_t"] > 90
    assert found["eq_t_frac"] > 60 > found["eq_r"]
    assert {(seed, chosen.start, chosen.stop) for seed, chosen in asked} == {(4, 0, 2), (4, 2, 3)}
    unturned = eq.equivariance(Numbered("t", asked), 4, 3, World.single(), rotations=False)
    assert unturned == {name: found[name] for name in ("eq_t", "eq_t_frac")}


def test_generators_that_cannot_be_moved_are_refused():
    with (
        pytest.raises(SpiderUsageError, match=r"generator\.kind=stylegan3"),
        eq.transformed(torch.nn.ReLU(), torch.eye(3)),
    ):
        pass
