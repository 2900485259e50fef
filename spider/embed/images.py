"""What features are extracted from: images that have numbers.

A packed dataset is one (`shards.dataset.ShardDataset`); so is a generator's sampler, whose image i is always the
same image. Metrics, neighbour search and the feature cache know nothing else about where images come from.
"""

from typing import Protocol

from torch import Tensor


class NumberedImages(Protocol):
    """Images 0 .. len - 1, all of one shape, of which any consecutive run can be had again and is the same again."""

    @property
    def name(self) -> str:
        """What tables call it."""

    @property
    def fingerprint(self) -> str:
        """Identifies the images and their order: equal fingerprints, equal images."""

    def __len__(self) -> int: ...

    def batch(self, start: int, stop: int) -> Tensor:
        """Images start .. stop - 1 as uint8 [stop - start, C, H, W], C 1 or 3."""
