"""Checkpoints: directories that exist, complete and verified, or do not.

    checkpoints/
        000120-kimg/            see cluster/snapshot.py
        .tmp-*/                 a write under way, or left by one that was killed; the next one removes it
        quarantine/000140-kimg/ one that did not verify, or does not fit the run, with reason.txt

What else lies there is somebody's, and is left alone: a folder is a checkpoint if its manifest bears its name.

A save writes beside, fsyncs and renames, so that a kill at any moment leaves the old set, or the old set and the new
one. Only a kill between the two renames of a replacement leaves the old set without the one replaced. Saving and
loading are collective: rank 0 writes, every rank reads, and all raise if one does.

Training need not wait for the disk. `async_save` returns when the ranks have compared their states and rank 0 has
copied its own, and a thread of rank 0 writes the copy:

    training      ... | compare, copy |  steps, which change the state  ...  | finish |
    the thread                        | hash, write, fsync, rename | then()  |

At most one write is under way, so that the extra memory is one copy of the state, on rank 0 alone.
"""

from __future__ import annotations

import hashlib
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import torch
from torch import Tensor

from cluster.errors import PASSING, ClusterError, ClusterUsageError, MachineError, one_line
from cluster.manifest import STATE, TENSORS_SUFFIX, DamagedCheckpointError, check_name, checkpoint_names, read_manifest
from cluster.snapshot import EncodedSnapshot, Snapshot, encode, fsync_directory, read_directory, write_directory
from cluster.world import World
from untrusted.terminal import warn

__all__ = [
    "CheckpointStore",
    "DamagedCheckpointError",
    "Snapshot",
    "UnfitCheckpointError",
    "checksum",
]

T = TypeVar("T")

QUARANTINE, TEMPORARY_PREFIX = "quarantine", ".tmp-"
# Words per step of a checksum: what fits into a core's cache, 1 MB.
_CHECKSUM_WORDS = 2**17


class UnfitCheckpointError(ClusterError):
    """A checkpoint is whole, but what it holds cannot be taken over."""


