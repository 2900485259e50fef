"""A packed dataset by image number, from a folder or a URL.

Opening reads index.json and checks that every shard is there and has its size. Reading finds an image through its
shard's offsets, in one `pread`: no state, so that processes may be forked or spawned with a dataset in hand, and any
number of them may read. What is damaged raises with the shard's name; nothing is skipped.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shards.encodings import BadSample, check_decoder, decode
from shards.errors import ShardsError, refusal
from shards.index import INDEX_NAME, VECTORS_NAME, DatasetIndex
from shards.location import Location
from shards.samples import BLOCK_BYTES, check_header, key_of_header, parse_offsets
from shards.vectors import read_vectors

if TYPE_CHECKING:
    from torch import Tensor

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]

_FILES_OPEN = 128  # of one dataset in one process; the usual limit of a process is 1,024


class ShardDataset:
    """Images 0 .. len - 1 of a packed dataset, uint8 [C, H, W].

    Args:
        path: the folder that `pack` wrote, or its URL (any protocol that fsspec knows).
        cache_dir: where remote shards are kept; default `shards` in `shards.files.cache_root()`. Unused for a folder.

    Raises:
        ShardsUsageError: no dataset is there.
        ShardsError: its index is damaged, or a shard is missing or has another size than the index says;
            JPEGs decode to other pixels here than where they were packed.
    """

    def __init__(self, path: str | Path, cache_dir: Path | None = None) -> None:
        self._location = Location(path, cache_dir)
        check_decoder(self.index.jpeg_pixels, self.path)
        self._check_sizes()
        self._starts = list(accumulate(self.index.shard_counts, initial=0))
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()
        self._offsets: dict[int, NDArray[np.void]] = {}

    @property
    def index(self) -> DatasetIndex:
        """What the dataset is."""
        return self._location.index

    @property
    def path(self) -> str:
        """The folder or URL, as it was given."""
        return self._location.path

    @property
    def name(self) -> str:
        """The folder's name: what tables call the dataset."""
        return self._location.name

    @property
    def fingerprint(self) -> str:
        """Identifies keys, labels, pixels and their order: equal fingerprints, equal images."""
        return self.index.fingerprint

    @property
    def class_names(self) -> list[str]:
        """Of the classes by number; empty if the images have none."""
        return self.index.classes

    def __len__(self) -> int:
        return self.index.count

    def read(self, number: int) -> tuple[Pixels, int, str]:
        """Image `number`: pixels uint8 [C, H, W], label (-1: none), key.

        Raises:
            IndexError: there is no such image.
            ShardsError: its shard is damaged.
        """
        shard, row = self._locate(number)
        pixels, label = shard.read(row)
        return np.array(pixels), label, shard.key(row)

    def read_batch(self, numbers: Sequence[int] | NDArray[np.integer[Any]]) -> tuple[Pixels, Labels]:
        """The images of these numbers, in this order: pixels uint8 [N, C, H, W], labels int64 [N] (-1: none).

        Raises:
            IndexError: there is no such image.
            ShardsError: a shard is damaged.
        """
        pixels = np.empty((len(numbers), *self.index.shape), np.uint8)
        labels = np.empty(len(numbers), np.int64)
        for slot, number in enumerate(numbers):
            shard, row = self._locate(int(number))
            pixels[slot], labels[slot] = shard.read(row)
        return pixels, labels

    def batch(self, start: int, stop: int) -> Tensor:
        """Images start .. stop - 1 as torch.uint8 [stop - start, C, H, W]. Raises as `read_batch` does."""
        import torch

        return torch.from_numpy(self.read_batch(range(start, stop))[0])

    def key(self, number: int) -> str:
        """The key of image `number`, without decoding it. Raises as `read` does."""
        shard, row = self._locate(number)
        return shard.key(row)

    def labels(self) -> Labels:
        """The label of every image, int64 [len], -1 where there is none. Reads the offsets files only."""
        offsets = [self._offsets_of(number)["label"] for number in range(len(self.index.shards))]
        return np.concatenate(offsets).astype(np.int64)

    def vectors(self) -> NDArray[np.float32] | None:
        """The label of every image where labels are vectors, float32 [len, dim]: NaN for one without. Else None.

        Raises:
            ShardsError: the file of labels is damaged.
        """
        record = self.index.vectors
        return None if record is None else read_vectors(self._location, record, self.index.count)

    def close(self) -> None:
        """Close all files, and forget where images lie in them. Reading opens them again."""
        self._open.clear()
        self._offsets.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict(), "_offsets": {}}

    def _check_sizes(self) -> None:
        """Every shard is there and as long as the index says: cheap, and it catches most of what goes wrong."""
        expected = {shard.name: shard.bytes for shard in self.index.shards}
        names = [*expected, *(shard.offsets_name for shard in self.index.shards)]
        names += [VECTORS_NAME] if self.index.vectors is not None else []
        sizes = self._location.sizes(names)
        for name in names:
            if name not in sizes:
                raise ShardsError(f"{self.path}/{name}: missing")
            size, right = sizes[name], expected.get(name, sizes[name])
            if size is not None and size != right:
                raise ShardsError(f"{self.path}/{name}: damaged: {size:,} bytes, {INDEX_NAME} says {right:,}")

    def _locate(self, number: int) -> tuple[_OpenShard, int]:
        if not 0 <= number < self.index.count:
            raise IndexError(f"{self.path}: image {number} of {self.index.count}")
        shard = bisect_right(self._starts, number) - 1
        return self._shard(shard), number - self._starts[shard]

    def _shard(self, number: int) -> _OpenShard:
        shard = self._open.get(number)
        if shard is None:
            record = self.index.shards[number]
            path = self._location.file(record.name, record.sha256, by_size=True)
            shard = self._open[number] = _OpenShard(path, self._offsets_of(number), self.index)
            if len(self._open) > _FILES_OPEN:
                self._open.popitem(last=False)  # the oldest; its file closes when the last reader lets go of it
        return shard

    def _offsets_of(self, number: int) -> NDArray[np.void]:
        """The offsets of a shard, read and checked once per process."""
        offsets = self._offsets.get(number)
        if offsets is None:
            record = self.index.shards[number]
            path = self._location.file(record.offsets_name, record.offsets_sha256)
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != record.offsets_sha256:
                raise ShardsError(f"{path}: damaged: its sha256 is not the one in {INDEX_NAME}")
            offsets = self._offsets[number] = parse_offsets(data, record.count, str(path))
        return offsets


