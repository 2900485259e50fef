"""What the ranks of a run send each other in an iteration: one gradient per phase, and next to nothing beside."""

from __future__ import annotations

from unittest import mock

import pytest

from benchmarks.traffic import GRADIENTS, PARAMETERS, Traffic
from spider.config.load import make_config
from spider.runs.directory import RunDirectory
from spider.train.loop import train
from spider.train.trainer import Trainer

# Either player, and the images of a batch, are larger than all that may be sent beside gradients
RUN = [
    "batch=64",
    "kimg=0.32",
    "accumulation=2",
    "generator.norm=none",
    "generator.width=0.05",
    "discriminator.width=0.3",
    "penalties.r1_gamma=1",
    "penalties.phase=own",
    "penalties.interval_steps=2",
    "selection.kind=adaptive",
    "log.every_kimg=0.064",
    "log.samples=4",
    "log.tensorboard=false",
]
BESIDE_GRADIENTS = 64 * 1024 + 4 * 64
PLAYER = {"d_main": "discriminator", "d_reg": "discriminator", "g_main": "generator"}
PHASES = [("d_main", "d_reg", "g_main"), ("d_main", "g_main")] * 2

ENGINES = ("ddp", "deepspeed-0", "deepspeed-1")


def sent(world, data, folder, engine):
    """On a rank: bytes by (phase, kind) of every iteration but the last, which saves; and of each player's gradient."""
    kind, _, stage = engine.partition("-")
    settings = [*RUN, f"engine.kind={kind}", f"engine.zero_stage={stage or 0}"]
    iterate, iterations, players = Trainer.iterate, [], {}

    def counted(trainer):
        iterations.append(traffic.take())
        iterate(trainer)
        for player in (trainer.generator, trainer.discriminator):
            players[player.name] = 4 * sum(parameter.numel() for _, parameter in player.trainable)

    with mock.patch.object(Trainer, "iterate", counted), Traffic() as traffic:
        train(make_config({"data": {"path": str(data)}}, settings), RunDirectory(folder), world, progress=False)
    return [{key: kind.bytes for key, kind in found.items()} for found in iterations[1:]], players


@pytest.fixture(scope="module")
def trained(ranks, patches, tmp_path_factory):
    """What each rank sent, by engine."""
    return {engine: ranks(2).run(sent, patches, tmp_path_factory.mktemp("run"), engine) for engine in ENGINES}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_phase_sums_one_gradient_over_ranks(trained, engine):
    for iterations, players in trained[engine]:
        assert min(players.values()) > BESIDE_GRADIENTS
        reduced = [{phase: size for (phase, kind), size in found.items() if kind == GRADIENTS} for found in iterations]
        expected = [{phase: players[PLAYER[phase]] for phase in phases} for phases in PHASES]
        if engine == "deepspeed-1":  # it leaves out what has no gradient: R1 does not depend on the last bias
            expected = [{phase: size - 4 * (phase == "d_reg") for phase, size in sizes.items()} for sizes in expected]
        assert reduced == expected


@pytest.mark.parametrize("engine", ENGINES)
def test_parameters_are_sent_by_stage_1_only_and_once_per_step(trained, engine):
    for iterations, players in trained[engine]:
        for found, phases in zip(iterations, PHASES, strict=True):
            gathered = {phase: size for (phase, kind), size in found.items() if kind == PARAMETERS}
            assert list(gathered) == (list(phases) if engine == "deepspeed-1" else [])
            for phase, size in gathered.items():
                assert 0 <= size - players[PLAYER[phase]] < 16  # filled up to pairs of elements per rank


@pytest.mark.parametrize("engine", ENGINES)
def test_all_else_is_under_64_kib_and_4_bytes_per_image(trained, engine):
    for iterations, _ in trained[engine]:
        for found in iterations:
            beside = {key: size for key, size in found.items() if key[1] not in (GRADIENTS, PARAMETERS)}
            assert ("g_main", "spider.gan.selection.select.pick") in beside
            assert sum(beside.values()) < BESIDE_GRADIENTS, beside
