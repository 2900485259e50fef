"""How far the command of a job is: whether a start that failed had done something new.

RUN/checkpoints/...    of a training: the name of the newest checkpoint
FOLDER/progress        of a driver: "12 pieces of work", counted by `note_progress`
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from cluster.manifest import checkpoint_names
from untrusted.counts import counted

PROGRESS = "JOB_PROGRESS"  # in the environment: the file in which a driver counts what it has done, see `note_progress`


def newest_in(saves: Path | None) -> str | None:
    """How far a command is: the name of the newest checkpoint in a folder, or what a file of `note_progress` says."""
    if saves is None:
        return None
    if saves.is_file():
        with suppress(OSError, UnicodeDecodeError):
            return saves.read_text().strip() or None
        return None
    names = checkpoint_names(saves)
    return names[-1] if names else None


def note_progress() -> None:
    """Count one more piece of work that need not be done again, where this process is the driver of a job.

    A job whose starts fail goes on as long as each has done something new.
    """
    if PROGRESS not in os.environ:
        return
    file = Path(os.environ[PROGRESS])
    with suppress(OSError):  # a disk that takes nothing any more: then the work itself fails
        count = int((newest_in(file) or "0").split()[0].replace(",", "")) + 1
        beside = file.with_name(f".{file.name}")
        beside.write_text(f"{counted(count, 'piece')} of work\n")
        beside.replace(file)
