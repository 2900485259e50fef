"""Neighbour searches: caches of the tests' own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_caches(caches: Path) -> None:
    """Every test here has them."""
