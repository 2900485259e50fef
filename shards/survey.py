"""What every image of a set becomes, decided once for the whole set from the options and all headers.

    channels    as asked; else colour if any image has colour, so that nothing is lost
    depth       of images stored with 16 bits: the least of 8, 10, 12, 14 and 16 bits that holds their largest value
    size        as asked; else the size that all of them have

The decision is a function of the input and the options. It stands in words in index.json and is said when packing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shards.choices import Encoding
from shards.encodings import settle
from shards.errors import ShardsUsageError
from shards.images import RULES, Header, Target
from shards.index import PackOptions
from untrusted.counts import counted

_STORED: dict[Encoding, str] = {
    "raw": "stored raw",
    "png": "stored as PNG",
    "keep": "stored as the files themselves where nothing changes, else as PNG",
}
_DEPTHS = (8, 10, 12, 14, 16)  # of sensors; a peak of 15 bits is a dark picture of 16 rather


@dataclass(frozen=True)
class Decision:
    """What every image becomes, and why."""

    target: Target
    rules: dict[str, str]  # for index.json
    line: str  # for the person who packs: what was decided, with the counts behind it


def decide(options: PackOptions, names: Sequence[str], headers: Sequence[Header], packed: Sequence[Header]) -> Decision:
    """The decision for a set whose readable images have these names and headers, at least one.

    Args:
        packed: those of the images that are packed, which the line counts.

    Raises:
        ShardsUsageError: the images differ in size, and no resolution was asked for.
    """
    channels = options.channels or (3 if not all(header.grey for header in headers) else 1)
    peak = max((header.peak for header in headers if header.peak is not None), default=None)
    depth = 16 if peak is None else next(depth for depth in _DEPTHS if peak < 1 << depth)
    width, height = (options.resolution,) * 2 if options.resolution is not None else _common_size(names, headers)
    resize = options.resolution is not None
    target = Target(channels, height, width, options.crop, resize, depth, options.max_megapixels)
    rules = RULES | {
        "channels": _channels(target, options, headers),
        "16bit": _depth(depth, peak, headers),
        "crop": options.crop if resize else "none",
    }
    stored = _STORED[settle(options.encoding, (channels, height, width))]
    of = "" if len(packed) == len(headers) else f" of {len(headers):,}"
    become = "becomes" if len(packed) == 1 else "become"
    said = [
        _channels(target, options, packed),
        f"8 bits ({_depth(depth, peak, packed)})",
        *_alpha(packed),
        *_frames(packed),
        _size(target, packed),
        stored,
    ]
    return Decision(target, rules, f"{counted(len(packed), 'image')}{of} {become} " + "; ".join(said))


def _channels(target: Target, options: PackOptions, headers: Sequence[Header]) -> str:
    grey = sum(header.grey for header in headers)
    asked = "as asked: " if options.channels else ""
    return f"{'grey' if target.channels == 1 else 'RGB'} ({asked}{len(headers) - grey:,} in colour, {grey:,} grey)"


def _depth(depth: int, peak: int | None, headers: Sequence[Header]) -> str:
    """`peak`: of the whole set, as the depth is."""
    count = sum(header.peak is not None for header in headers)
    return f"{count:,} of 16 with values up to {peak}: v >> {depth - 8}" if count else "none has 16"


def _alpha(headers: Sequence[Header]) -> list[str]:
    count = sum(header.alpha for header in headers)
    return [f"alpha over white ({count:,})"] if count else []


def _frames(headers: Sequence[Header]) -> list[str]:
    count = sum(header.frames > 1 for header in headers)
    return [f"the first frame of files that have several ({count:,})"] if count else []


def _common_size(names: Sequence[str], headers: Sequence[Header]) -> tuple[int, int]:
    """Width and height of all images."""
    for name, header in zip(names, headers, strict=True):
        if (header.width, header.height) != (headers[0].width, headers[0].height):
            found = f"{names[0]} {_pixels(headers[0])}, {name} {_pixels(header)}"
            raise ShardsUsageError(f"the images differ in size ({found}): say --resolution")
    return headers[0].width, headers[0].height


def _size(target: Target, headers: Sequence[Header]) -> str:
    size = f"{target.width}x{target.height}"
    other = [header for header in headers if (header.width, header.height) != (target.width, target.height)]
    if not other:
        return f"{size} (all have it)"
    smallest, largest = (choose(other, key=lambda header: header.width * header.height) for choose in (min, max))
    alike = _pixels(smallest) == _pixels(largest)
    sizes = _pixels(smallest) if alike else f"sizes between {_pixels(smallest)} and {_pixels(largest)}"
    return f"{size} ({counted(len(other), 'image')} resized from {sizes}, crop {target.crop})"


def _pixels(header: Header) -> str:
    return f"{header.width}x{header.height}"
