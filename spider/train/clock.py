"""When something is due: every so many thousand images, on a clock that moves by the batch."""

from __future__ import annotations


def crosses(images: int, batch: int, every_kimg: float | None) -> bool:
    """Whether the iteration that ended at `images` reached or passed a multiple of `every_kimg`; None is never."""
    if every_kimg is None:
        return False

    def passed(clock: int) -> int:
        return int(clock / (every_kimg * 1000) + 1e-9)  # 16.1 * 1000 is more than 16100

    return passed(images) > passed(images - batch)
