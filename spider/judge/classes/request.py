"""What `spider classes` is asked for. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from spider.arguments import require_cluster
from spider.errors import SpiderUsageError
from spider.request import Request


@dataclass(frozen=True)
class ClassesRequest(Request):
    """Vectors of the classes of a dataset, and a classifier.

    Attributes:
        data: the images that a training reads, with labels, as `spider.data.open_images` takes them.
        out: the file to write, FILE.safetensors.
        ray: None: this process alone. `local`, `auto` or an address: workers on a Ray cluster, see `cluster.ray`.
        workers: how many of them; None: one for each GPU, or each core.
        cache: folder in which features are kept, on storage that all workers share; None: where all commands keep them.
        progress: show bars.
    """

    command: ClassVar[tuple[str, ...]] = ("classes",)
    alone: ClassVar[tuple[str, ...]] = ("data",)

    data: str | Path
    out: str | Path
    ray: str | None = None
    workers: int | None = None
    cache: Path | str | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        """Raises SpiderUsageError: a field, the value found and what would be valid."""
        super().__post_init__()
        require_cluster(self.workers, self.ray)
        if not str(self.out).endswith(".safetensors"):
            raise SpiderUsageError(f"out: the file ends in .safetensors, found {str(self.out)!r}")

    def require_inputs(self) -> None:
        """Refuse images and weights that are not there. Raises SpiderUsageError, SpiderError, ShardsUsageError."""
        from spider import weights
        from spider.data import require_images

        require_images(self.data)
        weights.of_embedding("efficientnet", None)
