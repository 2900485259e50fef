"""Which sources are friendly neighbours. The rule `paper` reproduces every pick of the published table.

    drop the target itself
    drop gray sources                  of a target that has colour                unless keep_gray
    drop what the rule drops           less diverse than the target               unless keep_negative
    of the rest, the lowest `picks` by the rule's score are friendly

Every source gets a rank and the reason for its place, dropped ones after the others. Two sources whose scores differ by
less than their difference is known are tied, which the reason says: the rule still has to take one.

Friendly is a place among those that were named, not a distance: the rule knows no bound of its score. Where no more
sources take part than are picked, all of them are friendly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from spider.judge.sid.rules import PAPER, RULES, Candidate, Rule, Scores
from untrusted.counts import counted, some_of

SURE = 1.96  # standard errors: 95 %


@dataclass(frozen=True)
class Place:
    """What the rule says of a source.

    Attributes:
        rank: 1 for the first; all sources have one.
        friendly: whether it is among the picks.
        why: the reason, in words.
        ties: other sources that may as well have its place.
        is_target: whether it has the target's images.
        takes_part: whether it could have been a pick: nothing drops it.
        score: what the rule orders by, among those that take part or among those that do not.
    """

    rank: int
    friendly: bool
    why: str
    ties: tuple[str, ...] = ()
    is_target: bool = False
    takes_part: bool = False
    score: float = math.nan

    @property
    def is_dropped(self) -> bool:
        """Whether the rule drops it, and not because it is the target."""
        return not (self.takes_part or self.is_target)


def select(
    candidates: Sequence[Candidate],
    *,
    target_is_gray: bool,
    rule: Rule = RULES[PAPER],
    picks: int = 3,
    keep_negative: bool = False,
    keep_gray: bool = False,
    difference_stderr: Callable[[str, str], float | None] = lambda a, b: None,
) -> dict[str, Place]:
    """The place of every candidate, by name, in the order of their ranks.

    Args:
        candidates: the sources.
        target_is_gray: whether the target has no colour.
        rule: what orders them.
        picks: how many are friendly, at most.
        keep_negative: let sources take part that the rule drops, as less diverse than the target.
        keep_gray: let gray sources of a colour target take part.
        difference_stderr: standard error of the difference of two sources' scores; None where it is not known.
    """

    def dropped(candidate: Candidate) -> str | None:
        if candidate.is_target:
            return "the target itself"
        if candidate.is_gray and not target_is_gray and not keep_gray:
            return "grey, and the target has colour"
        return None if keep_negative else rule.drops(candidate)

    taking_part, score = _ordered([each for each in candidates if dropped(each) is None], rule)
    left_out, its_score = _ordered([each for each in candidates if dropped(each) is not None], rule)
    places = {}
    for rank, candidate in enumerate([*taking_part, *left_out], start=1):
        reason = dropped(candidate)
        friendly = reason is None and rank <= picks
        ties = () if reason else _ties(candidate.name, score, difference_stderr)
        notes = [reason or (f"pick {rank}" if friendly else "farther than the picks")]
        if rule.by_sign and not candidate.is_target and _is_near_zero(candidate):
            notes.append("sign uncertain")
        if ties:
            notes.append(f"tied with {', '.join(ties)}")
        places[candidate.name] = Place(
            rank,
            friendly,
            "; ".join(notes),
            ties,
            candidate.is_target,
            takes_part=reason is None,
            score=(score | its_score)[candidate.name],
        )
    return places


def nothing_was_picked(places: Mapping[str, Place]) -> str | None:
    """A line that says why there is no pick; None if there is one. `places`: by the names of the sources."""
    if any(place.friendly for place in places.values()):
        return None
    reasons: dict[str, list[str]] = {}
    for name, place in places.items():
        if not place.is_target:
            reasons.setdefault(place.why.partition("; ")[0], []).append(name)
    why = "; ".join(f"{some_of(names, 6)}: {reason}" for reason, names in reasons.items())
    return f"nothing was picked ({why}); --keep-gray and --keep-negative let such sources take part" if why else None


def nothing_was_selected(places: Sequence[Place], picks: int) -> str | None:
    """A line if the rule had no choice: it dropped what it drops, and took all that was left; None if it chose."""
    friendly = sum(place.friendly for place in places)
    if not friendly or any(place.takes_part and not place.friendly for place in places):
        return None
    return (
        f"every source that the rule does not drop was picked: {friendly} of {counted(picks, 'pick')}, so that a star "
        "does not say that a source is near; name more sources, or lower --picks"
    )


def _ordered(candidates: Sequence[Candidate], rule: Rule) -> tuple[list[Candidate], dict[str, float]]:
    """By score, with the scores by name."""
    scores: Scores = rule.scores(candidates)
    score = {each.name: value for each, value in zip(candidates, scores, strict=True)}
    return sorted(candidates, key=lambda each: (math.isnan(score[each.name]), score[each.name])), score


def _is_near_zero(candidate: Candidate) -> bool:
    return bool(candidate.stderr) and abs(candidate.csid) < SURE * (candidate.stderr or 0)


def _ties(
    name: str, score: Mapping[str, float], difference_stderr: Callable[[str, str], float | None]
) -> tuple[str, ...]:
    tied = []
    for other in score:
        if other != name:
            stderr = difference_stderr(name, other)
            if stderr is not None and abs(score[name] - score[other]) < SURE * stderr:
                tied.append(other)
    return tuple(tied)
