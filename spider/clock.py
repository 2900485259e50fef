"""When something is due: every so many thousand images, on a clock that moves by the batch."""

from __future__ import annotations


def crosses(images: int, batch: int, every_kimg: float | None) -> bool:
    """Whether the iteration that ended at `images` reached or passed a multiple of `every_kimg`; None is never."""
    return every_kimg is not None and _passed(images, every_kimg) > _passed(images - batch, every_kimg)


def times_due(since: int, total: int, batch: int, every_kimg: float | None) -> int:
    """How often what is due every `every_kimg`, and once more when the run ends, is due after `since` images.

    A run of `total` images ends with the iteration that reaches them; there it is due only once.
    """
    if every_kimg is None or since >= total:
        return 0
    end = -(-total // batch) * batch
    return _passed(end, every_kimg) - _passed(since, every_kimg) + (not crosses(end, batch, every_kimg))


def _passed(clock: int, every_kimg: float) -> int:
    return int(clock / (every_kimg * 1000) + 1e-9)  # 16.1 * 1000 is more than 16100
