"""Progress of long work: a bar on a terminal, and a line now and then in a log."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

_LINE_EVERY_S = 30.0
_LINE = "{desc}: {percentage:3.0f}% {n_fmt}/{total_fmt} {unit} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class Bar(tqdm):  # type: ignore[type-arg]
    """A tqdm bar; where stderr is no terminal, lines of work that takes long: one every half minute, and a last one."""

    def __init__(self, *, shown: bool = True, **options: Any) -> None:
        """As tqdm's; `shown` instead of `disable`."""
        self._is_log, self._told = not sys.stderr.isatty(), options.get("initial", 0)
        if self._is_log:
            options |= {"mininterval": _LINE_EVERY_S, "maxinterval": _LINE_EVERY_S}
            options.setdefault("bar_format", _LINE)
        super().__init__(disable=not shown, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draw the bar, or write the line."""
        if not self._is_log:
            super().display(msg, pos)
        elif self.n != self._told:
            self._told = self.n
            sys.stderr.write(f"{self}\n")
            sys.stderr.flush()

    def close(self) -> None:
        """Leave it as it is, or write the last line."""
        if self._is_log and not self.disable:
            if self._told != self.initial:
                self.display()
            self.disable = True  # nothing is left to draw
            type(self)._decr_instances(self)  # type: ignore[attr-defined]
        super().close()
