"""spider train: what its words come to, how a run goes on, and what it costs."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest
from torch.testing import assert_close

from cluster.checkpoint import CheckpointStore
from cluster.world import World
from spider.errors import SpiderUsageError
from spider.runs.directory import RunDirectory
from spider.runs.request import TrainRequest


@pytest.fixture
def composed(tmp_path, digits):
    """The configuration of `spider train dcgan --data DIGITS ...`."""

    def make(config="dcgan", **words):
        return TrainRequest(config, tmp_path / "run", data=digits, **words).compose()

    return make


def test_flags_are_keys_and_overrides_win(composed):
    config = composed(seed=3, mirror=True, kimg="7", overrides=["seed=4", "penalties.r1_gamma=2"])
    assert (config.seed, config.data.mirror, config.kimg, config.penalties.r1_gamma) == (4, True, 7.0, 2.0)


def test_a_prior_is_a_source_and_keeps_the_presets_settings_of_its_kind(composed):
    assert composed(source="gaussian", overrides=["source.dim=8"]).source.dim == 8
    assert composed(source="gmm").source.dim == 30


def test_images_are_a_source_and_keep_the_presets_settings_of_its_kind(composed, patches):
    config = composed("spider-dcgan", source=patches)
    assert (config.source.path, config.source.noise_std) == (str(patches), 0.25)


def test_a_run_is_a_source_at_the_checkpoint_that_is_its_best_today(composed, runs):
    assert composed(source=f"{runs}/gaussian@best").source.run == f"{runs}/gaussian@0.16"
    assert composed(source=f"{runs}/gaussian@0.08").source.run == f"{runs}/gaussian@0.08"
    with pytest.raises(SpiderUsageError, match="no checkpoint at 5 kimg"):
        composed(source=f"{runs}/gaussian@5")


def test_paths_are_kept_whole(composed, tmp_path, monkeypatch, digits):
    """YAML would make a number, a list or a comment of them."""
    monkeypatch.chdir(tmp_path)
    for name in ("1e5", "[a, b]", "a: b # c", "null"):
        config = TrainRequest("dcgan", tmp_path / "run", data=name, source=f"./{name}").compose()
        assert config.data.path == config.source.path == str(tmp_path / name)


def test_a_run_goes_on_with_its_own_configuration(spider, digits, tiny, tmp_path):
    run = tmp_path / "run"
    first = spider("train", "dcgan", "--data", digits, "--run", run, "--kimg", "0.04", *tiny, "--json")
    assert first.json["outcome"] == "finished"
    again = spider("train", "dcgan", "--run", run, "--kimg", "0.04", *tiny)  # the data is known
    assert (again.code, again.out) == (0, f"{run}: already finished at 0.04 kimg; --kimg +N makes it longer\n")
    assert spider("train", "--run", run, "--kimg", "+0.04").out == f"{run}: finished at 0.08 kimg\n"
    assert spider("train", "--run", run, "--kimg", "0.1").out == f"{run}: finished at 0.104 kimg (asked for 0.1)\n"


def test_a_branch_begins_at_a_checkpoint(spider, runs, tmp_path):
    words = ["--from", f"{runs}/gaussian@0.08", "--run", tmp_path / "branch", "--kimg", "+0.04"]
    done = spider("train", *words, "g_optimizer.lr=1e-5", "evaluate.every_kimg=null", "--json")
    assert (done.code, done.json["kimg"]) == (0, 0.12)
    assert RunDirectory(tmp_path / "branch").config().g_optimizer.lr == 1e-5


def test_a_branch_that_would_be_over_before_it_begins_is_refused(spider, runs, tmp_path):
    words = ["train", "--from", f"{runs}/gaussian@0.08", "--run", tmp_path / "branch", "--kimg"]
    refused = spider(*words, "0.08")
    assert (refused.code, (tmp_path / "branch").exists()) == (2, False)
    assert refused.error.endswith("gaussian@000000.080 is as far already; --kimg +N goes N beyond it")


def test_a_dry_run_answers_and_writes_nothing(spider, digits, tiny, tmp_path):
    words = ["train", "dcgan", "--data", digits, "--run", tmp_path / "run", "--dry-run", *tiny]
    figures = spider(*words, "--json").json
    assert figures["sec_per_kimg"] > 0
    assert figures["disk_gb"] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_counts_evaluations(spider, digits, tiny, caches, tmp_path):
    words = ["train", "dcgan", "--data", digits, "--run", tmp_path / "run", "--dry-run", "--kimg", "10", *tiny]
    words += ["evaluate.every_kimg=3", "evaluate.embedding=offline", "evaluate.count=5000"]
    kept = [path for path in caches.rglob("*") if path.is_file()]
    figures = spider(*words, "--json").json
    cost = figures["evaluation"]
    assert (cost["evaluations"], cost["images_measured"], cost["images"]) == (4, 192, 5000)  # the last one out of turn
    assert cost["sec_per_evaluation"] > 0
    evaluating = 4 * cost["sec_per_evaluation"] + cost["reference_sec"]
    assert figures["hours"] * 3600 == pytest.approx(10 * figures["sec_per_kimg"] + evaluating)
    assert [path for path in caches.rglob("*") if path.is_file()] == kept
    assert "4 x " in (shown := spider(*words).out)
    assert "embedding scaled from 192 to 5,000 images" in shown


def test_folders_are_packed_once_for_all_runs(spider, photos, tiny, caches, tmp_path):
    """Into the cache; a run's configuration keeps the names that the user gave."""
    copies = []
    for number in (1, 2):
        words = ["--data", photos / "a", "--source", photos, "--kimg", "0.008", *tiny]
        assert spider("train", "dcgan", "--run", tmp_path / f"{number}", *words).code == 0
        copies.append({path.stat().st_ino for path in (caches / "spider" / "packed").glob("*/*/index.json")})
        config = RunDirectory(tmp_path / f"{number}").config()
        assert (config.data.path, config.source.path) == (str(photos / "a"), str(photos))
    assert copies[0] == copies[1]


