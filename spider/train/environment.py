"""environment.json: where and with what a run was started, one entry per start.

A resumed run has the bits of one that was never stopped only under the same world size, device, threads and versions;
what is different is said.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from typing import Any

import torch

from spider.errors import SpiderError
from spider.files import write_text
from spider.runs.directory import RunDirectory, RunRef
from spider.runs.provenance import git_state, versions
from spider.train.trainer import Trainer
from untrusted.terminal import warn


def record_environment(directory: RunDirectory, trainer: Trainer, branch: RunRef | None) -> None:
    """Append this start to environment.json, and warn of what may cost a resumed run its bits (main rank only)."""
    if not trainer.world.is_main:
        return
    starts: list[dict[str, Any]] = [*_earlier_starts(directory)]
    starts.append(
        {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": sys.argv,
            "from_images": trainer.images,
            "branched_from": str(branch) if branch else None,
            "world_size": trainer.world.size,
            "engine": trainer.generator.engine.name,
            "device": trainer.world.device_name,
            "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "threads": torch.get_num_threads(),
            "versions": versions(),
            "git": git_state(),
            "slurm": {name: value for name, value in os.environ.items() if name.startswith("SLURM_JOB")},
            "data": {"fingerprint": trainer.dataset.fingerprint, "images": len(trainer.dataset)},
            "source": trainer.source.provenance(),
            "parameters": {
                player.name: sum(parameter.numel() for _, parameter in player.trainable)
                for player in (trainer.generator, trainer.discriminator)
            },
        }
    )
    write_text(directory.environment_file, json.dumps({"starts": starts}, indent=2) + "\n")
    if trainer.images and len(starts) > 1:
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
