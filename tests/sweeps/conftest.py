"""Small packed datasets, and caches of the tests' own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shards.pack import pack


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Nothing is read from or written to the user's caches."""
    root = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPIDER_CACHE", str(root / "spider"))
        patch.setenv("XDG_CACHE_HOME", str(root / "xdg"))
        yield root


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 of scikit-learn's digits, 8 x 8 grey."""
    out = tmp_path_factory.mktemp("sets") / "digits"
    pack("builtin:digits", out, subset=300, workers=1, progress=False)
    return out


@pytest.fixture(scope="session")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 patches of photographs, 16 x 16 colour."""
    out = tmp_path_factory.mktemp("sets") / "patches"
    pack("builtin:patches", out, resolution=16, subset=200, workers=1, progress=False)
    return out
