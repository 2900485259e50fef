"""A cascade as dependent jobs on a real Slurm: pack, search, train, train on what was trained, measure; and growth."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cluster.jobs.history import History
from cluster.jobs.submission import Submission
from spider.runs.directory import RunDirectory
from tests.equal_runs import assert_equal_runs

if TYPE_CHECKING:
    from tests.drills.conftest import Slurm

SABOTEUR = Path(__file__).parent / "saboteur"
SMALL = "overrides: [batch=16, generator.width=0.05, discriminator.width=0.05]"
STAGES = f"""
stages:
  digits:   {{verb: pack, source: "builtin:digits", out: "{{run}}/digits", resolution: 16, subset: 500}}
  letters:  {{verb: pack, source: "{{letters}}", out: "{{run}}/letters", resolution: 16}}
  near:
    verb: neighbors
    target: "{{run}}/digits"
    sources: ["{{run}}/letters"]
    out: "{{run}}/near"
    embedding: offline
    after: [digits, letters]
  one:
    verb: train
    config: dcgan
    data: "{{run}}/letters"
    run: "{{run}}/one"
    kimg: 0.16
    {SMALL}
    after: letters
  two:
    verb: train
    config: spider-dcgan
    data: "{{run}}/digits"
    source: "{{run}}/one"
    run: "{{run}}/two"
    kimg: 0.16
    {SMALL}
    after: [digits, one]
  measured:
    verb: evaluate
    subject: "{{run}}/two"
    reference: "{{run}}/digits"
    embedding: offline
    count: 64
    out: "{{run}}/two.json"
    after: two
"""


NETWORKS = [
    "batch=8", "source.dim=8", "generator.kind=stylegan3", "generator.layers=4", "generator.margin=2",
    "generator.channel_base=32", "generator.w_dim=8", "generator.head_layers=[3]", "discriminator.width=0.02",
    "penalties.r1_gamma=0", "log.samples=4", "checkpoint.every_kimg=0.032",
]  # fmt: skip
GROWS = ["generator.sides=[8,16]", "generator.stem=frozen_but_input", "init.players=[g_ema]"]


def spider(*words: str) -> str:
    """What a command prints, which must end well."""
    done = subprocess.run([sys.executable, "-m", "spider", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def states(run: Path) -> dict[str, str]:
    found: dict[str, Any] = json.loads(spider("status", str(run), "--json"))["stages"]
    return {name: job["state"] for name, job in found.items()}


def test_a_cascade_goes_on_where_a_stage_failed(slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, letters = tmp_path / "cascade", tmp_path / "letters"
    letters.mkdir()  # without an image in it
    file = tmp_path / "cascade.yaml"
    file.write_text(STAGES.replace("{letters}", str(letters)))
    launch = ["launch", str(file), f"--run={run}", "--slurm=nodes=2,tasks_per_node=1,cpus_per_task=1,time=10"]

    def over() -> bool:
        return not slurm.says("squeue", "--noheader")

    spider(*launch)
    slurm.wait_until(over, "an end of all stages")
    assert states(run)["letters"] == "failed"
    assert "no image that can be packed" in spider("status", str(run))
    assert {name for name, state in states(run).items() if state == "finished"} == {"digits"}
    assert states(run)["two"] == "never started"
    assert not (run / "one").exists()

    spider("pack", "builtin:letters", str(letters), "--resolution=16", "--subset=500")
    told = spider(*launch)
    assert "digits: has finished before" in told
    slurm.wait_until(over, "an end of all stages")
    assert set(states(run).values()) == {"finished"}, spider("status", str(run))
    assert (run / "two" / "_SUCCESS").exists()
    assert json.loads((run / "two.json").read_text())["results"]
    assert set(launch_again(launch)) == {"has finished before"}
    requeued_while_it_grows(slurm, tmp_path, monkeypatch)


def requeued_while_it_grows(slurm: Slurm, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the same cluster: a stage that grows from a stem is requeued within, and ends as one that was not."""
    small, large = str(folder / "small"), str(folder / "large")
    for packed, side in ((small, 8), (large, 16)):
        spider("pack", "builtin:digits", packed, f"--resolution={side}", "--subset=200")
    train = {"verb": "train", "config": "dcgan"}
    stem = {**train, "data": small, "run": "{run}/stem", "kimg": 0.032, "overrides": NETWORKS}
    grown = {**train, "data": large, "run": "{run}/grown", "kimg": 0.4, "overrides": [*NETWORKS, *GROWS]}
    grown |= {"init": "{run}/stem@last", "after": "stem"}
    file = folder / "chain.yaml"
    file.write_text(json.dumps({"stages": {"stem": stem, "grown": grown}}))
    whole, moved = folder / "whole", folder / "moved"

    def launch(run: Path) -> None:
        spider("launch", str(file), f"--run={run}", "--slurm=nodes=2,tasks_per_node=1,cpus_per_task=1,time=10")

    launch(whole)
    monkeypatch.setenv("PYTHONPATH", str(SABOTEUR))
    monkeypatch.setenv("SABOTAGE", json.dumps({"sleep_s": 0.4, "starts": 1}))
    launch(moved)
    grown, job = RunDirectory(moved / "grown"), Submission.read(moved / "stages" / "grown")
    assert job is not None
    slurm.wait_until(lambda: len(grown.checkpoint_names()) > 0, "a checkpoint of the stage that grows")
    slurm.says("scontrol", "requeue", job.job)
    slurm.wait_until(lambda: not slurm.says("squeue", "--noheader"), "an end of both chains")
    for run in (whole, moved):
        assert set(states(run).values()) == {"finished"}, spider("status", str(run))
    starts = [event["newest"] for event in History(moved / "stages" / "grown").read() if event.event == "started"]
    assert len(starts) == 2
    assert starts[0] is None
    assert starts[1] is not None
    assert_equal_runs(moved / "stem", whole / "stem")
    assert_equal_runs(moved / "grown", whole / "grown")


def launch_again(launch: list[str]) -> list[str]:
    """What is said of each stage when nothing is left to do."""
    return [line.partition(": ")[2] for line in spider(*launch).splitlines()[:-1]]
