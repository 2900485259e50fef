"""Shards written one after the other, each whole or not at all, with a journal from which a killed pack goes on.

    OUT/000000.tar, 000000.offsets
        .packing/plan.json       what is being packed; another plan is refused
                 000000.json     everything learned up to the end of that shard (`Sealed`)
                 lock            held by the process that writes

The journal goes when the dataset is complete.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from shards.errors import ShardsMachineError, ShardsUsageError
from shards.files import UNFINISHED, naming, write_whole
from shards.index import ShardRecord
from shards.listing import BadFile
from shards.samples import BLOCK_BYTES, END_OF_TAR, Sample, write_offsets

JOURNAL_NAME = ".packing"


class Sealed(BaseModel):
    """What the journal keeps of one shard: itself, and what was learned since the shard before it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shard: ShardRecord
    next: int  # the input file with which the next shard begins
    digests: list[str]  # of the samples, hex
    contents: list[str]  # sha256 of every input file, good and bad
    bad: list[tuple[str, str]]
    blank: list[str] = []  # see shards.samples.Sample
    jpegs: int = 0


class ShardSeries:
    """The shards of one dataset in the making: samples go in, in order, and are cut in shards of `limit_bytes`."""

    def __init__(self, out: Path, limit_bytes: int) -> None:
        self._out, self._limit_bytes = out, limit_bytes
        self._sealed = list(self._read_journal())
        self._begin()

    @property
    def next(self) -> int:
        """The number of the first input file that no finished shard covers."""
        return self._sealed[-1].next if self._sealed else 0

    @property
    def shards(self) -> list[ShardRecord]:
        """The finished shards."""
        return [sealed.shard for sealed in self._sealed]

    @property
    def digests(self) -> list[bytes]:
        """The digest of every sample in the finished shards."""
        return [bytes.fromhex(digest) for sealed in self._sealed for digest in sealed.digests]

    @property
    def contents(self) -> list[str]:
        """The sha256 of every input file so far."""
        return [content for sealed in self._sealed for content in sealed.contents] + self._contents

    @property
    def bad(self) -> list[BadFile]:
        """The input files so far that could not be packed."""
        return [BadFile(*bad) for sealed in self._sealed for bad in sealed.bad] + self._bad

    @property
    def blank(self) -> list[str]:
        """The pictures of the finished shards that are almost all black or white."""
        return [blank for sealed in self._sealed for blank in sealed.blank]

    @property
    def jpegs(self) -> int:
        """How many images of the finished shards are JPEGs."""
        return sum(sealed.jpegs for sealed in self._sealed)

    def add(self, number: int, content: str, outcome: Sample | BadFile) -> None:
        """Input file `number`, whose bytes have the sha256 `content`: its sample, or what is wrong with it."""
        if isinstance(outcome, BadFile):
            self._bad.append(outcome)
        else:
            if self._entries and self._size + len(outcome.block) + len(END_OF_TAR) > self._limit_bytes:
                self.seal(number)
            self._entries.append((self._size + BLOCK_BYTES, outcome.image_bytes, outcome.crc32, outcome.label))
            self._digests.append(outcome.digest.hex())
            self._jpegs += outcome.jpeg
            self._blank += [outcome.blank] if outcome.blank else []
            self._write(outcome.block)
        self._contents.append(content)

    def seal(self, following: int) -> None:
        """Finish the shard at hand, if there is one; `following` is the first input file that it does not cover."""
        if not self._entries:
            return
        stem = f"{len(self._sealed):06d}"
        self._write(END_OF_TAR)
        with naming(self._out):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        os.replace(self._file.name, self._out / f"{stem}.tar")
        offsets = write_offsets(self._entries)
        write_whole(self._out / f"{stem}.offsets", offsets)
        shard = ShardRecord(
            name=f"{stem}.tar",
            count=len(self._entries),
            bytes=self._size,
            sha256=self._sha256.hexdigest(),
            offsets_sha256=hashlib.sha256(offsets).hexdigest(),
        )
        bad = [(bad.name, bad.reason) for bad in self._bad]
        sealed = Sealed(
            shard=shard,
            next=following,
            digests=self._digests,
            contents=self._contents,
            bad=bad,
            blank=self._blank,
            jpegs=self._jpegs,
        )
        write_whole(self._out / JOURNAL_NAME / f"{stem}.json", sealed.model_dump_json().encode())
        self._sealed.append(sealed)
        self._begin()

    def _begin(self) -> None:
        self._entries: list[tuple[int, int, int, int]] = []
        self._digests: list[str] = []
        self._contents: list[str] = []
        self._bad: list[BadFile] = []
        self._blank: list[str] = []
        self._jpegs = 0
        self._size = 0
        self._sha256 = hashlib.sha256()
        self._file = (self._out / JOURNAL_NAME / "shard.tmp").open("wb")

    def _write(self, data: bytes) -> None:
        with naming(self._out):
            self._file.write(data)
        self._sha256.update(data)
        self._size += len(data)

    def _read_journal(self) -> Iterator[Sealed]:
        """The shards that an earlier pack finished: as far as journal and files are whole."""
        for number in range(10**6):
            try:
                sealed = Sealed.model_validate_json((self._out / JOURNAL_NAME / f"{number:06d}.json").read_bytes())
            except (FileNotFoundError, ValidationError):
                return
            files = [self._out / sealed.shard.name, self._out / sealed.shard.offsets_name]
            sha256s = [sealed.shard.sha256, sealed.shard.offsets_sha256]
            if any(not path.exists() or _sha256(path) != sha for path, sha in zip(files, sha256s, strict=True)):
                return
            yield sealed


def check_free(out: Path, plan: str) -> None:
    """That `out` is free for this plan: not there, empty, or with the beginning of it.

    Raises:
        ShardsUsageError: `out` holds something else, or shards of another plan.
    """
    journal = out / JOURNAL_NAME
    if out.exists() and not journal.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ShardsUsageError(f"{out} is not empty, and holds no packed dataset: choose another folder")
    begun = (journal / "000000.json").exists()
    if begun and (journal / "plan.json").read_text() != plan:
        raise ShardsUsageError(
            f"{out} holds the beginning of a pack of other input or options: remove it, or choose another folder"
        )


@contextmanager
def open_series(out: Path, plan: str, limit_bytes: int) -> Iterator[ShardSeries]:
    """The series in `out`, new or gone on with; for one process at a time. The journal stays until `forget_journal`.

    Raises:
        ShardsUsageError: `out` is not free for this plan (`check_free`).
        ShardsMachineError: another process is writing it.
    """
    check_free(out, plan)
    journal = out / JOURNAL_NAME
    journal.mkdir(parents=True, exist_ok=True)
    with (journal / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ShardsMachineError(f"{out} is being written by another process") from None
        except OSError:
            pass  # a file system without locks, on which nobody can be kept out
        write_whole(journal / "plan.json", plan.encode())
        yield ShardSeries(out, limit_bytes)


def forget_journal(out: Path) -> None:
    """Remove the journal of a dataset that is complete, and what a killed pack left unfinished."""
    for left in out.glob(f".*{UNFINISHED}"):
        left.unlink(missing_ok=True)
    shutil.rmtree(out / JOURNAL_NAME, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
