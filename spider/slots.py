"""Which images of a global batch are whose."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Slots:
    """The slots of one rank: slot s belongs to rank s mod `world`, and there to micro-batch (s div world) mod A.

    Strided, not contiguous, so that the groups of a strided minibatch-std hold the same images at any world size.
    """

    batch: int
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.batch % self.world:
            raise ValueError(f"batch={self.batch} does not divide over {self.world} ranks")

    def __len__(self) -> int:
        return self.batch // self.world

    def at(self, position: int) -> range:
        """The stream positions of this rank's images in the batch that begins at `position`, in slot order."""
        return range(position + self.rank, position + self.batch, self.world)
