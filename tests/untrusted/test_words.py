"""Which of a few words was meant."""

from __future__ import annotations

import pytest

from untrusted.words import did_you_mean, not_known, similar

WORDS = ["inception", "offline", "Gaussian", "best", "last"]


def slips(word):
    """`word` with one letter left out, doubled, or changed for its neighbour's, at each place."""
    for at in range(len(word)):
        yield word[:at] + word[at + 1 :]
        yield word[:at] + word[at] + word[at:]
        yield word[:at] + word[at : at + 2][::-1] + word[at + 2 :]


@pytest.mark.parametrize("word", WORDS)
def test_one_slip_of_the_hand_is_understood(word):
    for typed in (*slips(word), word.upper(), f"{word}e"):
        assert similar(typed, WORDS)[0] == word, typed
        assert word in not_known(typed, WORDS).rpartition("; did you mean ")[2]


def test_what_resembles_nothing_is_met_with_the_list_alone():
    assert not_known("zzz", WORDS) == "'zzz' is unknown; known: inception, offline, Gaussian, best, last"
    assert did_you_mean("", WORDS) == did_you_mean("x" * 10**6, WORDS) == did_you_mean("best", []) == ""
