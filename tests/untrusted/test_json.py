"""JSON is plain data without surprises, or refused in one line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from untrusted.errors import UnreadableError
from untrusted.json_data import MAX_DEPTH, parse_json, read_json

keys = st.text(st.characters(codec="ascii", min_codepoint=1))
numbers = st.integers(-(2**63), 2**64) | st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
plain = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(keys, below, max_size=4),
    max_leaves=20,
)


@settings(derandomize=True, max_examples=100, deadline=None, database=None)
@given(plain)
def test_what_json_writes_is_read_as_it_was(value):
    assert parse_json(json.dumps(value).encode(), "x") == value


REFUSED = {
    "NaN": "NaN is no number of JSON",
    "[-Infinity]": "-Infinity is no number of JSON",
    "1e999": "1e999 is beyond the range of numbers",
    "9" * 5000: "an integer of 5000 digits; at most 30 are read",
    '{"a": 1, "b": 2, "a": 3}': "the key 'a' stands there twice",
    '"\\ud800"': "an escape that is no character",
    '{"\\udc80": 1}': "an escape that is no character",
    '"a\\u0000"': "an escape that is no character",
    '{"a": ': "line 1 column",
    "": "line 1 column",
    "{'a': 1}": "line 1 column",
    "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1): "nested deeper than 64 levels",
    '{"a":' * 70 + "1" + "}" * 70: "nested deeper than 64 levels",
    "[" * 200_000: "",
    "[" * 200_000 + "]" * 200_000: "nested deeper than 64 levels",
}


@pytest.mark.parametrize(("text", "says"), REFUSED.items(), ids=[text[:20] for text in REFUSED])
def test_what_is_no_plain_json_is_refused_in_one_line(text, says):
    with pytest.raises(UnreadableError) as raised:
        parse_json(text, "x.json")
    assert str(raised.value).startswith("x.json: not JSON: ")
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 200


def test_the_deepest_that_is_read():
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH, "x") is not None


def test_a_key_that_stands_twice_is_found_among_many():
    """In one pass: a search for each key would take hours."""
    keys = [f'"{number}": 0' for number in range(200_000)]
    with pytest.raises(UnreadableError, match="the key '199999' stands there twice"):
        parse_json("{" + ", ".join([*keys, keys[-1]]) + "}", "x.json")


def test_a_file_is_read_within_its_limit(tmp_path):
    file = tmp_path / "x.json"
    file.write_bytes('{"a": "é"}'.encode("utf-16"))
    assert read_json(file) == {"a": "é"}
    with pytest.raises(UnreadableError, match=r"x\.json: has 22 bytes; at most 10 are read"):
        read_json(file, 10)
