"""When two runs are the same: what tests of resuming compare, and drills."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cluster.checkpoint import CheckpointStore
from cluster.world import World
from spider.runs.directory import RunDirectory, resolve

WRITTEN = ("rows", "TensorBoard", "evaluations", "samples", "best", "trace")


def everything(path: Path | str) -> tuple[Any, ...]:
    """All that must be equal: tensors, state, rows, trace, TensorBoard, evaluations, and which samples there are."""
    directory = RunDirectory(Path(path))
    snapshot = CheckpointStore(directory.checkpoints, World.single()).load(resolve(str(path)).checkpoint)
    rows = [json.loads(line) for line in directory.metrics_file.read_text().splitlines()]
    for row in rows:
        row.pop("timing")
    scalars = curves(directory) if directory.config().log.tensorboard else {}
    found = directory.evaluations.iterdir() if directory.evaluations.exists() else ()
    evaluations = {file.name: json.loads(file.read_text())["results"] for file in found}
    for results in evaluations.values():
        for result in results:
            result["provenance"]["samples"].pop("name")
    samples = {file.name: file.read_bytes() for file in directory.samples.iterdir()}
    best = directory.best()
    trace = directory.trace_file.read_text() if directory.trace_file.exists() else None
    return snapshot, rows, scalars, evaluations, samples, best, trace


def curves(directory: RunDirectory) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows, but for times."""
    board = EventAccumulator(str(directory.tensorboard)).Reload()
    return {
        tag: [(event.step, event.value) for event in board.Scalars(tag)]
        for tag in board.Tags()["scalars"]
        if not tag.startswith("timing/")
    }


def assert_equal_runs(a: Path | str, b: Path | str) -> None:
    """Bit for bit."""
    (left, *rest_left), (right, *rest_right) = everything(a), everything(b)
    assert left.tensors.keys() == right.tensors.keys()
    for group, tensors in left.tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, right.tensors[group][name]), f"{group}: {name}"
    assert left.state == right.state
    manifests = [resolve(str(path)).path / "manifest.json" for path in (a, b)]  # with the sha256 of every file
    assert manifests[0].read_bytes() == manifests[1].read_bytes()
    for what, one, other in zip(WRITTEN, rest_left, rest_right, strict=True):
        assert one == other, what
