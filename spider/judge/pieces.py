"""Pieces of work done by workers, under a bar, with one error for all that failed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from cluster.jobs.saves import note_progress
from cluster.workers import Done, Piece, Workers
from shards.progress import Bar
from spider.errors import SpiderError
from spider.judge.embed.cache import FeatureCache, FeatureKey

_SEEN_AFTER_S = 120.0  # what a worker has written, on storage that is shared

_FAILURES_SHOWN = 20


def do_pieces(
    workers: Workers,
    pieces: Iterable[Piece],
    title: str,
    unit: str,
    sizes: Mapping[Piece, int] | None = None,
    *,
    total: int | None = None,
    shown: bool = False,
) -> Iterator[Done]:
    """Have the pieces done; each that has a value comes back.

    Args:
        title, unit: what the bar counts.
        sizes: of the pieces, in units; by default each is one.
        total: of the units, where the pieces are not counted before.
        shown: whether there is a bar.

    Raises:
        SpiderError: after everything else is done, naming what failed.
    """
    if total is None:
        pieces = list(pieces)
        total = sum(sizes.values()) if sizes else len(pieces)
    if total == 0:
        return
    failed: list[Done] = []
    with Bar(total=total, desc=title, unit=unit, unit_scale=sizes is not None, shown=shown) as bar:
        for done in workers.run(pieces):
            if done.error is None:
                note_progress()
                yield done
            else:
                failed.append(done)
            bar.update(sizes[done.piece] if sizes else 1)
    if failed:
        raise SpiderError(_report(failed, title))


def require_seen(cache: FeatureCache, key: FeatureKey) -> None:
    """Refuse to go on where this process does not see what a worker has kept. Raises SpiderError."""
    if not cache.has(key, wait_s=_SEEN_AFTER_S):
        raise SpiderError(
            f"workers keep features where this process does not see them: {cache.root} must be on storage that all "
            "machines share; SPIDER_CACHE=DIR says where else"
        )


def _report(failed: Sequence[Done], title: str) -> str:
    """What is missing, a line for each."""
    lines = [f"{done.piece.name}: {done.error}" for done in failed[:_FAILURES_SHOWN]]
    more = [f"and {len(failed) - _FAILURES_SHOWN} more"] if len(failed) > _FAILURES_SHOWN else []
    head = f"{title}: {len(failed)} of the pieces of work failed three times each; all others are kept, and the same"
    return "\n  ".join([f"{head} command goes on from there. Missing:", *lines, *more])
