"""Whatever stands in a sweep's file, the sweep is read, or refused in one line that names the key."""

from __future__ import annotations

import copy
import math
from datetime import date

import pytest

from shards.errors import ShardsUsageError
from spider.errors import SpiderUsageError
from sweeps.config import AshaConfig, AxisConfig, NeighborsConfig, SweepConfig, make_sweep, plain

# As YAML may type what stands behind a key
HOSTILE = [
    None, True, False, -1, 0, 1.5, 1e30, 5e-324, math.nan, math.inf, 2**63, 2**64, "", " ", "a", "a\nb", "x" * 5000,
    "nan", "\udcff", [], [None], [[]], [1, 1], [1, "a"], [1, 2, 3], [True, 1], [math.nan], [2**64, 0],
    [-math.inf, math.inf], {}, {"a": 1}, {1: 2}, {"kind": "x"}, {"kind": ["grid"]}, {"kind": "random"},
    {"kind": "optuna", "trials": 2**64}, {"grid": []}, {"grid": [{}]}, {"grid": [date(2001, 1, 1)]},
    {"grid": [[1], [1]]}, {"uniform": [1]}, {"uniform": "ab"}, {"uniform": [math.nan, 1]}, {"randint": [0.5, 1]},
    {"loguniform": [0, 1]}, {"neighbors": {}}, {"neighbors": None}, {"neighbors": {"sources": [1]}}, date(2001, 1, 1),
    b"a",
]  # fmt: skip
GOOD = {
    "config": "dcgan", "data": "d", "kimg": 10, "overrides": {"batch": 4}, "seeds": 2, "metric": "fid",
    "space": {
        "source": {"neighbors": {"sources": ["a", "b"], "orders": [-1, 1]}},
        "penalties.r1_gamma": {"grid": [0.1, 1]},
    },
    "search": {"kind": "grid"}, "scheduler": {"kind": "asha", "grace_kimg": 1}, "resources": {"cpus": 1},
}  # fmt: skip
NESTED = {
    ("space", "source"): AxisConfig,
    ("space", "penalties.r1_gamma"): AxisConfig,
    ("space", "source", "neighbors"): NeighborsConfig,
    ("scheduler",): AshaConfig,
    ("resources",): SweepConfig.model_fields["resources"].annotation,
}


def places():
    """Every place of a sweep's file: the keys that lead to it."""
    yield from ((name,) for name in SweepConfig.model_fields)
    yield from (("overrides", name) for name in ("batch", "", "a.b", "data.path", "evaluate.weights"))
    yield from (("space", name) for name in ("batch", "", "a.b", "data.path", "kimg", "source.dim"))
    for keys, model in NESTED.items():
        yield keys
        yield from ((*keys, name) for name in model.model_fields)


@pytest.mark.parametrize("keys", list(places()), ids=".".join)
def test_what_is_read_is_a_sweep_and_the_rest_is_refused(keys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong = []
    for value in HOSTILE:
        tree = copy.deepcopy(GOOD)
        at = tree
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = value
        try:
            sweep = make_sweep(tree, "sweep.yaml")
            assert make_sweep(plain(sweep), "sweep.yaml") == sweep
        except (SpiderUsageError, ShardsUsageError) as error:
            if "\n" in str(error).replace("a\nb", "") or len(str(error)) > 1000:
                wrong.append(f"{value!r}: {error}"[:300])
        except Exception as error:
            if isinstance(error, OSError) and error.filename:  # a name that is too long
                continue
            wrong.append(f"{value!r}: {error!r}"[:300])
    assert not wrong, "\n" + "\n".join(wrong)
