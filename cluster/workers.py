"""Work in pieces that may be done in any order by anybody: what a piece is, and doing them all in this process.

A worker is an object that is made once where it works, and keeps there what is expensive: a network on its device, open
files. A piece is a call of one of its methods. `cluster.ray` has the same for many processes and machines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, eq=False)
class Piece:
    """A call of a worker's method. It may be done twice, so that it must not matter if it is.

    Attributes:
        name: what messages call it.
        method: which method.
        arguments: for it; small, since they travel.
    """

    name: str
    method: str
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Done:
    """What came of a piece.

    Attributes:
        piece: the piece.
        value: what the method returned.
        error: in one line, why it has no value; None if it has one.
    """

    piece: Piece
    value: Any = None
    error: str | None = None


class Workers(Protocol):
    """Who does pieces."""

    @property
    def count(self) -> int:
        """How many pieces are done at a time."""

    def run(self, pieces: Iterable[Piece]) -> Iterator[Done]:
        """Do all of them, in any order; each comes back once."""


class OneWorker:
    """Does pieces here, one after the other. What a piece raises is raised."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._worker = make()

    @property
    def count(self) -> int:
        return 1

    def run(self, pieces: Iterable[Piece]) -> Iterator[Done]:
        """Do all of them, in their order."""
        for piece in pieces:
            yield Done(piece, getattr(self._worker, piece.method)(*piece.arguments))


@contextmanager
def hired(make: Callable[[], Any], ray: str | None, count: int | None = None) -> Iterator[Workers]:
    """Workers that `make` makes, for the time of the block.

    Args:
        ray: None: this process alone; else an address as `cluster.ray.connected` takes it.
        count: how many on Ray; None: one for each GPU, or each core.

    Raises:
        ClusterError: no Ray cluster there.
    """
    if ray is None:
        yield OneWorker(make)
        return
    from cluster.ray import RayWorkers, connected

    with connected(ray) as cluster, RayWorkers(make, cluster, count=count) as workers:
        yield workers
