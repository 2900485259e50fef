"""Features kept on disk, so that a dataset goes through an embedding once.

    ROOT/<hash of the dataset's fingerprint>/<start of the embedding's digest>/
        features-00000000-00001024.safetensors      rows: float32 [1024, dim], images 0 .. 1023
        features-00001024-00002048.safetensors
        logits-00000000-00001024.safetensors
        summary-00000000-00010000.safetensors       what was computed from the features of all these images

The full fingerprint and digest, the range and the sha256 of the numbers stand in the file's header and are checked
on reading. Files appear whole or not at all. An entry that is damaged is reported and deleted.
"""

import hashlib
import logging
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from shards.files import write_whole
from untrusted.errors import UnreadableError
from untrusted.json_data import parse_json
from untrusted.typed import checked

log = logging.getLogger(__name__)

Features = NDArray[np.float32]
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class FeatureKey:
    """What an entry holds: something of images start .. stop - 1 of a dataset under an embedding."""

    dataset: str  # fingerprint
    embedding: str  # digest
    start: int
    stop: int
    output: str  # "features", "logits", or what is computed from features

    def path(self, root: Path) -> Path:
        """Where the entry lies under `root`."""
        dataset = hashlib.sha256(self.dataset.encode()).hexdigest()
        return root / dataset[:16] / self.embedding[:16] / f"{self.output}-{self.start:08d}-{self.stop:08d}.safetensors"

    def header(self) -> dict[str, str]:
        """The fields as safetensors keeps them: text to text."""
        return {name: str(value) for name, value in asdict(self).items()}


class FeatureCache:
    """A directory of extracted features; several processes, also on several machines, may read and write it at once."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def load(self, key: FeatureKey) -> Arrays | None:
        """The entry's arrays by name, or None if there is no entry that is whole.

        Raises OSError where it cannot be read, which says nothing about whether it is whole.
        """
        path = key.path(self.root)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            header, arrays = _metadata(data), load(data)
        except (SafetensorError, UnreadableError) as error:
            log.warning("%s: damaged (%s); making it again", path, error)
            path.unlink(missing_ok=True)
            return None
        arrays = {name: arrays[name] for name in sorted(arrays)}
        if header == key.header() | {"sha256": _sha256(arrays)}:
            return arrays
        log.warning("%s: its contents are not what its header says; making it again", path)
        if header.items() >= key.header().items():  # otherwise it is another's, whose name begins alike
            path.unlink(missing_ok=True)
        return None

    def has(self, key: FeatureKey, wait_s: float = 0.0) -> bool:
        """Whether there is an entry, without reading it.

        Args:
            wait_s: how long it may take to be seen; NFS remembers for a minute that a file was not there.
        """
        path, deadline = key.path(self.root), time.monotonic() + wait_s
        while not path.exists():
            if time.monotonic() > deadline:
                return False
            for folder in (self.root, path.parent.parent, path.parent):  # to look makes NFS ask again
                if folder.is_dir():
                    os.listdir(folder)
            time.sleep(min(1.0, wait_s))
        return True

    def discard(self, key: FeatureKey) -> None:
        """Delete an entry, if there is one."""
        key.path(self.root).unlink(missing_ok=True)

    def store(self, key: FeatureKey, **arrays: NDArray[Any]) -> None:
        """Write an entry, replacing what is there."""
        whole = {name: np.asarray(arrays[name], order="C") for name in sorted(arrays)}
        write_whole(key.path(self.root), save(whole, metadata=key.header() | {"sha256": _sha256(whole)}))


def _metadata(data: bytes) -> dict[str, str]:
    """What a file says of itself. Raises UnreadableError if it is none."""
    size = int.from_bytes(data[:8], "little")
    header = checked(parse_json(data[8 : 8 + size], "header"), dict[str, Any], "header")
    return checked(header.get("__metadata__"), dict[str, str], "header")


def _sha256(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for array in arrays.values():
        digest.update(array.tobytes() if array.ndim == 0 else array.data)
    return digest.hexdigest()