class _OpenShard:
    """One open tar and its offsets."""

    def __init__(self, path: Path, offsets: NDArray[np.void], index: DatasetIndex) -> None:
        self._path, self._offsets, self._shape = path, offsets, index.shape
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise refusal(error)(f"{path}: cannot be opened: {error.strerror}") from None

    def read(self, row: int) -> tuple[Pixels, int]:
        """Pixels uint8 [C, H, W] (a view that may be read-only) and label of the shard's image `row`."""
        offset, size, crc32, label = self._offsets[row].item()
        try:
            block = self._bytes(offset - BLOCK_BYTES, BLOCK_BYTES + size)
            check_header(block, size)
            data = block[BLOCK_BYTES:]
            if zlib.crc32(data) != crc32:
                raise BadSample("its CRC-32 is not the one in the offsets file")
            return decode(data, self._shape), label
        except BadSample as error:
            raise self._damaged(row, error) from None

    def key(self, row: int) -> str:
        """The key of the shard's image `row`."""
        offset, size, _, _ = self._offsets[row].item()
        try:
            block = self._bytes(offset - BLOCK_BYTES, BLOCK_BYTES)
            check_header(block, size)
            return key_of_header(block)
        except BadSample as error:
            raise self._damaged(row, error) from None

    def _bytes(self, offset: int, size: int) -> bytes:
        try:
            data = os.pread(self._descriptor, size, offset)
        except OSError as error:
            raise refusal(error)(f"{self._path}: cannot be read: {error.strerror}") from None
        if len(data) != size:
            raise BadSample("the file ends within it")
        return data

    def _damaged(self, row: int, error: BadSample) -> ShardsError:
        return ShardsError(f"{self._path}: damaged: image {row} of the shard: {error}")

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)
