"""YAML is plain data within limits, read as people mean it."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from untrusted.errors import UnreadableError
from untrusted.yaml_data import MAX_BYTES, MAX_DEPTH, MAX_NODES, parse_yaml, read_yaml, to_yaml


def laughing(levels, copies=9):
    """YAML that stands for `copies` to the power of `levels` values."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * copies)}]" for i in range(1, levels)]
    return "\n".join(lines)


def refusal(text):
    with pytest.raises(UnreadableError) as raised:
        parse_yaml(text, "x.yaml")
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith("x.yaml: ")
    return str(raised.value)


@pytest.mark.parametrize("levels", [8, 20, 30])
def test_what_expands_without_end_is_refused_before_it_does(levels):
    assert "stands for more than 50,000 values in line" in refusal(laughing(levels))


def test_merged_mappings_count_as_what_they_stand_for():
    text = "a0: &a0 {x: 1}\n" + "\n".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 9))
    assert "stands for more than 50,000 values" in refusal(text)


def test_a_laugh_costs_no_memory():
    """In a process of its own, which would otherwise take the machine with it."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "from untrusted.yaml_data import parse_yaml\n"
        "from untrusted.errors import UnreadableError\n"
        "try: parse_yaml(sys.stdin.read(), 'x')\n"
        "except UnreadableError: print('refused')"
    )
    done = subprocess.run([sys.executable, "-c", code], input=laughing(31), capture_output=True, text=True, timeout=300)
    assert done.stdout == "refused\n", done.stderr


def test_values_are_counted_with_their_aliases():
    few = MAX_NODES // 10 - 10
    text = f"a: &a [{', '.join('x' * few)}]\nb: [{', '.join(['*a'] * 9)}]"
    assert len(parse_yaml(text, "x")["b"]) == 9
    assert "stands for more than" in refusal(text.replace("*a]", "*a, *a]"))
    assert "stands for more than" in refusal("[" + "x, " * (MAX_NODES + 1) + "]")


def test_depth_is_counted_with_aliases():
    assert parse_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH, "x") is not None
    assert "nested deeper than 32 levels" in refusal("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))
    assert "nested deeper than 32 levels" in refusal("[" * 100_000)
    assert "nested deeper than 32 levels" in refusal("\n".join(" " * i + "- " * 1 + "a:" for i in range(0, 100, 2)))
    half = "[" * 17
    assert "nested deeper than 32 levels" in refusal(
        f"a: &a {half}{half.replace('[', ']')}\nb: {half}*a {half.replace('[', ']')}"
    )


def test_size_is_limited(tmp_path):
    assert "has more than 1,048,576 characters" in refusal("#" * (MAX_BYTES + 1))
    (tmp_path / "x.yaml").write_text("#" * (MAX_BYTES + 1))
    with pytest.raises(UnreadableError, match=r"x\.yaml: has 1,048,577 bytes; at most 1,048,576 are read"):
        read_yaml(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: *a", "undefined alias"),
        ("a: &a [*a]", "*a stands within what it names in line 1"),
        ("a: &a {b: *a}", "*a stands within what it names in line 1"),
        ("a: 1\nb: 2\na: 3", "a stands there twice in line 3"),
        ("[a, b]: 1", "a key is a list or a mapping"),
        ("? {a: 1}\n: 1", "a key is a list or a mapping"),
        ("!!python/object/apply:os.system [true]", "the tag !!python/object/apply:os.system is not read in line 1"),
        ("!!python/name:os.system", "the tag !!python/name:os.system is not read"),
        ("a: !!binary aGk=", "the tag !!binary is not read in line 1"),
        ("!!timestamp 2001-01-01", "the tag !!timestamp is not read"),
        ("!!set {a, b}", "the tag !!set is not read"),
        ("!!omap [a: 1]", "the tag !!omap is not read"),
        ("!!pairs [a: 1]", "the tag !!pairs is not read"),
        ("!mine x", "the tag !mine is not read"),
        ("!a%0Ab x", "the tag !a\\nb is not read"),
        ('"a\\nb": 1\n"a\\nb": 2', "a\\nb stands there twice"),
        ("!!value x: 1", "the tag !!value is not read"),
        ("a: 1\n---\nb: 2", "expected a single document"),
        ("a: [", "in line"),
        ("\x1b", "not plain YAML"),
        ('"\\ud800"', "an escape that is no character"),
        ('"\\0"', "an escape that is no character"),
        ("9" * 5000, "an integer of 5000 digits; at most 30 are read"),
        ("!!int 1:30", "a value that cannot be"),
        ("0x" + "f" * 5000, "an integer of 20000 bits; at most 64 are read"),
        (str(2**64), "an integer of 65 bits"),
        ("!!int x", "a value that cannot be"),
        ("!!bool x", "a value that cannot be"),
    ],
)  # fmt: skip
def test_what_is_no_plain_yaml_is_refused_in_one_line(text, says):
    assert says in refusal(text)


@pytest.mark.parametrize("all_text", [False, True])
def test_no_tag_is_passed_over(all_text):
    with pytest.raises(UnreadableError, match=r"^x: not plain YAML: the tag !!binary is not read in line 2$"):
        parse_yaml("a: 1\nb: !!binary aGk=", "x", all_text=all_text)


@settings(derandomize=True, max_examples=300, deadline=None, database=None)
@given(st.text(st.sampled_from("&*!|>-?:[]{},'\"%@`#~ \n\tab01.e<"), max_size=40))
def test_no_text_ends_in_a_traceback(text):
    for all_text in (False, True):
        with contextlib.suppress(UnreadableError):
            parse_yaml(text, "x.yaml", all_text=all_text)


def test_no_file_is_yaml_by_pickle():
    with pytest.raises(UnreadableError):
        parse_yaml(yaml.dump(refusal), "x")


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("010", 10),
        ("-08", -8),
        ("0o10", 8),
        ("0x1F", 31),
        ("1e5", 1e5),
        ("1e-4", 1e-4),
        ("1.5E+3", 1500.0),
        ("+.5", 0.5),
        ("1.", 1.0),
        ("-.inf", float("-inf")),
        ("~", None),
        ("", None),
        ("true", True),
        ("'1e5'", "1e5"),
        ('"010"', "010"),
        ("'true'", "true"),
        ("12:30", "12:30"),
        ("2:00:00", "2:00:00"),
        ("2001-01-01", "2001-01-01"),
        ("2001-99-99", "2001-99-99"),
        ("no", "no"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("0x", "0x"),
        ("1e", "1e"),
        (".", "."),
        ("-", [None]),
        ("!!str 010", "010"),
        ("!!float 1", 1.0),
        ("!!int 7", 7),
        ("!!seq []", []),
        ("!!map {}", {}),
    ],
)
def test_a_word_is_read_as_people_mean_it(word, value):
    found = parse_yaml(word, "x")
    assert (found, type(found)) == (value, type(value))


WORDS = [
    "010",
    "1e5",
    "12:30",
    "no",
    "2001-01-01",
    "1_000",
    "0o7",
    "0x1f",
    "~",
    "",
    "true",
    "<<",
    ".inf",
    "=",
    "é雪",
    "\t",
]
scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)
    | st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]))
)  # fmt: skip


@settings(derandomize=True, max_examples=300, deadline=None, database=None)
@given(st.dictionaries(st.sampled_from([word for word in WORDS if word != "<<"]), scalars | st.lists(scalars)))
def test_what_is_written_is_read_back(tree):
    found = parse_yaml(to_yaml(tree), "x")
    assert repr(found) == repr(tree)
