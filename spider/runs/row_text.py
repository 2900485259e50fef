"""A row of metrics.jsonl, and results of metrics, as parts of a line for people."""

from __future__ import annotations

from typing import Any

from spider.config.schema import Config
from spider.tables import duration, size, speed
from untrusted.counts import counted

_CLEARLY_SLOWER_PERCENT = 20.0  # a rank's own work over the mean of all, to be worth a word


def result_text(row: dict[str, Any]) -> str:
    """A metric and its value."""
    return f"{row['label']} {'undefined' if row['value'] is None else format(row['value'], '.4g')}"


def pace_texts(timing: dict[str, Any]) -> list[str]:
    """How fast, and how long still; of evaluations that nobody knows the length of, how many."""
    left = left_text(timing["left_s"], 0 if timing["evaluation_s"] else timing["evaluations_left"])
    return [speed(timing["img_per_s"]), *([f"{left} left"] if left else [])]


def so_far_texts(timing: dict[str, Any], *, timed: bool) -> list[str]:
    """How long it has taken since this start, unless a bar tells it (`timed`), and the peak of a GPU's memory."""
    gpu_mb = timing.get("gpu_memory_mb")
    total = [] if timed else [f"{duration(timing['total_s'])} so far"]
    return [*total, *([] if gpu_mb is None else [f"GPU {size(gpu_mb * 2**20)}"])]


def left_text(left_s: float | None, evaluations: int) -> str:
    """How long still, and how many evaluations beside it of which nobody knows how long they take; or nothing."""
    parts = [duration(left_s)] if left_s else []
    return " and ".join([*parts, *([counted(evaluations, "evaluation")] if evaluations else [])])


def numbers_text(row: dict[str, Any], config: Config) -> str:
    """Losses, k, p, and the rank that holds the others up."""
    parts = [
        f"{short} {row[name]:.3g}"
        for short, name in (("D", "loss/d"), ("Dr", "loss/d_real"), ("Df", "loss/d_fake"), ("G", "loss/g"))
        if name in row
    ]
    if "selection/k" in row:
        parts.append(f"k {row['selection/k_now']}/{config.batch}")
    if config.selection.kind == "adaptive":  # which alone heeds p
        parts.append(f"p {row['overfit/p']:.3f}")
    excess = row["timing"].get("slowest_rank_percent", 0.0)
    slower = excess > _CLEARLY_SLOWER_PERCENT
    return " ".join(parts) + (f", rank {row['timing']['slowest_rank']} slowest (+{excess:.0f} %)" if slower else "")
