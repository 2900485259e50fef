"""Making one batch ahead, because decoding, resizing and drawing take time that the training's step can hide."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from shards.parallel import start_thread


def ahead(batches: Iterator[Tensor]) -> Iterator[Tensor]:
    """The same endless batches, each made by a thread while the one before is used."""
    thread = start_thread("source")
    try:
        coming = thread.submit(next, batches)
        while True:
            ready, coming = coming, thread.submit(next, batches)
            yield ready.result()
    finally:
        thread.shutdown(wait=False, cancel_futures=True)
