"""The neighbours that a sweep trains on: what the search picks under any of its orders, each once.

    OUT/neighbors/neighbors.json, ...      the search, see `neighbors.report`

What is there already is not searched again: the sweep's settings cannot have changed (see `sweeps.sweep`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neighbors.request import NeighborOptions
from spider.errors import SpiderError, SpiderUsageError
from spider.judge.sid.choices import parse_order
from spider.judge.sid.rules import PAPER
from sweeps.config import NeighborsConfig
from sweeps.space import Axis, source_axis, source_names
from untrusted.errors import UnreadableError
from untrusted.json_data import read_json

_FILE = "neighbors.json"


@dataclass(frozen=True)
class Ranked:
    """A source as one order sees it.

    Attributes:
        source: its name.
        rank: under the search's rule.
        csid: its area.
        stderr: of `csid`.
        picked: whether the rule has it among the nearest friendly ones.
        by_rule: its rank under every rule, by the first order; empty if it was only screened.
    """

    source: str
    rank: int
    csid: float
    stderr: float | None
    picked: bool
    by_rule: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Ranking:
    """All sources by one order.

    Attributes:
        order: as `spider.judge.sid.kernels` writes it.
        rule: what ranks them.
        embedding: what the distances are under.
        sources: by rank.
    """

    order: str
    rule: str
    embedding: str
    sources: list[Ranked]

    @property
    def label(self) -> str:
        """For tables and figures."""
        return f"CSID[{self.order}]" if self.rule == PAPER else f"{self.rule} and CSID[{self.order}]"

    @property
    def picks(self) -> list[str]:
        """Names of those that the selection rule picks by this order."""
        return [each.source for each in self.sources if each.picked]


def named_sources(search: NeighborsConfig) -> dict[str, str]:
    """The candidates by the names that tables use."""
    if isinstance(search.sources, Mapping):
        return dict(search.sources)
    return dict(zip(source_names(search.sources), search.sources, strict=True))


def search_neighbors(
    search: NeighborsConfig, target: str, out: Path, *, ray: str | None, progress: bool
) -> list[Ranking]:
    """The ranking under every order, from the files of a search that was made, or from one made now.

    Args:
        search: which sources, and how.
        target: the images to learn.
        out: the folder of the search.
        ray: the cluster to search on; None: this process.
        progress: show bars.

    Raises:
        SpiderUsageError: an order that cannot be, two sources of one name, too few images.
        SpiderError, ShardsError: what is missing or damaged.
    """
    if not (out / _FILE).is_file():
        from neighbors.find import neighbors

        places, everything = named_sources(search), search.picks == "all"
        options = NeighborOptions(
            **search.model_dump(exclude={"sources", "shortlist", *(["picks"] if everything else [])}),
            shortlist=len(places) if everything else search.shortlist,
            ray=ray,
            progress=progress,
        )
        neighbors(target, places, out=out, options=options)
    return _read(search, out / _FILE)


def read_rankings(search: NeighborsConfig, out: Path) -> list[Ranking] | None:
    """The ranking under every order of a search that was made; None if it was not, or not to its end."""
    return _read(search, out / _FILE) if (out / _FILE).is_file() else None


def neighbor_axis(search: NeighborsConfig, rankings: Sequence[Ranking]) -> Axis:
    """The sources that any order picked, in the order of their first pick, or all; SpiderError if none was picked."""
    places = named_sources(search)
    if search.picks == "all":
        return source_axis({each.source: places[each.source] for each in rankings[0].sources})
    picked = dict.fromkeys(name for ranking in rankings for name in ranking.picks)
    if not picked:
        orders = ", ".join(ranking.order for ranking in rankings)
        raise SpiderError(
            f"space.source.neighbors: no source is a friendly neighbour under order {orders} (see neighbors/); "
            "keep_negative: true or keep_gray: true lets more take part, picks: all trains on every source"
        )
    return source_axis({name: places[name] for name in picked})


def _read(search: NeighborsConfig, file: Path) -> list[Ranking]:
    try:
        tree: dict[str, Any] = read_json(file)
        return [_ranking(tree, parse_order(order).label) for order in search.orders]
    except UnreadableError as error:
        raise SpiderUsageError(str(error)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise SpiderUsageError(f"{file}: not what a neighbour search writes: {error!r}") from error


def _ranking(tree: Mapping[str, Any], label: str) -> Ranking:
    sources = [
        Ranked(
            row["source"],
            each["rank"],
            each["value"],
            each["stderr"],
            each["friendly"],
            {rule: place["rank"] for rule, place in row.get("rules", {}).items()},
        )
        for row in tree["rows"]
        for each in [row["csid"][label]]
    ]
    rule = tree["protocol"].get("rule", PAPER)
    return Ranking(label, rule, tree["embedding"]["label"], sorted(sources, key=lambda each: each.rank))
