"""What a verb is asked for: one frozen dataclass for each verb, whoever asks.

`spider.api` makes one from the arguments of a function, the command line from options, and a pipeline from the keys of
a stage. A request checks and converts its values when it is made (`spider.arguments`), and `words` is the command line
that asks for the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar, Literal, ParamSpec, Self, TypeVar

from spider.arguments import Kind, plain, require_cluster
from spider.errors import SpiderUsageError
from untrusted.words import did_you_mean

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

Reads = Literal["images", "run", "images or run", "file"]

_ONLY_IN_PYTHON = ("cache", "progress", "world")  # no option and no key of a stage has these names


@dataclass(frozen=True)
class Request:
    """The base of all of them. Fields have the names of the arguments in `spider.api`.

    Attributes:
        command: the words after `spider`.
        alone: fields that stand without an option, in this order.
        repeated: fields whose option is given once for each value; other lists are one text with commas.
        options: options of fields that are not called as the field is.
        may_be_none: fields without a default that may be None.
        kinds: kinds of fields that mean something else in this verb than in the others, see `spider.arguments`.
        places: fields that name what is read; of a training its configuration knows them.
        written: fields that name what is made.
    """

    command: ClassVar[tuple[str, ...]]
    alone: ClassVar[tuple[str, ...]] = ()
    repeated: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[Mapping[str, str]] = {}
    may_be_none: ClassVar[tuple[str, ...]] = ()
    kinds: ClassVar[Mapping[str, Kind]] = {}
    places: ClassVar[Mapping[str, Reads]] = {}
    written: ClassVar[tuple[str, ...]] = ("out",)

    def __post_init__(self) -> None:
        """Raises SpiderUsageError: a field, the value found and what would be valid."""
        optional = {*self.may_be_none, *(each.name for each in fields(self) if each.default is None)}
        for name, value in plain(vars(self).copy(), optional, self.kinds).items():
            object.__setattr__(self, name, value)

    @classmethod
    def read(cls, values: Mapping[str, object]) -> Self:
        """From the keys of a file. Raises SpiderUsageError: a key that is unknown, missing or has no valid value."""
        known = [each for each in fields(cls) if each.name not in _ONLY_IN_PYTHON]
        names = [each.name for each in known]
        for key in values:
            if key not in names:
                hint = did_you_mean(str(key), names) or f"; keys: {', '.join(names)}"
                raise SpiderUsageError(f"{key}: no such key{hint}")
        for each in known:
            if each.default is MISSING and each.name not in values and each.name not in cls.may_be_none:
                raise SpiderUsageError(f"{each.name}: missing")
        return cls(**{**dict.fromkeys(cls.may_be_none), **values})

    def require_valid(self, ranks: int, trained: Collection[Path] = ()) -> None:
        """Refuse now what the job of a stage would refuse when it starts.

        What the request names need not be there yet, because other stages may make it.

        Args:
            ranks: of the job.
            trained: absolute folders of the runs that the stages make, by training or import.
        """

    def packages(self, trained: Collection[Path] = ()) -> tuple[str, ...]:
        """The user's own top-level packages and modules that it names, as far as its own words say.

        Args:
            trained: as of `require_valid`.

        Raises:
            SpiderUsageError: a key or value that cannot be.
        """
        return ()

    @property
    def trained(self) -> Path | None:
        """The folder of the run that it trains, absolute; None: it trains none."""
        return None

    @property
    def made_run(self) -> Path | None:
        """The folder of the run that it trains or imports, absolute; None: it makes none."""
        return self.trained

    def reads(self) -> list[tuple[str, Reads, str]]:
        """The field, what it names, and the name, of all that `places` knows and is given."""
        found: list[tuple[str, Reads, str]] = []
        for field, what in self.places.items():
            value = getattr(self, field)
            several = value.values() if isinstance(value, Mapping) else value
            names = several if isinstance(several, Collection) and not isinstance(several, str) else [several]
            found += [(field, what, str(name)) for name in names if isinstance(name, str | Path)]
        return found

    @property
    def makes(self) -> list[Path]:
        """The files and folders that it makes beside a run, absolute."""
        given = (getattr(self, field, None) for field in self.written)
        return [Path(str(place)).absolute() for place in given if place is not None]

    def values(self) -> dict[str, Any]:
        """The fields by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def words(self) -> tuple[str, ...]:
        """What stands after `spider` on a command line that asks for the same."""
        given = {each.name: _texts(getattr(self, each.name)) for each in fields(self) if self._is_said(each)}
        options = [
            word for name, texts in given.items() if name not in self.alone for word in self._option(name, texts)
        ]
        return (*self.command, *options, "--", *(text for name in self.alone for text in given.get(name, ())))

    def _is_said(self, each: Field[Any]) -> bool:
        value = getattr(self, each.name)
        if each.name in _ONLY_IN_PYTHON or value is None:
            return False
        return ",".join(_texts(value)) != ",".join(_texts(each.default))  # `0,1` in one text is a list as well

    def _option(self, name: str, texts: list[str]) -> list[str]:
        option = self.options.get(name, f"--{name.replace('_', '-')}")
        if getattr(self, name) is True:
            return [option]
        return [f"{option}={text}" for text in (texts if name in self.repeated else [",".join(texts)])]


@dataclass(frozen=True, kw_only=True)
class WorkersRequest(Request):
    """The base of those that put images through a network by workers.

    Attributes:
        ray: None: this process alone. `local`, `auto` or an address: workers on a Ray cluster, see `cluster.ray`.
        workers: how many of them; None: one for each GPU, or each core.
        cache: folder in which features are kept, on storage that all workers share; None: where all commands keep them.
        progress: show bars.
    """

    ray: str | None = None
    workers: int | None = None
    cache: Path | str | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        """See the base class."""
        super().__post_init__()
        require_cluster(self.workers, self.ray)


def asks(request: Callable[P, R]) -> Callable[[Callable[[R], T]], Callable[P, T]]:
    """Decorate a function of a request so that it takes what the request is made of: one signature for both."""

    def decorate(function: Callable[[R], T]) -> Callable[P, T]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return function(request(*args, **kwargs))

        call.__signature__ = inspect.signature(request)  # type: ignore[attr-defined]
        return call

    return decorate


def _texts(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [f"{name}={each}" for name, each in value.items()]
    if isinstance(value, list | tuple):
        return [text for each in value for text in _texts(each)]
    return [str(value).removesuffix(".0") if isinstance(value, float) else str(value)]
