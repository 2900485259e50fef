"""A rule is told from another where outcomes tell them apart, and not where they do not."""

from __future__ import annotations

import numpy as np
import pytest

from neighbors.rule_verdict import Target, Verdict, verdicts

RIGHT, WRONG = (1, 2, 3, 4, 5, 6), (6, 5, 4, 3, 2, 1)


def judged(noise: float, seeds: int = 3, targets: int = 4) -> dict[str, Verdict]:
    """Sources of outcomes 1 to 6 and noise, the targets in units of their own."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(targets):
        outcomes = 10.0**number * (np.arange(1, 7)[:, None] + noise * rng.standard_normal((6, seeds)))
        found.append(Target(str(number), "abcdef", outcomes, {"right": RIGHT, "wrong": WRONG}))
    return {verdict.rule: verdict for verdict in verdicts(found, than="wrong")}


def test_without_noise_a_rule_is_right_or_wrong():
    right, wrong = judged(noise=0).values()
    assert (right.rule, right.correlation, right.interval) == ("right", 1, (1, 1))
    assert (right.first_is_best, right.regret, right.better) == (1, 0, (2, 2, 2))
    assert (wrong.correlation, wrong.first_is_best, wrong.better) == (-1, 0, (0, 0, 0))
    assert wrong.regret == pytest.approx(5)  # 6 instead of 1, whatever a target's unit


def test_what_noise_hides_is_not_told():
    told, hidden = judged(noise=0.5)["right"], judged(noise=50)["right"]
    assert 0 < told.interval[0] < told.correlation <= told.interval[1] <= 1
    assert told.better[1] > 0
    assert hidden.interval[0] < 0 < hidden.interval[1]
    assert hidden.better[1] < 0 < hidden.better[2]


def test_the_seeds_say_how_far_they_agree():
    outcomes = np.stack([np.arange(6.0), np.arange(6.0), -np.arange(6.0)], axis=1)
    assert Target("t", "abcdef", outcomes, {}).seed_agreement() == pytest.approx(-1 / 3)
    assert Target("t", "abcdef", outcomes[:, :1], {}).seed_agreement() is None
