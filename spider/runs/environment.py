"""environment.json: where and with what a run was started, one entry per start.

A resumed run has the bits of one that was never stopped only under the same world size, device, threads and versions;
what is different is said.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import torch

from spider.errors import SpiderError
from spider.files import write_text
from spider.runs.directory import RunDirectory, RunRef
from spider.runs.provenance import git_state, versions
from untrusted.terminal import warn


def note_start(directory: RunDirectory, images: int, branch: RunRef | None, facts: Mapping[str, Any]) -> None:
    """Append a start to environment.json, and warn of what may cost a resumed run its bits.

    Args:
        images: on the clock.
        branch: the checkpoint of another run that it begins with.
        facts: what the training says of itself: `world_size`, `engine`, `device`, and what else it knows.
    """
    starts: list[dict[str, Any]] = [*_earlier_starts(directory)]
    starts.append(
        {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": sys.argv,
            "from_images": images,
            "branched_from": str(branch) if branch else None,
            "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "threads": torch.get_num_threads(),
            "versions": versions(),
            "git": git_state(),
            "slurm": {name: value for name, value in os.environ.items() if name.startswith("SLURM_JOB")},
            **facts,
        }
    )
    write_text(directory.environment_file, json.dumps({"starts": starts}, indent=2) + "\n")
    if images and len(starts) > 1:
        changed = _changed(*starts[-2:])
        if changed:
            warn(f"going on under other {', '.join(changed)}: close to the run before, but not bit for bit")


def _earlier_starts(directory: RunDirectory) -> list[dict[str, Any]]:
    """Those that are noted; none, and the file is set aside, if it is damaged: no training hangs on it."""
    try:
        return [dict(start) for start in directory.starts()]
    except SpiderError as error:
        aside = directory.environment_file.with_name("environment.damaged.json")
        directory.environment_file.replace(aside)
        warn(f"{error}; moved to {aside.name}, and begun anew")
        return []


def _changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    old, new = ({**start, **start.get("versions", {})} for start in (before, now))
    keys = ("world_size", "engine", "device", "threads", "torch", "numpy", "spider")
    return [f"{key} ({old[key]}, now {new[key]})" for key in keys if key in old and old[key] != new[key]]
