"""Every rule rewards what it says, and nothing else."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from spider.judge.sid.rules import RULES, Candidate
from spider.judge.sid.selection import select

FRIEND = Candidate("friend", -20, tolerant_csid=5, standard_csid=30, spread=0.9, fd=1.0, kd=0.3)
TIGHT = Candidate("tight", 10, tolerant_csid=90, standard_csid=60, spread=0.6, fd=3.0, kd=0.9)
WIDE = Candidate("wide", 40, tolerant_csid=40, standard_csid=20, spread=1.5, fd=2.0, kd=0.2)
POINT = Candidate("point", -300, tolerant_csid=1, standard_csid=-9, spread=0.1, fd=4.0, kd=0.8)
SOURCES = [FRIEND, TIGHT, WIDE, POINT]


def picks(rule: str, sources: list[Candidate] = SOURCES, **options) -> list[str]:
    places = select(sources, target_is_gray=False, rule=RULES[rule], picks=9, **options)
    return [name for name, place in places.items() if place.friendly]


@pytest.mark.parametrize(
    ("rule", "expected", "dropped"),
    [
        ("paper", ["tight", "wide"], "less diverse than the target"),
        ("abs_csid", ["tight", "friend", "wide", "point"], None),
        ("tolerant_csid", ["friend", "wide", "tight"], "less than 0.5 of the target's variance"),
        ("standard_csid", ["wide", "friend", "tight"], "less diverse than the target"),
        ("fd", ["friend", "wide", "tight", "point"], None),
        ("kd", ["wide", "friend", "point", "tight"], None),
        ("mean_rank", ["friend", "wide", "tight", "point"], None),
    ],
)
def test_what_a_rule_picks_and_drops(rule: str, expected: list[str], dropped: str | None):
    assert picks(rule) == expected
    if dropped:
        assert select(SOURCES, target_is_gray=True, rule=RULES[rule])["point"].why.startswith(dropped)
        assert "point" in picks(rule, keep_negative=True)


def test_every_rule_is_tested():
    (mark,) = (mark for mark in test_what_a_rule_picks_and_drops.pytestmark if mark.name == "parametrize")
    assert [rule for rule, *_ in mark.args[1]] == list(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_no_rule_picks_the_target_or_a_gray_source(rule: str):
    gray = [replace(source, is_gray=True) for source in SOURCES]
    assert picks(rule, gray) == []
    assert picks(rule, gray, keep_gray=True) == picks(rule)
    assert picks(rule, [replace(source, is_target=True) for source in SOURCES]) == []


@pytest.mark.parametrize("rule", RULES)
def test_what_is_not_known_comes_last(rule: str):
    unknown = Candidate("unknown", math.nan)
    assert picks(rule, [unknown, *SOURCES])[-1] == "unknown"


def test_the_mean_rank_knows_no_units():
    larger = [replace(source, fd=1e6 * source.fd, kd=source.kd**3) for source in SOURCES]
    assert picks("mean_rank", larger) == picks("mean_rank")
