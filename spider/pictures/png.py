"""One image as a PNG, its pixels as they are."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from PIL import Image
from torch import Tensor

from shards.files import open_whole


def png_bytes(pixels: Tensor) -> bytes:
    """uint8 [C, H, W] to the bytes of a PNG."""
    plane = pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)  # [C, H, W] -> [H, W] or [H, W, 3]
    buffer = BytesIO()
    Image.fromarray(plane.contiguous().numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def write_picture(path: Path, content: bytes) -> None:
    """Write a picture, whole or not at all, also on a full disk."""
    with open_whole(path, sync=False) as file:
        file.write(content)
