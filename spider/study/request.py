"""What a study is asked for. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import ClassVar

from spider.errors import SpiderUsageError
from spider.request import Request


@dataclass(frozen=True)
class StudyRequest(Request):
    """Named variants under the same seeds, trained, measured and compared.

    Attributes:
        file: STUDY.yaml, see `spider.study.plan`.
        given: `NAME=VALUE`, in the place of the file's `values`.
        only: work on these alone: variants, or runs as `ada-0`; of all others the page tells what is there. Empty: all.
        out: the study's folder, on storage that all who work on it see.
        at_once: trainings and other stages at a time, on this machine or on the Ray cluster.
        ray: the address of a Ray cluster (see `cluster.ray.connected`) that does the work; None: this machine does.
        cpus, gpus: of every stage on the Ray cluster, on one of its machines.
        report: write the page from what is there, and do nothing else.
        progress: say what begins and ends.
    """

    command: ClassVar[tuple[str, ...]] = ("study",)
    alone: ClassVar[tuple[str, ...]] = ("file", "given")

    file: str | Path
    given: Sequence[str] = ()
    _: KW_ONLY
    out: str | Path
    only: Sequence[str] = ()
    at_once: int = 1
    ray: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    report: bool = False
    progress: bool = False

    @property
    def named(self) -> dict[str, str | int | float]:
        """The values by name, numbers as such. Raises SpiderUsageError: one without a name."""
        found: dict[str, str | int | float] = {}
        for each in self.given:
            name, equals, value = each.partition("=")
            if not (equals and name.isidentifier()):
                raise SpiderUsageError(f"given: {each}: write NAME=VALUE")
            found[name] = _plain(value)
        return found


def _plain(value: str) -> str | int | float:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(value)
    return value
