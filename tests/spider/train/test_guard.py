"""A loss or a gradient that is not finite: named, skipped without a trace, counted, and in the end fatal."""

from __future__ import annotations

import re

import pytest
import torch
from torch.nn.functional import normalize

from cluster.world import World
from spider.config.load import make_config
from spider.errors import SpiderError
from spider.gan.objectives.non_saturating import NonSaturating
from spider.gan.objectives.slicing import Slicing
from spider.train.trainer import Trainer
from tests.spider.train.laws import assert_a_skipped_step_leaves_no_trace, tensors_of
from tests.spider.train.toys import TOYS

BASE = ["batch=8", "generator.width=0.05", "discriminator.width=0.05", "penalties.r1_gamma=1", "guard.max_skipped=2"]

LECAM = "auxiliary=[{kind: lecam}]"  # which remembers tensors


class Poisoned(NonSaturating):
    """An objective whose cost of generated images goes bad on one rank."""

    def __init__(self, how):
        self.how = how

    def d_fake(self, logits):
        values = super().d_fake(logits)
        if self.how == "value":
            return values * float("inf")
        if self.how == "constant":
            return values + float("inf")  # with the slope of a good one
        return values + (logits - logits.detach()).sqrt()  # 0, with an infinite slope


def use(trainer, objective):
    """Let all passes of a trainer minimise another objective."""
    for phase in trainer.plan.phases:
        phase.passes[0].run.objective = objective


def poisoned(world, data, how, rank, iterations):
    """On a rank: warnings, whether each player moved, whether all is finite, the error if any, means, skipped steps."""
    trainer = Trainer(make_config({"data": {"path": str(data)}}, [*BASE, "generator.norm=batch"]), world)
    trainer.iterate()
    modules = (trainer.discriminator.module, trainer.generator.module)
    before = [[p.clone() for p in module.parameters()] for module in modules]
    if world.rank == rank:
        use(trainer, Poisoned(how))
    warnings, error = [], None
    try:
        for _ in range(iterations):
            trainer.iterate()
            warnings += trainer.warnings
    except SpiderError as stopped:
        error = str(stopped)
    moved = [
        any(not torch.equal(p, q) for p, q in zip(module.parameters(), old, strict=True))
        for module, old in zip(modules, before, strict=True)
    ]
    finite = all(bool(b.isfinite().all()) for module in modules for b in module.state_dict().values())
    return warnings, moved, finite, error, trainer.plan.stats.means(), trainer.plan.guard.skipped


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("value", "loss/d_fake on rank 1"),
        ("constant", "loss/d_fake on rank 1"),
        ("slope", "gradient of discriminator.layers.0.weight"),
    ],
)
def test_a_bad_step_is_named_and_skipped(ranks, digits, how, says):
    for warnings, moved, finite, error, means, skipped in ranks(2).run(poisoned, digits, how, 1, 1):
        assert len(warnings) == 1
        assert "phase d_main at 0.008 kimg" in warnings[0]
        assert says in warnings[0]
        assert "on rank 1" in warnings[0]
        assert "rank 0" not in warnings[0]
        assert moved == [False, True]
        assert finite
        assert error is None
        assert skipped == 1
        assert all(value == value and abs(value) < 1e6 for value in means.values())


def test_a_bad_gradient_names_its_player_once(digits):
    trainer = Trainer(make_config({"data": {"path": str(digits)}}, [*TOYS, "batch=8"]), World.single())
    use(trainer, Poisoned("slope"))
    trainer.iterate()
    [warning] = trainer.warnings
    assert re.search(r"gradient of discriminator\.\w+\.weight", warning)
    assert "discriminator.discriminator" not in warning
    trainer.close()


def test_too_many_in_a_row_end_the_run(digits):
    trainer = Trainer(make_config({"data": {"path": str(digits)}}, BASE), World.single())
    poison = Poisoned("value")
    poison.g_fake = lambda logits: logits * float("nan")
    use(trainer, poison)
    trainer.iterate()
    trainer.iterate()
    with pytest.raises(SpiderError, match=r"3 steps of it in a row were skipped \(guard.max_skipped=2\)"):
        trainer.iterate()


def test_a_player_that_never_steps_ends_the_run_though_the_other_trains(digits):
    """Here every discriminator step is bad and every generator step good."""
    warnings, _, _, error, _, skipped = poisoned(World.single(), digits, "value", 0, 5)
    assert len(warnings) == 2
    assert skipped == 3
    assert "phase d_main" in error


