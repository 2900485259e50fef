"""Precision, memory format, compilation, the average of weights, lazy penalties, the dry run."""

from __future__ import annotations

import re
import time
from collections import Counter
from contextlib import closing
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from cluster.world import World
from shards.stream import BatchStream
from spider.config.load import make_config
from spider.config.schema import EmaConfig, OptimizerConfig
from spider.cost.dry_run import dry_run
from spider.draws import torch_seed
from spider.gan.augment.ada import Ada
from spider.gan.ema import Ema
from spider.gan.loss import Term
from spider.gan.pixels import to_float
from spider.heartbeat import told_to_go_on
from spider.train.passes import DiscriminatorPenalty
from spider.train.trainer import Trainer

BASE = ["batch=16", "generator.width=0.1", "discriminator.width=0.1", "penalties.r1_gamma=1", "penalties.r2_gamma=1"]


def trainer_for(data, overrides=()):
    return Trainer(make_config({"data": {"path": str(data)}}, [*BASE, *overrides]), World.single())


def means_after(data, overrides, iterations=3):
    trainer = trainer_for(data, overrides)
    for _ in range(iterations):
        trainer.iterate()
    assert trainer.plan.guard.skipped == 0
    assert all(p.dtype in (torch.float32, torch.float64) for _, p in trainer.generator.trainable)
    return trainer.plan.stats.means()


@pytest.mark.parametrize(
    ("overrides", "tolerance"),
    [
        (["compute.precision=fp64"], 1e-4),
        (["compute.channels_last=true"], 1e-4),
        (["compute.precision=bf16"], 0.1),
        (["compute.precision=fp16", "compute.loss_scale=256"], 0.02),
    ],
    ids=["fp64", "channels_last", "bf16", "fp16"],
)
def test_options_for_speed_change_numbers_only_by_their_rounding(digits, overrides, tolerance):
    plain, other = means_after(digits, []), means_after(digits, overrides)
    for name in ("loss/d_real", "loss/d_fake", "loss/g", "penalty/r1", "grad_norm/d_main", "grad_norm/g_main"):
        assert other[name] == pytest.approx(plain[name], rel=tolerance, abs=tolerance * 0.05), name


