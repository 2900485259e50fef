"""SWEEP.yaml: what cannot be is refused by its key before anything runs, and a sweep stays the one it began as."""

from __future__ import annotations

import copy
import datetime
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from spider.errors import SpiderUsageError
from sweeps.config import make_sweep, plain, sweep_differences
from sweeps.plan import SweepPlan

SWEEP: dict[str, Any] = {
    "config": "dcgan",
    "kimg": 100,
    "overrides": {"evaluate.every_kimg": 10, "evaluate.embedding": "offline"},
    "space": {"penalties.r1_gamma": {"grid": [0.1, 1]}},
}
ASHA = {"kind": "asha", "grace_kimg": 20}
RANDOM = {"kind": "random", "trials": 2}
FIXED = {k: {"kind": "fixed", "k": k} for k in (8, 32)}


def changed(**keys: Any) -> dict[str, Any]:
    return {**copy.deepcopy(SWEEP), **keys}


def plan(tmp_path: Path, **keys: Any) -> SweepPlan:
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(changed(**keys)))
    return SweepPlan(file, tmp_path / "out")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kmig": 3}, r"kmig: no such key; did you mean kimg\?"),
        ({"kimg": 0}, r"kimg: .*greater than 0, found 0"),
        ({"seeds": 0}, r"seeds: 0 of them"),
        ({"seeds": [1, 1]}, r"seeds: \[1, 1\] names one twice"),
        ({"search": "all"}, r"search\.kind: .*'all'.*allowed: 'grid', 'random', 'optuna'"),
        ({"search": "random"}, r"search\.trials: missing"),
        ({"scheduler": {**ASHA, "grace": 1}}, r"scheduler\.grace: no such key"),
        ({"scheduler": {**ASHA, "grace_kimg": 100}}, r"scheduler\.grace_kimg=100 is not below kimg=100"),
        ({"space": {"batch": {"gird": [1]}}}, r"space\.batch\.gird: no such key; did you mean grid\?"),
        ({"space": {"batch": {}}}, r"space\.batch: an axis is one of grid"),
        ({"space": {"batch": [8, 16]}}, r"space\.batch: found \[8, 16\]; an axis is \{grid: "),
        ({"space": {}}, r"space: is empty"),
        ({"space": {"batch": {"grid": [8, 8]}}}, r"space\.batch: grid: 8 stands there twice"),
        ({"space": {"source": {"grid": ["a", "./a"]}}}, r"space\.source: grid: '.*/a' stands there twice"),
        ({"space": {"batch": {"grid": [datetime.date(2026, 1, 2)]}}}, r"space\.batch\.grid: .*read as a date"),
        ({"overrides": {"batch": datetime.date(2026, 1, 2)}}, r"overrides\.batch: 2026-01-02 is read as a date"),
        (
            {"space": {"penalties": {"grid": [{"r2_gamma": 1}]}}, "overrides": {"penalties.r1_gamma": 1}},
            r"space\.penalties: overrides\.penalties\.r1_gamma says a part of the same",
        ),
        (
            {"space": {"penalties.r1_gamma": {"grid": [1]}}, "overrides": {"penalties": {"r1_gamma": 1}}},
            r"space\.penalties\.r1_gamma: overrides\.penalties says a part of the same",
        ),
        (
            {"space": {"source": {"grid": ["gaussian"]}, "source.kind": {"grid": ["gamma"]}}},
            r"space\.source\.kind: source\.kind is what space\.source says",
        ),
        ({"space": {"evaluate": {"grid": [{"count": 9}]}}}, r"space\.evaluate: must be the same for all"),
        ({"space": {"data": {"grid": [{"path": "a"}]}}}, r"space\.data: .*`data`"),
        ({"space": {"batch": {"randint": [3, 3]}}, "search": RANDOM}, r"randint: \[3, 3\] is one value"),
        ({"space": {"batch": {"choice": [8]}}}, r"space\.batch: choice .*search=grid"),
        (
            {"space": {"batch": {"grid": [8]}}, "search": {"kind": "optuna", "trials": 2}},
            r"space\.batch: grid .*choice",
        ),
        ({"space": {"ema.rampup": {"uniform": [1, 0]}}, "search": RANDOM}, r"space\.ema\.rampup: uniform: \[1, 0\]"),
        ({"space": {"ema.rampup": {"loguniform": [0, 1]}}, "search": RANDOM}, r"loguniform: the lower bound is 0"),
        ({"space": {"seed": {"grid": [1]}}}, r"space\.seed: .*`seeds`"),
        ({"space": {"evaluate.count": {"grid": [9]}}}, r"space\.evaluate\.count: must be the same for all"),
        ({"space": {"batch": {"grid": [8]}}, "overrides": {"batch": 9}}, r"space\.batch: stands in overrides"),
        ({"space": {"source": {"uniform": [0, 1]}}, "search": RANDOM}, r"space\.source: uniform gives numbers"),
        ({"space": {"batch": {"neighbors": {"sources": ["a"]}}}}, r"space\.batch: neighbors are values of `source`"),
        ({"space": {"source": {"neighbors": {"sources": ["a"], "picks": 0}}}}, r"picks=0"),
        (
            {"space": {"source": {"neighbors": {"sources": ["a"], "rule": "fid"}}}},
            r"rule 'fid' is unknown; known: paper",
        ),
        ({"resources": {"gpus": 1.5}}, r"resources: gpus=1\.5"),
        ({"resources": {"gpus": 1, "processes": 2}}, r"resources: gpus=1: processes=2"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(SpiderUsageError, match=message) as refused:
        make_sweep(changed(**keys), "sweep.yaml")
    assert str(refused.value).startswith("sweep.yaml: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"config": "dcgna"}, r"config: dcgna: neither a file nor a preset"),
        ({"data": "nowhere"}, r"data\.path: .*nowhere: no such file"),
        (
            {"space": {"penalties.r1_gama": {"grid": [1]}}},
            r"penalties\.r1_gama=1: no such key; did you mean penalties\.r1",
        ),
        ({"space": {"penalties.r1_gamma": {"grid": [1, -1]}}}, r"penalties\.r1_gamma=-1: must be >= 0"),
        ({"space": {"source": {"grid": ["gaussian", "nowhere"]}}}, r"source\.path: .*nowhere: no such file"),
        ({"space": {"ema.rampup": {"uniform": [0, 1]}}, "search": RANDOM}, r"ema\.rampup=0.*: must be > 0"),
        # refused in the middle only, and in combination only
        ({"space": {"batch": {"uniform": [2, 9]}}, "search": RANDOM}, r"batch=.*whole number"),
        (
            {"space": {"batch": {"grid": [64, 16]}, "selection": {"grid": [FIXED[8], FIXED[32]]}}},
            r"selection\.k=32 exceeds batch=16",
        ),
        ({"overrides": {}}, r"evaluate\.every_kimg is not set"),
        ({"metric": "kid"}, r"metric=kid is not among evaluate\.metrics=\['fid'\]"),
        ({"scheduler": {**ASHA, "grace_kimg": 5}}, r"scheduler\.grace_kimg=5 is before the first evaluation"),
        ({"resources": {"processes": 3}}, r"batch=100 does not divide over 3 ranks"),
    ],
)
def test_what_a_run_would_refuse_is_refused_before_anything_runs(
    keys: dict[str, Any], message: str, tmp_path: Path, digits: Path
) -> None:
    with pytest.raises(Exception, match=message) as refused:
        plan(tmp_path, **{"data": str(digits), **keys})
    assert getattr(refused.value, "exit_code", None) == 2
    assert not (tmp_path / "out").exists()


