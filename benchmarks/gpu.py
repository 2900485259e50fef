"""What an iteration costs on a GPU, and what the options for speed are worth there.

    python -m benchmarks.gpu [--out FILE.json] [--seconds 4]

Presets as they ship, then with one option each, on scikit-learn's digits in colour. For each: time, images, the most
memory that was taken, and how often the host waited for the GPU (what torch's sync debug mode counts). Then what all
draws of a batch cost. Without a GPU it measures this machine's CPU, for a try: --seconds 0.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import torch

from benchmarks.report import Row, write_report
from benchmarks.steps import synchronise
from cluster.world import World
from shards.pack import pack
from spider import draws
from spider.config.load import load_config
from spider.precision import set_numerics
from spider.train.trainer import Trainer

# Preset, resolution, batch
_CASES = (("dcgan", 64, 64), ("r3gan-32", 32, 128), ("r3gan-64", 64, 64))
_FAST = ["compute.tf32=true", "compute.channels_last=true", "compute.precision=bf16"]
_SETTINGS = {
    "as it ships": [],
    "tf32": ["compute.tf32=true"],
    "bf16": ["compute.precision=bf16"],
    "tf32, bf16, channels_last": _FAST,
    "and compiled": [*_FAST, "compute.compile=true"],
    "tf32, ada at p = 0.2": ["compute.tf32=true", "augment=[{kind: ada, p: 0.2}]"],
}
_WARM_UP = 5


def main() -> None:
    """Run everything and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--seconds", type=float, default=4, help="to measure each setting for")
    arguments = parser.parse_args()
    world = World.from_env()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for preset, resolution, batch in _CASES:
            data = Path(folder) / f"digits-{resolution}"
            if not data.exists():
                pack("builtin:digits", data, resolution=resolution, channels=3, progress=False)
            for name, overrides in _SETTINGS.items():
                given = [f"data.path={data}", f"batch={batch}", *overrides]
                measured = _measured(preset, given, world, arguments.seconds)
                rows.append({"preset": preset, "px": resolution, "setting": name, **measured})
                print(f"{preset}, {resolution} px, {name}: {measured['ms/iteration']:.1f} ms", flush=True)
    rows += [{"preset": "draws", "setting": name, "ms/iteration": cost} for name, cost in _draws(world.device).items()]
    write_report("GPU", rows, arguments.out)


def _measured(preset: str, overrides: list[str], world: World, seconds: float) -> Row:
    config = load_config(preset, overrides)
    compute = config.compute
    set_numerics(deterministic=compute.deterministic, tf32=compute.tf32, compiled=compute.compile)
    on_gpu = world.device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    trainer = Trainer(config, world)
    for _ in range(_WARM_UP if seconds else 1):
        trainer.iterate()
    synchronise(world.device)
    trainer.feeds.waits.take()
    began, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - began < seconds:
        trainer.iterate()
        count += 1
    synchronise(world.device)
    spent, waited = time.perf_counter() - began, trainer.feeds.waits.take()
    row: Row = {
        "ms/iteration": 1000 * spent / count,
        "img/s": config.batch * count / spent,
        "data wait %": 100 * waited / spent,
        "peak GB": torch.cuda.max_memory_allocated() / 1e9 if on_gpu else float("nan"),
        "host waits": _host_waits(trainer) if on_gpu else "",
    }
    trainer.close()
    return row


def _host_waits(trainer: Trainer) -> int:
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            trainer.iterate()
            return len(found)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _draws(device: torch.device) -> dict[str, float]:
    """Milliseconds for the draws of a batch of 32, medians."""
    shapes = {"z, 512": (512,), "noise of 4 to 256 px, twice each": (sum(2 * (4 << i) ** 2 for i in range(7)),)}
    found = {}
    for name, shape in shapes.items():
        times = []
        for turn in range(12):
            synchronise(device)
            began = time.perf_counter()
            draws.normal(0, "bench", range(32 * turn, 32 * turn + 32), shape, device)
            synchronise(device)
            times.append(1000 * (time.perf_counter() - began))
        found[name] = statistics.median(times[2:])
    return found


if __name__ == "__main__":
    main()
