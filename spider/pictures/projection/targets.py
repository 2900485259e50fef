"""Given images, made as `spider pack` makes them: the largest centred square, at the generator's size and channels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from shards.images import SUFFIXES, BadImage, Pixels, Target, normalise
from shards.sources import open_source
from spider.errors import SpiderError, SpiderUsageError


@dataclass(frozen=True)
class TargetImage:
    """An image to be found, uint8 [C, H, W], under the name that its results have."""

    name: str
    pixels: Pixels


def read_targets(places: Sequence[str | Path], image_shape: tuple[int, int, int]) -> list[TargetImage]:
    """The images of all places, in their order.

    Args:
        places: image files, or whatever `spider pack` takes, of which all images are meant.
        image_shape: (C, H, W) that they get.

    Raises:
        SpiderUsageError: there is no such place, it holds no image, or two images have one name.
        SpiderError: an image cannot be read.
    """
    channels, height, width = image_shape
    shape = Target(cast(Literal[1, 3], channels), height, width, "center", resize=True)
    found: list[TargetImage] = []
    for place in places:
        before = len(found)
        for where, name, data in _read(place):
            try:
                found.append(TargetImage(name, normalise(data, shape)[0]))
            except BadImage as error:
                raise SpiderError(f"{where}: {error}") from None
        if len(found) == before:
            raise SpiderUsageError(f"{place}: holds no image")
    for name, count in Counter(target.name for target in found).items():
        if count > 1:
            raise SpiderUsageError(f"{count} images are called {name}; their results would be too")
    return found


def _read(place: str | Path) -> Iterator[tuple[str, str, bytes | Pixels]]:
    """Of each image: what errors call it, the name of its results, and its file or pixels."""
    path = Path(place)
    if path.suffix.lower() in SUFFIXES and not path.is_dir():
        try:
            data = path.read_bytes()
        except OSError as error:
            raise SpiderError(f"{place}: {error.strerror}") from None
        yield str(place), path.stem, data
        return
    source = open_source(place, labels="none")
    for bad in source.listing.bad:
        raise SpiderError(f"{place}: {bad.name}: {bad.reason}")
    for number, item in enumerate(source.listing.items):
        try:
            yield f"{place}: {item.name}", item.key.replace("/", "-"), source.read(number)
        except BadImage as error:
            raise SpiderError(f"{place}: {item.name}: {error}") from None
