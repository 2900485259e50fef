"""Small image sets, and what they are packed to."""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray
from PIL import Image

from shards.pack import pack

MakeImages = Callable[..., Path]
MakeArchive = Callable[..., Path]

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def picture() -> Callable[..., NDArray[np.uint8]]:
    """Noise, uint8 [H, W, 3] or [H, W], another for every number."""

    def make(number: int, height: int = 6, width: int = 6, channels: int = 3) -> NDArray[np.uint8]:
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, channels), np.uint8)
        return pixels[..., 0] if channels == 1 else pixels

    return make


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    """Pixels or an image as the bytes of a file."""

    def encode(image: NDArray[np.uint8] | Image.Image, kind: str = "PNG", **options: object) -> bytes:
        buffer = BytesIO()
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture(scope="session")
def make_images(picture, encoded) -> MakeImages:
    """Fills a folder with noise: `count` images, spread over class folders if there are any."""

    def make(folder: Path, count: int, classes: tuple[str, ...] = (), **shape: int) -> Path:
        for number in range(count):
            place = folder / classes[number % len(classes)] if classes else folder
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number:04d}.png").write_bytes(encoded(picture(number, **shape)))
        return folder

    return make


@pytest.fixture(scope="session")
def files(make_images, tmp_path_factory) -> Path:
    """A folder of 150 images, 6x6 RGB, in classes a, b and c: more than two tasks of a packing worker."""
    return make_images(tmp_path_factory.mktemp("files") / "noise", 150, ("a", "b", "c"))


@pytest.fixture(scope="session")
def packed(files, tmp_path_factory) -> Path:
    """`files`, packed as PNG in eight shards. Not to be changed."""
    out = tmp_path_factory.mktemp("packed") / "noise"
    pack(files, out, shard_mb=0.06, encoding="png", workers=1, progress=False)
    return out


@pytest.fixture(scope="session")
def tree() -> Callable[[Path], dict[str, str]]:
    """The sha256 of every file in a folder."""

    def hash_files(folder: Path) -> dict[str, str]:
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

    return hash_files


@pytest.fixture
def tar_of(tmp_path) -> MakeArchive:
    """A tar of members: their names, or tarfile's notion of them, and their bytes."""

    def make(members: list[tuple[Any, bytes]], name: str = "set.tar") -> Path:
        with tarfile.open(tmp_path / name, "w") as tar:
            for member, data in members:
                info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, BytesIO(data))
        return tmp_path / name

    return make


@pytest.fixture
def zip_of(tmp_path) -> MakeArchive:
    """A zip of members: their names, or zipfile's notion of them, and their bytes."""

    def make(members: list[tuple[Any, bytes | str]], name: str = "set.zip") -> Path:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member, data in members:
                archive.writestr(member, data)
        return tmp_path / name

    return make
