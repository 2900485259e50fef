"""Whatever stands behind a key, it is within the limits that the key states, or refused by the key's name."""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from spider.config.explain import explain
from spider.config.load import make_config, to_yaml
from spider.config.schema import Config
from spider.errors import SpiderUsageError

KEYS = [(key.name, key.kind) for key in explain("")]
HOSTILE = [
    "", " ", "null", "~", "true", "false", "yes", "-1", "0", "0.5", "1.5", "1e8", "1e9", "1e30", "1e-30", "5e-324",
    "nan", ".nan", ".inf", "-.inf", "inf", str(2**63), str(-(2**63)), str(2**64), "9" * 400, "9" * 5000,
    "0x" + "f" * 5000, "0o7", "010", "12:30", "2001-99-99", "1_000",
    "1 000", "٣", "1:30", "2001-01-01", "[]", "[1, 2]", "[[]]", "{}", "{a: 1}", "{kind: x}", "{kind: [1]}", "[1,",
    "{a", "&a *a", "*a", "&a [*a]", "!!python/object/apply:os.system ['true']", "!!binary x", "!!set {a}", "|\n a",
    "a: b", "'", '"', "=", "a#b", "# a", "\t", "\x1b[2J", "\u202e", "x" * 5000, "- a", "? a", "%", "@", "a\nb: 1",
]  # fmt: skip


def settled(name, kind, value):
    """The overrides that give a key a value, where its section may be one of several."""
    section = name.rpartition(".")[0]
    needed = {
        "images": ["source.path=x"],
        "generator": ["source.run=x"],
        "run": ["init.run=x"],
        "weights": ["init.file=x"],
    }.get(kind or "", [])
    chosen = [f"{section}.kind={kind}", *needed] if kind and not name.endswith(".kind") else []
    chosen += ["selection.trace.first_step=0"] if name.startswith("selection.trace.") else []
    return [*chosen, f"{name}={value}"]


def numbers(value):
    """Every number in a configuration."""
    if isinstance(value, BaseModel):
        value = [getattr(value, name) for name in type(value).model_fields]
    if isinstance(value, list | tuple):
        return [number for each in value for number in numbers(each)]
    return [value] if isinstance(value, int | float) else []


def check(name, kind, value):
    overrides = settled(name, kind, value)
    config = said = None
    try:
        config = make_config({}, overrides)
    except SpiderUsageError as error:
        said = str(error)
    if config is None:
        assert name.rpartition(".")[2] in said or name.partition(".")[0] in said
        assert "\n" not in said.replace(value, "")
        return
    assert all(math.isfinite(number) and abs(number) < 2**63 for number in numbers(config))
    assert make_config(json.loads(config.model_dump_json())) == config
    assert config.checkpoints_kept >= 2
    assert len(to_yaml(config)) < 20_000


@pytest.mark.parametrize(("name", "kind"), KEYS)
def test_a_key_keeps_its_limits_or_is_refused(name, kind):
    for value in HOSTILE:
        check(name, kind, value)


@settings(derandomize=True, max_examples=200, deadline=None, database=None)
@given(st.sampled_from(KEYS), st.text(max_size=12) | st.integers().map(str) | st.floats().map(str))
def test_no_text_behind_a_key_makes_a_traceback(key, value):
    check(*key, value)


@settings(derandomize=True, max_examples=300, deadline=None, database=None)
@given(st.text(max_size=30))
@example("=value")
@example("key==value")
@example("a.b.c.d=1")
@example(".=1")
@example("a..b=1")
@example("batch.=1")
@example("batch=4\nseed: 3")
@example("data=1")
@example("data.path.x=1")
def test_no_override_makes_a_traceback(text):
    with suppress(SpiderUsageError):
        make_config({}, [text])


def test_of_a_key_that_is_given_twice_the_last_one_wins():
    assert make_config({}, ["batch=4", "seed=1", "batch=8"]).batch == 8


def test_every_number_has_both_limits():
    """A number without a limit overflows somewhere far from its key."""
    for key in explain(""):
        if key.type.startswith(("int", "float")) and key.name != "engine.zero_stage":
            assert "<" in key.type, key.name
            assert ">" in key.type, key.name


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("batch=true", "batch"),
        ("generator.width=true", "generator.width"),
        ("generator={width: true}", "generator.width"),
        ("augment=[{kind: ada, p: true}]", "augment.0.p"),
    ],
)
def test_true_is_no_number(text, key):
    with pytest.raises(SpiderUsageError, match=f"^{re.escape(text)}: {re.escape(key)} should not be true or false$"):
        make_config({}, [text])


def test_true_is_a_switch():
    assert make_config({}, ["data.mirror=true"]).data.mirror is True
    assert Config().batch == 64
