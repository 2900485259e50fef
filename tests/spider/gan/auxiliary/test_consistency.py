"""bCR: its formula; that it is the same in any micro-batches, and draws no number that is drawn for something else."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from cluster.world import World
from spider.config.load import make_config
from spider.draws import Address
from spider.gan.auxiliary.auxiliary import Seen
from spider.gan.auxiliary.config import ConsistencyConfig
from spider.gan.auxiliary.consistency import Consistency
from spider.gan.outputs import Condition, DOut
from spider.train.trainer import Trainer
from tests.spider.train.laws import tensors_of

AT = Address(3, "d_main", range(64), torch.device("cpu"))


def judged(images):
    """By the brightness of the left half, and of all."""
    return DOut(torch.stack([images[..., : images.shape[3] // 2].mean((1, 2, 3)), images.mean((1, 2, 3))], 1))


def seen(use, images):
    asked = []

    def judge(use, images, condition, network):
        asked.append(images)
        return Seen(use, images, images, condition, judged(images), judge)

    return Seen(use, images, images, Condition(), judged(images), judge), asked


def test_an_image_and_a_moved_one_are_judged_alike():
    real, moved = seen("real", torch.rand(64, 1, 8, 8))
    fake, _ = seen("fake", torch.rand(64, 1, 8, 8))
    auxiliary = Consistency(ConsistencyConfig(real_weight=10, fake_weight=2, translation=0))
    told = auxiliary.discriminator(real, fake, AT)
    assert told.terms["real"].shape == (64, 2)
    assert told.terms["real"][:, 1].max() < 1e-10  # the mean of all pixels knows no mirror
    is_mirrored = (moved[0] != real.images).flatten(1).any(1)
    assert 16 < is_mirrored.sum() < 48
    torch.testing.assert_close(moved[0][is_mirrored], real.images.flip(3)[is_mirrored])
    torch.testing.assert_close(told.terms["real"], 10 * (real.out.logits - judged(moved[0]).logits).square())
    assert told.terms["fake"][:, 0].max() > 0
    only = Consistency(ConsistencyConfig(fake_weight=0, mirror=False, translation=0)).discriminator(real, fake, AT)
    assert {name: float(term.max()) for name, term in only.terms.items()} == {"real": 0.0}


def test_shifts_are_whole_pixels_within_their_bound():
    image = torch.zeros(1, 1, 32, 32)
    image[..., 16, 16] = 1
    real, moved = seen("real", image.expand(64, -1, -1, -1))
    Consistency(ConsistencyConfig(mirror=False, fake_weight=0)).discriminator(real, real, AT)
    places = {tuple(place[2:]) for place in moved[0].nonzero().tolist()}
    assert places == {(row, column) for row in (15, 16, 17) for column in (15, 16, 17)}


BASE = ["batch=8", "compute.precision=fp64", "source.dim=8", "generator.width=0.05", "discriminator.width=0.05"]


def trained(world, data, accumulation):
    words = [*BASE, "generator.norm=none", f"accumulation={accumulation}", "auxiliary=[{kind: consistency}]"]
    trainer = Trainer(make_config({"data": {"path": str(data)}}, words), world)
    for _ in range(3):
        trainer.iterate()
    trainer.close()
    assert trainer.plan.stats.means()["auxiliary.0/real"] > 0
    return tensors_of(trainer)


class Listening(Address):
    """Writes down what is asked for."""

    asked: ClassVar[Counter[str]] = Counter()

    def stream(self, use):
        self.asked[super().stream(use)] += 1
        return super().stream(use)


@pytest.mark.parametrize("augment", ["{kind: diffaugment}, {kind: mirror}", "{kind: ada, p: 0.5}, {kind: mirror}"])
def test_no_number_is_drawn_for_two_purposes(digits, augment):
    """In a step of D. Else a mirrored view would be mirrored back, by the same number."""
    words = [*BASE, "objective.kind=hinge", "auxiliary=[{kind: consistency}]", f"augment=[{augment}]"]
    trainer = Trainer(make_config({"data": {"path": str(digits)}}, words), World.single())
    phase = trainer.plan.phases[0]
    (part,) = trainer.feeds.draw(phase, 0, 0)
    given = phase.prepare(part)
    at = Listening(part.at.seed, part.at.phase, part.at.positions, part.at.device)
    Listening.asked.clear()
    phase.passes[0].run(replace(given, at=at))
    trainer.close()
    mirrors = [name for name in Listening.asked if name.endswith(".mirror")]
    assert len(mirrors) == 6, mirrors  # of real and generated images: seen, moved, and seen again
    assert {name for name, times in Listening.asked.items() if times > 1} == set()


@pytest.mark.parametrize("size", [1, 2])
def test_it_is_the_same_anywhere(ranks, digits, size):
    whole = trained(World.single(), digits, 1)
    for tensors in ranks(size).run(trained, digits, 2):
        torch.testing.assert_close(tensors, whole, rtol=1e-9, atol=1e-9)
