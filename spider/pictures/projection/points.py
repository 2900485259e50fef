"""Points in files: NAME.npz, arrays without pickles, which NumPy and `spider generate --point` read.

w | ws | z | source   float32, as `spider.pictures.projection.spaces` says, one image's
noise                 float32 [numbers], of all layers one after the other, where a network adds any
number, label         whole numbers: of the sample whose other draws the image has; of its class, where it has one
way, way_tuned        float32: the distance before the first step and after each, of the search and of the tuning
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shards.files import open_whole
from spider.arguments import MAX_SEED
from spider.errors import SpiderError
from spider.gan.sources.frozen import FrozenGenerator
from spider.pictures.projection.spaces import Point, SpaceOfImages, all_spaces

_HEADER_BYTES, _ITEM_BYTES = 4096, 8  # of an array in a file, at most
_MOST = 10_000_000  # numbers of an array of any length


def write_point(path: Path, space: SpaceOfImages, point: Point, ways: Mapping[str, list[float]]) -> None:
    """Write a point, whole or not at all."""
    arrays = {name: np.asarray(way, np.float32) for name, way in ways.items()}
    with open_whole(path, sync=False) as file:
        np.savez(file, **space.arrays(point), **arrays)  # type: ignore[arg-type]


def read_way(path: Path, name: str) -> list[float]:
    """What `write_point` was given by that name. Raises SpiderError: the file is damaged."""
    with _opened(path) as archive:
        found: list[float] = _array(path, archive, name, (None,)).astype(np.float64).tolist()
        return found


def read_point(path: Path, generator: FrozenGenerator) -> tuple[SpaceOfImages, Point]:
    """A point in a space of the generator.

    Raises:
        SpiderError: it cannot be read, or is another generator's. The line says what is needed.
    """
    with _opened(path) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
        number = _whole(path, archive, "number", MAX_SEED) if "number" in names else 0
        classes = generator.conditions.shape.classes
        label = _whole(path, archive, "label", max(classes - 1, 0)) if "label" in names else None
        if (label is None) == (classes > 0):
            found, knows = ("no label", f"{classes}") if label is None else (f"label {label}", "no")
            raise SpiderError(f"{path}: has {found}; the generator knows {knows} classes")
        spaces = {space.key: space for space in all_spaces(generator, number, label)}
        key = next((key for key in spaces if key in names), None)
        if key is None:
            raise SpiderError(f"{path}: holds {', '.join(sorted(names)) or 'nothing'}; needed: {' or '.join(spaces)}")
        sample = spaces[key].sample()
        where = _array(path, archive, key, sample.where.shape[1:])
        noise = None
        if sample.noise is not None:
            noise = _array(path, archive, "noise", sample.noise.shape[1:])
    like = sample.where
    return spaces[key], Point(
        torch.from_numpy(where)[None].to(like), None if noise is None else torch.from_numpy(noise)[None].to(like)
    )


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except SpiderError:
        raise
    except OSError as error:
        raise SpiderError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # zipfile and NumPy fail on a damaged file with whatever their next step raises
        raise SpiderError(f"{path}: no .npz file, or a damaged one: {error}") from error


def _array(path: Path, archive: zipfile.ZipFile, name: str, shape: Sequence[int | None]) -> NDArray[np.float32]:
    """An array of finite floats of that shape; None is any length."""
    array = _member(path, archive, name, math.prod(_MOST if length is None else length for length in shape))
    if array.ndim != len(shape) or any(n not in (None, found) for n, found in zip(shape, array.shape, strict=True)):
        wanted = ["n" if length is None else length for length in shape]
        raise SpiderError(f"{path}: {name} has shape {list(array.shape)}; needed: {wanted}")
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise SpiderError(f"{path}: {name} must be of finite floats")
    return array.astype(np.float32)


def _whole(path: Path, archive: zipfile.ZipFile, name: str, at_most: int) -> int:
    array = _member(path, archive, name, 1)
    if array.shape != () or array.dtype.kind not in "iu" or not 0 <= int(array) <= at_most:
        raise SpiderError(f"{path}: {name} must be a whole number from 0 to {at_most}")
    return int(array)


def _member(path: Path, archive: zipfile.ZipFile, name: str, numbers: int) -> NDArray[Any]:
    """An array of about so many numbers at most: what a file says of its size is not believed."""
    try:
        with archive.open(f"{name}.npy") as member:
            data = member.read(numbers * _ITEM_BYTES + _HEADER_BYTES)
    except KeyError:
        raise SpiderError(f"{path}: holds no {name}") from None
    array: NDArray[Any] = np.load(BytesIO(data), allow_pickle=False)
    return array
