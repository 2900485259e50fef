"""What `import` and `export` are asked for. Needs no torch."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import ClassVar

from spider.request import Request


@dataclass(frozen=True)
class ImportRequest(Request):
    """A pickle of another program's networks, to become a run's folder.

    Attributes:
        file: the pickle. Nothing of it runs.
        out: the folder to make, which other verbs take where they take a run.
    """

    command: ClassVar[tuple[str, ...]] = ("import",)
    alone: ClassVar[tuple[str, ...]] = ("file", "out")
    places: ClassVar = {"file": "file"}

    file: str | Path
    out: str | Path

    @property
    def made_run(self) -> Path:
        """See the base class."""
        return Path(self.out).absolute()


@dataclass(frozen=True)
class ExportRequest(Request):
    """The averaged generator of a run, for other programs.

    Attributes:
        run: RUN, RUN@best, RUN@last or RUN@KIMG.
        out: the folder to make.
        onnx: write the network itself as well, which needs the extra `onnx`.
    """

    command: ClassVar[tuple[str, ...]] = ("export",)
    alone: ClassVar[tuple[str, ...]] = ("run", "out")
    places: ClassVar = {"run": "run"}

    run: str | Path
    out: str | Path
    _: KW_ONLY
    onnx: bool = False
