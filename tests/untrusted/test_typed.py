"""What a program wrote is checked when it comes back: the key, what it must be, what was found."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from untrusted.errors import UnreadableError
from untrusted.typed import checked


@dataclass
class Note:
    name: str
    ranks: list[int]


def test_what_fits_is_of_the_type():
    assert checked({"name": "a", "ranks": [1]}, Note, "x") == Note("a", [1])


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"name": "a"}, "x.json: ranks: field required"),
        ({"name": 3, "ranks": []}, "x.json: name: input should be a valid string, found 3"),
        ({"name": "a", "ranks": [1, "b"]}, "x.json: ranks.1: input should be a valid integer"),
        ([], "x.json: input should be a dictionary"),
        (None, "x.json: input should be"),
    ],
)
def test_what_does_not_fit_is_named(value, says):
    with pytest.raises(UnreadableError) as raised:
        checked(value, Note, "x.json")
    assert str(raised.value).startswith(says)


def test_what_was_found_is_shown_in_short():
    for value in ("x" * 10**6, ["x" * 10**6] * 100, {"k": {"k": {"k": [0] * 10**5}}}):
        with pytest.raises(UnreadableError) as raised:
            checked({"name": value, "ranks": value}, Note, "x.json")
        assert len(str(raised.value)) < 400
