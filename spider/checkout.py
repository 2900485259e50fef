"""Which source this process runs from."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from cluster.jobs.code_copy import origin_of


def git_state() -> dict[str, Any] | None:
    """Commit of the source tree and whether it has changes, also of a job's copy of it; None outside a checkout."""
    here = Path(__file__).resolve().parent
    copied = origin_of(here)
    if copied is not None:
        return copied
    try:
        commit = _git(here, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(here, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
