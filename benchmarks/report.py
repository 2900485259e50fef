"""One shape for every benchmark's result: a table on the screen, and JSON that says on which machine it was measured.

FILE.json   {"name", "machine": {"cpu", "cores", "memory_gb", "accelerator", ...}, "rows": [{column: value}]}
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

Row = Mapping[str, object]


def write_report(name: str, rows: Sequence[Row], out: Path | str | None = None) -> None:
    """Print `rows` as an aligned table under `name`; also write them with the machine's description to `out`, if given.

    Rows may differ in their columns; a column that a row lacks is left blank.
    """
    print(f"\n{name}  ({_machine_line()})\n")
    print(_table(rows), flush=True)
    if out is not None:
        path = Path(out)
        path.parent.mkdir(parents=True, exist_ok=True)
        report = {"name": name, "machine": machine(), "rows": [dict(row) for row in rows]}
        path.write_text(json.dumps(report, indent=2, default=_plain) + "\n")
        print(f"\nwritten to {path}")


def machine() -> dict[str, object]:
    """What a reader needs to judge a timing: processor, usable cores, memory, accelerator and versions."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _machine_line() -> str:
    about = machine()
    return f"{about['cpu']}, {about['cores']} cores, accelerator: {about['accelerator']}, torch {about['torch']}"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _table(rows: Sequence[Row]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [columns, *([_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    numeric = [any(isinstance(row.get(column), int | float) for row in rows) for column in columns]
    return "\n".join(
        "  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in zip(line, widths, numeric, strict=True)).rstrip()
        for line in cells
    )


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,.4g}" if abs(value) < 1000 and isinstance(value, float) else f"{value:,.0f}"


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a benchmark row holds {type(value).__name__}, which JSON cannot")
