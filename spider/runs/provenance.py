"""What this process runs: which source, and which versions."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from cluster.jobs.code_copy import origin_of
from spider.version import VERSION

_PACKAGES = ("torch", "torchvision", "numpy", "pillow", "safetensors", "webdataset")


def git_state() -> dict[str, Any] | None:
    """Commit of the source tree and whether it has changes, also of a job's copy of it; None outside a checkout."""
    here = Path(__file__).resolve().parents[1]  # the package
    copied = origin_of(here)
    if copied is not None:
        return copied
    try:
        commit = _git(here, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(here, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def versions() -> dict[str, str]:
    """Versions of what numbers depend on."""
    return {
        "spider": VERSION,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in _PACKAGES},
    }


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
