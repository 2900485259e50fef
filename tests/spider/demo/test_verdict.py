"""The words follow from the numbers."""

from __future__ import annotations

import pytest

from spider.demo.verdict import Arm, Measure, Verdict, judge

LOW, MIDDLE, HIGH = [[0.10, 0.12], [0.11, 0.13]], [[0.20, 0.22], [0.21, 0.23]], [[0.30, 0.32], [0.31, 0.33]]


def arm(words: str, finals: list[list[float]], curve: tuple[float, ...] = (1.0, 0.5)) -> Arm:
    """An arm whose training seeds all have the same curve, a value every 10 kimg."""
    points = [(10.0 * (i + 1), value) for i, value in enumerate(curve)]
    return Arm(words, words, finals, [points] * len(finals))


def verdict(prior: list[list[float]], first: list[list[float]], last: list[list[float]]) -> Verdict:
    arms = [arm(words, finals) for words, finals in (("noise", prior), ("near", first), ("far", last))]
    return judge(*arms, label="FD[offline]", target="the digits")


def test_a_neighbour_whose_values_are_all_lower_helped():
    found = verdict(prior=MIDDLE, first=LOW, last=HIGH)
    assert (found.neighbour_helped, found.ranking_held) == (True, True)
    assert "came nearer to the digits than the GAN fed by noise" in found.headline
    assert "As the ranking has it, near fed a better GAN than far" in found.headline


def test_a_neighbour_whose_values_are_all_higher_did_not_help_and_it_says_so():
    found = verdict(prior=LOW, first=HIGH, last=MIDDLE)
    assert (found.neighbour_helped, found.ranking_held) == (False, False)
    assert "the neighbour did not help" in found.headline
    assert "Against the ranking, far" in found.headline


@pytest.mark.parametrize("touching", [[[0.05, 0.06], [0.05, 0.10]], [[0.13, 0.15], [0.16, 0.17]]])
def test_one_value_within_the_other_spread_hides_the_difference(touching: list[list[float]]):
    found = verdict(prior=LOW, first=touching, last=touching)
    assert (found.neighbour_helped, found.ranking_held) == (None, None)
    assert found.headline.count("the spread hides") == 2


def test_the_time_to_reach_what_the_prior_ended_at_is_that_of_the_mean_curve():
    prior = arm("noise", LOW, (0.9, 0.5, 0.4))
    first = Arm("near", "near", LOW, [[(10.0, 0.8), (20.0, 0.1)], [(10.0, 0.1), (20.0, 0.6)]])
    found = judge(prior, first, arm("far", LOW, (0.9, 0.8, 0.7)), label="FD[offline]", target="the digits")
    of_prior, of_first, of_last, *_ = found.details
    assert of_prior == "Fed by noise: FD[offline] 0.9 after 10 kimg, 0.115 at the end (0.1 to 0.13)."
    assert of_first.endswith("it reached 0.4, where the GAN fed by noise ended, after 20 of 30 kimg.")
    assert of_last.endswith("it never reached 0.4, where the GAN fed by noise ended.")


def test_the_mean_curve_has_the_kimg_that_all_seeds_have():
    curves = [[(10.0, 1.0), (20.0, 2.0)], [(20.0, 4.0), (30.0, 5.0)]]
    assert Arm("near", "near", LOW, curves).mean_curve == [(20.0, 3.0)]


def test_other_measures_are_told_whichever_way_they_went():
    low, middle, high = [0.1, 0.2], [0.15, 0.25], [0.3, 0.4]
    others = [
        Measure("precision", True, prior=low, first=high),
        Measure("recall", True, prior=high, first=low),
        Measure("KID", False, prior=high, first=low),
        Measure("density", True, prior=low, first=middle),
    ]
    found = judge(*(arm(words, LOW) for words in ("noise", "near", "far")), label="FID", target="it", others=others)
    assert (
        "By other measures, fed by near against fed by noise: better in precision, KID; worse in recall; "
        "not to be told apart in density." in found.details
    )
