"""Small packed datasets, made once per session."""

from __future__ import annotations

from pathlib import Path

import pytest

from shards.pack import pack


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 of scikit-learn's digits, 8 x 8 grey, in shards small enough that there are several."""
    out = tmp_path_factory.mktemp("packed") / "digits"
    pack("builtin:digits", out, subset=300, shard_mb=0.1, workers=1, progress=False)
    return out


@pytest.fixture(scope="session")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 patches of photographs, 16 x 16 colour."""
    out = tmp_path_factory.mktemp("packed") / "patches"
    pack("builtin:patches", out, resolution=16, subset=200, workers=1, progress=False)
    return out
