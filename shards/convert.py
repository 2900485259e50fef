"""What the workers of `pack` do with some items of a source: read headers, make samples, take digests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from shards.choices import Encoding
from shards.images import BadImage, Header, Target, blank, normalise, read_header
from shards.listing import BadFile
from shards.samples import Sample, build_sample
from shards.source import Source


def read_headers(shared: tuple[Source, float], numbers: Iterable[int]) -> list[Header | str]:
    """For every item: its header, or what is wrong with it."""
    source, max_megapixels = shared
    headers: list[Header | str] = []
    for number in numbers:
        try:
            headers.append(read_header(source.read(number), max_megapixels))
        except BadImage as error:
            headers.append(str(error))
    return headers


def convert(shared: tuple[Source, Target, Encoding], numbers: Iterable[int]) -> list[tuple[str, Sample | BadFile]]:
    """For every item: the sha256 of what was read, and its sample or what is wrong with it."""
    source, target, encoding = shared
    results: list[tuple[str, Sample | BadFile]] = []
    for number in numbers:
        item = source.listing.items[number]
        content = _content(b"")
        try:
            data = source.read(number)
            content = _content(data)
            pixels, before = normalise(data, target)
        except BadImage as error:
            results.append((content, BadFile(item.name, str(error))))
            continue
        about: dict[str, object] = {"name": item.name, "width": before.width, "height": before.height}
        if item.label >= 0:
            about["class"] = source.listing.classes[item.label]
        original = data if isinstance(data, bytes) else None
        sample = build_sample(item.key, item.label, pixels, encoding, about, original)
        colour = blank(pixels)
        results.append((content, replace(sample, blank=f"{item.name} ({colour})") if colour else sample))
    return results


def _content(data: bytes | np.ndarray[Any, np.dtype[np.uint8]]) -> str:
    return hashlib.sha256(data if isinstance(data, bytes) else repr(data.shape).encode() + data.tobytes()).hexdigest()


def read_contents(source: Source, numbers: Iterable[int]) -> list[str]:
    """For every item: the sha256 of what was read."""
    contents = []
    for number in numbers:
        try:
            contents.append(_content(source.read(number)))
        except BadImage:
            contents.append(_content(b""))
    return contents