def test_a_good_step_between_bad_ones_resets_the_count(digits):
    trainer = Trainer(make_config({"data": {"path": str(digits)}}, BASE), World.single())
    for bad in (True, True, False, True, True):
        use(trainer, Poisoned("value") if bad else NonSaturating())
        trainer.iterate()
    assert trainer.plan.guard.skipped == 4


FED = {
    "latents": (["d_steps=2"], 3 + 3),
    "images": (["source.kind=images", "source.noise_std=0.1"], 2 + 2),
    "own-penalty": (
        ["penalties.phase=own", "penalties.r2_gamma=1", "penalties.interval_steps=2", "d_steps=2", LECAM],
        4 + 3,
    ),
}


def fed_badly(world, data, overrides, rank, iterations):
    """On a rank: how many steps of two bad iterations were skipped; all names, and those that a good one then moves.

    Batch normalisation in both networks sees the inputs before any loss does; the average is the generator as it is.
    """
    still = ["ema.half_life_kimg=0", "overfit.interval_steps=9", "guard.max_skipped=9"]
    overrides = [*BASE, *still, "generator.norm=batch", "discriminator.norm=batch", *overrides]
    trainer = Trainer(make_config({"data": {"path": str(data)}}, overrides), world)
    for _ in range(iterations):
        trainer.iterate()
    moved = assert_a_skipped_step_leaves_no_trace(trainer, rank)
    return trainer.plan.guard.skipped, set(tensors_of(trainer)), moved


def assert_skipped(found, expected):
    skipped, names, moved = found
    assert skipped == expected
    for group in ("generator", "discriminator"):
        statistics = {name for name in names if name.startswith(group) and name.endswith("running_var")}
        assert statistics
        assert statistics <= moved


@pytest.mark.parametrize("fed", FED)
def test_steps_that_are_not_finite_leave_no_trace(digits, patches, fed):
    """Neither in weights, average, batch statistics and moments, nor in the numbers that are reported."""
    overrides, skipped = FED[fed]
    path = [f"source.path={patches}"] if fed == "images" else []
    assert_skipped(fed_badly(World.single(), digits, [*overrides, *path], 0, 2), skipped)


def test_steps_that_are_not_finite_on_one_rank_leave_no_trace_on_any(ranks, digits):
    for found in ranks(2).run(fed_badly, digits, [LECAM], 1, 1):
        assert_skipped(found, 2 + 2)


@pytest.mark.parametrize("sliced", [False, True])
def test_spectral_norms_move_by_steps_that_are_taken(digits, sliced):
    """With SAN the last layer has none."""
    network = ["discriminator.layout=sngan", "discriminator.norm=spectral", "objective.kind=hinge"]
    still = ["ema.half_life_kimg=0", "overfit.interval_steps=9", "guard.max_skipped=9"]
    words = [*BASE, *still, *network, f"objective.slicing={sliced}"]
    trainer = Trainer(make_config({"data": {"path": str(digits)}}, words), World.single())
    trainer.iterate()
    moved = assert_a_skipped_step_leaves_no_trace(trainer)
    trainer.close()
    weights = {name for name in moved if name.startswith("discriminator.layers.") and name.endswith(".weight")}
    normed = {name.replace(".weight", ".v") for name in weights} & moved
    assert (len(weights), len(normed)) == (4, 3 if sliced else 4)


def directions(world, data, words):
    """On a rank: SAN's direction before, at the end of each of three iterations, and D's skipped steps.

    In the second one what D says of generated images is not finite, what it says of the direction is.
    """
    words = ["compute.precision=fp32", "objective.slicing=true", *words]
    trainer = Trainer(make_config({"data": {"path": str(data)}}, [*BASE, *words]), world)
    sliced, found, skipped = trainer.plan.phases[0].passes[0].run.objective, [], []
    for objective in (None, sliced, Slicing(Poisoned("value"), "normalised", world.device), sliced):
        if objective is not None:
            use(trainer, objective)
            trainer.iterate()
            skipped.append(sum("phase d_main" in warning for warning in trainer.warnings))
        found.append(normalize(trainer.discriminator.module.layers[-1].weight.detach()))
    trainer.close()
    return found, skipped


@pytest.mark.parametrize("engine", [[], *(["engine.kind=deepspeed", f"engine.zero_stage={stage}"] for stage in (1, 2))])
def test_the_direction_of_san_moves_by_steps_that_are_taken(ranks, digits, engine):
    for (first, second, third, last), skipped in ranks(2).run(directions, digits, engine):
        assert skipped == [0, 1, 0]
        assert torch.equal(third, second)
        assert (second - first).norm() > 1e-4
        assert (last - third).norm() > 1e-4
