"""What a neighbour search is asked for. Needs no torch: mistakes show at once, also on a login node."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

from spider.arguments import Kind, is_name, known
from spider.errors import SpiderUsageError
from spider.judge.sid.choices import MODES, Order, parse_order
from spider.judge.sid.rules import PAPER, RULES
from spider.measures import RESIZE_RULES
from spider.request import WorkersRequest

Places = Sequence[str | Path] | Mapping[str, str | Path]


@dataclass(frozen=True, kw_only=True)
class NeighborOptions(WorkersRequest):
    """How to search. Beside these there are those of `WorkersRequest`.

    Attributes:
        embedding: see docs/embeddings.md; `efficientnet` and `offline` need no download.
        protocol: the resize rule of an embedding that has several.
        weights: a weights file for the embedding.
        orders: kernel orders, as `spider.judge.sid.choices.parse_order` takes them; the first one ranks. Also as one
            text, `-1,0 log,1025/2048`.
        rule: what ranks the sources, one of `spider.judge.sid.rules.RULES`; the report shows the others beside it.
        mode: `robust`; `paper`, the published algorithm; `screen`, from moments alone, without FID and KID.
        images: at most this many of each dataset, drawn by `seed`; None: all.
        shortlist: so many sources of a target get the full measure, the nearest to 0 by screening, by each order.
        seed: of everything drawn.
        keep_negative: let sources that the rule drops as less diverse than the target be friendly.
        keep_gray: let gray sources of a colour target be friendly.
        picks: how many are friendly, at most.
    """

    kinds: ClassVar[Mapping[str, Kind]] = {
        "protocol": known("protocol", tuple(chain(*RESIZE_RULES.values()))),
        "rule": known("rule", tuple(RULES)),
    }

    embedding: str = "inception"
    protocol: str | None = None
    weights: Path | str | None = None
    orders: str | Sequence[Order | float | str] = (-1.0,)
    rule: str = PAPER
    mode: str = "robust"
    images: int | None = None
    shortlist: int = 20
    seed: int = 0
    keep_negative: bool = False
    keep_gray: bool = False
    picks: int = 3

    def __post_init__(self) -> None:
        """Raises SpiderUsageError: a field, the value found and what would be valid."""
        super().__post_init__()
        for field in ("sources", "datasets"):
            if isinstance(places := getattr(self, field, None), list):
                object.__setattr__(self, field, [_without_name(place) for place in places])
        if self.mode not in MODES:
            raise SpiderUsageError(f"mode: one of {', '.join(MODES)}, found {self.mode!r}")
        if not self.orders:
            raise SpiderUsageError("no kernel order: name at least one, such as -1")
        labels = [parse_order(order).label for order in self.orders]
        again = [str(order) for order, label in zip(self.orders, labels, strict=True) if labels.count(label) > 1]
        if again:
            raise SpiderUsageError(f"orders: {' and '.join(again)} are the same kernel")

    @property
    def choices(self) -> dict[str, Any]:
        """What the numbers and picks depend on, for the protocol."""
        names = ("rule", "mode", "images", "shortlist", "picks", "keep_negative", "keep_gray", "seed")
        return {name: getattr(self, name) for name in names}

    def require_weights(self) -> None:
        """Raises SpiderError if the cache does not have those of the embedding."""
        from spider import weights

        weights.of_embedding(self.embedding, self.weights)


@dataclass(frozen=True)
class NeighborsRequest(NeighborOptions):
    """Sources, ranked as neighbours of a target.

    Attributes:
        target: the images to learn, as `spider.data.open_images` takes them.
        sources: what could be borrowed from, the same way; a mapping has the names to use for them.
        out: the folder to write.
    """

    command: ClassVar[tuple[str, ...]] = ("neighbors",)
    alone: ClassVar[tuple[str, ...]] = ("target", "sources")
    places: ClassVar = {"target": "images", "sources": "images", "weights": "file"}

    target: str | Path
    sources: Places
    out: str | Path

    def require_valid(self, ranks: int, trained: Collection[Path] = ()) -> None:
        """See the base class."""
        require_sources(self.sources)
        _require_once(self.sources, "sources")

    def require_inputs(self) -> None:
        """Refuse what is not there."""
        _require_images([self.target])
        _require_images(self.sources)
        self.require_weights()


@dataclass(frozen=True)
class NeighborMatrixRequest(NeighborOptions):
    """Datasets, each as a target with all others as its sources.

    Attributes:
        datasets: two at least; as the sources of `NeighborsRequest`.
        out: the folder to write.
    """

    command: ClassVar[tuple[str, ...]] = ("neighbors", "--all")
    alone: ClassVar[tuple[str, ...]] = ("datasets",)
    places: ClassVar = {"datasets": "images", "weights": "file"}

    datasets: Places
    out: str | Path

    def require_valid(self, ranks: int, trained: Collection[Path] = ()) -> None:
        """See the base class."""
        require_pairs(self.datasets)
        _require_once(self.datasets, "datasets")

    def require_inputs(self) -> None:
        """Refuse what is not there."""
        _require_images(self.datasets)
        self.require_weights()


def require_sources(sources: Collection[Any]) -> None:
    """Refuse a search among nothing."""
    if not sources:
        raise SpiderUsageError("no sources: name at least one dataset to compare with the target")


def require_pairs(datasets: Collection[Any]) -> None:
    """Refuse a matrix of fewer than two."""
    if len(datasets) < 2:
        raise SpiderUsageError(f"{len(datasets)} datasets have no pairs: name at least two")


def _without_name(place: str | Path) -> str | Path:
    """The place written so that the command line does not take a part of it for a name: `u=v` as `./u=v`."""
    name, sign, _ = str(place).partition("=")
    return f"./{place}" if sign and (not name or is_name(name)) else place


def _require_once(places: Places, name: str) -> None:
    """Refuse a place that stands twice without a name of its own, since one name would mean both."""
    texts = [] if isinstance(places, Mapping) else [str(place) for place in places]
    for place in texts:
        if texts.count(place) > 1:
            raise SpiderUsageError(f"{name}: {place} stands there twice")


def _require_images(places: Places) -> None:
    from spider.data import require_images

    for images in places.values() if isinstance(places, Mapping) else places:
        require_images(images)
