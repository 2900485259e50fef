"""An argument whose meaning is plain is taken, whatever holds it."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from spider import arguments
from spider.arguments import plain_arguments
from spider.errors import SpiderUsageError, shown


@plain_arguments("source", metrics=arguments.names)
def verb(
    source="a",
    *,
    seed=0,
    overrides=(),
    kimg=None,
    metrics=("fid",),
    runs=(),
    mirror=False,
    out=None,
    world=None,
    **options,
):
    return {"source": source, "seed": seed, "overrides": overrides, "kimg": kimg, "metrics": metrics, "runs": runs,
            "mirror": mirror, "out": out, "world": world, **options}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "plain", "others"),
    [
        ("seed", 3, [np.int64(3), np.uint8(3), np.array(3), torch.tensor(3)]),
        ("kimg", 0.5, [np.float32(0.5), np.array(0.5), torch.tensor(0.5)]),
        ("mirror", True, [np.bool_(True), torch.tensor(True)]),
        ("overrides", ["batch=4"], ["batch=4", ("batch=4",), (text for text in ["batch=4"]), np.array(["batch=4"])]),
        ("metrics", ["fid", "kid"], ["fid,kid", "fid, kid,", ("fid", "kid"), iter(["fid", "kid"])]),
        ("runs", ["a"], ["a", ["a"], {"a": 1}.keys()]),
        ("out", Path("a"), [Path("a")]),
        ("picks", 2, [np.int32(2)]),
        ("sources", ["a", "b"], [("a", "b"), (name for name in "ab")]),
        ("orders", [-1.0, 1.0], [(-1, 1), np.array([-1, 1]), (np.float64(-1), 1)]),
    ],
)
def test_what_is_plain_is_taken(name, plain, others):
    for value in others:
        found = verb(**{name: value})[name]
        assert found == plain
        assert type(found) is type(plain)
        assert not isinstance(found, list) or all(type(a) is type(b) for a, b in zip(found, plain, strict=True))


@pytest.mark.parametrize("value", ["0-2,7", [0, 1, 2, 7], (0, 1, 2, 7), np.array([0, 1, 2, 7]), iter([0, 1, 2, 7])])
def test_image_numbers_are_a_text_or_a_list(value):
    assert arguments.image_numbers("seeds", value) == [0, 1, 2, 7]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("seed", -1, "seed: a whole number from 0 to 9223372036854775807, found -1"),
        ("seed", True, "seed: a whole number, found True"),
        ("seed", 1.0, "seed: a whole number, found 1.0"),
        ("seed", None, "seed: a whole number, found None"),
        ("overrides", b"batch=4", "overrides: a text KEY=VALUE, or a list of such texts, found b'batch=4'"),
        ("overrides", [1], "overrides: a text, found 1"),
        ("kimg", 0, "kimg: a number of at least 0.001, found 0"),
        ("runs", "", "runs: is empty; name a place (. is the current folder)"),
        ("runs", {"a": 1}, "runs: a path, or a list of paths, found {'a': 1}"),
        ("sources", {"a": 1}, "sources['a']: a text or a Path, found 1"),
        ("mirror", "false", "mirror: True or False, found 'false'"),
        ("picks", 0, "picks: a whole number from 1 to 100000, found 0"),
    ],
)
def test_what_is_not_is_refused_by_name(name, value, says):
    with pytest.raises(SpiderUsageError) as refused:
        verb(**{name: value})
    assert str(refused.value) == says


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("", "seeds: at least one number, found ''"),
        ("x", "seeds: numbers or ranges such as 0-99, found 'x'"),
        ("5-1", "seeds: '5-1' is a range that goes down; write 1-5"),
        ("0-99999999", "seeds: at most 10,000,000 numbers, found '0-99999999'"),
        (str(2**64), "seeds: a whole number from 0 to 9223372036854775807, found 18446744073709551616"),
        ([-1], "seeds: a whole number from 0 to 9223372036854775807, found -1"),
        (count(), "seeds: whole numbers, or a text such as 0-99, of at most 10,000,000, found count(0)"),
    ],
)
def test_image_numbers_that_cannot_be_are_refused(value, says, monkeypatch):
    if not isinstance(value, str):
        monkeypatch.setattr(arguments, "MAX_IMAGES", 10)
        says = says.replace("10,000,000", "10").replace("count(0)", "count(11)")
    with pytest.raises(SpiderUsageError) as refused:
        arguments.image_numbers("seeds", value)
    assert str(refused.value) == says


def test_evaluation_seeds_are_a_count_or_different_numbers():
    assert arguments.how_many_or_which("seeds", np.int64(3)) == 3
    assert arguments.how_many_or_which("seeds", (3, 1)) == [3, 1]
    with pytest.raises(SpiderUsageError, match=r"^seeds: 1 is given twice"):
        arguments.how_many_or_which("seeds", [1, 2, 1])


def test_what_may_be_none_and_what_is_not_known_is_handed_on():
    world = object()
    found = verb(None, kimg=None, world=world, other=1)
    assert (found["source"], found["kimg"], found["world"], found["other"]) == (None, None, world, 1)
    with pytest.raises(SpiderUsageError, match=r"^images: a whole number, found None$"):
        verb(images=None)


@pytest.mark.parametrize("value", [10**5000, "x" * 10_000, "a\nb", np.zeros((100, 100)), [[[[1] * 50] * 50]]], ids=type)
def test_an_error_shows_a_value_on_a_short_line(value):
    assert len(shown(value)) <= 100
    assert "\n" not in shown(value)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("fid50k_full", "fid with --count 50000"),
        ("sfid50k_full", "fid --protocol sfid with --count 50000"),
        ("kid50k", "kid with --count 50000"),
        ("pr50k3_full", "precision,recall with --count 50000"),
        ("is50k", "is with --count 50000"),
        ("ppl2_wend", "ppl_wend here"),
        ("eqt50k_int", "eq_t with --count 50000"),
        ("eqt50k_frac", "eq_t_frac with --count 50000"),
    ],
)
def test_metrics_of_stylegans_repositories_are_called_by_our_names(theirs, ours):
    with pytest.raises(SpiderUsageError, match=ours):
        arguments.metric_names("metrics", theirs)


def test_a_metric_that_has_the_same_name_is_taken():
    assert arguments.metric_names("metrics", "ppl_zfull,fid") == ["ppl_zfull", "fid"]
