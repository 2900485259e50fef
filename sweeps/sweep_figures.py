"""stub"""

from pathlib import Path
from typing import Any


def draw_parallel(report: Any, path: Path) -> None: ...
def draw_outcome(outcome: Any, path: Path) -> None: ...