class CheckpointStore:
    """The checkpoints of one run. Names order them: digits count as numbers, so 1000000-kimg follows 999999-kimg.

    Whoever calls `async_save` ends with `finish`, or uses the store as a context manager: leaving it waits for the
    write under way, also when an exception leaves it, which is then the one that is raised.

    Attributes:
        written_s: seconds that all writes so far have taken. On rank 0; 0 on the others.
        written_bytes: what they have written.
    """

    def __init__(self, directory: Path | str, world: World) -> None:
        self.directory = Path(directory)
        self.written_s = 0.0
        self.written_bytes = 0
        self._world = world
        self._under_way: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
            return
        try:  # not together: the other ranks may be anywhere
            self._wait()
        except Exception as failure:
            warn(one_line(failure))

    def names(self) -> list[str]:
        """The checkpoints that are there, oldest first, not yet verified. Not collective."""
        return checkpoint_names(self.directory)

    def save(self, name: str, snapshot: Snapshot, *, replace: bool = False) -> None:
        """Write a checkpoint, once it is sure that all ranks hold the same.

        Args:
            replace: take the place of the one of that name, if there is one.

        Raises:
            ClusterUsageError: the name is none, or JSON or safetensors cannot hold an entry, which is named.
            ClusterError: the name is taken, the ranks differ (entry and ranks are named), or the disk refuses (a full
                one: MachineError). What was there before is still there.
        """
        encoded = self._agreed(name, snapshot, replace)
        with self._world.together():
            if self._world.is_main:
                self._write(name, encoded, replace)

    def async_save(
        self, name: str, snapshot: Snapshot, then: Callable[[], None] | None = None, *, replace: bool = False
    ) -> None:
        """`save` that leaves the writing to a thread. The snapshot's tensors may change as soon as this returns.

        A save that is still under way is waited for first.

        Args:
            replace: as of `save`.
            then: what may be done only when the checkpoint is there; the thread of rank 0 calls it. Not collective.

        Raises:
            ClusterUsageError, ClusterError: as `save` does, of this checkpoint, but for what the disk refuses; that is
                raised by the next save or by `finish`, as is what `then` raises.
        """
        encoded = self._agreed(name, snapshot, replace)
        with self._world.together():
            if self._world.is_main:
                thread = ThreadPoolExecutor(1, "checkpoint")
                self._under_way = thread.submit(self._write, name, encoded.copy(), replace, then)
                thread.shutdown(wait=False)  # when the write is done

    def finish(self) -> None:
        """Wait until the save that is under way, if one is, and its `then` are done. Collective.

        Raises:
            ClusterError: on all ranks, what went wrong with it. Only once: the store can be used as before.
        """
        with self._world.together():
            self._wait()

    def _wait(self) -> None:
        if self._under_way is not None:
            wait([self._under_way])  # may be interrupted, and is then waited for by whoever asks next
            done, self._under_way = self._under_way, None
            done.result()

    def _agreed(self, name: str, snapshot: Snapshot, replace: bool) -> EncodedSnapshot:
        """What all ranks hold, and nothing but the disk can refuse."""
        self.finish()
        with self._world.together():
            self._check_name(name)
            if self._world.is_main and not replace and self._is_ours(name):
                raise ClusterError(f"checkpoint {self.directory / name} exists already")
            encoded = encode(snapshot)
        if self._world.size > 1:
            self._world.assert_same(_digests(encoded, self._world.device), f"checkpoint {name}")
        return encoded

    def _write(
        self, name: str, snapshot: EncodedSnapshot, replace: bool, then: Callable[[], None] | None = None
    ) -> None:
        started = time.monotonic()
        final, temporary, replaced = self.directory / name, self._temporary(name), self._temporary(name)
        if not replace and self._is_ours(name):
            raise ClusterError(f"checkpoint {final} exists already")
        try:
            with _refusals(f"checkpoint {final} could not be written"):
                if final.exists() and not self._is_ours(name):  # whose it is nobody knows, so it is kept
                    self._quarantine(name, f"{final} is in the way of a checkpoint of that name")
                for left_over in self.directory.glob(TEMPORARY_PREFIX + "*"):
                    shutil.rmtree(left_over, ignore_errors=True)  # a network's file system may hold on to a file
                temporary.mkdir(parents=True)
                written_bytes = write_directory(temporary, name, snapshot)
                if final.exists():
                    final.rename(replaced)
                temporary.rename(final)
                fsync_directory(self.directory)
        finally:
            if replaced.exists() and not final.exists():  # the second rename was refused
                replaced.rename(final)
            for left_over in (temporary, replaced):  # Gone already if renamed.
                shutil.rmtree(left_over, ignore_errors=True)
        self.written_s += time.monotonic() - started
        self.written_bytes += written_bytes
        if then is not None:
            with _refusals(f"checkpoint {final} is written, but not what follows it"):
                then()

    def load(self, name: str) -> Snapshot:
        """Read and verify one checkpoint; its tensors are on the CPU.

        Raises:
            DamagedCheckpointError: a file is missing, superfluous, or not what the manifest says. It is left in place.
            ClusterUsageError: there is none of that name, or its format is not known to this version.
        """
        with self._world.together():
            return self._read(name)

    def load_latest(self, take: Callable[[str, Snapshot], None] | None = None) -> tuple[str, Snapshot] | None:
        """The newest checkpoint that verifies, by name; None if there never was one. For the run that owns them.

        A damaged one is moved to quarantine/ with its reason, which is also said on stderr, and the one before is
        taken. So is one that `take` refuses, but not before an earlier one was taken: if none fits, it is the run that
        has changed.

        Args:
            take: takes over name and content, on all ranks; raises UnfitCheckpointError for what cannot be taken over.

        Raises:
            ClusterError: all of them are damaged: starting over is not for a program to decide. Or some rank cannot
                read what rank 0 can, which is no reason for quarantine.
            UnfitCheckpointError: none that verifies can be taken over; what is said is of the newest.
        """
        unfit: dict[str, str] = {}
        for name in reversed(self._world.broadcast_json(self.names())):
            snapshot, damage = self._attempt(lambda name=name: self._read(name), DamagedCheckpointError)  # type: ignore[misc]
            if damage is not None:
                self._set_aside({name: damage})
                continue
            assert snapshot is not None
            if take is not None:
                _, misfit = self._attempt(lambda name=name, content=snapshot: take(name, content), UnfitCheckpointError)  # type: ignore[misc]
                if misfit is not None:
                    unfit[name] = misfit
                    continue
            self._set_aside(unfit)
            return name, snapshot
        if unfit:
            raise UnfitCheckpointError(next(iter(unfit.values())))
        quarantine = self.directory / QUARANTINE
        if self._world.broadcast_json(quarantine.is_dir() and any(quarantine.iterdir())):
            raise ClusterError(f"no checkpoint is left that verifies, see {quarantine}; remove it to start over")
        return None

    def _attempt(self, step: Callable[[], T], refusal: type[ClusterError]) -> tuple[T | None, str | None]:
        """What a step gives on this rank, and why rank 0 refused it. Raises ClusterError if only others did."""
        found, refused = None, None
        with self._world.together():
            try:
                found = step()
            except refusal as error:
                refused = str(error)
        by_rank: list[str | None] = self._world.all_gather_json(refused)
        if by_rank[0] is None and any(by_rank):
            rank = next(rank for rank, text in enumerate(by_rank) if text)
            raise ClusterError(f"rank {rank} cannot read what rank 0 can: {by_rank[rank]}")
        return found, by_rank[0]

    def _set_aside(self, reasons: Mapping[str, str]) -> None:
        """Move checkpoints to quarantine/."""
        with self._world.together():
            if self._world.is_main:
                for name, reason in reasons.items():
                    with _refusals(f"checkpoint {self.directory / name} could not be moved to quarantine"):
                        self._quarantine(name, f"{reason}; the one before is taken")

    def prune(self, keep_last: int, names: Collection[str] = ()) -> None:
        """Remove all but the newest `keep_last` and those of the given names. Rank 0 does; not collective.

        A folder whose manifest does not bear its name, or has a format that this version does not know, is neither
        counted nor removed. Where the storage does not answer, nothing is removed, which is said on stderr: the next
        call removes what is left.

        While a save is under way, only its `then` may call this.
        """
        if keep_last < 1:
            raise ClusterUsageError(f"keep_last={keep_last} must be at least 1")
        if not self._world.is_main:
            return
        try:
            ours = [name for name in self.names() if self._is_ours(name)]
        except (MachineError, OSError) as error:
            warn(f"{self.directory}: no old checkpoint is removed this time: {one_line(error)}")
            return
        for name in ours[:-keep_last]:
            if name not in names:
                self._remove(name)

    def _read(self, name: str) -> Snapshot:
        self._check_name(name)
        if not (self.directory / name).is_dir():
            found = ", ".join(self.names()) or "none"
            raise ClusterUsageError(f"there is no checkpoint {name} in {self.directory}; found: {found}")
        return read_directory(self.directory / name)

    def _remove(self, name: str) -> None:
        """Rename first, so that no half-removed checkpoint bears a name. One that cannot be removed stops no run."""
        temporary = self._temporary(name)
        try:
            (self.directory / name).rename(temporary)
            shutil.rmtree(temporary)
        except OSError as error:
            warn(f"checkpoint {self.directory / name} could not be removed: {error}")

    def _quarantine(self, name: str, reason: str) -> None:
        """Move what bears a checkpoint's name, and is none that can be used."""
        folder = self.directory / QUARANTINE
        folder.mkdir(exist_ok=True)
        target = folder / name
        if target.exists():
            target = folder / f"{name}.{uuid.uuid4().hex[:8]}"
        (self.directory / name).rename(target)
        (target / "reason.txt").write_text(reason + "\n")
        warn(f"{reason}; moved to {target}")

    def _is_ours(self, name: str) -> bool:
        """Whether the folder of that name is there, with the manifest of that name, in a format that is known.

        Raises MachineError if the storage does not answer.
        """
        try:
            return read_manifest(self.directory / name).is_of(self.directory / name)
        except (DamagedCheckpointError, ClusterUsageError):
            return False

    def _temporary(self, name: str) -> Path:
        return self.directory / f"{TEMPORARY_PREFIX}{name}-{uuid.uuid4().hex[:8]}"

    def _check_name(self, name: str) -> None:
        check_name(name)
        if name == QUARANTINE:
            raise ClusterUsageError(f"checkpoint name {name!r} is kept for the damaged ones")


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    """Say in one line what the disk refuses."""
    try:
        yield
    except OSError as error:
        kind = MachineError if error.errno in PASSING else ClusterError
        raise kind(f"{what}: {error.strerror or error}") from error


