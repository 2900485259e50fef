"""What a sweep is asked for. Needs no torch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import ClassVar

from spider.request import Request


@dataclass(frozen=True)
class SweepRequest(Request):
    """Many trainings that differ in a few keys.

    Attributes:
        file: SWEEP.yaml, see `sweeps.config`.
        out: the sweep's folder, on storage that every machine of the cluster sees.
        ray: `local`, or the address of a cluster (see `cluster.ray.connected`); None: `local`.
        progress: show a bar.
    """

    command: ClassVar[tuple[str, ...]] = ("sweep",)
    alone: ClassVar[tuple[str, ...]] = ("file",)
    places: ClassVar = {"file": "file"}

    file: str | Path
    out: str | Path
    _: KW_ONLY
    ray: str | None = None
    progress: bool = False

    def require_valid(self, ranks: int = 1, trained: Collection[Path] = ()) -> None:
        """Refuse a mistake in the file."""
        from sweeps.config import read_sweep

        read_sweep(self.file)

    def packages(self, trained: Collection[Path] = ()) -> tuple[str, ...]:
        """See the base class."""
        from sweeps.config import read_sweep
        from sweeps.plan import packages

        return packages(read_sweep(self.file))
