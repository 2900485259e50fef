"""A word that somebody typed, where only a few words are known: which of them was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 100  # letters; nobody mistypes more, and the comparison takes the square of it


def similar(word: str, known: Iterable[str], most: int = 3) -> list[str]:
    """The known words that are spelt nearly like `word`, the nearest first. Case does not count."""
    by_letters = {each.lower(): each for each in known}
    if len(word) > _LONGEST:
        return []
    return [by_letters[each] for each in difflib.get_close_matches(word.lower(), by_letters, n=most)]


def hint(meant: Iterable[str]) -> str:
    """`; did you mean a or b?`, to end an error with; empty if there is nothing to offer."""
    offered = " or ".join(meant)
    return f"; did you mean {offered}?" if offered else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The `hint` at the known words that are spelt nearly like `word`."""
    return hint(similar(word, known))


def not_known(word: str, known: Iterable[str]) -> str:
    """`'fidd' is unknown; known: fid, kid; did you mean fid?`: what to say of a word that is none of the known ones."""
    words = list(known)
    shown = word if len(word) <= _LONGEST else f"{word[: _LONGEST - 3]}..."
    return f"{shown!r} is unknown; known: {', '.join(words)}{did_you_mean(word, words)}"
