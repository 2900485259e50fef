"""spider ls, compare."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cluster.jobs.history import History
from cluster.jobs.submission import Submission
from cluster.lock import LOCK, alone_in
from cluster.world import World
from spider.judge.compare import compare_runs
from spider.judge.compare_figure import draw_comparison, draw_curves
from spider.runs.directory import RunDirectory


def test_ls_says_what_every_run_is(spider, runs):
    found = {each["name"]: each for each in spider("ls", runs, "--json").json}
    assert list(found) == ["cascade", "gaussian", "patches"]
    gaussian = found["gaussian"]
    assert (gaussian["state"], gaussian["kimg"], gaussian["last_checkpoint"]) == ("finished", 0.16, 0.16)
    assert gaussian["best"]["metric"] == "FD[offline]"
    assert [found[name]["source"] for name in found] == ["generator gaussian@0.16", "gaussian", "images patches"]
    assert gaussian["size_bytes"] > 10_000
    table = spider("ls", runs).out.splitlines()
    assert len({line.index("wasserstein") for line in table[1:]}) == 1  # aligned


def test_ls_lists_runs_or_here(spider, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert spider("ls").out == ".: no run here or below\n"
    shutil.copytree(runs / "cascade", tmp_path / "runs" / "mine")
    shutil.copytree(runs / "cascade", tmp_path / "other")
    assert [each["name"] for each in spider("ls", "--json").json] == ["mine"]


@pytest.fixture
def run(runs, tmp_path):
    """A copy of a run, to do things to."""
    shutil.copytree(runs / "gaussian", tmp_path / "below" / "run")
    return RunDirectory(tmp_path / "below" / "run")


def state(spider, run):
    [found] = spider("ls", run.path.parent.parent, "--json").json
    assert found["name"] == "below/run"
    return found["state"]


def test_ls_tells_states_apart(spider, run):
    assert state(spider, run) == "finished"
    run.success_file.unlink()  # as of one that was stopped in its last evaluation
    assert state(spider, run) == "stopped"
    shutil.rmtree(run.checkpoints / run.checkpoint_names()[-1])
    os.utime(run.metrics_file, (time.time() + 1,) * 2)
    assert state(spider, run) == "stopped"
    with alone_in(run.path, World.single()):
        assert state(spider, run) == "running"
    (run.path / LOCK).write_text("process 1 on elsewhere\n")
    assert state(spider, run) == "running?"
    os.utime(run.metrics_file, (time.time() - 3600,) * 2)
    assert state(spider, run) == "stopped"
    shutil.rmtree(run.checkpoints)
    run.metrics_file.unlink()
    assert state(spider, run) == "stopped"
    (run.path / "environment.json").unlink()
    assert state(spider, run) == "never started"
    run.config_file.write_text("bath: 3\n")
    assert state(spider, run) == "unreadable"
    assert "bath: no such key" in spider("ls", run.path).out


def test_a_run_that_failed_says_why(spider, digits, tiny, tmp_path):
    """Also before its first row; and no more when it goes on."""
    words = ["train", "dcgan", "--data", digits, "--run", tmp_path / "nan", "--kimg", "0.04", *tiny]
    ended = spider(*words, "g_optimizer.lr=1e9", "d_optimizer.lr=1e9", "guard.max_skipped=0")
    assert ended.code == 1
    for verb, place in (("status", "nan"), ("status", "."), ("ls", ".")):
        told = spider(verb, tmp_path / place)
        assert "failed" in told.out
        assert "kimg: phase " in told.out
        assert "not finite" in told.out
    shutil.rmtree(tmp_path / "nan" / "checkpoints", ignore_errors=True)
    assert spider(*words).code == 0
    assert spider("status", tmp_path / "nan", "--json").json["runs"][0]["state"] == "finished"


def test_a_row_that_was_cut_short_is_passed_over(spider, run):
    with run.metrics_file.open("a") as file:
        file.write('{"images": 999999, "ki')
    [found] = spider("ls", run.path, "--json").json
    assert found["kimg"] == 0.16
    assert spider("compare", run.path, run.path).code == 0


def test_compare_shows_keys_sizes_and_metrics_at_equal_kimg(spider, runs):
    found = spider("compare", runs / "gaussian", runs / "patches", "--json").json
    assert found["differing"]["source.kind"] == ["gaussian", "images"]
    assert found["differing"]["source.noise_std"] == [None, 0.25]
    assert "batch" not in found["differing"]
    assert all(count > 0 for count in found["parameters"]["generator"])
    [row] = found["at_common_kimg"]["FD[offline]"]
    assert row["kimg"] == 0.08
    measured = json.loads((RunDirectory(runs / "gaussian").evaluations / "000000.080-kimg.json").read_text())
    assert row["values"][0] == measured["results"][0]["value"]
    assert found["warnings"] == []
    assert "FD[offline] at 0.08 kimg" in spider("compare", runs / "gaussian", runs / "patches").out


def test_compare_takes_values_less_than_an_iteration_apart_as_of_one_kimg(spider, runs, run):
    batch = run.config().batch
    file = run.evaluations / "000000.080-kimg.json"
    for images, rows in (80 + batch - 1, 1), (80 + batch, 0):
        file = file.rename(run.evaluations / f"{images / 1000:010.3f}-kimg.json")
        found = spider("compare", run.path, runs / "patches", "--json").json["at_common_kimg"]["FD[offline]"]
        assert [row["kimg"] for row in found] == [0.08] * rows


def test_compare_takes_runs_that_differ_in_their_seed_alone_as_one(spider, runs, run, tmp_path):
    other = tmp_path / "gaussian-1"
    shutil.copytree(run.path, other)
    config = (other / "config.yaml").read_text()
    assert "\nseed: 0\n" in config
    (other / "config.yaml").write_text(config.replace("\nseed: 0\n", "\nseed: 1\n"))
    for file in RunDirectory(other).evaluations.glob("*.json"):
        content = json.loads(file.read_text())
        content["results"][0]["value"] += 0.5
        file.write_text(json.dumps(content))
    compared = spider("compare", run.path, other, runs / "patches", runs / "cascade")
    one, two = spider("compare", run.path, other, "--json").json["at_common_kimg"]["FD[offline]"][0]["values"]
    assert two == one + 0.5
    assert f"{one + 0.25:.4g} ({one:.4g} to {two:.4g})" in compared.out
    assert ", 2 seeds" in compared.out
    assert "several seeds: mean (lowest to highest)" in compared.out
    [measured] = [line for line in compared.out.splitlines() if line.startswith("FD[offline] at 0.08 kimg")]
    assert measured.split()[-1] == "-"  # the cascade was not measured
    best = json.loads((other / "best.json").read_text())
    (other / "best.json").write_text(json.dumps({**best, "checkpoint": "000000.080-kimg"}))
    assert " at 0.08 to 0.16 kimg" in spider("compare", run.path, other).out
    assert len(spider("compare", run.path, run.path, "--json").json["experiments"]) == 2  # one seed twice is no seeds
    figure = tmp_path / "figure.png"
    drawn = spider("compare", run.path, other, runs / "patches", runs / "cascade", "--out", figure)
    assert drawn.out.endswith(f"\nlook at {figure}\n")


def test_compare_takes_a_longer_run_as_another_seed_all_the_same(spider, run, tmp_path):
    other = tmp_path / "longer"
    shutil.copytree(run.path, other)
    config = (other / "config.yaml").read_text()
    assert "\nkimg: 0.16\n" in config
    config = config.replace("\nkimg: 0.16\n", "\nkimg: 0.32\n").replace("\nseed: 0\n", "\nseed: 1\n")
    (other / "config.yaml").write_text(config)
    assert len(spider("compare", run.path, other, "--json").json["experiments"]) == 1


def test_all_points_of_seeds_that_differ_in_length_are_drawn():
    axes = Figure().subplots()
    short, long, alone = [(10.0, 5.0), (12.0, 4.0)], [(10.0, 7.0), (20.0, 3.0), (30.0, 2.0)], [(10.0, 1.0)]
    draw_curves(axes, "FID", {"seeds": [short, long, []], "none": [[]], "one": [alone], "apart": [short[1:], long]})
    drawn = [(line.get_label(), [tuple(map(float, point)) for point in line.get_xydata()]) for line in axes.lines]
    assert [points for label, points in drawn if label.startswith("_")] == [short, long, short[1:], long]
    assert [each for each in drawn if not each[0].startswith("_")] == [
        ("seeds", [(10.0, 6.0)]),
        ("one", alone),
        ("apart", []),
    ]


def test_compare_leaves_out_what_holds_no_run(spider, runs, tmp_path):
    (tmp_path / "demo").mkdir()
    shutil.copytree(runs / "cascade", tmp_path / "demo" / "x")
    shutil.copytree(runs / "patches", tmp_path / "patches")
    shutil.copytree(runs / "gaussian", tmp_path / "gaussian")
    named = [tmp_path / name for name in ("demo", "gaussian", "patches")]
    compared = spider("compare", *named)
    assert compared.out.splitlines()[0].split() == ["gaussian", "patches"]
    assert f"! left out: {tmp_path}/demo: no run here" in compared.out
    assert f"two runs or more; left out: {tmp_path}/demo: no run here" in spider("compare", *named[:2]).error
    assert [each["name"] for each in spider("compare", tmp_path, "--json").json["experiments"]] == [
        "demo/x",
        "gaussian",
        "patches",
    ]
    assert (
        f"two runs or more; {tmp_path}/demo/x/samples: no run here"
        in spider("compare", tmp_path / "demo" / "x" / "samples").error
    )


def test_compare_takes_absolute_and_relative_names_together(spider, runs, monkeypatch):
    monkeypatch.chdir(runs)
    compared = spider("compare", "gaussian", runs / "patches", "--json").json
    assert [each["name"] for each in compared["experiments"]] == ["gaussian", str(runs / "patches")]


def test_compare_warns_of_numbers_that_cannot_be_compared(spider, runs, run):
    for file in run.evaluations.glob("*.json"):
        text = file.read_text().replace('"count": 64', '"count": 63')
        file.write_text(text)
    compared = spider("compare", runs / "gaussian", run.path)
    assert "! FD[offline]: the runs were measured with different samples" in compared.out


def test_long_names_do_not_leave_the_figure(runs, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, format: drawn.append(figure))
    names = [f"{letter}{'x' * 40}" for letter in "ab"]
    for name, source in zip(names, ("gaussian", "patches"), strict=True):
        shutil.copytree(runs / source, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    draw_comparison(compare_runs(names), tmp_path / "figure.png")
    FigureCanvasAgg(drawn[0]).draw()
    legend = drawn[0].legends[0].get_window_extent()
    assert drawn[0].bbox.x0 <= legend.x0 <= legend.x1 <= drawn[0].bbox.x1


@pytest.mark.parametrize("other", ["patches", "cascade"])
def test_compare_draws_metrics_or_losses(spider, runs, run, tmp_path, other):
    if other == "cascade":  # which was not measured; nor is this one then
        shutil.rmtree(run.evaluations)
    figure = tmp_path / "figure.png"
    assert spider("compare", run.path, runs / other, "--out", figure).code == 0
    assert figure.read_bytes().startswith(b"\x89PNG")


@contextlib.contextmanager
def as_nobody():
    """Without the rights of root, whom no mode keeps out. What is needed must have been imported before."""
    if os.geteuid() != 0:
        yield
        return
    try:
        os.seteuid(65534)
    except OSError:
        pytest.skip("root may not become another user here")
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    ("closed", "mode", "told"),
    [
        ("lost+found", 0o000, "lost+found: Permission denied; no run is looked for in it"),
        ("bad", 0o444, "bad: Permission denied; no run is looked for in it"),
        ("bad/config.yaml", 0o000, "! bad: "),
        ("bad/checkpoints", 0o000, "! bad: "),
        ("bad/checkpoints", 0o444, "! bad: "),
        ("bad/slurm", 0o000, "Permission denied: 'bad/slurm"),
        ("bad/slurm/job.json", 0o000, "Permission denied: 'bad/slurm/job.json'"),
        ("bad/slurm/history.jsonl", 0o000, "Permission denied: 'bad/slurm/history.jsonl'"),
        ("line/stages/one/history.jsonl", 0o000, "Permission denied: 'line/stages/one/history.jsonl'"),
    ],
)
def test_what_may_not_be_read_hides_no_other_run(spider, runs, tmp_path, monkeypatch, closed, mode, told):
    for name in ("bad", "good", "other"):
        shutil.copytree(runs / "gaussian", tmp_path / name)
    (tmp_path / "lost+found").mkdir()
    for folder in ("bad/slurm", "line/stages/one"):
        (tmp_path / folder).mkdir(parents=True)
        Submission("7", 1, 1, ["true"], "code", {}, local=True, host="elsewhere", born="1").write(tmp_path / folder)
        History(tmp_path / folder).add("submitted", job="7", nodes=1, ranks=1)
    monkeypatch.chdir(tmp_path)  # the folders above it are closed to others
    tmp_path.chmod(0o755)
    verbs = ("ls", "status", "compare")
    for verb in verbs:
        assert "good" in spider(verb, ".").out
    (tmp_path / closed).chmod(mode)
    try:
        with as_nobody():
            listed = {verb: spider(verb, ".") for verb in verbs}
    finally:
        (tmp_path / closed).chmod(0o755)
    for verb, found in listed.items():
        assert found.code == 0, (verb, found.err)
        assert "good" in found.out
    for verb in verbs[:2]:
        assert re.search(r"^good +finished", listed[verb].out, re.MULTILINE)
    assert told in listed["status"].out + listed["status"].err
