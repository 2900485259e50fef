"""One process at a time in a directory, also when a scheduler starts a job again before the old one is gone."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from cluster.errors import ClusterError, ClusterUsageError, MachineError
from untrusted.terminal import tell, warn

if TYPE_CHECKING:
    from cluster.world import World

LOCK = ".lock"

_ASKED_S = 0.1  # longer than `is_taken` keeps anybody out by asking
_HOLDER_LETTERS = 200  # more than a process and a host have
_LOST_S = 150.0  # longer than a file server lets a machine that is gone keep its locks, often 90 s

_TURN_S = 0.2  # between two tries of who waits for its turn
_REMADE = 100  # so often a directory is made again that others remove before this process is in it

_held: set[IO[str]] = set()


def _let_go_in_child() -> None:
    """A forked process would hold its parent's locks beyond the parent's death."""
    while _held:
        _held.pop().close()


os.register_at_fork(after_in_child=_let_go_in_child)


@contextmanager
def alone_in(directory: Path, world: World) -> Iterator[None]:
    """Keep out every other process that asks the same, as long as the block lasts. All ranks; rank 0 holds the lock.

    The system lets go of it when the process dies, however it dies. The file stays. Where the file system knows no
    locks it is said on stderr, and the block runs.

    Raises:
        MachineError: on every rank, naming the process that is in there.
    """
    with world.together():
        lock = _lock(directory, lambda lock: _take(lock, directory)) if world.is_main else None
        if isinstance(lock, OSError):
            _say_that_nobody_is_kept_out(directory, lock)
    with _left_in_the_end(lock):
        yield


@contextmanager
def in_turn(directory: Path, patience_s: float) -> Iterator[bool]:
    """Let processes that ask the same into a block one after the other. One process; see `alone_in` for ranks.

    Yields:
        Whether the others are kept out. False where the file system knows no locks, which is said on stderr.

    Raises ClusterUsageError after `patience_s`, naming the process that is in there.
    """
    try:
        lock = _lock(directory, lambda lock: _take(lock, directory, patience_s))
    except MachineError as error:
        raise ClusterUsageError(str(error)) from None
    if isinstance(lock, OSError):
        _say_that_nobody_is_kept_out(directory, lock)
    with _left_in_the_end(lock) as alone:
        yield alone


@contextmanager
def awaited_turn(directory: Path, work: str) -> Iterator[bool]:
    """As `in_turn`, with patience without end: who waits has nothing to do until the other is done.

    Args:
        directory: made if need be.
        work: what all of them want; said on stderr, with who does it, where one must wait.

    Yields:
        Whether the others are kept out. False where the file system knows no locks.
    """
    with _left_in_the_end(_lock(directory, lambda lock: _await(lock, work))) as alone:
        yield alone


@contextmanager
def in_turn_or_gone(
    directory: Path, patience_s: float, refusal: type[Exception], is_used: Callable[[], bool]
) -> Iterator[None]:
    """As `in_turn`; after a `refusal`, nothing is left of a directory that this call made, unless `is_used` by then.

    The directory stays if something of others lies in it, or if its file system knows no locks.
    """
    was_there = directory.exists()
    with in_turn(directory, patience_s) as alone:
        is_new = alone and not was_there and [path.name for path in directory.iterdir()] == [LOCK]
        try:
            yield
        except refusal:
            if is_new and not is_used():
                _remove_from_within(directory)
            raise


def _remove_from_within(directory: Path) -> None:
    """Remove a directory, with all that it holds, while this process is in it: within a block of `in_turn`.

    A process that waits for its turn makes the directory anew. If one comes in before the end, the directory stays.
    """
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()
    (directory / LOCK).unlink()  # last, because from here on others can come in
    with suppress(OSError):
        directory.rmdir()


def is_taken(directory: Path) -> bool | None:
    """Whether a process is in `directory`. Writes nothing, waits for nothing.

    None: it cannot be known. Either the file system knows no locks, or the last process to enter was on another
    machine, whose locks may not be seen from here, and did not leave in order.
    """
    try:
        with open(directory / LOCK, errors="replace", opener=_without_waiting) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            last = lock.read(_HOLDER_LETTERS)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError:
        return None
    return None if last and not last.endswith(f" on {socket.gethostname()}\n") else False


def _without_waiting(path: str, flags: int) -> int:
    """To open a pipe waits for who writes into it."""
    return os.open(path, flags | os.O_NONBLOCK)


@contextmanager
def _left_in_the_end(lock: IO[str] | OSError | None) -> Iterator[bool]:
    """Whether this process holds the lock, within."""
    if lock is None or isinstance(lock, OSError):
        yield False
        return
    try:
        yield True
    finally:
        _leave(lock)


def _leave(lock: IO[str]) -> None:
    with suppress(OSError):
        lock.truncate(0)  # who left in order is not taken for one on another machine
    with suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_UN)
    _drop(lock)


def _drop(lock: IO[str]) -> None:
    _held.discard(lock)
    with suppress(OSError):  # what could not be written is tried again
        lock.close()


def _say_that_nobody_is_kept_out(directory: Path, error: OSError) -> None:
    warn(f"{directory}: its file system cannot lock files ({error}): start one job only")


def _lock(directory: Path, wait: Callable[[IO[str]], None]) -> IO[str] | OSError:
    """The lock of a directory, both made if need be, which this process holds once `wait` has taken it.

    Returns what the file system said if it knows no locks. Raises MachineError if `wait` gives up.
    """
    for _ in range(_REMADE):
        with suppress(FileNotFoundError), ExitStack() as otherwise:
            lock = _open(directory)
            otherwise.callback(_drop, lock)
            try:
                wait(lock)
            except BlockingIOError:
                # Of another start of the same job, perhaps, which is about to end
                raise MachineError(f"{directory} is in use by {_holder(lock) or 'another process'}") from None
            except OSError as error:
                return error
            # Who was in there may have removed it, and a lock on a removed file keeps nobody out
            if os.path.samestat(os.fstat(lock.fileno()), os.stat(directory / LOCK)):
                _enter(lock)
                otherwise.pop_all()
                return lock
    raise MachineError(f"{directory / LOCK} was removed {_REMADE} times in a row by others")


def _open(directory: Path) -> IO[str]:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / LOCK
    if path.exists() and not path.is_file():
        raise ClusterError(f"{path}: not a file; remove it")
    return path.open("a+", errors="replace")


def _enter(lock: IO[str]) -> None:
    _held.add(lock)
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()


def _take(lock: IO[str], directory: Path, patience_s: float | None = None) -> None:
    """Again after a moment, because somebody may only have asked; for minutes where a machine may have been lost."""
    started, told = time.monotonic(), False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(lock)
            elsewhere = bool(holder) and not holder.endswith(f" on {socket.gethostname()}")
            own_s = _LOST_S if elsewhere else _ASKED_S
            if time.monotonic() - started > (own_s if patience_s is None else patience_s):
                raise
            if elsewhere and not told and patience_s is None:
                tell(f"{directory} is in use by {holder}; waiting, should that be lost")
                told = True
            time.sleep(_ASKED_S)
        else:
            return


def _await(lock: IO[str], work: str) -> None:
    """Take the lock when it is free. The system frees that of a process that died, and a file server in minutes."""
    told = False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told:
                tell(f"{work}: waiting for {_holder(lock) or 'another process'}")
            told = True
            time.sleep(_TURN_S)
        else:
            return


def _holder(lock: IO[str]) -> str:
    """The process that entered last; empty if it has left in order."""
    lock.seek(0)
    return lock.read(_HOLDER_LETTERS).strip()
