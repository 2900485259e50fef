"""A picture of a packed dataset: a row for every class, or a grid when there are no labels. Or of several sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from shards.dataset import ShardDataset
from shards.fonts import Font, fitting
from untrusted.counts import counted

_MAX_ROWS = 12
_COLUMNS = 16
_TILE_PX = 64  # at least: small images are enlarged by a whole factor, so that their pixels stay square
_MAX_TILE_PX = 128
_GAP_PX = 4
_MARGIN_PX = 24
_TITLE_PX, _TEXT_PX = 22, 15
_MAX_CAPTION_PX = 160
_BACKGROUND, _INK, _SOFT_INK = (250, 250, 248), (30, 30, 30), (110, 110, 110)


def contact_sheet(dataset: ShardDataset) -> Image.Image:
    """The sheet: up to 12 rows of 16 images, spread evenly over the dataset, with what it is in words."""
    index = dataset.index
    shown = _shown_classes(dataset)
    if index.classes:
        rows = _rows_by_class(dataset, shown)
        labelling = counted(len(index.classes), "class", "classes") + (
            f" ({len(shown)} shown)" if len(shown) < len(index.classes) else ""
        )
    else:
        rows = _rows_of_grid(len(dataset))
        labelling = "no labels"
    colour = "grey" if index.channels == 1 else "RGB"
    details = f"{counted(index.count, 'image')}, {index.width}x{index.height} {colour}, {labelling}"
    details += f"    fingerprint {index.fingerprint[:12]}"
    return _draw(dataset, rows, [index.classes[label] for label in shown], index.source.name, details)


@dataclass(frozen=True)
class Strip:
    """Some images of a set, to be seen beside those of others.

    Attributes:
        title: what they are.
        images: uint8 [C, H, W], C 1 or 3, all of one shape.
    """

    title: str
    images: Sequence[NDArray[np.uint8]]


def strips_sheet(title: str, strips: Sequence[Strip]) -> Image.Image:
    """A row of images for every strip, under its title."""
    sizes = [_tile_size(strip.images[0].shape[2], strip.images[0].shape[1]) for strip in strips]
    titles = [fitting(strip.title, _TEXT_PX) for strip in strips]
    title, title_font = fitting(title, _TITLE_PX)
    top = _MARGIN_PX + _TITLE_PX + 16
    rows = [len(strip.images) * (tile_width + _GAP_PX) for strip, (tile_width, _) in zip(strips, sizes, strict=True)]
    texts = [_length(title, title_font), *(_length(text, font) for text, font in titles)]
    height = sum(_TEXT_PX + 10 + tile_height + 14 for _, tile_height in sizes)
    sheet = Image.new("RGB", (max([*rows, *texts]) + 2 * _MARGIN_PX, top + height + _MARGIN_PX - 14), _BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN_PX, _MARGIN_PX - 4), title, _INK, title_font)
    for strip, (text, font), (tile_width, tile_height) in zip(strips, titles, sizes, strict=True):
        pen.text((_MARGIN_PX, top), text, _INK, font)
        top += _TEXT_PX + 10
        for column, pixels in enumerate(strip.images):
            tile = _tile(pixels, tile_width, tile_height)
            sheet.paste(tile, (_MARGIN_PX + column * (tile_width + _GAP_PX), top))
        top += tile_height + 14
    return sheet


def spread(count: int, wanted: int) -> NDArray[np.int64]:
    """Up to `wanted` numbers spread evenly over range(count)."""
    wanted = min(count, wanted)
    return np.arange(wanted) * count // max(wanted, 1)


def _shown_classes(dataset: ShardDataset) -> NDArray[np.int64]:
    present = np.unique(dataset.labels())
    present = present[present >= 0]
    return present[spread(len(present), _MAX_ROWS)]


def _rows_by_class(dataset: ShardDataset, shown: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    labels = dataset.labels()
    members = [np.flatnonzero(labels == label) for label in shown]
    return [numbers[spread(len(numbers), _COLUMNS)] for numbers in members]


def _rows_of_grid(count: int) -> list[NDArray[np.int64]]:
    numbers = spread(count, _COLUMNS * _MAX_ROWS * 2 // 3)
    return [numbers[start : start + _COLUMNS] for start in range(0, len(numbers), _COLUMNS)]


def _draw(
    dataset: ShardDataset, rows: list[NDArray[np.int64]], captions: list[str], title: str, details: str
) -> Image.Image:
    font = ImageFont.load_default(_TEXT_PX)
    title, title_font = fitting(title, _TITLE_PX)
    labels = [_shorten(*fitting(caption, _TEXT_PX)) for caption in captions]
    tile_width, tile_height = _tile_size(dataset.index.width, dataset.index.height)
    left = _MARGIN_PX + max((_length(text, text_font) + 12 for text, text_font in labels), default=0)
    top = _MARGIN_PX + _TITLE_PX + _TEXT_PX + 22
    columns = max(len(row) for row in rows)
    width = max(left + columns * (tile_width + _GAP_PX), _MARGIN_PX + _length(details, font)) + _MARGIN_PX
    sheet = Image.new("RGB", (width, top + len(rows) * (tile_height + _GAP_PX) + _MARGIN_PX), _BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN_PX, _MARGIN_PX - 4), title, _INK, title_font)
    pen.text((_MARGIN_PX, _MARGIN_PX + _TITLE_PX + 4), details, _SOFT_INK, font)
    for number, row in enumerate(rows):
        y = top + number * (tile_height + _GAP_PX)
        if labels:
            text, text_font = labels[number]
            pen.text((left - 12, y + tile_height / 2), text, _INK, text_font, anchor="rm")
        for column, image in enumerate(row):
            tile = _tile(dataset.read(int(image))[0], tile_width, tile_height)
            sheet.paste(tile, (left + column * (tile_width + _GAP_PX), y))
    return sheet


def _tile_size(width: int, height: int) -> tuple[int, int]:
    longest = max(width, height)
    if longest > _MAX_TILE_PX:
        return max(1, width * _MAX_TILE_PX // longest), max(1, height * _MAX_TILE_PX // longest)
    factor = -(-_TILE_PX // longest)
    return width * factor, height * factor


def _tile(pixels: NDArray[np.uint8], width: int, height: int) -> Image.Image:
    plane = (
        pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    )  # [C, H, W] -> [H, W(, 3)]
    enlarged = width >= plane.shape[1]
    return Image.fromarray(plane).resize(
        (width, height), Image.Resampling.NEAREST if enlarged else Image.Resampling.BOX
    )


def _shorten(text: str, font: Font) -> tuple[str, Font]:
    while len(text) > 4 and _length(text, font) > _MAX_CAPTION_PX:
        text = text[:-4] + "..."
    return text, font


def _length(text: str, font: Font) -> int:
    return round(font.getbbox(text)[2])
