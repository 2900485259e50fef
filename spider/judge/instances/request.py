"""What `spider instances` is asked for. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

from spider.arguments import Kind, flag, known, place, whole
from spider.errors import SpiderUsageError
from spider.judge.request import FileOfImagesRequest
from spider.measures import RESIZE_RULES

MAX_NEIGHBORS = 10_000
MAX_CENTRES = 100_000


def _count_or_file(name: str, value: Any) -> int | str | Path:
    """How many, or a file, whose name ends in .npy."""
    if isinstance(value, str | PathLike) and str(value).endswith(".npy"):
        return place(name, value)
    return int(
        whole(1, MAX_CENTRES)(
            name, int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 20 else value
        )
    )


@dataclass(frozen=True)
class InstancesRequest(FileOfImagesRequest):
    """A bank of instances of a dataset. Beside these there are the attributes of the base classes.

    Attributes:
        embedding: see docs/embeddings.md; `efficientnet` and `offline` need no download; published are `swav`, and with
            classes `resnet50`.
        protocol: the resize rule of an embedding that has several.
        weights: a weights file for the embedding.
        neighbors: how many nearest images of each; published: 50, and 5 for fewer than some 100,000 images.
        flips: features of the images flipped left to right as well.
        centres: how many images stand for all, by k-means; all of them where there are fewer. Or a file of IC-GAN's
            authors that says which (`spider.judge.instances.published`).
        centre_list: a .txt file for the keys of those images, a line each, as `pack` takes a list.
        pixels: the same images packed at another size, of which the features are to be; None: of `data`.
        seed: of k-means.
    """

    command: ClassVar[tuple[str, ...]] = ("instances",)
    options: ClassVar[Mapping[str, str]] = {"flips": "--flips"}
    kinds: ClassVar[Mapping[str, Kind]] = {
        "protocol": known("protocol", tuple(chain(*RESIZE_RULES.values()))),
        "neighbors": whole(1, MAX_NEIGHBORS),
        "centres": _count_or_file,
        "centre_list": place,
        "flips": flag,
        "pixels": place,
    }
    places: ClassVar = {"data": "images", "pixels": "images", "weights": "file", "centres": "file"}
    written: ClassVar = ("out", "centre_list")

    embedding: str = "efficientnet"
    protocol: str | None = None
    weights: Path | str | None = None
    neighbors: int = 50
    flips: bool = False
    centres: int | str | Path = 1000
    centre_list: str | Path | None = None
    pixels: str | Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises SpiderUsageError: a field, the value found and what would be valid."""
        super().__post_init__()
        if self.centre_list is not None and not str(self.centre_list).endswith(".txt"):
            raise SpiderUsageError(f"centre_list: the file ends in .txt, found {str(self.centre_list)!r}")

    def require_inputs(self) -> None:
        """Refuse images and weights that are not there. Raises SpiderUsageError, SpiderError, ShardsUsageError."""
        from spider import weights
        from spider.data import require_images

        for images in (self.data, self.pixels):
            if images is not None:
                require_images(images)
        weights.of_embedding(self.embedding, self.weights)
