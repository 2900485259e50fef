"""Check the arguments of `spider.api` and of requests, and convert them to plain Python types, before any work begins.

Callers pass numpy's numbers, generators, arrays and `Path`s. Where the meaning is clear, an argument is converted to
what the code below expects: an int, a float, a text, a path, or a list of them. One text or one number stands for a
list of one. Everything else is refused in one line that names the argument.

An argument has the same meaning in every function that takes it, so `_KINDS` says once what each may be.
"""

from __future__ import annotations

import inspect
import math
import operator
import os
import re
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import wraps
from numbers import Number
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, get_args

from shards.choices import Crop, Encoding
from spider.errors import SpiderUsageError, shown
from spider.measures import DISTANCES, EMBEDDINGS, GENERATOR_METRICS, METRICS, OF_STYLEGAN, PROTOCOLS
from untrusted.words import did_you_mean, not_known

P = ParamSpec("P")
T = TypeVar("T")

Kind = Callable[[str, Any], Any]  # an argument's name and value -> the plain value; raises SpiderUsageError

MAX_SEED = 2**63 - 1  # 64 bits: what files and other programs keep of a seed
MAX_IMAGES = 10_000_000  # of one command: some times the largest sets that this field measures
MAX_RESOLUTION = 16_384  # px
MAX_PROCESSES = 1024
MAX_STEPS = 4096  # on a side of a grid, whose images are as many as the square of that
MIN_KIMG = 0.001  # one image
MIN_SHARD_MB = 1e-6  # one byte: every image a shard of its own
MAX_ITEMS = 100_000  # of a list of names
_STYLEGAN_METRIC = re.compile(r"([a-z]+2?(?:_wend|_wfull|_zend|_zfull)?)(?:(\d{1,4})k)?3?(_full|_int|_frac)?")
_MAX_COUNT = 10**12  # of what is only compared, never made


def plain_arguments(*may_be_none: str, **kinds: Kind) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a function so that its arguments are checked and converted. Unknown names pass unchanged.

    Args:
        may_be_none: names of arguments that may be None although their default is another value.
        kinds: the kinds of arguments that mean something else in this function than in the others.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)
        optional = {*may_be_none, *(name for name, each in signature.parameters.items() if each.default is None)}

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            bound = signature.bind(*args, **kwargs)
            bound.arguments.update(plain(bound.arguments, optional, kinds))
            for name, parameter in signature.parameters.items():
                if parameter.kind is parameter.VAR_KEYWORD:
                    bound.arguments[name] = plain(bound.arguments.get(name, {}), optional, kinds)
            return function(*bound.args, **bound.kwargs)

        return call

    return decorate


