"""Fixtures for the tests of every package."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cluster.ranks import Ranks


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """Processes that stand for the ranks of a run: `ranks(4).run(function, *args)`, see tests/cluster/ranks.py."""
    # By path, because pytest's importlib mode puts no folder of tests on sys.path.
    spec = importlib.util.spec_from_file_location("tests.cluster.ranks", Path(__file__).parent / "cluster" / "ranks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    with module.Ranks() as pool:
        yield pool
