"""Pickles to plain data: nothing that a pickle names is imported, and nothing that it asks for is called.

A pickle is a program. This module is a machine for it that knows no way out: a name becomes a `Name`, a call becomes a
`Record` of the call, and a state that would be set becomes the state of that record. Whoever asked knows what a record
of a known name stands for. Names of what nobody reads become `Opaque`, and so does whatever comes of them. Any other
name is refused, as is every opcode that no pickle of plain data, records and arrays has.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Collection, Container, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from untrusted.errors import UnreadableError

MAX_OPCODES = 2_000_000
MAX_DEPTH = 100  # of containers in containers; a network of the field's libraries has about 20

_WHOLE = range(-(1 << 63), 1 << 64)  # whole numbers that are read: others overflow, or are too long to be shown
_MAX_NAME = 100  # letters of a name in an error
_MAX_KEY = 1 << 16  # of whole numbers that are keys, such as those of an optimizer's state; larger ones can collide
_KEYS = (str, bytes)  # hashing anything else may recurse, or be made to collide


@dataclass(frozen=True)
class Name:
    """What the pickle calls by `module.name`; never looked up."""

    text: str


@dataclass(eq=False, repr=False)
class Record:
    """A call that the pickle asks for; never made.

    Attributes:
        name: of what it would call.
        args: what with.
        state: what it would set on the result; None: nothing.
    """

    name: str
    args: tuple[Any, ...]
    state: Any = None

    def __repr__(self) -> str:
        """Its name alone: what is in many places within it would be written out as often."""
        return f"<{_shown(self.name)}>"


@dataclass(frozen=True)
class Opaque:
    """What nobody reads: a name, or what came of calling it. What it holds is forgotten."""

    name: str


@dataclass(frozen=True)
class Persistent:
    """What the pickle says lies outside of it, under this identity."""

    identity: Any


def read_pickle(
    file: io.BytesIO,
    where: str,
    *,
    names: Collection[str],
    plain: Collection[str] = (),
    persistent: bool = False,
    long: Collection[int] = (),
    opaque: Container[str] = (),
    opcodes: int = MAX_OPCODES,
) -> Any:
    """One pickle of protocol 2 to 5, from where the file stands; it then stands behind the pickle.

    Sets become lists.

    Args:
        where: what errors call the file.
        names: what may be named, as `module.name`. All else is refused by its name.
        plain: those among them that stand for a dict if they are called without arguments.
        persistent: whether it may refer to what lies outside of it.
        long: whole numbers that it may hold although they have more than 64 bits.
        opaque: what may be named besides, of which nothing is read.
        opcodes: instructions that it may have.

    Raises:
        UnreadableError: it is no pickle, names what is not on the list, is too long or too deep, or holds itself or a
            whole number of more than 64 bits.
    """
    machine = _Machine(where, frozenset(names), frozenset(plain), persistent, frozenset(long), opaque)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count >= opcodes:
                raise UnreadableError(f"{where}: a pickle of more than {opcodes:,} instructions")
            machine.do(opcode.name, argument)
    except (IndexError, KeyError, ValueError, OverflowError, MemoryError) as error:
        raise UnreadableError(f"{where}: no pickle, or a damaged one ({' '.join(str(error).split())[:200]})") from None
    value = machine.result()
    _require_shallow(value, where)
    return value


class _Machine:
    """The stack machine of the pickle protocol, without the instructions that reach outside."""

    def __init__(
        self,
        where: str,
        names: frozenset[str],
        plain: frozenset[str],
        persistent: bool,
        long: frozenset[int],
        opaque: Container[str],
    ) -> None:
        self._opaque = opaque
        self._where, self._names, self._plain, self._persistent, self._long = where, names, plain, persistent, long
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks before each mark
        self._memo: dict[int, Any] = {}

    def do(self, opcode: str, argument: Any) -> None:
        """One instruction."""
        if opcode in _PUSHES:
            if type(argument) is int and argument not in _WHOLE and argument not in self._long:
                raise UnreadableError(f"{self._where}: a whole number of more than 64 bits")
            self._stack.append(argument)
        elif opcode in _INSTRUCTIONS:
            _INSTRUCTIONS[opcode](self, argument)
        else:
            raise UnreadableError(f"{self._where}: the instruction {opcode}, which no network's pickle has, is refused")

    def result(self) -> Any:
        """What was left when it stopped."""
        if self._below or len(self._stack) != 1:
            raise UnreadableError(f"{self._where}: no pickle, or a damaged one")
        return self._stack.pop()

    def _nothing(self, argument: Any) -> None:
        pass

    def _constant(self, make: Callable[[], Any]) -> None:
        self._stack.append(make())

    def _mark(self, argument: Any) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _to_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _pop(self, argument: Any) -> None:
        self._stack.pop()

    def _pop_mark(self, argument: Any) -> None:
        self._to_mark()

    def _tuple(self, size: int) -> None:
        items = [self._stack.pop() for _ in range(size)]
        self._stack.append(tuple(reversed(items)))

    def _tuple_to_mark(self, argument: Any) -> None:
        items = self._to_mark()
        self._stack.append(tuple(items))

    def _list_to_mark(self, argument: Any) -> None:
        items = self._to_mark()
        self._stack.append(items)

    def _add(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def _append(self, argument: Any) -> None:
        self._add([self._stack.pop()])

    def _appends(self, argument: Any) -> None:
        self._add(self._to_mark())

    def _set_items(self, items: list[Any]) -> None:
        mapping = self._top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, _KEYS) and not (type(key) is int and 0 <= key < _MAX_KEY):
                raise UnreadableError(f"{self._where}: a {type(key).__name__} is the key of a dict")
            mapping[key] = value

    def _set_item(self, argument: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set_items([key, value])

    def _set_items_to_mark(self, argument: Any) -> None:
        self._set_items(self._to_mark())

    def _top(self, kind: type[Any]) -> Any:
        found = self._stack[-1]
        if isinstance(found, Opaque):
            return kind()  # what is put into it is forgotten
        if type(found) is not kind:
            what = found.name if isinstance(found, Record) else type(found).__name__
            raise UnreadableError(f"{self._where}: items of a {_shown(what)}, which is no {kind.__name__}")
        return found

    def _put(self, place: int) -> None:
        self._memo[place] = self._stack[-1]

    def _memoize(self, argument: Any) -> None:
        self._put(len(self._memo))

    def _get(self, place: int) -> None:
        self._stack.append(self._memo[place])

    def _name(self, text: str) -> None:
        if text in self._names:
            self._stack.append(Name(text))
        elif text in self._opaque:
            self._stack.append(Opaque(text))
        else:
            raise UnreadableError(
                f"{self._where}: names {_shown(text)}, which is not known here, and nothing of it runs"
            )

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._name(f"{module}.{name}")

    def _stack_global(self, argument: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise UnreadableError(f"{self._where}: a name that is no text")
        self._name(f"{module}.{name}")

    def _call(self, argument: Any) -> None:
        args, called = self._stack.pop(), self._stack.pop()
        if isinstance(called, Opaque):
            self._stack.append(called)
            return
        if not isinstance(called, Name) or type(args) is not tuple:
            raise UnreadableError(f"{self._where}: a call of what is no name")
        is_dict = called.text in self._plain and not args
        self._stack.append({} if is_dict else Record(called.text, args))

    def _build(self, argument: Any) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Opaque):
            return
        if not isinstance(target, Record) or target.state is not None:
            raise UnreadableError(f"{self._where}: sets a state on a {type(target).__name__}")
        target.state = state

    def _refer(self, argument: Any) -> None:
        if not self._persistent:
            raise UnreadableError(f"{self._where}: refers to what lies outside of the pickle")
        self._stack.append(Persistent(self._stack.pop()))


_PUSHES = frozenset(  # what genops reads of them is what they push
    (
        *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
        *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
)
_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _Machine._nothing),
    "NONE": lambda machine, _: machine._constant(lambda: None),
    "NEWTRUE": lambda machine, _: machine._constant(lambda: True),
    "NEWFALSE": lambda machine, _: machine._constant(lambda: False),
    "EMPTY_TUPLE": lambda machine, _: machine._constant(tuple),
    "EMPTY_DICT": lambda machine, _: machine._constant(dict),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_SET"), lambda machine, _: machine._constant(list)),
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "TUPLE": _Machine._tuple_to_mark,
    "FROZENSET": _Machine._list_to_mark,
    "MARK": _Machine._mark,
    "POP": _Machine._pop,
    "POP_MARK": _Machine._pop_mark,
    "APPEND": _Machine._append,
    **dict.fromkeys(("APPENDS", "ADDITEMS"), _Machine._appends),
    "SETITEM": _Machine._set_item,
    "SETITEMS": _Machine._set_items_to_mark,
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine._put),
    "MEMOIZE": _Machine._memoize,
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine._get),
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _Machine._call),
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._refer,
}


def _require_shallow(value: Any, where: str) -> None:
    """So that whoever walks through it may recurse. What holds itself is refused."""
    on_path: set[int] = {id(value)}
    known: dict[int, int] = {}  # levels below a container, once all of it was seen
    path: list[tuple[Any, Iterator[Any], list[int]]] = [(value, _parts(value), [0])]
    while path:
        if len(path) > MAX_DEPTH:
            raise UnreadableError(f"{where}: nested deeper than {MAX_DEPTH} levels")
        holder, parts, deepest = path[-1]
        part = next(parts, None)
        if part is None:
            path.pop()
            on_path.discard(id(holder))
            known[id(holder)] = deepest[0]
            if path:
                path[-1][2][0] = max(path[-1][2][0], deepest[0] + 1)
        elif id(part) in on_path:
            raise UnreadableError(f"{where}: a {type(part).__name__} that holds itself")
        elif id(part) in known:
            deepest[0] = max(deepest[0], known[id(part)] + 1)
            if len(path) + known[id(part)] + 1 > MAX_DEPTH:
                raise UnreadableError(f"{where}: nested deeper than {MAX_DEPTH} levels")
        else:
            on_path.add(id(part))
            path.append((part, _parts(part), [0]))


def _parts(value: Any) -> Iterator[Any]:
    """The containers right within one."""
    match value:
        case list() | tuple():
            held: Any = value
        case dict():
            held = value.values()
        case Record():
            held = chain(value.args, (value.state,))
        case Persistent():
            held = (value.identity,)
        case _:
            held = ()
    return (each for each in held if isinstance(each, list | tuple | dict | Record | Persistent))


def _shown(name: str) -> str:
    text = name if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME]}..."
    return text if text.isprintable() else repr(text)
