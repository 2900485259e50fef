"""When something is due: every so many thousand images, on a clock that moves by the batch."""

from __future__ import annotations


def crosses(images: int, batch: int, every_kimg: float | None) -> bool:
    """Whether the iteration that ended at `images` reached or passed a multiple of `every_kimg`; None is never."""
    if every_kimg is None:
        return False
    every = every_kimg * 1000
    return int(images / every) > int((images - batch) / every)
