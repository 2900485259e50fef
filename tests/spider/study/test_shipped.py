"""The studies and sweeps that ship are read by the code of today, with their values for a CPU and for a GPU."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from spider import api
from spider.config.load import load_config
from spider.runs.request import TrainRequest
from spider.study.request import StudyRequest
from sweeps.config import read_sweep

ROOT = Path(__file__).resolve().parents[3]
STUDIES = sorted((ROOT / "docs").rglob("study.yaml"))
SWEEPS = sorted({*(ROOT / "docs").rglob("*sweep*.yaml"), *(ROOT / "sweeps").rglob("*.yaml")})


def values_for_a_gpu(file: Path) -> list[str]:
    """Those that the comment above a study names, up to its first line without one; none, if it names none."""
    comment = " ".join(line.lstrip("# ") for line in file.read_text().splitlines() if line.startswith("#"))
    return re.findall(r"\b[a-z_]+=[\w.]+", comment.partition("On a GPU")[2])


def fed(source: object) -> list[str]:
    """As keys: the name of a prior, or a place, whatever will lie there."""
    if source is None:
        return []
    return ["source.kind=images", "source.path=none"] if "/" in str(source) else [f"source.kind={source}"]


@pytest.mark.parametrize("file", STUDIES, ids=[file.parent.name for file in STUDIES])
def test_a_study_asks_for_keys_that_there_are(file, tmp_path):
    for given in ([], values_for_a_gpu(file)):
        plan = api._read_study(StudyRequest(file, given, out=tmp_path / "out"), "local")
        assert plan.runs
        trainings = [stage.request for stage in plan.stages if isinstance(stage.request, TrainRequest)]
        asked = {(str(each.config), *fed(each.source), *each.overrides) for each in trainings}  # once for all seeds
        for config, *overrides in asked:
            if not config.endswith(".yaml"):
                load_config(config, [*overrides, "data.path=none"])


@pytest.mark.parametrize("file", SWEEPS, ids=[file.stem for file in SWEEPS])
def test_a_sweep_asks_for_keys_that_there_are(file):
    assert read_sweep(file)
