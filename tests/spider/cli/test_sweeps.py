"""spider sweep: what it says before it runs anything."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
import yaml

from sweeps.config import make_sweep


@pytest.fixture
def write(tmp_path, digits):
    """SWEEP.yaml of a tiny sweep, with keys of its own."""

    def write(**keys):
        sweep = {
            "config": "dcgan",
            "data": str(digits),
            "kimg": 4,
            "overrides": {
                "batch": 8,
                "generator.width": 0.05,
                "discriminator.width": 0.05,
                "evaluate.every_kimg": 1,
                "evaluate.embedding": "offline",
                "evaluate.count": 64,
            },
            "seeds": 2,
            "space": {"penalties.r1_gamma": {"grid": [0.1, 1]}, "source": {"grid": ["gaussian", "gamma"]}},
            **keys,
        }
        file = tmp_path / "sweep.yaml"
        file.write_text(yaml.safe_dump(sweep, sort_keys=False))
        return file

    return write


def test_a_dry_run_lists_the_trials_and_their_cost_and_writes_nothing(spider, write, tmp_path):
    shown = spider("sweep", write(), "--out", tmp_path / "out", "--dry-run")
    assert shown.code == 0, shown.err
    assert "8: 4 configurations x 2 seeds\n" in shown.out
    assert "1 CPU, " in shown.out
    assert "0003_r1_gamma-1_source-gamma_seed-1" in shown.out
    figures = spider("sweep", write(), "--out", tmp_path / "out", "--dry-run", "--json").json
    assert len(figures["trials"]) == 8
    assert figures["hours"] == pytest.approx(8 * figures["one"]["hours"])
    assert not (tmp_path / "out").exists()
    assert shown.out.index("0003_r1_gamma") < shown.out.index("8: 4 configurations")  # figures come last
    assert "of disk, and" not in shown.out


def test_a_dry_run_says_where_the_disk_is_too_small(spider, write, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1 << 20))
    shown = spider("sweep", write(), "--out", tmp_path / "out", "--dry-run")
    assert re.search(r"! the trials need .* of disk, and 1\.0 MB are free", shown.out), shown.err


@pytest.mark.parametrize("extra", [["--dry-run"], []])
def test_a_job_is_not_asked_for_what_cannot_be(extra, spider, write, tmp_path):
    file = write(space={"penalties.r1_gama": {"grid": [1]}})
    refused = spider("sweep", file, "--out", tmp_path / "out", "--slurm", "nodes=2,time=60", *extra)
    assert refused.code == 2
    assert "penalties.r1_gama=1: no such key" in refused.error
    assert not (tmp_path / "out").exists()


def test_a_dry_run_of_a_search_shows_the_space_and_what_is_open(spider, write, tmp_path):
    neighbors = {"sources": {"a": "builtin:letters", "b": "builtin:patches"}, "orders": [-1, 1], "picks": 1}
    file = write(
        config="spider-dcgan",
        space={"source": {"neighbors": neighbors}, "g_optimizer.lr": {"loguniform": [1e-5, 1e-3]}},
        search={"kind": "optuna", "trials": 5},
        scheduler={"kind": "asha", "grace_kimg": 1},
    )
    shown = spider("sweep", file, "--out", tmp_path / "out", "--dry-run")
    assert shown.code == 0, shown.err
    assert "1e-05 to 0.001 (logarithmic)" in shown.out
    assert "of 2 sources at most 1 for each of 2 orders" in shown.out
    assert "asha stops trials early" in shown.out


def test_the_file_in_the_help_is_a_sweep(spider):
    text = spider("sweep", "--help").out.partition("SWEEP.yaml:\n")[2].partition("\n\n")[0]
    assert make_sweep(yaml.safe_load(textwrap.dedent(text))).search.kind == "grid"


def test_a_mistake_is_one_line_and_exit_code_2(spider, write, tmp_path):
    for keys, message in (
        ({"space": {"penalties.r1_gama": {"grid": [1]}}}, "penalties.r1_gama=1: no such key"),
        ({"kmg": 2}, "kmg: no such key; did you mean kimg?"),
    ):
        refused = spider("sweep", write(**keys), "--out", tmp_path / "out")
        assert refused.code == 2
        assert message in refused.error
    assert spider("sweep", tmp_path / "nowhere.yaml", "--out", tmp_path / "out").code == 2
    assert not (tmp_path / "out").exists()


def test_a_mistake_in_the_file_shows_before_torch_is_loaded(write, tmp_path):
    words = ["sweep", str(write(seeds=0)), "--out", str(tmp_path / "out")]
    code = f"import sys\nfrom spider.cli.main import app\ntry:\n    app({words!r})\nexcept SystemExit as stop:\n"
    code += "    print(stop.code, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "2 False"
    assert done.stderr.startswith("error: ")
