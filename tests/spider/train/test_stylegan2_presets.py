"""The presets of StyleGAN2 train; `auto` follows the images and the batch; Top-k beside ADA and path length."""

from __future__ import annotations

import pytest

from cluster.world import World
from spider import api
from spider.config.load import load_config, preset_names, to_yaml
from spider.errors import SpiderUsageError
from spider.runs.directory import RunDirectory
from spider.runs.start import prepare
from spider.train.trainer import Trainer

TINY = [
    "source.dim=8",
    "generator.channel_base=64",
    "generator.w_dim=8",
    "generator.mapping_layers=2",
    "discriminator.channel_base=64",
    "discriminator.mbstd_group=4",
    "batch=4",
]
ELSEWHERE = ("spider", "projected", "diffusion", "icgan/stylegan2-coco128", "icgan/stylegan2-coco256")
STYLEGAN2 = [
    name
    for name in preset_names()
    if "stylegan2" in name and (not name.startswith(ELSEWHERE) or name.endswith("-untold"))
]


def trainer_for(name, data, tmp_path, overrides=()):
    config = load_config(name, [f"data.path={data}", *TINY, *overrides])
    return Trainer(prepare(config, RunDirectory(tmp_path / "none")), World.single())


def row(trainer, iterations):
    """Of numbers, after so many iterations that were all taken."""
    for _ in range(iterations):
        trainer.iterate()
    trainer.close()
    assert trainer.plan.guard.skipped == 0
    found = trainer.plan.stats.means()
    for method in trainer.plan.methods.values():
        found |= method.columns(trainer.images)
    return found


@pytest.mark.parametrize("name", STYLEGAN2)
def test_every_preset_trains(digits, tmp_path, name):
    trainer = trainer_for(name, digits, tmp_path)
    phases = [phase.name for phase in trainer.plan.phases]
    assert [*phases] == [
        each for each in ("g_main", "g_reg", "d_main", "d_reg") if each != "g_reg" or "cifar" not in name
    ]
    found = row(trainer, 2)
    assert all(f"grad_norm/{phase}" in found for phase in phases)
    assert trainer.config.generator.bf16_resolutions == trainer.config.discriminator.bf16_resolutions == 4


def test_auto_follows_the_images_and_the_batch(digits, tmp_path):
    """As the rule of the public code has it. The run keeps the numbers, and goes on under the same words."""
    config = load_config("stylegan2-ada/auto", [f"data.path={digits}"])
    assert "r1_gamma: auto" in to_yaml(config)
    made = prepare(config, RunDirectory(tmp_path / "none"))
    assert made.penalties.r1_gamma == pytest.approx(0.0002 * 8**2 / 16)
    assert made.ema.half_life_kimg == 5
    assert made.g_optimizer.lr == made.d_optimizer.lr == 0.0025
    widths = [[channels for _, channels, _ in made.generator.plan((3, side, side))][-1] for side in (256, 512)]
    assert widths == [64, 64]
    run = tmp_path / "run"
    for kimg in (0.004, 0.008):
        api.train("stylegan2-ada/auto", run, data=digits, kimg=kimg, overrides=[*TINY, "log.samples=1"])
    assert RunDirectory(run).config().penalties.r1_gamma == pytest.approx(0.0002 * 8**2 / 4)
    with pytest.raises(SpiderUsageError, match=r"penalties\.r1_gamma: .*0\.0032.* -> 1"):
        api.train("stylegan2-ada/auto", run, data=digits, kimg=0.012, overrides=[*TINY, "penalties.r1_gamma=1"])


@pytest.mark.parametrize("factor", [1, 4])
def test_a_factor_multiplies_gamma(digits, tmp_path, factor):
    trainer = trainer_for("stylegan2-ada/auto", digits, tmp_path, [f"penalties.r1_factor={factor}"])
    (term,) = trainer.plan.phases[-1].passes[0].run.penalties
    assert term.weight(0) == pytest.approx(factor * 0.0002 * 8**2 / 4 / 2)
    trainer.close()


@pytest.mark.parametrize(
    "selection",
    [
        "{kind: linear, floor: 0.5}",
        "{kind: exponential, floor: 0.5, gamma: 0.5, every_kimg: 0.008}",
        "{kind: fixed, k: 3}",
        "{kind: fixed, k: 3, pick: worst}",
        "{kind: adaptive, k_unit: 1}",
    ],
)
def test_top_k_goes_with_ada_path_length_and_groups(digits, tmp_path, selection):
    """And with accumulation. One eta leads p of ADA and that of the selection, each by its own rule."""
    words = ["batch=8", "accumulation=2", "discriminator.mbstd_group=4", "overfit.interval_steps=2", "kimg=0.024"]
    control = "augment=[{kind: ada, control: {target: -0.99, rise_kimg: 1, interval_steps: 2}}]"
    words += [f"selection={selection}", "overfit.rise_kimg=2", "overfit.target=-0.99", control]
    trainer = trainer_for("atopk-stylegan2", digits, tmp_path, words)
    found = row(trainer, 2)
    assert 1 <= found["selection/k"] <= 8
    gap = found["selection/score_selected"] - found["selection/score_all"]
    assert found["selection/score_gap"] == pytest.approx(gap, abs=1e-6)
    assert -gap > 0 if "worst" in selection else gap >= 0
    assert found["penalty/g_penalties.path_length"] > 0
    assert found["overfit/eta"] == trainer.plan.methods["augment.0"]._rule.eta
    assert found["augment/ada_p"] == 2 * found["overfit/p"] > 0
