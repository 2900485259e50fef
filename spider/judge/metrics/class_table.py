"""The distances of classes, as a table's rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_SHOWN = 30  # classes in a table


def class_lines(by_seed: Sequence[Sequence[Mapping[str, Any]]]) -> list[tuple[str, str, str, str]]:
    """Rows of a table (class, mean over seeds, samples of each, reference), the worst first if there are many.

    There are none where no class was measured.
    """
    lines = []
    for rows in zip(*by_seed, strict=True):
        values = [row["value"] for row in rows]
        mean = None if None in values else float(np.mean(values))
        counts = sorted({row["samples"] for row in rows})
        samples = f"{counts[0]:,}" + (f" to {counts[-1]:,}" if len(counts) > 1 else "")
        lines.append((rows[0]["class"], mean, samples, f"{rows[0]['reference']:,}"))
    if all(mean is None for _, mean, *_ in lines):
        return []
    if len(lines) > _SHOWN:
        lines = sorted(lines, key=lambda line: -np.inf if line[1] is None else line[1], reverse=True)[:_SHOWN]
    return [(name, "-" if mean is None else f"{mean:.5g}", *counts) for name, mean, *counts in lines]