def plain(given: Mapping[str, Any], optional: Container[str], kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """The arguments checked and converted.

    Args:
        given: by name.
        optional: names of those that may be None.
        kinds: as of `plain_arguments`.
    """
    all_kinds = {**_KINDS, **kinds}
    return {
        name: all_kinds[name](name, value) if name in all_kinds and not (value is None and name in optional) else value
        for name, value in given.items()
    }


def text(name: str, value: Any) -> str:
    """A text."""
    if not isinstance(value, str):
        raise _refusal(name, "a text", value)
    if "\0" in value:  # no file's name has one, and no word of a command line
        raise _refusal(name, "a text without NUL characters", value)
    return str(value)  # numpy has texts of its own


def place(name: str, value: Any) -> str | Path:
    """A path, a URL or another name of data; a `Path` stays one."""
    is_path = isinstance(value, os.PathLike)
    found = os.fspath(value) if is_path else value
    if not isinstance(found, str):
        raise _refusal(name, "a text or a Path", value)
    if not found.strip():
        raise SpiderUsageError(f"{name}: is empty; name a place (. is the current folder)")
    return Path(text(name, found)) if is_path else text(name, found)


def words_or_file(name: str, value: Any) -> str:
    """A text, or the `Path` of a file that says it."""
    return str(place(name, value))


def flag(name: str, value: Any) -> bool:
    """True or False, also numpy's."""
    if not isinstance(value, bool) and str(getattr(value, "dtype", "")) not in ("bool", "torch.bool"):
        raise _refusal(name, "True or False", value)
    return bool(value)


def one_of(*choices: str) -> Kind:
    """One of a few words."""

    def kind(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            close = did_you_mean(value, choices) if isinstance(value, str) else ""
            raise SpiderUsageError(f"{name}: one of {', '.join(choices)}, found {shown(value)}{close}")
        return str(value)

    return kind


def known(what: str, choices: Sequence[str]) -> Kind:
    """One of the names of something: of a metric, an embedding, a protocol."""

    def kind(name: str, value: Any) -> str:
        found = text(name, value)
        if found not in choices:
            raise SpiderUsageError(f"{what} {not_known(found, choices)}")
        return found

    return kind


def whole(at_least: int, at_most: int = _MAX_COUNT) -> Kind:
    """A whole number, also of numpy's types. True and False are none."""

    def kind(name: str, value: Any) -> int:
        try:
            number = operator.index(value)
        except TypeError:
            raise _refusal(name, "a whole number", value) from None
        if isinstance(value, bool):
            raise _refusal(name, "a whole number", value)
        if not at_least <= number <= at_most:
            raise _refusal(name, f"a whole number from {at_least} to {at_most}", value)
        return number

    return kind


def number(at_least: float = -math.inf) -> Kind:
    """A finite number, also of numpy's types. True and False are none."""
    limits = "a number" if at_least == -math.inf else f"a number of at least {at_least:g}"

    def kind(name: str, value: Any) -> float:
        try:
            found = math.nan if isinstance(value, str | bytes | bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            found = math.nan
        if not (math.isfinite(found) and found >= at_least):
            raise _refusal(name, limits, value)
        return found

    return kind


def or_text(kind: Kind) -> Kind:
    """The same, or a text that says one."""
    return lambda name, value: text(name, value) if isinstance(value, str) else kind(name, value)


def require_cluster(workers: int | None, ray: str | None) -> None:
    """Refuse a number of workers without a place for them. Raises SpiderUsageError."""
    if workers is not None and ray is None:
        raise SpiderUsageError("workers are those of a Ray cluster: say which, ray=local or its address")


def list_of(kind: Kind, what: str) -> Kind:
    """Some of a kind, in a list, a tuple, an array or a generator; or one that stands alone."""

    def several(name: str, value: Any) -> list[Any]:
        return [kind(name, each) for each in _items(name, value, what)]

    return several


def named_or_list_of(kind: Kind, what: str) -> Kind:
    """A mapping from the names to use to some of a kind; or as of `list_of`."""
    unnamed = list_of(kind, what)

    def several(name: str, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return unnamed(name, value)
        for key in value:
            if not is_name(text(name, key)):
                raise SpiderUsageError(f"{name}: {shown(key)} is no name: it is empty, or has one of = / : in it")
        return {text(name, key): kind(f"{name}[{key!r}]", each) for key, each in value.items()}

    return several


def is_name(word: str) -> bool:
    """Whether a word can be the NAME of NAME=PLACE: a place or a URL cannot."""
    return bool(word) and not set(word) & set("=/:")


def names(name: str, value: Any) -> list[str]:
    """`fid,kid`, or the names in a list."""
    if isinstance(value, str):
        return [word.strip() for word in text(name, value).split(",") if word.strip()]
    return [text(name, each) for each in _items(name, value, "a text such as fid,kid, or a list of texts")]


def metric_names(name: str, value: Any) -> list[str]:
    """The same, of metrics."""
    return [known("metric", (*METRICS, *GENERATOR_METRICS))(name, _ours(each)) for each in names(name, value)]


def _ours(metric: str) -> str:
    """The same name. Raises SpiderUsageError: it is one of NVIDIA's repositories, and what it is here."""
    found = _STYLEGAN_METRIC.fullmatch(metric)
    ours = None if found is None else OF_STYLEGAN.get(f"{found[1]}{found[3] or ''}", OF_STYLEGAN.get(found[1]))
    if metric in (*METRICS, *GENERATOR_METRICS) or found is None or ours is None:
        return metric
    many = f" with --count {int(found[2]) * 1000}" if found[2] else ""
    raise SpiderUsageError(f"metric {metric!r} of StyleGAN's repositories is {ours}{many} here")


def class_name(name: str, value: Any) -> str:
    """A class by its name or number."""
    return text(name, value) if isinstance(value, str) else str(whole(0)(name, value))


def orders(name: str, value: Any) -> list[Any]:
    """Kernel orders: `-1,0 log`, or numbers, texts and kernels in a list. Which there are, `parse_kernel` knows."""
    if isinstance(value, str):
        return names(name, value)
    items = _items(name, value, "a text such as -1,1, or a list of orders")
    return [number()(name, each) if isinstance(each, Number) else each for each in items]


def image_numbers(name: str, value: Any) -> list[int]:
    """`0-3,7` to [0, 1, 2, 3, 7]; or whole numbers in a list, an array, a range or a generator; or one."""
    one = whole(0, MAX_SEED)
    if isinstance(value, str):
        ranges = _ranges(name, text(name, value))
    else:
        items = _items(name, value, "whole numbers, or a text such as 0-99")
        ranges = [range(number, number + 1) for number in (one(name, each) for each in items)]
    count = sum(each.stop - each.start for each in ranges)
    if not count:
        raise _refusal(name, "at least one number", value)
    if count > MAX_IMAGES:
        raise _refusal(name, f"at most {MAX_IMAGES:,} numbers", value)
    return [number for each in ranges for number in each]


def image_numbers_as_given(name: str, value: Any) -> str | list[int]:
    """The same, where a text stays one: it may name a range of many."""
    numbers = image_numbers(name, value)
    return str(value) if isinstance(value, str) else numbers


def how_many_or_which(name: str, value: Any) -> int | list[int]:
    """A number of evaluation seeds, or a list of seeds that are all different."""
    if _is_list(value):
        seeds = image_numbers(name, value)
        twice = next((seed for seed, count in Counter(seeds).items() if count > 1), None)
        if twice is not None:
            raise SpiderUsageError(f"{name}: {twice} is given twice; its result would count twice in the mean")
        return seeds
    return int(whole(1, MAX_ITEMS)(name, value))


def _ranges(name: str, value: str) -> list[range]:
    found = []
    for part in names(name, value):
        first, dash, last = part.partition("-")
        try:
            low, high = int(first), int(last if dash else first)
        except ValueError:  # also of thousands of digits
            raise _refusal(name, "numbers or ranges such as 0-99", part) from None
        if low > high:
            raise SpiderUsageError(f"{name}: {part!r} is a range that goes down; write {last}-{first}")
        whole(0, MAX_SEED)(name, high)
        found.append(range(low, high + 1))
    return found


def _items(name: str, value: Any, what: str) -> Iterator[Any]:
    """What a list, an array or a generator holds; a single text, path or number is all there is."""
    if value is None or isinstance(value, bytes | bytearray | memoryview | Mapping | bool):
        raise _refusal(name, what, value)
    if not _is_list(value):
        yield value
        return
    for count, item in enumerate(value):
        if count == MAX_IMAGES:
            raise _refusal(name, f"{what}, of at most {MAX_IMAGES:,}", value)
        yield item


def _is_list(value: Any) -> bool:
    """Arrays and tensors without a dimension have an `__iter__`, and cannot be iterated over."""
    return hasattr(value, "__iter__") and not isinstance(value, str | bytes) and getattr(value, "ndim", 1) != 0


def _refusal(name: str, wanted: str, value: object) -> SpiderUsageError:
    return SpiderUsageError(f"{name}: {wanted}, found {shown(value)}")


_path_list = list_of(place, "a path, or a list of paths")
_named_places = named_or_list_of(place, "a place, a list of places, or a mapping from names to places")

_KINDS: dict[str, Kind] = {
    "at_once": whole(1, MAX_PROCESSES),
    "balanced": flag,
    "bank": place,
    "blend": one_of("linear", "spherical", "cubic", "circular"),
    "cache": place,
    "channels": whole(1, 3),
    "count": whole(1, MAX_IMAGES),
    "classes": list_of(class_name, "the name or number of a class, or a list of them"),
    "config": place,
    "cpus": number(0.01),
    "crop": one_of(*get_args(Crop)),
    "data": place,
    "datasets": _named_places,
    "distance": known("distance", DISTANCES),
    "embedding": known("embedding", EMBEDDINGS),
    "encoding": one_of(*get_args(Encoding)),
    "figures": place,
    "frames": whole(2, 1000),
    "file": place,
    "folder": place,
    "from_run": words_or_file,
    "init": place,
    "only": list_of(text, "a name, or a list of names"),
    "given": list_of(text, "a text NAME=VALUE, or a list of such texts"),
    "gpus": number(0),
    "grid": place,
    "images": whole(1, MAX_IMAGES),
    "keep": flag,
    "keep_gray": flag,
    "keep_negative": flag,
    "instances": _path_list,
    "join": _path_list,
    "key": text,
    "labels": text,
    "listed": place,
    "kimg": or_text(number(MIN_KIMG)),
    "long_tail": number(1),
    "max_bad": or_text(whole(0)),
    "max_megapixels": number(1e-6),
    "metrics": metric_names,
    "mirror": flag,
    "mode": text,
    "name": text,
    "onnx": flag,
    "orders": orders,
    "out": place,
    "overrides": list_of(text, "a text KEY=VALUE, or a list of such texts"),
    "path": place,
    "picks": whole(1, MAX_ITEMS),
    "points": _path_list,
    "plane": text,
    "progress": flag,
    "protocol": known("protocol", PROTOCOLS),
    "rank": whole(0),
    "ranks": whole(1),
    "ray": text,
    "reference": place,
    "reference_out": place,
    "report": flag,
    "resolution": whole(1, MAX_RESOLUTION),
    "rule": text,
    "run": place,
    "runs": _path_list,
    "samples": whole(1, MAX_IMAGES),
    "seed": whole(0, MAX_SEED),
    "shard_mb": number(MIN_SHARD_MB),
    "shards": place,
    "shortlist": whole(1, MAX_ITEMS),
    "slurm": words_or_file,
    "source": place,
    "source_images": _path_list,
    "sources": _named_places,
    "space": one_of("z", "image", "w", "instance"),
    "stage": whole(1),
    "steps": whole(2, MAX_STEPS),
    "subject": place,
    "subset": whole(1),
    "target": place,
    "truncation": number(0),
    "tuned": place,
    "url": text,
    "variants": list_of(text, "a text NAME: KEY=VALUE, or a list of such texts"),
    "video": one_of("gif", "mp4"),
    "weights": place,
    "workers": whole(1, MAX_PROCESSES),
}
