"""What goes wrong in spider, as one line for the person who ran it.

The command line catches these, prints ``error: <message>`` and exits with the class's `exit_code`.
"""

from __future__ import annotations

import reprlib

_LONGEST = 100  # characters of a value in an error

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _LONGEST
_short.maxlevel = 2


class SpiderError(Exception):
    """Something failed that was asked for rightly: a missing file, a damaged one, a number that is not finite."""

    exit_code = 1


class SpiderUsageError(SpiderError):
    """What was asked for cannot be: an unknown name, a value out of range, a combination that is refused."""

    exit_code = 2


def shown(value: object) -> str:
    """A value as errors show it: short and on one line, also where its `repr` is long or fails."""
    try:
        text = " ".join(_short.repr(value).split())
    except Exception:  # such as of an integer of 5,000 digits
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
