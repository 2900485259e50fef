"""What a training shows the person who watches: a bar where stderr is a terminal, lines where it is none."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tqdm import tqdm

_BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"  # the speed of tqdm knows no evaluations


class ProgressBar:
    """Of `total` images; `images` are done. Nothing is shown unless it is to be."""

    def __init__(self, images: int, total: int, *, shown: bool) -> None:
        self._shown = shown
        self._bar = tqdm(
            total=total,
            initial=images,
            unit="img",
            unit_scale=True,
            bar_format=_BAR,
            disable=None if shown else True,  # None: where stderr is no terminal
        )

    @property
    def moves(self) -> bool:
        """Whether there is a bar; else lines say how far the training is."""
        return not self._bar.disable

    def update(self, images: int, texts: Sequence[str]) -> None:
        """So many images more are done; what stands beside the bar."""
        self._bar.set_postfix_str(", ".join(texts), refresh=False)
        self._bar.update(images)

    def say(self, line: str) -> None:
        """A line of its own."""
        if self._shown:
            tqdm.write(line, file=sys.stderr)

    def close(self) -> None:
        """Leave it as it is."""
        self._bar.close()
