"""Diversity: how far two images of one condition are from each other."""

from __future__ import annotations

import pytest
import torch

from cluster.world import World
from spider import api
from spider.backbones.perceptual import perceptual_distance
from spider.judge.diversity import diversity_of
from spider.runs.generator import open_generator

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    words = ["batch=16", "generator.width=0.05", "discriminator.width=0.05", "condition.kind=class"]
    api.train("dcgan", run=run, data=digits, kimg=0.016, overrides=words)
    return str(run)


def test_it_is_the_mean_over_pairs_of_one_class(run):
    generator, distance = open_generator(run, CPU), perceptual_distance("efficientnet", None, CPU)
    found, std = diversity_of(generator, distance, 3, 5, World.single())
    told = generator.told(3, range(64))
    first, second = (generator.images(3, [2 * i + other for i in range(64)], told)[:5] for other in (0, 1))
    distances = distance(first, second).double().numpy()
    assert found == pytest.approx(distances.mean(), rel=1e-4)
    assert std == pytest.approx(distances.std(), rel=1e-3)
    assert std > 0


def test_it_is_the_same_on_two_ranks(ranks, run):
    [alone] = ranks(1).run(measured, run)
    assert ranks(2).run(measured, run) == [alone, alone]


def measured(world, run):
    distance = perceptual_distance("efficientnet", None, CPU)
    return diversity_of(open_generator(run, CPU), distance, 0, 40, world)


def test_a_generator_that_heeds_no_noise_has_none(run):
    generator, distance = open_generator(run, CPU), perceptual_distance("efficientnet", None, CPU)
    generator.source.at = lambda seed, indices: torch.zeros(len(indices), *generator.source.shape)
    assert diversity_of(generator, distance, 0, 4, World.single()) == pytest.approx((0, 0), abs=1e-5)


def test_evaluate_gives_it_without_a_reference(run):
    found = api.evaluate(run, metrics="diversity", count=8, seeds=1)
    [result] = found.results
    assert result.name == "diversity"
    assert result.label == "diversity by PD[efficientnet]"
    assert result.std > 0
    assert "standard deviation over 8 pairs" in found.table()
