"""Every benchmark, one after the other: `python -m benchmarks.run --out DIR` writes DIR/NAME.json for each."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

NAMES = ("reader", "train_step", "loop", "draws", "sid_curve", "metrics", "neighbors", "checkpoint", "ranks")


def main() -> int:
    """Run each in a process of its own; the number of those that failed is the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON files")
    out = parser.parse_args().out
    commands = [[sys.executable, "-m", f"benchmarks.{name}", "--out", str(out / f"{name}.json")] for name in NAMES]
    return sum(subprocess.run(command).returncode != 0 for command in commands)


if __name__ == "__main__":
    sys.exit(main())