def _digests(snapshot: EncodedSnapshot, device: torch.device) -> dict[str, str]:
    """One short digest per tensor and one for the state. A GPU is waited for once."""
    tensors = {
        f"{file.removesuffix(TENSORS_SUFFIX)}/{name}": tensor
        for file, group in snapshot.files.items()
        for name, tensor in group.items()
    }
    sums = torch.stack([torch.zeros((), dtype=torch.int64), *(checksum(t).to(device) for t in tensors.values())])
    digests = {
        name: f"{value & (2**64 - 1):016x} {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
        for (name, tensor), value in zip(tensors.items(), sums[1:].tolist(), strict=True)
    }
    return digests | {STATE: hashlib.sha256(snapshot.state).hexdigest()}


def checksum(tensor: Tensor) -> Tensor:
    """A 64-bit sum of the tensor's bytes, computed on its device: int64 [].

    The words w_i of the bytes are summed as (2i + 1) w_i modulo 2^64. The weights are odd, so any change of a single
    word shows. It guards against ranks that drift apart, not against an adversary: a SHA-256 takes twice as long on a
    CPU that has instructions for it, and needs the bytes there.
    """
    raw = tensor.detach().contiguous().view(-1).view(torch.uint8)
    if raw.numel() % 8:
        raw = torch.nn.functional.pad(raw, (0, -raw.numel() % 8))
    elif raw.storage_offset() % 8:  # a part of a larger buffer, which begins between two words
        raw = raw.clone()
    words = raw.view(torch.int64)
    weights = torch.arange(1, 2 * min(len(words), _CHECKSUM_WORDS) + 1, 2, device=tensor.device)
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for i, chunk in enumerate(torch.split(words, _CHECKSUM_WORDS)):
        total += (weights[: len(chunk)] * chunk).sum() + 2 * i * _CHECKSUM_WORDS * chunk.sum()
    return total
