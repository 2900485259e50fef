"""Features kept on disk, so that a dataset goes through an embedding once.

    ROOT/<hash of the dataset's fingerprint>/<start of the embedding's digest>/
        features-00000000-00010000.safetensors      float32 [10000, dim], images 0 .. 9999
        logits-00000000-00010000.safetensors

The full fingerprint and digest, the range and the sha256 of the numbers stand in the file's header and are checked
on reading. Files appear whole or not at all. An entry that is damaged is reported and counts as absent.
"""

import hashlib
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from shards.files import write_whole

log = logging.getLogger(__name__)

Features = NDArray[np.float32]


@dataclass(frozen=True)
class FeatureKey:
    """What an entry holds: images start .. stop - 1 of a dataset, through one output of an embedding."""

    dataset: str  # fingerprint
    embedding: str  # digest
    start: int
    stop: int
    output: str  # "features" or "logits"

    def path(self, root: Path) -> Path:
        """Where the entry lies under `root`."""
        dataset = hashlib.sha256(self.dataset.encode()).hexdigest()
        return root / dataset[:16] / self.embedding[:16] / f"{self.output}-{self.start:08d}-{self.stop:08d}.safetensors"

    def header(self) -> dict[str, str]:
        """The fields as safetensors keeps them: text to text."""
        return {name: str(value) for name, value in asdict(self).items()}


class FeatureCache:
    """A directory of extracted features; several processes may read and write it at once."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def load(self, key: FeatureKey) -> Features | None:
        """The entry, float32 [stop - start, dim], or None if there is none that is whole."""
        path = key.path(self.root)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="np") as file:
                header: dict[str, str] = file.metadata() or {}
                rows: Features = file.get_tensor("rows")
        except (SafetensorError, OSError) as error:
            log.warning("%s: damaged (%s); extracting its features again", path, error)
            return None
        if header != key.header() | {"sha256": _sha256(rows)} or len(rows) != key.stop - key.start:
            log.warning("%s: its contents are not what its header says; extracting its features again", path)
            return None
        return rows

    def store(self, key: FeatureKey, rows: Features) -> None:
        """Write an entry, replacing what is there."""
        path = key.path(self.root)
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        write_whole(path, save({"rows": rows}, metadata=key.header() | {"sha256": _sha256(rows)}))


def _sha256(rows: Features) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest()
