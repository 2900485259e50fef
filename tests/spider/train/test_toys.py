"""What networks may ask for and return beyond images and logits: laws of a run, with toys that use all of it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import adaptive_avg_pool2d, normalize

from cluster.world import World
from shards.order import Slots
from spider import api
from spider.config.load import make_config
from spider.errors import SpiderError, SpiderUsageError
from spider.gan.outputs import DOut
from spider.gan.pixels import resize
from spider.gan.sources.config import GeneratorConfig
from spider.gan.sources.generator import Generator
from spider.runs.directory import resolve
from spider.runs.generator import open_generator
from spider.train.phases import Pass
from spider.train.trainer import Trainer
from tests.spider.train import toys
from tests.spider.train.laws import assert_a_skipped_step_leaves_no_trace, assert_resume_is_exact, tensors_of
from tests.spider.train.toys import TOYS

BASE = [*TOYS, "batch=16", "compute.precision=fp64"]


def trainer_for(data, world=None, overrides=()):
    return Trainer(make_config({"data": {"path": str(data)}}, [*BASE, *overrides]), world or World.single())


def trained(world, data, overrides=(), steps=10):
    """On a rank: all tensors after some steps, and the row of numbers."""
    trainer = trainer_for(data, world, overrides)
    for _ in range(steps):
        trainer.iterate()
    assert trainer.plan.guard.skipped == 0
    trainer.close()
    return tensors_of(trainer), trainer.plan.stats.means()


@cache
def alone(data, overrides=()):
    return trained(World.single(), data, overrides)


SELECTED = ("selection.kind=fixed", "selection.k=6", "selection.norm=batch")


@pytest.mark.parametrize(
    ("size", "accumulation", "selection"), [(1, 2, ()), (1, 2, SELECTED), (2, 1, ()), (2, 2, SELECTED), (4, 2, ())]
)
def test_toys_are_the_same_anywhere(ranks, digits, size, accumulation, selection):
    whole, means = alone(digits, selection)
    for tensors, means_there in ranks(size).run(trained, digits, [*selection, f"accumulation={accumulation}"]):
        torch.testing.assert_close(tensors, whole, rtol=1e-9, atol=1e-9)
        assert means_there == pytest.approx(means, rel=1e-9, abs=1e-12)


def test_judgements_weigh_as_the_discriminator_says(digits):
    """In losses and auxiliaries, in what is reported and in what ranks images: one that weighs nothing is not there."""
    words = ["batch=8", "compute.precision=fp64", "generator.width=0.05", "discriminator.width=0.05", *SELECTED]
    words += ["auxiliary=[{kind: lecam}, {kind: consistency}]"]
    found = []
    for more in (False, True):
        trainer = Trainer(make_config({"data": {"path": str(digits)}}, words), World.single())
        judge = trainer.discriminator.module
        if more:
            judged, weights = judge.forward, torch.tensor([2.0, 0.0])

            def with_another(images, condition, judged=judged, weights=weights):
                logits = judged(images, condition).logits
                return DOut(torch.cat([logits, images.flatten(1).mean(1, keepdim=True)], dim=1), weights=weights)

            judge.forward = with_another
        for _ in range(2):
            trainer.iterate()
        trainer.close()
        found.append((tensors_of(trainer), trainer.plan.stats.means()))
    (whole, means), (tensors, same) = found
    torch.testing.assert_close(tensors, whole, rtol=1e-9, atol=1e-9)
    assert same == pytest.approx(means, rel=1e-9, abs=1e-12)


def resumed(world, data, overrides):
    """On a rank: the discriminator after six steps, which are also three and, from a snapshot, three more."""
    trainer, other = (trainer_for(data, world, overrides) for _ in range(2))
    other.conditions.features.zero_()  # as another machine might make them otherwise
    assert_resume_is_exact(trainer, other, before=3, after=3)
    whole = trainer.snapshot().tensors["discriminator"]
    assert whole["judge.weight"].norm().item() == pytest.approx(1)
    assert whole["judge.bias"].abs().max() <= 1e-3
    return {name: tensor.clone() for name, tensor in whole.items()}


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_parameter_that_is_projected_stays_so_under_any_engine(ranks, digits, stage):
    words = ["compute.precision=fp32", "engine.kind=deepspeed", f"engine.zero_stage={stage}"]
    expected = resumed(World.single(), digits, words[:1])
    for tensors in ranks(2).run(resumed, digits, words):
        torch.testing.assert_close(tensors, expected, rtol=0, atol=2e-5)


def test_weights_named_by_digest_are_not_saved_and_must_be_the_same(digits, tmp_path, monkeypatch):
    run, words = tmp_path / "run", [*TOYS, "batch=8", "log.samples=4"]
    api.train("dcgan", run, data=digits, kimg=0.016, overrides=words)
    trainer = trainer_for(digits)
    trainer.begin()
    trainer.iterate()
    snapshot = trainer.snapshot()
    for group, module in trainer.generator.modules().items() | trainer.discriminator.modules().items():
        names = {name for name in module.state_dict() if "eyes" not in name and group != "generator.auxiliary1"}
        assert (
            snapshot.tensors[group].keys() == load_file(resolve(str(run)).path / f"{group}.safetensors").keys() == names
        )
    assert trainer.ema.module.eyes is trainer.generator.module.eyes
    assert trainer.generator.module.eyes.norm.num_batches_tracked == 0
    given = [f"init.run={run}", "init.kind=run", "init.players=[d, g]", "init.require=all"]
    assert api.train("dcgan", tmp_path / "given", data=digits, kimg=0.016, overrides=[*words, *given]) == "finished"
    monkeypatch.setattr(toys, "EYES", 2)
    for refused, part in (
        (lambda: api.train(None, run, kimg=0.032), "discriminator.auxiliary0.eyes"),
        (lambda: api.generate(run, seeds="0-3", out=tmp_path / "out"), "generator.eyes"),
    ):
        with pytest.raises(SpiderError, match=rf"^{part}: .* was trained with weights 0+1, here are weights 0+2; "):
            refused()
    monkeypatch.setattr(toys, "EYES", 1)
    assert api.train(None, run, kimg=0.032) == "finished"


@pytest.mark.parametrize("overrides", [[], ["augment=[]"]], ids=["augmented", "plain"])
@pytest.mark.parametrize("precision", ["fp64", "bf16", "fp16"])
def test_methods_get_exact_numbers_and_keep_no_graph(digits, precision, overrides):
    trainer = trainer_for(digits, overrides=[f"compute.precision={precision}", *overrides])
    auxiliary, seen, kept = trainer.plan.methods["auxiliary.1"], [], []
    for loss in ("discriminator", "generator"):

        def noted(*given, of=getattr(auxiliary, loss)):
            seen.extend(given[:-1])
            return of(*given)

        setattr(auxiliary, loss, noted)
    trainer.iterate()
    assert trainer.plan.guard.skipped == 0
    for phase in trainer.plan.phases:
        (part,) = trainer.feeds.draw(phase, 1, 0)
        part = phase.prepare(part) if phase.prepare else part
        with phase.player.playing():
            kept += [part.keep, *(each.run(part).keep for each in phase.passes)]
    trainer.close()
    exact = torch.float64 if precision == "fp64" else torch.float32
    assert len(seen) == 6  # each iteration: real and fake, and fake
    for each in seen:
        assert {each.images.dtype, each.augmented.dtype, *(v.dtype for v in each.out.features.values())} == {exact}
    names = [name for keep in kept for name in keep]
    networks = {"networks.generator", "networks.discriminator"}
    assert {*names} == {*networks, "objective", "auxiliary.0", "auxiliary.1", "g_penalties.0"}
    values = [value for keep in kept for named in keep.values() for value in named.values()]
    assert {(value.dtype, value.requires_grad) for value in values} == {(exact, False)}


def test_a_network_remembers_once_for_each_step_that_was_taken(digits):
    still = ["ema.half_life_kimg=0", "overfit.interval_steps=9"]
    trainer = trainer_for(digits, overrides=["accumulation=2", "d_steps=2", *still])
    generator = trainer.generator.module
    average, seen = torch.zeros_like(generator.w_avg), []
    hook = generator.mapping.register_forward_hook(lambda module, given, out: seen.append(out.detach()))
    for _ in range(2):
        seen.clear()
        trainer.iterate()
        for turn in range(
            2
        ):  # each in two micro-batches; what is made again, and in the generator's own step, counts for nothing
            average.lerp_(torch.cat(seen[5 * turn : 5 * turn + 2]).mean(0) + 0.1 * average, 0.1)
    torch.testing.assert_close(generator.w_avg, average)
    hook.remove()
    assert generator.steps == 4
    moved = assert_a_skipped_step_leaves_no_trace(trainer)
    assert generator.steps == 6
    assert {"generator.w_avg", "discriminator.middle", "objective.mean"} <= moved
    assert any(name.startswith("discriminator.auxiliary0.") for name in moved)
    trainer.close()


def test_a_penalty_of_the_generator_is_a_step_on_a_part_of_the_batch(digits):
    trainer = trainer_for(digits, overrides=["accumulation=2", "g_penalties.batch_shrink=4", "source.dim=10"])
    phase = trainer.plan.phases[-1]
    assert (phase.name, phase.player) == ("g_reg", trainer.generator)
    assert [step for step in range(7) if phase.due(step)] == [0, 3, 6]
    trainer.iterate()
    group = trainer.generator.optimizer.param_groups[0]
    assert group["lr"] == pytest.approx(trainer.config.g_optimizer.lr * 3 / 4)  # 4 steps in 3 iterations
    assert group["betas"][1] == pytest.approx(trainer.config.g_optimizer.beta2 ** (3 / 4))
    mean, network = trainer.plan.methods["g_penalties.0"].mean, trainer.generator.module
    assert mean > 0
    for _ in range(2):
        trainer.iterate()
    for earlier in trainer.plan.phases[:-1]:
        whole = trainer.feeds.draw(earlier, 3, 0)
    parts = trainer.feeds.draw(phase, 3, 0)
    assert [len(part.source) for part in parts] == [2, 2]
    assert sorted(index for part in parts for index in part.at.positions) == [16, 17, 18, 19]
    assert not torch.equal(parts[0].source, whole[0].source[:2])  # a batch of its own
    with trainer.generator.playing():
        outcomes = [phase.passes[0].run(part) for part in parts]
        values = torch.cat([outcome.terms[0].values for outcome in outcomes])
        expected = torch.autograd.grad(3 * 0.5 * values.mean(), network.synthesis.weight)[0]
    length = torch.cat([outcome.keep["g_penalties.0"]["length"] for outcome in outcomes]).mean()
    before = mean.clone()
    trainer.stepper.take(phase, phase.passes_at(3, trainer.images), parts)
    torch.testing.assert_close(network.synthesis.weight.grad, expected)
    torch.testing.assert_close(mean, before.lerp(length.detach(), 0.1))
    trainer.close()


def test_values_that_weigh_by_themselves_have_the_mean_of_the_whole_batch(digits):
    trainer = trainer_for(digits, overrides=["accumulation=2"])
    phase, weight = trainer.plan.phases[0], trainer.discriminator.module.judge.weight
    parts = trainer.feeds.draw(phase, 0, 0)
    loss, means = 0, {}
    with trainer.discriminator.playing():
        outcomes = [each.run(phase.prepare(part)) for each in phase.passes for part in parts]
        for first, other in (outcomes[:2], outcomes[2:]):
            for one, two in zip(first.terms, other.terms, strict=True):
                values = torch.cat([one.values, two.values])
                weights = torch.ones_like(values) if one.weights is None else torch.cat([one.weights, two.weights])
                means[one.name] = (weights * values).sum() / weights.sum()
                loss += one.coefficient * means[one.name]
        expected = torch.autograd.grad(loss, weight)[0]
    trainer.stepper.take(phase, phase.passes, parts)
    torch.testing.assert_close(weight.grad, expected)
    sums = trainer.stepper.settle()
    assert {name: sums[name][0] / sums[name][1] for name in means} == pytest.approx(
        {k: v.item() for k, v in means.items()}
    )
    (hinged,) = (term.values for term in outcomes[0].terms if term.name == "loss/d_real")
    margins = (hinged + outcomes[0].reports["logits/real"])[hinged > 0]  # the mean is still 0
    assert bool(((margins >= 0.8) & (margins < 1)).all())
    assert len(margins.unique()) == len(margins) > 8  # of 8 images, a margin for each logit
    trainer.close()


def test_a_term_whose_weights_are_all_0_is_as_none(digits):
    def stepped(*own):
        trainer = trainer_for(digits, overrides=["accumulation=2"])
        phase = trainer.plan.phases[0]

        def changed(batch):
            outcome = phase.passes[0].run(batch)
            for term in [each for each in outcome.terms if each.weights is not None]:
                outcome.terms.remove(term)
                outcome.terms.extend(replace(term, weights=torch.full_like(term.values, weight)) for weight in own)
            return outcome

        trainer.stepper.take(phase, [Pass(changed)], trainer.feeds.draw(phase, 0, 0))
        sums = trainer.stepper.settle()
        trainer.close()
        assert trainer.plan.guard.skipped == 0
        return [each.grad for each in trainer.discriminator.parameters], sums

    (grads, sums), (without, _) = stepped(0.0), stepped()
    assert all(torch.equal(*pair) for pair in zip(grads, without, strict=True))
    assert sums["loss/d_real_direction"][0] == 0
    assert any(not torch.equal(*pair) for pair in zip(grads, stepped(1.0)[0], strict=True))


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (toys.Sliced, "Sliced has paired = True, its settings False; let Slicing have a property paired .* True$"),
        (toys.InstanceConditions, "InstanceConditions has paired = True, and the objective compares no pairs; set "),
    ],
)
def test_only_settings_that_say_so_compare_pairs(digits, monkeypatch, made, says):
    monkeypatch.setattr(made, "paired", True)
    with pytest.raises(SpiderUsageError, match=rf"^(objective|condition)\.kind={toys.__name__}:\w+: {says}"):
        trainer_for(digits)


def test_a_batch_that_does_not_divide_into_shares_is_refused(digits):
    with pytest.raises(SpiderUsageError, match=r"g_penalties.batch_shrink=3: batch=16 does not divide"):
        trainer_for(digits, overrides=["g_penalties.batch_shrink=3"])
    config = trainer_for(digits, overrides=["g_penalties.batch_shrink=8"]).config
    config.for_world(2)
    with pytest.raises(SpiderUsageError, match=r"g_penalties.batch_shrink=8: batch=16 does not divide .* 4 ranks"):
        config.for_world(4)


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


def test_conditions_know_for_whom_an_image_was_read_and_are_restored(digits, tmp_path):
    run = tmp_path / "run"
    api.train("dcgan", run, data=digits, kimg=0.016, overrides=[*TOYS, "batch=16", "log.samples=4"])
    made, trainer = open_generator(str(run), torch.device("cpu")), trainer_for(digits)
    (batch,) = trainer.feeds.draw(trainer.plan.phases[0], 0, 0)
    features, told = trainer.conditions.features.double(), batch.real_condition.features.double()
    own = normalize(adaptive_avg_pool2d(batch.real, 2).flatten(1))
    nearest = torch.cdist(told, features).topk(4, largest=False).values  # the instance itself, and its neighbours
    distance = (told - own).norm(dim=1)
    assert bool(((distance > nearest[:, 0]) & (distance < nearest[:, 3] + 1e-6)).all())
    assert torch.equal(made.conditions.features, trainer.conditions.features)
    before = trainer.frozen().digest
    trainer.conditions.features.mul_(2)
    assert trainer.frozen().digest != before
    trainer.close()


def test_what_the_discriminator_is_given_is_told_and_seen(digits):
    trainer = trainer_for(digits)
    phase, network, given = trainer.plan.phases[0], trainer.discriminator.module, []
    network.register_forward_pre_hook(lambda _, arguments: given.append(arguments))
    (batch,) = trainer.feeds.draw(phase, 0, 0)
    trainer.close()
    critic, (made,) = phase.passes[0].run.critic, [phase.prepare(batch)]
    seen = critic(batch, "real", batch.real, batch.real_condition)
    critic(batch, "fake", made.fake, made.fake_condition)
    critic.twice(batch, "fake", made.fake, made.fake_condition)
    (images, condition), (_, of_fake), (_, twice) = given
    assert len(condition.time.unique()) == len(images)
    faded = (1 - condition.time)[:, None, None, None].double()
    torch.testing.assert_close(images, batch.real * faded)
    assert torch.equal(seen.augmented, images)
    assert torch.equal(seen.images, batch.real)
    for name, side in network.sizes.items():  # of every image all sizes are changed alike
        torch.testing.assert_close(condition.sizes[name], resize(batch.real, *side) * faded)
        faded_fake = (1 - of_fake.time)[:, None, None, None].double()
        own = made.fake_condition.sizes.get(name, resize(made.fake, *side))
        torch.testing.assert_close(of_fake.sizes[name], own * faded_fake)
        torch.testing.assert_close(twice.sizes[name], resize(made.fake, *side) * faded_fake)
    assert not torch.allclose(of_fake.sizes["small"], twice.sizes["small"])
    torch.testing.assert_close(
        seen.out.features["hidden"],
        network.hidden(network.eyes(images.flatten(1)))
        + sum(getattr(network, name)(condition.sizes[name].flatten(1)) for name in network.sizes),
    )
    seen.again("view")
    assert not torch.equal(given[-1][0], images)
    view = seen.again("near", made.fake, deepcopy(network).requires_grad_(False))
    assert not view.logits.requires_grad
    fresh = critic(batch, "real.near", made.fake, batch.real_condition)  # the same draws, its sizes resized
    torch.testing.assert_close(view.logits, fresh.out.logits)
    maker = phase.passes[0].run.maker
    torch.testing.assert_close(maker.remade(batch)(lambda source: source), made.fake)
    assert not torch.allclose(maker.remade(batch)(lambda source: source + 1), made.fake)
    network.sizes["small"] = (3, 3)
    with pytest.raises(
        SpiderUsageError, match=r"asks for images small of \[1, 3, 3\], the generator returns \[1, 4, 4\]"
    ):
        critic(batch, "fake", made.fake, made.fake_condition)


def test_players_draw_apart_for_each_use_and_the_same_when_asked_twice(digits):
    trainer = trainer_for(digits)
    asked = []
    for network in (trainer.generator.module, trainer.discriminator.module, trainer.discriminator.parts["auxiliary0"]):
        network.register_forward_pre_hook(lambda _, given: asked.append(given[1].draws["noise"]))
    (batch,) = trainer.feeds.draw(trainer.plan.phases[0], 0, 0)

    def run():
        asked.clear()
        part = trainer.plan.phases[0].prepare(batch)
        with trainer.discriminator.playing():
            for each in trainer.plan.phases[0].passes:
                each.run(part)
        return [*asked]

    once, again = run(), run()
    # fakes, D of reals and fakes, an auxiliary's fakes of a changed source, its average of D for each of two, R1, R2
    assert len(once) == 8
    assert all(torch.equal(*pair) for pair in zip(once, again, strict=True))
    assert torch.equal(once[0], once[3])  # what is made again is by the draws of the fakes: only its source is another
    assert len({tuple(draws.flatten().tolist()) for draws in once}) == 7