def test_ctrl_c_saves_and_the_same_command_goes_on(digits, tiny, tmp_path):
    command = [sys.executable, "-m", "spider", "train", "dcgan", "--data", str(digits), "--run", str(tmp_path / "run")]
    process = subprocess.Popen(
        [*command, "--kimg", "500", *tiny], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    rows = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 600
    while not rows.exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130, err
    assert ": stopped at " in out
    assert err.count("SIGINT: the run saves after this iteration and stops; Ctrl-C (SIGINT) now ends it") == 1
    assert "Traceback" not in err
    assert RunDirectory(tmp_path / "run").checkpoint_names()


TAKE_THE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "spider", *sys.argv[1:]])
"""


def test_a_terminal_that_closes_saves(digits, tiny, tmp_path):
    """Its processes get SIGHUP, and whatever they then write to it fails."""
    ours, its = pty.openpty()
    words = ["train", "dcgan", "--data", digits, "--run", tmp_path / "run", "--kimg", "500", *tiny]
    process = subprocess.Popen(
        [sys.executable, "-c", TAKE_THE_TERMINAL, *map(str, words)],
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
    )
    os.close(its)
    rows = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 600
    while not rows.exists() and time.monotonic() < deadline:
        assert process.poll() is None
        if select.select([ours], [], [], 0.02)[0]:
            os.read(ours, 4096)
    os.close(ours)
    assert process.wait(timeout=600) == 130
    assert RunDirectory(tmp_path / "run").checkpoint_names()


def test_two_ranks_under_torchrun_train_what_one_does(spider, digits, tiny, tmp_path):
    words = ["train", "dcgan", "--data", str(digits), "--kimg", "0.016", *tiny, "compute.precision=fp64"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "spider"]
    done = subprocess.run(
        [*launcher, *words, "--run-dir", str(tmp_path / "two")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'two'}: finished at 0.016 kimg\n"  # once, from rank 0
    assert spider(*words, "--run", tmp_path / "one").code == 0
    compared = spider("compare", tmp_path / "one", tmp_path / "two", "--json").json
    assert compared["differing"] == {}
    one, two = (
        CheckpointStore(tmp_path / name / "checkpoints", World.single()).load("000000.016-kimg").tensors
        for name in ("one", "two")
    )
    for network in ("generator", "generator_ema", "discriminator"):
        assert_close(two[network], one[network], rtol=1e-9, atol=1e-9)
