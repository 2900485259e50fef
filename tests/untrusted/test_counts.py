"""Counts agree with their nouns."""

from __future__ import annotations

import pytest

from untrusted.counts import counted, some_of


@pytest.mark.parametrize(
    ("number", "nouns", "said"),
    [
        (0, ("shard",), "0 shards"),
        (1, ("shard",), "1 shard"),
        (1797, ("image",), "1,797 images"),
        (1, ("class", "classes"), "1 class"),
        (2, ("class", "classes"), "2 classes"),
        (None, ("rank",), "? ranks"),
        (1.0, ("CPU",), "1 CPU"),
        (0.5, ("GPU",), "0.5 GPUs"),
    ],
)
def test_one_is_singular(number, nouns, said):
    assert counted(number, *nouns) == said


def test_of_many_names_some_are_told():
    assert some_of(["cat", "dog", "owl"]) == "cat, dog, owl"
    assert some_of(["cat", "dog", "owl", "pig", "rat"]) == "cat, dog, owl and 2 more"
