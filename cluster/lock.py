"""One process at a time in a directory, also when a scheduler starts a job again before the old one is gone."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from cluster.errors import ClusterError
from cluster.world import World

LOCK = ".lock"


@contextmanager
def alone_in(directory: Path, world: World) -> Iterator[None]:
    """Keep out every other process that asks the same, as long as the block lasts. All ranks; rank 0 holds the lock.

    The system lets go of it when the process dies, however it dies. The file stays. Where the file system knows no
    locks it is said on stderr, and the block runs.

    Raises:
        ClusterError: on every rank, naming the process that is in there.
    """
    with world.together():
        lock = _lock(directory) if world.is_main else None
    try:
        yield
    finally:
        if lock is not None:
            lock.close()


def _lock(directory: Path) -> IO[str]:
    directory.mkdir(parents=True, exist_ok=True)
    lock = (directory / LOCK).open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read().strip() or "another process"
        lock.close()
        raise ClusterError(f"{directory} is in use by {holder}") from None
    except OSError as error:
        print(f"warning: {directory}: its file system cannot lock files ({error}): start one job only", file=sys.stderr)
    else:
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
    return lock
