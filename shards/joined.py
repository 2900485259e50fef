"""Several sources as one: each is a class, which is called as the source is, in the place of the classes within it.

Images come source by source. A key is that within the source behind the name of its class: `cats/0001`.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

from shards.errors import ShardsError, ShardsUsageError
from shards.labels import Labels, is_plain_text
from shards.listing import BadFile, Item, Listing, distinct_keys
from shards.source import Pixels, Source


class JoinedSource(Source):
    """The images of several sources, at least one of each.

    Raises:
        ShardsUsageError: two have one name, or one has a name that no class can have.
        ShardsError: one has no images.
    """

    kind = "joined"

    def __init__(self, sources: Sequence[Source]) -> None:
        names = [source.name for source in sources]
        cure = "pack it first, into a folder that bears the name of the class, and join that"
        for name, count in Counter(names).items():
            if count > 1:
                raise ShardsUsageError(f"join: {count} sources are called {name}, and each is a class: {cure}")
            if not name or not is_plain_text(name):
                raise ShardsUsageError(f"join: a source is called {name!r}, which is no name of a class: {cure}")
        for source in sources:
            if not source.listing.items:
                raise ShardsError(f"join: {source.kind} {source.name}: no image that can be packed")
        self._sources = sources
        self._starts = list(accumulate((len(source.listing.items) for source in sources), initial=0))
        self.name = " + ".join(names)
        self.roots = tuple(root for source in sources for root in source.roots)
        self.listing = _joined(sources)

    def read(self, number: int) -> bytes | Pixels:
        """See Source."""
        which = bisect_right(self._starts, number) - 1
        return self._sources[which].read(number - self._starts[which])

    def stamp(self) -> str:
        """See Source."""
        return hashlib.sha256(repr([(source.name, source.stamp()) for source in self._sources]).encode()).hexdigest()


def key_alone(key: str, class_name: str) -> str:
    """The key of an image of a class where its source, or its class folder, is packed by itself.

    One that was shortened because it is too long stays as it is.
    """
    return key.removeprefix(f"{class_name.replace('.', '_')}/")


def require_join(join: Sequence[object], labels: Labels, listed: object) -> None:
    """Refuse what joined sources, if there are any, do not go with. Raises ShardsUsageError."""
    if join and labels != "class":
        raise ShardsUsageError(f"labels is {labels!r}, which goes without join: each source is a class")
    if join and listed is not None:
        raise ShardsUsageError("list goes without join: pack what is listed first, and join that")


def _joined(sources: Sequence[Source]) -> Listing:
    of_class = [(label, item) for label, source in enumerate(sources) for item in source.listing.items]
    paths = [f"{sources[label].name}/{item.key}" for label, item in of_class]
    passed_over: Counter[str] = Counter()
    for source in sources:
        passed_over.update(source.listing.passed_over)
    return Listing(
        [
            Item(f"{sources[label].name}/{item.name}", key, label)
            for (label, item), key in zip(of_class, distinct_keys(paths, paths), strict=True)
        ],
        [source.name for source in sources],
        [BadFile(f"{source.name}/{file.name}", file.reason) for source in sources for file in source.listing.bad],
        dict(passed_over.most_common()),
        [f"{source.name}: {remark}" for source in sources for remark in [*_dropped(source), *source.listing.remarks]],
    )


def _dropped(source: Source) -> list[str]:
    """A remark on classes within a source, if there are any."""
    classes = source.listing.dropped_classes
    return [f"its {classes:,} classes become one"] if classes > 1 else []
