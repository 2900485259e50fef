"""What differs on a GPU. `make test-gpu` runs these; `make test` does not.

`SPIDER_TEST_DEVICE=cpu make test-gpu` tries them without a GPU: what is left then is whether they run.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from cluster.world import World
from shards.pack import pack


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU. Without one the tests fail: nobody asks for them by chance."""
    chosen = torch.device(os.environ.get("SPIDER_TEST_DEVICE", "cuda"))
    if chosen.type == "cuda" and not torch.cuda.is_available():
        pytest.fail("torch sees no GPU; SPIDER_TEST_DEVICE=cpu tries these tests on the CPU", pytrace=False)
    return chosen


@pytest.fixture(scope="session")
def world(device: torch.device) -> World:
    """One process on it."""
    return World.single(device.type)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 of scikit-learn's digits at 32 px, in colour."""
    out = tmp_path_factory.mktemp("packed") / "digits"
    pack("builtin:digits", out, resolution=32, channels=3, subset=300, shard_mb=0.1, workers=1, progress=False)
    return out