def test_compiled_first_order_passes_agree_with_eager_ones(digits, monkeypatch):
    """With penalties on: those run eagerly, and their gradients add up with the compiled ones.

    Traced and differentiated ahead of time, which is what forbids double backward; the last step to machine code would
    need a C++ compiler.
    """
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    plain, compiled = means_after(digits, [], 2), means_after(digits, ["compute.compile=true"], 2)
    for name, value in plain.items():
        assert compiled[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_average_has_the_half_life_it_claims():
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(module.weight)
    average = Ema(EmaConfig(half_life_kimg=1, rampup=None), module)
    torch.nn.init.zeros_(module.weight)
    for _ in range(10):
        average.update(module, 100, 10**6)
    assert float(average.module.weight) == pytest.approx(0.5)
    ramped = Ema(EmaConfig(half_life_kimg=1, rampup=0.05), module)
    torch.nn.init.ones_(module.weight)
    ramped.update(module, 100, 2000)  # half life 100 images
    assert float(ramped.module.weight) == pytest.approx(0.5)
    copied = Ema(EmaConfig(half_life_kimg=0), module)
    torch.nn.init.constant_(module.weight, 3.0)
    copied.update(module, 1, 1)
    assert float(copied.module.weight) == 3.0


def test_a_penalty_of_its_own_corrects_lr_and_betas():
    adam = OptimizerConfig(lr=0.01, beta1=0.5, beta2=0.99).at(0, 16)
    assert adam["lr"] == pytest.approx(0.01 * 16 / 17)
    assert adam["betas"] == pytest.approx((0.5 ** (16 / 17), 0.99 ** (16 / 17)))
    assert OptimizerConfig(lr=0.01).at(0)["lr"] == 0.01


def test_schedules_move_with_the_clock(digits):
    """Learning rate and betas in the optimizer, gamma in the penalty's weight."""
    overrides = [
        "g_optimizer.lr={linear: [2e-3, 1e-3], until_kimg: 0.032}",
        "d_optimizer.beta2={steps: [[0, 0.9], [0.03, 0.99]]}",
        "penalties.r1_gamma={cosine: [2, 1], until_kimg: 0.032}",
        "penalties.r2_gamma=0",
    ]
    trainer = trainer_for(digits, overrides)
    lrs, betas, gammas = [], [], []
    for step in range(4):
        (term,) = trainer.plan.phases[0].passes[1].run(trainer.feeds.draw(trainer.plan.phases[0], step, 0)[0]).terms
        gammas.append(2 * term.coefficient)
        trainer.iterate()
        lrs.append(trainer.generator.optimizer.param_groups[0]["lr"])
        betas.append(trainer.discriminator.optimizer.param_groups[0]["betas"][1])
    assert lrs == pytest.approx([2e-3, 1.5e-3, 1e-3, 1e-3])
    assert betas == [0.9, 0.9, 0.99, 0.99]
    assert gammas == pytest.approx([2, 1.5, 1, 1])


def one_interval(data, overrides, monkeypatch):
    """The optimizer, its steps, and by name the weight of all penalties, of the steps that one penalty stands for."""
    trainer = trainer_for(data, ["penalties.interval_steps=4", "d_steps=3", "penalties.gp_weight=10", *overrides])
    penalise, step = DiscriminatorPenalty.__call__, trainer.discriminator.optimizer.step
    weights, steps = Counter(), []

    def weigh(penalty, batch):
        outcome = penalise(penalty, batch)
        weights.update({term.name: term.coefficient for term in outcome.terms})
        return outcome

    monkeypatch.setattr(DiscriminatorPenalty, "__call__", weigh)
    trainer.discriminator.optimizer.step = lambda: steps.append(step())
    for _ in range(4):
        trainer.iterate()
    monkeypatch.undo()
    return trainer.discriminator.optimizer, len(steps), weights


def test_a_penalty_of_its_own_weighs_what_merged_ones_do_together(digits, monkeypatch):
    """However many steps of the discriminator it stands for; lr and betas are those of one more step than these."""
    adam, main_steps, merged = one_interval(digits, ["penalties.phase=merged"], monkeypatch)
    own_adam, all_steps, own = one_interval(digits, ["penalties.phase=own"], monkeypatch)
    assert own == merged
    assert own == {"penalty/r1": 12 / 2, "penalty/r2": 12 / 2, "penalty/gp": 12 * 10}
    assert (main_steps, all_steps) == (12, 13)
    assert own_adam.defaults["lr"] * all_steps == pytest.approx(adam.defaults["lr"] * main_steps)
    for beta, own_beta in zip(adam.defaults["betas"], own_adam.defaults["betas"], strict=True):
        assert own_beta**all_steps == pytest.approx(beta**main_steps)


def test_a_lazy_penalty_is_scaled_by_its_interval_and_only_when_due(digits):
    trainer = trainer_for(digits, ["penalties.interval_steps=4", "penalties.r2_gamma=0"])
    counts = []
    for _ in range(8):
        trainer.iterate()
        counts.append(trainer.plan.stats.state().get("penalty/r1", [0, 0])[1])
    assert counts == [16] * 4 + [32] * 4
    main, _ = trainer.plan.phases
    (term,) = main.passes[1].run(trainer.feeds.draw(main, 8, 0)[0]).terms
    assert term.coefficient == 4 * 1.0 / 2


def test_a_term_is_a_weighted_mean_over_all_its_values():
    values = torch.tensor([[1.0, 3.0], [5.0, 7.0]])
    assert float(Term("x", values).share(2.0)) == 4.0
    assert float(Term("x", values, 10.0).share(1.0, torch.tensor([0.0, 1.0]))) == 60.0


def test_a_dry_run_measures_and_writes_nothing(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = dry_run(make_config({"data": {"path": str(digits)}}, [*BASE, "kimg=100"]), World.single())
    assert report.sec_per_kimg == pytest.approx(1000 / report.img_per_s)
    assert report.hours == pytest.approx(report.sec_per_kimg * 100 / 3600)
    assert report.disk_gb == pytest.approx(report.checkpoint_mb * 4 / 1024)
    assert " s per kimg, " in report.table()
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_does_not_repeat_a_slow_iteration(digits, monkeypatch, capsys):
    """On a clock by which an iteration of 40 images takes 2000 s."""
    now, iterate = [0.0], Trainer.iterate

    def slowly(trainer):
        now[0] += 2000.0
        iterate(trainer)

    monkeypatch.setattr("spider.cost.dry_run.time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(Trainer, "iterate", slowly)
    config = make_config({"data": {"path": str(digits)}}, [*BASE, "batch=40", "kimg=12000"])
    report = dry_run(config, World.single())
    assert (now, report.iterations_measured, report.sec_per_kimg) == ([2000.0], 1, 50_000.0)
    assert "13.9 hours per kimg, 0.02 img/s" in report.table()
    assert "12000 kimg: 19.0 years" in report.table()
    told = capsys.readouterr().err
    assert told.startswith("measuring iterations of 40 images, G ")
    assert told.endswith(": at most 60 s, or one iteration if that takes longer\n")


def test_looking_for_room_is_told_of_too(digits, monkeypatch, capsys):
    """It makes every pass forward, which of large networks takes minutes."""
    monkeypatch.setattr("spider.cost.dry_run.told_to_go_on", partial(told_to_go_on, every_s=0.05))
    monkeypatch.setattr("spider.cost.dry_run.require_room", lambda trainer: time.sleep(0.5))
    monkeypatch.setattr("spider.cost.dry_run._time_iterations", lambda trainer, at_least: (1, 1.0))
    dry_run(make_config({"data": {"path": str(digits)}}, BASE), World.single())
    assert "\nstill measuring iterations, 0 s\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["generator.width=0.05", "discriminator.width=0.05"], False),
        (["generator.width=0.05", "discriminator.width=0.5"], True),
        (["generator.width=0.5", "discriminator.width=0.05"], True),
        (["generator.kind=r3gan", "discriminator.kind=r3gan", "discriminator.width=0.5"], True),
    ],
)
def test_players_of_unlike_size_are_remarked_on(digits, overrides, said):
    with closing(Trainer(make_config({"data": {"path": str(digits)}}, [*BASE, *overrides]), World.single())) as trainer:
        remarks = trainer.remarks
    assert len(remarks) == said
    if said:
        assert {"generator.width", "discriminator.width"} <= set(re.findall(r"[\w.]+", remarks[0]))


@pytest.mark.parametrize("g_reals", ["own", "shared"])
def test_what_a_relativistic_run_is_told_does_not_depend_on_a_constant_in_d(digits, g_reals):
    """eta, p, k and every loss; the generator's reals are a batch of their own only if that is asked for."""
    overrides = ["objective.kind=relativistic", f"objective.g_reals={g_reals}", "penalties.r2_gamma=1"]
    overrides += ["selection.kind=adaptive", "overfit.rise_kimg=0.05", "compute.precision=fp64"]
    overrides += ["overfit.interval_steps=1", "overfit.target=-0.9"]  # p rises at once, and k falls
    rows = []
    for constant in (0.0, 30.0):
        trainer = trainer_for(digits, overrides)
        with torch.no_grad():
            trainer.discriminator.module.layers[-1].bias += constant
        for _ in range(3):
            trainer.iterate()
        means = {name: value for name, value in trainer.plan.stats.means().items() if "logits" not in name}
        scores = {name: means.pop(name) - constant for name in ("selection/score_all", "selection/score_selected")}
        rows.append({**means, **scores, "p": trainer.plan.overfit.p, "eta": trainer.plan.overfit.eta})
    assert rows[0] == pytest.approx(rows[1], rel=1e-6)


def test_a_paired_objective_draws_reals_for_the_generator_or_shares_them(digits):
    for g_reals, positions in (("own", [0, 16, 32, 48]), ("shared", [0, 0, 16, 16])):
        trainer = trainer_for(digits, ["objective.kind=relativistic", f"objective.g_reals={g_reals}"])
        order = BatchStream(trainer.dataset, seed=torch_seed(0, "train.real"), global_batch=16)
        for step in (0, 1):
            for number, phase in enumerate(trainer.plan.phases):
                (drawn,) = trainer.feeds.draw(phase, step, 0)
                expected = next(order.batches(positions[2 * step + number])).images
                assert torch.equal(drawn.real, to_float(expected))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_images_are_augmented_in_full_precision(digits, monkeypatch, precision):
    """Also those of a generator under autocast: half precision is too coarse for the places of a warp."""
    seen = []
    augment = Ada.__call__

    def look(ada, images, draws, use):
        seen.append(images.dtype)
        return augment(ada, images, draws, use)

    monkeypatch.setattr(Ada, "__call__", look)
    trainer = trainer_for(digits, [f"compute.precision={precision}", "augment=[{kind: ada, pipe: bg, p: 1}]"])
    trainer.iterate()
    assert set(seen) == {torch.float32}