def test_a_metric_must_say_which_way_is_better(tmp_path: Path, digits: Path) -> None:
    overrides = {**SWEEP["overrides"], "evaluate.metrics": ["fid", "csid"]}
    with pytest.raises(SpiderUsageError, match="metric=csid: neither low nor high is better; one of fid"):
        plan(tmp_path, data=str(digits), overrides=overrides, metric="csid")


def test_a_sweep_is_read_back_as_it_was_written() -> None:
    space = {
        "source": {"neighbors": {"sources": {"a": "x", "b": "y"}, "orders": [-1, "0 log"], "picks": "all"}},
        "penalties.r1_gamma": {"loguniform": ["1e-2", 10]},
        "objective": {"choice": [{"kind": "hinge"}, {"kind": "wasserstein"}]},
    }
    sweep = make_sweep(changed(space=space, search=RANDOM, scheduler=ASHA, seeds=3))
    assert make_sweep(yaml.safe_load(yaml.safe_dump(plain(sweep)))) == sweep
    assert sweep.seeds == (0, 1, 2)
    assert Path(sweep.space["source"].neighbors.sources["a"]).is_absolute()


def test_another_sweep_is_refused_with_the_difference(tmp_path: Path, digits: Path) -> None:
    plan(tmp_path, data=str(digits)).write()
    plan(tmp_path, data=str(digits), retries=5, at_once=7, resources={"cpus": 2})  # how, not what
    with pytest.raises(SpiderUsageError, match=r"holds another sweep \(kimg: it began with 100\.0, now 50\.0\)"):
        plan(tmp_path, data=str(digits), kimg=50)
    with pytest.raises(SpiderUsageError, match=r"space\.penalties\.r1_gamma\.grid: it began with \[0\.1, 1\], now"):
        plan(tmp_path, data=str(digits), space={"penalties.r1_gamma": {"grid": [0.1, 2]}})


def test_a_sweep_keeps_the_configuration_that_it_began_with(tmp_path: Path, digits: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("batch: 50\n")
    plan(tmp_path, data=str(digits), config=str(mine)).write()
    mine.write_text("batch: 60\n")
    with pytest.raises(SpiderUsageError, match=r"mine\.yaml: batch was 50, now 60"):
        plan(tmp_path, data=str(digits), config=str(mine))


def test_random_search_may_be_made_longer() -> None:
    def draws(trials: int) -> Any:
        space = {"ema.rampup": {"uniform": [0.1, 1]}}
        return make_sweep(changed(space=space, search={"kind": "random", "trials": trials}))

    assert sweep_differences(draws(4), draws(9)) == []


def test_the_file_is_read_without_torch_and_ray() -> None:
    code = "import sys, sweeps.config; print([m for m in ('torch', 'ray') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
