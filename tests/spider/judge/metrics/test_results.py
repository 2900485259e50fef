"""Results survive the file, average over seeds, and never mix protocols."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from spider.errors import SpiderError
from spider.judge.metrics.results import MetricResult, read_results, summarise, table, write_result


def result(name: str = "fid", value: float | None = 1.0, seed: int = 0, **fields: object) -> MetricResult:
    plain = MetricResult(
        name=name,
        label=name.upper(),
        value=value,
        protocol={"embedding": "inception/tf", "seed": seed, "ddof": 1},
        provenance={
            "samples": {"name": "run", "fingerprint": f"s{seed}", "count": 5000},
            "reference": {"name": "digits", "fingerprint": "r", "count": 10000},
        },
    )
    return replace(plain, **fields)


def test_results_survive_the_file(tmp_path: Path):
    results = [result(std=0.5, std_over="10 splits", warnings=["few"]), result("kid", None, details={"x": [1.0, 2.0]})]
    path = tmp_path / "new" / "result.json"
    write_result(path, results, {"checkpoint": "000120-kimg"})
    assert read_results(path) == results
    document = json.loads(path.read_text())
    assert document["provenance"] == {"checkpoint": "000120-kimg"}
    assert document["results"][0]["provenance"]["reference"]["fingerprint"] == "r"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "result.json"
    write_result(path, [result()], {})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_result(path, [result()], {"not plain": object()})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_not_finite_is_undefined(tmp_path: Path):
    path = tmp_path / "result.json"
    write_result(path, [result(value=float("nan"))], {"loss": float("inf")})
    assert read_results(path)[0].value is None
    assert "NaN" not in path.read_text()
    assert "Infinity" not in path.read_text()


def test_other_files_are_refused_by_name(tmp_path: Path):
    path = tmp_path / "other.json"
    for text in ("{", "[]", '{"format": 99}'):
        path.write_text(text)
        with pytest.raises(SpiderError, match=r"other\.json"):
            read_results(path)
    with pytest.raises(SpiderError, match=r"none\.json"):
        read_results(tmp_path / "none.json")


def test_seeds_become_mean_and_spread():
    fid, kid = summarise([result(value=v, seed=s) for s, v in enumerate([1.0, 2.0, 3.0])] + [result("kid", 5.0)])
    assert (fid.mean, fid.std, fid.seeds, fid.values) == (2.0, 1.0, [0, 1, 2], [1.0, 2.0, 3.0])
    assert (kid.mean, kid.std) == (5.0, None)


def test_a_mean_over_an_undefined_value_is_undefined():
    (summary,) = summarise([result(value=1.0), result(value=None, seed=1)])
    assert summary.mean is None
    assert summary.std is None


def test_different_protocols_are_not_averaged():
    other = result(seed=1, protocol={"embedding": "inception/tf", "seed": 1, "ddof": 0})
    with pytest.raises(SpiderError, match=r"FID: results with different ddof \(1 and 0\) cannot be averaged"):
        summarise([result(), other])
    moved = result(seed=1)
    moved.provenance["reference"]["fingerprint"] = "elsewhere"
    with pytest.raises(SpiderError, match="different reference"):
        summarise([result(), moved])


def test_a_warning_of_all_seeds_is_told_once_whatever_its_numbers():
    told = [result(seed=seed, warnings=[f"precision 0.{seed}1 with coverage 1.{seed}e-03: few"]) for seed in range(3)]
    [summary] = summarise(told)
    assert summary.warnings == ["precision 0.01 with coverage 1.0e-03: few (and alike under 2 other seeds)"]
    assert summarise([result(seed=seed, warnings=["samples: few"]) for seed in range(3)])[0].warnings == [
        "samples: few"
    ]


def test_the_table_shows_sets_values_spread_and_warnings():
    kid = result("kid", None, std=0.25, std_over="100 subsets")
    text = table([result(value=12.3456, warnings=["samples: few"]), kid, result("csid", -3.0, stderr=0.5)])
    assert text.splitlines() == [
        "run (5,000 images) against digits (10,000 images), inception/tf",
        "metric   value     ±",
        "FID     12.346     -",
        "KID          -  0.25  standard deviation over 100 subsets",
        "CSID        -3   0.5  standard error",
        "! FID: samples: few",
    ]
    both = table([result(value=1.0), result(value=2.0, seed=1)])
    assert "FID       1.5  0.70711  standard deviation over 2 seeds" in both
