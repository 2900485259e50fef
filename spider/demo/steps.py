"""Numbered steps on the screen, and what they took, also over several processes.

FILE    {"<step>": [wall seconds, processor seconds], ...}
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from spider.files import write_text
from untrusted.json_data import read_json
from untrusted.typed import checked


@dataclass(frozen=True)
class Timing:
    """What a step took, over all the times that it was begun."""

    step: str
    wall_s: float
    cpu_s: float


class Steps:
    """The steps of one piece of work.

    Args:
        file: keeps their times.
        count: how many there are.
        progress: whether anybody watches, on stderr.
    """

    def __init__(self, file: Path, count: int, progress: bool) -> None:
        self.file, self.count, self.progress = file, count, progress
        self._begun: list[str] = []
        self._spent: dict[str, tuple[float, float]] = (
            checked(read_json(file), dict[str, tuple[float, float]], str(file)) if file.is_file() else {}
        )

    @property
    def timings(self) -> list[Timing]:
        """Of the steps so far, where they were ever done."""
        return [Timing(step, *self._spent[step]) for step in self._begun if step in self._spent]

    def begin(self, step: str, *, done: bool = False) -> None:
        """Announce a step."""
        self._begun.append(step)
        self.say(f"[{len(self._begun)}/{self.count}] {step}{': done before' if done else ''}")

    def do(self, step: str, work: Callable[[], object], *, done: bool) -> None:
        """Announce a step and, unless it is done, do it and keep its time."""
        self.begin(step, done=done)
        if done:
            return
        wall, cpu = time.perf_counter(), _cpu_s()
        try:
            work()
        finally:
            wall_before, cpu_before = self._spent.get(step, (0.0, 0.0))
            self._spent[step] = (wall_before + time.perf_counter() - wall, cpu_before + _cpu_s() - cpu)
            write_text(self.file, json.dumps(self._spent, indent=2) + "\n")

    def say(self, text: str) -> None:
        """Something for the person who watches."""
        if self.progress:
            tqdm.write(text, file=sys.stderr)


def _cpu_s() -> float:
    """Processor seconds of this process and those that it waited for."""
    return sum(os.times()[:4])
