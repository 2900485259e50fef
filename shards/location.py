"""Where a packed dataset lies: a folder, or a URL whose shards are fetched into a cache when they are first used."""

from __future__ import annotations

from pathlib import Path

from shards.errors import ShardsUsageError
from shards.files import cache_root
from shards.index import INDEX_NAME, MAX_INDEX_BYTES, DatasetIndex, parse_index
from shards.missing import no_such
from shards.remote import RemoteFolder, is_remote

_DATASETS_NAMED = 5  # in an error


class Location:
    """The index of the dataset at `path`, and the way to its files. May be forked and pickled.

    Raises:
        ShardsUsageError: no dataset is there.
        ShardsError: its index is damaged, or the other side does not answer.
    """

    index: DatasetIndex

    def __init__(self, path: str | Path, cache_dir: Path | None = None) -> None:
        self.path = str(path)
        self._folder = Path(path)
        self._remote = RemoteFolder(self.path) if is_remote(path) else None
        self.index = parse_index(self._read_index(), f"{self.path}/{INDEX_NAME}")
        self._bytes = {shard.name: shard.bytes for shard in self.index.shards}
        if self._remote is not None:
            # Not by the fingerprint, which is the same when the same images are packed in other shards
            sha256s = [sha256 for shard in self.index.shards for sha256 in (shard.sha256, shard.offsets_sha256)]
            self._folder = self._remote.cache_folder(cache_dir or cache_root() / "shards", sha256s)

    @property
    def name(self) -> str:
        """The folder's name, or the last part of the URL."""
        return self._remote.name if self._remote is not None else self._folder.resolve().name

    def sizes(self, names: list[str]) -> dict[str, int | None]:
        """Bytes of each of these files that is there; None where a server does not say how many."""
        if self._remote is not None:
            return self._remote.sizes(names)
        return {name: path.stat().st_size for name in names if (path := self._folder / name).exists()}

    def file(self, name: str, sha256: str, *, by_size: bool = False) -> Path:
        """A file of the dataset on this machine. A remote one is fetched, and checked, unless that was done before.

        Args:
            by_size: know a shard that was fetched before by its size; otherwise all of it is hashed.

        Raises:
            ShardsError: see `RemoteFolder.fetch`.
        """
        if self._remote is None:
            return self._folder / name
        return self._remote.fetch(name, sha256, self._bytes.get(name), self._folder, by_size=by_size)

    def _read_index(self) -> bytes:
        if self._remote is not None:
            return self._remote.read(INDEX_NAME, MAX_INDEX_BYTES + 1)
        try:
            with (self._folder / INDEX_NAME).open("rb") as file:
                return file.read(MAX_INDEX_BYTES + 1)
        except OSError as error:
            if not self._folder.exists():
                raise ShardsUsageError(no_such(self.path)) from None
            below = [str(index.parent) for index in sorted(self._folder.glob(f"*/{INDEX_NAME}"))]
            named = ", ".join(below[:_DATASETS_NAMED]) + (", ..." if len(below) > _DATASETS_NAMED else "")
            raise ShardsUsageError(
                f"{self.path}: no packed dataset here: {INDEX_NAME}: {error.strerror}"
                f"{f'; it holds datasets: {named}' if below else ''}"
            ) from None
