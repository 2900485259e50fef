"""What one call of `pack` works on: the source, the files that it takes of it, and how many may be bad."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tqdm import tqdm

from shards.errors import ShardsError, ShardsUsageError
from shards.images import NOT_READ
from shards.index import PackOptions
from shards.listing import BadFile, Listing
from shards.long_tail import long_tail_of
from shards.order import subset_rank
from shards.parallel import map_ordered
from shards.progress import Bar
from shards.source import Source

_FILES_PER_TASK = 64


@dataclass(frozen=True)
class PackJob:
    """A source, the folder to write, and how."""

    source: Source
    out: Path
    options: PackOptions
    workers: int
    progress: bool

    @cached_property
    def chosen(self) -> list[int]:
        """The numbers of the items to pack, ascending."""
        items, subset, long_tail = self.source.listing.items, self.options.subset, self.options.long_tail
        if subset is None and long_tail is None:
            return list(range(len(items)))
        ranked = subset_rank(self.options.seed, [item.key for item in items])
        if long_tail is None:
            return sorted(ranked[:subset].tolist())
        return sorted(long_tail_of([items[number].label for number in ranked], ranked, long_tail))

    @property
    def refused(self) -> list[BadFile]:
        """Bad files that showed in the listing. A subset is taken from the others."""
        takes_all = self.options.subset is None and self.options.long_tail is None
        return self.source.listing.bad if takes_all else []

    def check(self) -> None:
        """Raises ShardsUsageError, ShardsError: nothing to pack, too few files, a folder within the source."""
        available, subset = len(self.source.listing.items), self.options.subset
        if not available:
            raise nothing_left(self.source, self.source.listing.bad)
        if subset is not None and subset > available:
            raise ShardsUsageError(f"subset is {subset}, but {self.source.name} has {available} images")
        if self.options.long_tail is not None and len(self.source.listing.classes) < 2:
            raise ShardsUsageError(f"long_tail needs two classes or more, and {self.source.name} has no such labels")
        if any(self.out.resolve().is_relative_to(root.resolve()) for root in self.source.roots):
            raise ShardsUsageError(f"{self.out} lies in the folder that is packed: choose one outside of it")

    def map(self, function: Any, shared: Any, numbers: list[int], what: str, done: int = 0) -> Iterator[Any]:
        """`function(shared, some numbers)`, a list with a result for each, over all numbers, in order, with a bar."""
        tasks = [numbers[start : start + _FILES_PER_TASK] for start in range(0, len(numbers), _FILES_PER_TASK)]
        with Bar(
            total=done + len(numbers), initial=done, desc=what, unit="img", shown=self.progress, leave=False
        ) as bar:
            for results in map_ordered(function, shared, tasks, workers=self.workers):
                yield from results
                bar.update(len(results))

    def input_digest(self, contents: list[str]) -> str:
        """Over the key and the content of every chosen item."""
        keys = [self.source.listing.items[number].key for number in self.chosen]
        lines = [f"{key}\0{content}\n" for key, content in zip(keys, contents, strict=True)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def say(self, text: str) -> None:
        """A remark, on stderr, if progress is shown."""
        if self.progress:
            tqdm.write(text, file=sys.stderr)


@dataclass(frozen=True)
class Allowance:
    """How many files may be bad."""

    text: str
    value: float
    is_share: bool

    @classmethod
    def parse(cls, max_bad: str | int) -> Allowance:
        """A count, or a share such as 1%. Raises ShardsUsageError for what is neither."""
        text = str(max_bad)
        try:
            value = float(text.removesuffix("%"))
        except ValueError:
            value = -1.0
        if not 0 <= value < float("inf"):
            raise ShardsUsageError(f"max_bad is {text!r}; known: a count such as 5, or a share such as 1%")
        return cls(text, value, text.endswith("%"))

    def exceeded(self, bad: int, files: int) -> bool:
        """Whether so many of so many files are too many."""
        return bad > (files * self.value / 100 if self.is_share else self.value)


def nothing_left(source: Source, bad: list[BadFile]) -> ShardsError:
    """The error of a source without an image that can be packed."""
    first = f"; the first of {len(bad)} bad files is {bad[0].name}: {bad[0].reason}" if bad else ""
    others = f"; {passed_over(source.listing)}" if source.listing.passed_over else ""
    return ShardsError(f"{source.kind} {source.name}: no image that can be packed{first}{others}")


def passed_over(listing: Listing) -> str:
    """How many files are no images by their names, by type, and what to do about those that hold images after all."""
    types = ", ".join(f"{count:,} {suffix}" for suffix, count in listing.passed_over.items())
    suffixes_of: dict[str, list[str]] = {}
    for suffix in listing.passed_over.keys() & NOT_READ.keys():
        suffixes_of.setdefault(NOT_READ[suffix], []).append(suffix)
    advice = "".join(f"; {', '.join(sorted(suffixes))}: {what}" for what, suffixes in sorted(suffixes_of.items()))
    total = sum(listing.passed_over.values())
    others = (
        "1 other file is no image by its name, and was"
        if total == 1
        else f"{total:,} other files are no images by their names, and were"
    )
    return f"{others} passed over: {types}{advice}"
