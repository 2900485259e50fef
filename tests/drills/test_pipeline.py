"""A cascade as dependent jobs on a real Slurm: pack, search, train, train on what was trained, measure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.drills.conftest import Slurm

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


def spider(*words: str) -> str:
    """What a command prints, which must end well."""
    done = subprocess.run([sys.executable, "-m", "spider", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def states(run: Path) -> dict[str, str]:
    found: dict[str, Any] = json.loads(spider("status", str(run), "--json"))["stages"]
    return {name: job["state"] for name, job in found.items()}


def test_a_cascade_goes_on_where_a_stage_failed(slurm: Slurm, tmp_path: Path) -> None:
    run, letters = tmp_path / "cascade", tmp_path / "letters"
    file = tmp_path / "cascade.yaml"
    file.write_text(STAGES.replace("{letters}", str(letters)))
    launch = ["launch", str(file), f"--run={run}", "--slurm=nodes=2,tasks_per_node=1,cpus_per_task=1,time=10"]

    def over() -> bool:
        return not slurm.says("squeue", "--noheader")

    spider(*launch)
    slurm.wait_until(over, "an end of all stages")
    assert states(run)["letters"] == "failed"
    assert "no such" in spider("status", str(run))
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


def launch_again(launch: list[str]) -> list[str]:
    """What is said of each stage when nothing is left to do."""
    return [line.partition(": ")[2] for line in spider(*launch).splitlines()[:-1]]
