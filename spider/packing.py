"""What `pack` and `verify` are asked for. The work is done in `shards`, which knows nothing of requests."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from spider.request import Reads, Request

if TYPE_CHECKING:
    from shards.choices import Crop, Encoding
    from shards.labels import Labels


@dataclass(frozen=True)
class PackRequest(Request):
    """Images to pack into shards. The fields are the arguments of `shards.pack.pack`."""

    command: ClassVar[tuple[str, ...]] = ("pack",)
    alone: ClassVar[tuple[str, ...]] = ("source", "out")
    repeated: ClassVar[tuple[str, ...]] = ("join",)
    options: ClassVar[Mapping[str, str]] = {"listed": "--list"}
    places: ClassVar = {"source": "images", "join": "images", "listed": "file"}

    source: str | Path
    out: str | Path
    _: KW_ONLY
    resolution: int | None = None
    channels: Literal[1, 3] | None = None
    crop: Crop = "center"
    subset: int | None = None
    long_tail: float | None = None
    join: Sequence[str | Path] = ()
    listed: str | Path | None = None
    seed: int = 0
    shard_mb: float = 64
    workers: int | None = None
    max_bad: str | int = "1%"
    encoding: Encoding = "auto"
    labels: Labels = "class"
    max_megapixels: float = 80
    progress: bool = False

    def require_valid(self, ranks: int, trained: Collection[Path] = ()) -> None:
        """See the base class."""
        from shards.index import PackOptions, pack_options
        from shards.joined import require_join
        from shards.pack_job import Allowance

        pack_options(**{name: getattr(self, name) for name in PackOptions.model_fields})
        require_join(self.join, self.labels, self.listed)
        Allowance.parse(self.max_bad)

    def reads(self) -> list[tuple[str, Reads, str]]:
        """See the base class. A published list is made of a folder of annotations."""
        from shards.lists import annotations_of

        found: list[tuple[str, Reads, str]] = []
        for field, what, name in super().reads():
            folder = annotations_of(name) if field == "listed" else None
            found.append((field, what, name) if folder is None else (field, "images", folder))
        return found


@dataclass(frozen=True)
class VerifyRequest(Request):
    """Packed shards whose bytes are to be checked: the arguments of `shards.verify.verify`."""

    command: ClassVar[tuple[str, ...]] = ("verify",)
    alone: ClassVar[tuple[str, ...]] = ("shards",)
    places: ClassVar = {"shards": "images"}

    shards: str | Path
    _: KW_ONLY
    workers: int | None = None
    progress: bool = False
