"""Which sources are friendly neighbours: the rule that reproduces every pick of the published table.

    drop the target itself
    drop sources of negative CSID      less diverse than the target               unless keep_negative
    drop gray sources                  of a target that has colour                unless keep_gray
    of the rest, the lowest `picks` by CSID are friendly

Every source gets a rank and the reason for its place, dropped ones after the others. Two sources whose CSIDs differ by
less than their difference is known are tied, which the reason says: the rule still has to take one.

Friendly is a place among those that were named, not a distance: the rule knows no bound of CSID. Where no more sources
take part than are picked, all of them are friendly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from untrusted.counts import counted

SURE = 1.96  # standard errors: 95 %


@dataclass(frozen=True)
class Candidate:
    """A source as the rule sees it.

    Attributes:
        csid: its area.
        stderr: standard error of `csid`; None where it is not known.
        is_target: whether it has the target's images.
        is_gray: whether it has no colour.
    """

    name: str
    csid: float
    stderr: float | None = None
    is_target: bool = False
    is_gray: bool = False


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
    """

    rank: int
    friendly: bool
    why: str
    ties: tuple[str, ...] = ()
    is_target: bool = False
    takes_part: bool = False


def select(
    candidates: Sequence[Candidate],
    *,
    target_is_gray: bool,
    picks: int = 3,
    keep_negative: bool = False,
    keep_gray: bool = False,
    difference_stderr: Callable[[str, str], float | None] = lambda a, b: None,
) -> dict[str, Place]:
    """The place of every candidate, by name, in the order of their ranks.

    Args:
        candidates: the sources.
        target_is_gray: whether the target has no colour.
        picks: how many are friendly, at most.
        keep_negative: let sources of negative CSID take part.
        keep_gray: let gray sources of a colour target take part.
        difference_stderr: standard error of the difference of two sources' CSIDs; None where it is not known.
    """

    def dropped(candidate: Candidate) -> str | None:
        if candidate.is_target:
            return "the target itself"
        if candidate.is_gray and not target_is_gray and not keep_gray:
            return "gray, and the target has colour"
        if candidate.csid < 0 and not keep_negative:
            return "less diverse than the target"
        return None

    ordered = sorted(candidates, key=lambda c: (dropped(c) is not None, c.csid))
    taking_part = [candidate for candidate in ordered if dropped(candidate) is None]
    places = {}
    for rank, candidate in enumerate(ordered, start=1):
        reason = dropped(candidate)
        friendly = reason is None and rank <= picks
        ties = () if reason else _ties(candidate, taking_part, difference_stderr)
        notes = [reason or (f"pick {rank}" if friendly else "farther than the picks")]
        if not candidate.is_target and candidate.stderr and abs(candidate.csid) < SURE * candidate.stderr:
            notes.append("sign uncertain")
        if ties:
            notes.append(f"tied with {', '.join(ties)}")
        places[candidate.name] = Place(rank, friendly, "; ".join(notes), ties, candidate.is_target, reason is None)
    return places


def nothing_was_selected(places: Sequence[Place], picks: int) -> str | None:
    """A line if the rule had no choice: it dropped what it drops, and took all that was left; None if it chose."""
    friendly = sum(place.friendly for place in places)
    if not friendly or any(place.takes_part and not place.friendly for place in places):
        return None
    return (
        f"nothing was selected: {counted(friendly, 'source')} for {counted(picks, 'pick')}, so that a star does not "
        "say that a source is near, only that no rule drops it; name more sources, or lower --picks"
    )


def _ties(
    candidate: Candidate, others: Sequence[Candidate], difference_stderr: Callable[[str, str], float | None]
) -> tuple[str, ...]:
    tied = []
    for other in others:
        if other.name != candidate.name:
            stderr = difference_stderr(candidate.name, other.name)
            if stderr is not None and abs(candidate.csid - other.csid) < SURE * stderr:
                tied.append(other.name)
    return tuple(tied)
