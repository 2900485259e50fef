"""What `spider classes` is asked for. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from spider.judge.request import FileOfImagesRequest


@dataclass(frozen=True)
class ClassesRequest(FileOfImagesRequest):
    """Vectors of the classes of a dataset, whose images have labels, and a classifier."""

    command: ClassVar[tuple[str, ...]] = ("classes",)

    def require_inputs(self) -> None:
        """Refuse images and weights that are not there. Raises SpiderUsageError, SpiderError, ShardsUsageError."""
        from spider import weights
        from spider.data import require_images

        require_images(self.data)
        weights.of_embedding("efficientnet", None)
