"""What `toy` is asked for. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import ClassVar

from spider.errors import SpiderUsageError
from spider.request import Request

PLAIN_AND_SLICED = ("plain", "with SAN: objective.slicing=true")


@dataclass(frozen=True)
class ToyRequest(Request):
    """GANs that learn points of a plane, side by side.

    Attributes:
        plane: a built-in set of points: gaussians8, gaussians25, unbalanced or swissroll.
        overrides: `key=value` of all variants, after those of the preset `toy`.
        out: the folder to make: toy.gif, toy.png, toy.json, report.html.
        variants: `NAME: KEY=VALUE KEY=VALUE`, or a NAME alone for what `overrides` say; at most 6.
        seeds: training seeds of each variant. The pictures are of the first one.
        kimg: length in thousand points; None: the preset's.
        frames: of the movie.
    """

    command: ClassVar[tuple[str, ...]] = ("toy",)
    alone: ClassVar[tuple[str, ...]] = ("plane", "overrides")
    repeated: ClassVar[tuple[str, ...]] = ("variants",)
    options: ClassVar = {"variants": "--variant"}

    plane: str = "gaussians8"
    overrides: Sequence[str] = ()
    _: KW_ONLY
    out: str | Path = "runs/toy"
    variants: Sequence[str] = PLAIN_AND_SLICED
    seeds: Sequence[int] | str = (0,)
    kimg: float | None = None
    frames: int = 40
    progress: bool = False

    @property
    def named(self) -> dict[str, list[str]]:
        """The variants: a name and its overrides. Raises SpiderUsageError: a name twice, none or too many."""
        found: dict[str, list[str]] = {}
        for each in self.variants:
            name, _, words = each.partition(":")
            if not name.strip() or "=" in name or not all("=" in word for word in words.split()):
                raise SpiderUsageError(f"--variant {each}: write NAME: KEY=VALUE KEY=VALUE")
            if name.strip() in found:
                raise SpiderUsageError(f"--variant {each}: the name {name.strip()} is given twice")
            found[name.strip()] = words.split()
        if not 1 <= len(found) <= 6:
            raise SpiderUsageError(f"--variant: 1 to 6 variants, found {len(found)}")
        return found
