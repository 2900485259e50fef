"""spider neighbors: of one target, of all, here or as a job."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import pytest


@pytest.fixture
def places(spider, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "letters", "patches"):
        spider("pack", f"builtin:{name}", name, "--subset", 120, "--resolution", 16)
    return ["digits", "letters", "patches"]


def test_all_of_them_about_each_other(spider, places, tmp_path):
    found = spider("neighbors", "--all", *places, "--embedding", "offline", "--out", "all")
    assert found.code == 0, found.err
    assert "look at all/heatmap*.png, all/*/curves.png" in found.out
    assert (tmp_path / "all" / "patches" / "curves.png").is_file()
    document = json.loads((tmp_path / "all" / "matrix.json").read_text())
    again = spider("neighbors", "--all", *places, "--embedding", "offline", "--out", "all", "--json")
    assert again.json == document
    assert document["datasets"] == places


def test_the_script_of_a_job_runs_this_very_command(spider, places):
    words = ["digits", "abc=letters", "patches", "--out=near", "--embedding=offline", "--orders=-1,1", "--keep-gray"]
    found = spider("neighbors", *words, "--slurm", "nodes=3,time=90,partition=gpu", "--dry-run")
    assert found.code == 0, found.err
    assert "#SBATCH --nodes=3" in found.out
    (line,) = (line for line in found.out.splitlines() if line.startswith("# the command: "))
    command = shlex.split(line.removeprefix("# the command: "))
    assert command[:5] == [sys.executable, "-m", "spider", "neighbors", "--ray=auto"]
    assert set(command[5:-3]) == {*words[3:], "--"}
    assert sorted(command[-3:]) == ["abc=letters", "digits", "patches=patches"]


def test_a_dry_run_on_a_login_node_loads_neither_torch_nor_ray(places, tmp_path):
    words = [*places, "--out=near", "--slurm=nodes=2,time=60", "--dry-run"]
    code = f"import sys; from spider.cli.main import app; app(['neighbors', *{words!r}], standalone_mode=False)"
    check = "; print([name for name in ('torch', 'ray', 'torchvision') if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code + check], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert run.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dry-run"], "--slurm nodes=2,time=1:00:00"),
        (["--slurm", "nodes=2,tim=60", "--dry-run"], "tim"),
        (["--ray", "local", "--slurm", "nodes=2,time=60", "--dry-run"], "--ray and --slurm"),
        (["nowhere", "--slurm", "nodes=2,time=60", "--dry-run"], "nowhere"),
        (["a=builtin:digits", "b=", "--slurm", "nodes=2,time=60", "--dry-run"], "b=: NAME=PLACE, and PLACE is empty"),
        (["=builtin:digits"], "=builtin:digits: NAME=PLACE, and NAME is empty"),
        (["--orders=-1,-1"], "orders: -1 and -1 are the same kernel"),
        (["--ray", "lokal"], "did you mean local?"),
        (["--mode", "fast", "--slurm", "nodes=2,time=60"], "robust, paper, screen"),
        (["--workers", "2"], "workers are those of a Ray cluster"),
        (["--ray", "nowhere:1x"], "no Ray cluster at nowhere:1x"),
    ],
)
def test_what_cannot_be_is_refused(spider, places, words, said):
    found = spider("neighbors", *places, "--out", "near", "--embedding", "offline", *words)
    assert found.code in (1, 2)
    assert said in found.error
