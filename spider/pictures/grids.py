"""Images side by side, to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate, pad

from shards.files import open_whole
from spider.gan.pixels import match_channels, resize

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

COLUMNS = 8  # images in a row
_LEAST_SIDE = 64  # px; smaller images are shown enlarged, every pixel a square
_LEAST_TEXT = 10  # px; the height of captions under the smallest images
_NOTE_TEXT = 12  # px; the height of a note below a grid of the smallest images


def sample_grid(
    images: Tensor,
    sources: Tensor | None = None,
    columns: int = COLUMNS,
    captions: Sequence[str] | None = None,
    rows: Sequence[str] | None = None,
    heads: Sequence[str] | None = None,
    note: str = "",
    least_side: int = _LEAST_SIDE,
) -> npt.NDArray[np.uint8]:
    """A grid of images, each with the source image that made it on its left if there are sources.

    Where there are sources and captions, the note begins with which is which.

    Args:
        images, sources: float [N, C, H, W], -1 to 1 and clamped there. Sources are shown as large as the images.
        columns: images (or pairs) per row.
        captions: what stands below each image; None: nothing, and no room for it.
        rows: what stands on the left of each row.
        heads: what stands above each column.
        note: what stands below all of it, in as many lines as it takes.
        least_side: px; narrower images are shown enlarged by a whole factor, every pixel a square.

    Returns:
        uint8 [height, width, 3].
    """
    scale = max(1, -(-least_side // images.shape[-1]))
    shown = _enlarge(images, scale)
    if sources is not None:
        gap = torch.ones(len(shown), 3, shown.shape[2], scale)
        shown = torch.cat([_of_size(_enlarge(sources, 1), shown), gap, shown], dim=3)
    if captions is not None:
        strips = torch.stack([_strip(text, shown.shape[3], shown.shape[3]) for text in captions])
        shown = torch.cat([shown, strips], dim=2)
    padding, width = 2 * scale, shown.shape[3]
    grid = _in_rows((shown + 1) / 2, columns, padding)
    left = None if rows is None else _names_of_rows(rows, grid.shape[1], padding, width)
    if heads is not None:
        head = torch.cat([_strip(text, width + padding, width) for text in heads], dim=2)
        grid = torch.cat([pad((head + 1) / 2, (0, padding), value=1.0), grid], dim=1)
    if left is not None:
        grid = torch.cat([pad(left, (0, 0, grid.shape[1] - left.shape[1], 0), value=1.0), grid], dim=2)
    if sources is not None and captions is not None:
        note = f"Left: source, right: output. {note}"
    if note:
        grid = torch.cat([grid, _note(note, grid.shape[2], width)], dim=1)
    pixels: npt.NDArray[np.uint8] = (
        (grid * 255 + 0.5).clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    )
    return pixels


def write_png(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    """Write [height, width, 3] as a PNG, replacing what is there at once."""
    with open_whole(path, sync=False) as file:
        Image.fromarray(pixels).save(file, format="PNG")


def _in_rows(images: Tensor, columns: int, padding: int) -> Tensor:
    """On white, [N, C, H, W] as [C, height, width], one alone without a border: torchvision's make_grid.

    Not imported from there, because torchvision loads the compiler: twice what all else of a training takes to import.
    """
    if len(images) == 1:
        return images[0]
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    tiles = pad(images, (padding, 0, padding, 0), value=1.0)
    tiles = torch.cat([tiles, tiles.new_ones(rows * columns - len(tiles), *tiles.shape[1:])])
    grid = tiles.reshape(rows, columns, *tiles.shape[1:]).permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
    return pad(grid, (0, padding, 0, padding), value=1.0)


def _strip(text: str, width: int, image_width: int) -> Tensor:
    """A line of text in the middle of a white strip, cut where it does not fit: float [3, height, width], -1 to 1."""
    size = max(_LEAST_TEXT, image_width // 12)
    strip = Image.new("L", (width, round(1.4 * size)), 255)
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(size)
    draw.text((width / 2, 0.7 * size), _cut(text, draw, font, width), fill=60, font=font, anchor="mm")
    return (torch.from_numpy(np.array(strip)) / 127.5 - 1).expand(3, -1, -1)


def _names_of_rows(rows: Sequence[str], height: int, padding: int, image_width: int) -> Tensor:
    """A white strip with a name in the middle of each row's height: float [3, height, width], 0 to 1."""
    size = max(_LEAST_TEXT, image_width // 10)
    font = ImageFont.load_default(size)
    measure = ImageDraw.Draw(Image.new("L", (1, 1)))
    texts = [_cut(text, measure, font, 3 * image_width) for text in rows]
    width = int(max(measure.textlength(text, font=font) for text in texts)) + 2 * padding
    strip = Image.new("L", (width, height), 255)
    draw, pitch = ImageDraw.Draw(strip), (height - padding) / len(rows)
    for number, text in enumerate(texts):
        middle = padding + (number + 0.5) * pitch - padding / 2
        draw.text((width - padding, middle), text, fill=0, font=font, anchor="rm")
    return (torch.from_numpy(np.array(strip)) / 255).expand(3, -1, -1)


def _note(text: str, width: int, image_width: int) -> Tensor:
    """Lines of text below a grid, from its left side on: float [3, height, width], 0 to 1."""
    size = max(_NOTE_TEXT, min(image_width // 12, width // 40))
    font = ImageFont.load_default(size)
    measure = ImageDraw.Draw(Image.new("L", (1, 1)))
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and measure.textlength(longer, font=font) <= width - size:
            lines[-1] = longer
        else:
            lines.append(word)
    pitch = round(1.5 * size)
    strip = Image.new("L", (width, pitch * len(lines) + size // 2), 255)
    for number, line in enumerate(lines):
        shown = _cut(line, measure, font, width - size)
        ImageDraw.Draw(strip).text((size / 2, (number + 0.5) * pitch), shown, fill=0, font=font, anchor="lm")
    return (torch.from_numpy(np.array(strip)) / 255).expand(3, -1, -1)


def _cut(text: str, draw: ImageDraw.ImageDraw, font: Font, width: float) -> str:
    """As much of a text as fits."""
    while text and draw.textlength(text, font=font) > width:
        text = f"{text[:-2]}…" if len(text) > 2 else ""
    return text


def _enlarge(images: Tensor, scale: int) -> Tensor:
    colour = match_channels(images.detach().to("cpu", torch.float32).clamp(-1, 1), 3)
    return colour.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)


def _of_size(images: Tensor, like: Tensor) -> Tensor:
    """Resized: smaller images by whole pixels, larger ones smoothly."""
    height, width = like.shape[2:]
    if images.shape[2] <= height and images.shape[3] <= width:
        return interpolate(images, (height, width), mode="nearest-exact")
    return resize(images, height, width)
