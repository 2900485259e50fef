"""What networks may ask for and return beyond images and logits: laws of a run, with toys that use all of it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

import pytest
import torch

from cluster.world import World
from shards.order import Slots
from spider.config.load import make_config
from spider.gan.sources.config import GeneratorConfig
from spider.gan.sources.generator import Generator
from spider.train.phases import Pass
from spider.train.trainer import Trainer

TOYS = "tests.spider.train.toys"
BASE = [
    "batch=16",
    "compute.precision=fp64",
    f"generator.kind={TOYS}:Toy",
    f"discriminator.kind={TOYS}:Toy",
    "penalties.r1_gamma=1",
    "penalties.r2_gamma=1",
    f"augment=[{{kind: '{TOYS}:Fade'}}]",
    f"auxiliary=[{{kind: '{TOYS}:Taps'}}]",
]


def trainer_for(data, world=None, overrides=()):
    return Trainer(make_config({"data": {"path": str(data)}}, [*BASE, *overrides]), world or World.single())


def trained(world, data, overrides=(), steps=10):
    """On a rank: all tensors after some steps, and the row of numbers."""
    trainer = trainer_for(data, world, overrides)
    for _ in range(steps):
        trainer.iterate()
    assert trainer.plan.guard.skipped == 0
    tensors = {f"{k}.{n}": t.clone() for k, held in trainer.snapshot().tensors.items() for n, t in held.items()}
    trainer.close()
    return tensors, trainer.plan.stats.means()


@cache
def alone(data):
    return trained(World.single(), data)


@pytest.mark.parametrize(("size", "accumulation"), [(1, 2), (2, 1), (2, 2)])
def test_toys_are_the_same_anywhere(ranks, digits, size, accumulation):
    whole, means = alone(digits)
    for tensors, means_there in ranks(size).run(trained, digits, [f"accumulation={accumulation}"]):
        for name, tensor in whole.items():
            torch.testing.assert_close(tensors[name], tensor, rtol=1e-9, atol=1e-9)
        assert means_there == pytest.approx(means, rel=1e-9, abs=1e-12)


def test_a_network_remembers_once_for_each_step_that_was_taken(digits):
    trainer = trainer_for(digits, overrides=["accumulation=2", "d_steps=2"])
    generator, d_main = trainer.generator.module, trainer.plan.phases[0]
    average, seen = torch.zeros_like(generator.w_avg), []
    generator.mapping.register_forward_hook(lambda module, given, out: seen.append(out.detach()))
    for _ in range(2):
        seen.clear()
        trainer.iterate()
        for turn in range(2):  # each in two micro-batches; those of the generator's own step count for nothing
            average.lerp_(torch.cat(seen[2 * turn : 2 * turn + 2]).mean(0) + 0.1 * average, 0.1)
    torch.testing.assert_close(generator.w_avg, average)
    before = generator.w_avg.clone()

    def bad(batch):
        outcome = d_main.passes[0].run(batch)
        return replace(outcome, terms=[replace(term, values=term.values / 0) for term in outcome.terms])

    trainer.stepper.take(d_main, [Pass(bad)], trainer.feeds.draw(d_main, 2, 0))
    assert generator.steps == 4
    assert torch.equal(generator.w_avg, before)
    assert torch.equal(trainer.snapshot().tensors["generator"]["w_avg"], before)
    trainer.close()


def test_compiled_toys_agree_with_eager_ones(digits, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    _, means = trained(World.single(), digits, ["compute.compile=true"])
    assert means == pytest.approx(alone(digits)[1], rel=1e-6, abs=1e-9)
    counters = torch._dynamo.utils.counters
    assert not counters["graph_break"], counters["graph_break"]
    assert counters["stats"]["unique_graphs"] <= 8, counters["stats"]  # draws are tensors: no graph for each step


def test_a_network_draws_by_the_number_of_the_sample(digits):
    trainer = trainer_for(digits)
    made = trainer.frozen()
    images = made.images(3, range(8))
    torch.testing.assert_close(made.images(3, [5, 2]), images[[5, 2]], rtol=0, atol=1e-12)
    same = made.source.at(3, [5]).expand(2, -1)  # one input, two numbers
    one, other = made(same, made.condition_at(3, [5, 6]))
    torch.testing.assert_close(one, images[5], rtol=0, atol=1e-12)
    assert not torch.allclose(one, other, atol=1e-3)
    stage = Generator(GeneratorConfig(run="unread"), made, trainer.image_shape)
    whole = next(stage.feed(0, Slots(8, 0, 1), 8))
    for rank in range(2):
        torch.testing.assert_close(next(stage.feed(0, Slots(8, rank, 2), 8)), whole[rank::2], rtol=0, atol=1e-12)


def test_players_draw_apart_for_each_use_and_the_same_when_asked_twice(digits):
    trainer = trainer_for(digits)
    asked = []
    for player in (trainer.generator, trainer.discriminator):
        player.module.register_forward_pre_hook(lambda _, given: asked.append(given[1].draws["noise"]))
    (batch,) = trainer.feeds.draw(trainer.plan.phases[0], 0, 0)

    def run():
        asked.clear()
        part = trainer.plan.phases[0].prepare(batch)
        with trainer.discriminator.playing():
            for each in trainer.plan.phases[0].passes:
                each.run(part)
        return [*asked]

    once, again = run(), run()
    assert len(once) == 5  # fakes, D of reals and fakes, R1, R2
    assert all(torch.equal(*pair) for pair in zip(once, again, strict=True))
    assert len({tuple(draws.flatten().tolist()) for draws in once}) == 5
