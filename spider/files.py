"""What is written and kept: text, numbers that JSON has, and a private folder for every cache."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shards.files import cache_root, open_whole, write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_text(path: Path, text: str) -> None:
    """`write_whole` of UTF-8."""
    write_whole(path, text.encode())


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the file's suffix, whole or not at all."""
    with open_whole(path) as file:
        figure.savefig(file, format=path.suffix.removeprefix(".") or "png")


def finite(value: Any) -> Any:
    """The same plain data, with None for what JSON has no number for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def cache_directory(name: str) -> Path:
    """`name` in `cache_root()`, private to the user; made if need be."""
    path = cache_root() / name
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path
