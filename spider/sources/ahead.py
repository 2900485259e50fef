"""Drawing one batch ahead, because drawing takes time on a processor that the training could use for its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count

from torch import Tensor

from shards.order import Slots


def drawn_ahead(
    draw: Callable[[Sequence[int]], Tensor], slots: Slots, position: int, *, pin: bool = False
) -> Iterator[Tensor]:
    """This rank's slots of the batch at `position`, then of the next, without end; a thread draws while one is used.

    Args:
        draw: a pure function of the stream positions.
        pin: hand over in page-locked memory, for copies to an accelerator that do not wait.
    """

    def load(start: int) -> Tensor:
        drawn = draw(slots.at(start))
        return drawn.pin_memory() if pin else drawn

    thread = ThreadPoolExecutor(1, "source")
    try:
        ahead = thread.submit(load, position)
        for start in count(position + slots.batch, slots.batch):
            ready, ahead = ahead, thread.submit(load, start)
            yield ready.result()
    finally:
        thread.shutdown(wait=False, cancel_futures=True)
