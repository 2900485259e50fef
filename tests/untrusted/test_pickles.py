"""A pickle becomes plain data and records; what it names is neither imported nor called."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict

import pytest

from untrusted.errors import UnreadableError
from untrusted.pickles import MAX_DEPTH, Name, Opaque, Record, read_pickle

PLAIN = {
    "a": [1, -2, 2**64 - 1, -(2**63)],
    "b": (None, True, 1.5, "\u00e9", ()),
    "c": {"d": [[]], "e": "x" * 300},
    "f": "",
}


class Calls:
    """Pickled as a call of itself, with a state."""

    def __reduce__(self):
        return Calls, (1, "a"), {"x": [2]}


def read(content, **more):
    return read_pickle(io.BytesIO(content), "theirs", **{"names": (), **more})


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_data_comes_back(protocol):
    assert read(pickle.dumps(PLAIN, protocol)) == PLAIN


def test_sets_become_lists():
    assert sorted(read(pickle.dumps({1, 2}, 4))) == [1, 2]


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_call_becomes_a_record(protocol):
    content, name = pickle.dumps([Calls, Calls()], protocol), f"{Calls.__module__}.Calls"
    named, record = read(content, names={name})
    assert named == Name(name)
    assert isinstance(record, Record)
    assert (record.name, record.args, record.state) == (name, (1, "a"), {"x": [2]})
    with pytest.raises(UnreadableError, match=f"theirs: names {name}"):
        read(content)


@pytest.mark.parametrize("protocol", [2, 4])
def test_of_what_nobody_reads_nothing_is_kept(protocol):
    name = f"{Calls.__module__}.Calls"
    held = Calls()
    value = read(pickle.dumps({"a": [Calls, held, held], "b": 1}, protocol), opaque={name})
    assert value == {"a": [Opaque(name)] * 3, "b": 1}
    table = OrderedDict(a=Calls())
    table.mine = table  # it holds itself, which nobody sees
    assert read(pickle.dumps(table, protocol), opaque={name, "collections.OrderedDict"}) == Opaque(
        "collections.OrderedDict"
    )
    with pytest.raises(UnreadableError, match="names collections"):
        read(pickle.dumps(table, protocol), opaque={name})


def test_what_stands_for_a_dict_is_one():
    content = pickle.dumps(OrderedDict(a=1), 4)
    assert read(content, names={"collections.OrderedDict"}, plain={"collections.OrderedDict"}) == {"a": 1}


def test_depth_is_limited_also_by_what_is_shared():
    deep, inner = [], []
    for _ in range(MAX_DEPTH - 2):
        deep, inner = [deep], [inner]
    assert read(pickle.dumps(deep)) == deep
    with pytest.raises(UnreadableError, match="nested deeper"):
        read(pickle.dumps([[[deep]]]))
    shared = [inner, [[[[inner]]]]]  # the inner lists were seen at a smaller depth before
    with pytest.raises(UnreadableError, match="nested deeper"):
        read(pickle.dumps(shared))


def test_only_texts_and_small_numbers_are_keys():
    state = {"state": {0: {"step": 3}, 2**16 - 1: {}}}  # an optimizer's
    assert read(pickle.dumps(state)) == state
    for key in ((), 2**16, -1, 1.0, True):
        with pytest.raises(UnreadableError, match="key of a dict"):
            read(pickle.dumps({key: 1}))


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**5_000], ids=["64 bits", "below", "5,000 digits"])
def test_whole_numbers_have_64_bits(number):
    with pytest.raises(UnreadableError, match="theirs: a whole number of more than 64 bits"):
        read(pickle.dumps([number]))
    assert read(pickle.dumps([number]), long={number}) == [number]


def test_length_is_limited():
    with pytest.raises(UnreadableError, match="more than 5 instructions"):
        read(pickle.dumps([1, 2, 3]), opcodes=5)


def test_the_file_stands_behind_the_pickle():
    file = io.BytesIO(pickle.dumps(1) + pickle.dumps("b") + b"rest")
    assert [read_pickle(file, "theirs", names=()) for _ in range(2)] == [1, "b"]
    assert file.read() == b"rest"
