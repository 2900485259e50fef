"""A sweep on Ray ends with the same numbers whatever is killed on the way, and leaves ordinary runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cluster.errors import MachineError
from cluster.jobs.verdict import Cause
from spider import api
from spider.judge.metrics.results import read_results
from spider.runs.directory import images_of
from sweeps.report import SweepReport
from sweeps.sweep import sweep
from sweeps.trial.actor import TrialActor

if TYPE_CHECKING:
    from tests.conftest import Head

TINY = {
    "batch": 8,
    "generator.width": 0.05,
    "discriminator.width": 0.05,
    "log.every_kimg": 0.08,
    "log.samples": 4,
    "log.tensorboard": False,
    "checkpoint.every_kimg": 0.08,
    "evaluate.every_kimg": 0.08,
    "evaluate.embedding": "offline",
    "evaluate.count": 64,
}
DEADLINE_S = 600.0


@pytest.fixture(scope="module")
def address(start_ray: Callable[[int, int], Head]) -> str:
    """A Ray cluster of two cores and two GPUs."""
    return start_ray(2, 2).address


def write(
    file: Path, data: Path | None, space: dict[str, Any], overrides: dict[str, Any] | None = None, **keys: Any
) -> Path:
    sweep = {
        "config": "dcgan",
        "data": None if data is None else str(data),
        "kimg": 0.16,
        "overrides": {**TINY, **(overrides or {})},
        "space": space,
        "resources": {"gpus": 0},
        **keys,
    }
    file.write_text(yaml.safe_dump(sweep, sort_keys=False))
    return file


def values(run: Path) -> dict[str, float | None]:
    """By evaluation, the metric."""
    return {file.name: read_results(file)[0].value for file in sorted((run / "evaluations").iterdir())}


def weights(run: Path) -> dict[str, Any]:
    """Digests of the tensors in a run's last checkpoint."""
    manifest = json.loads((max((run / "checkpoints").iterdir()) / "manifest.json").read_text())
    return {name: about for name, about in manifest["files"].items() if name.endswith(".safetensors")}


def environments(out: Path) -> dict[str, list[dict[str, Any]]]:
    """By run, its starts that had something to do."""
    runs = sorted((out / "runs").iterdir())
    return {run.name: json.loads((run / "environment.json").read_text())["starts"] for run in runs}


def starts(out: Path) -> dict[str, int]:
    """By run, how often it was started and had something to do."""
    return {name: len(found) for name, found in environments(out).items()}


def trainings(out: Path) -> list[int]:
    """Processes that train below `out`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"train" in words and any(word.startswith(str(out).encode()) for word in words):
                found.append(int(entry.name))
    return found


def wait_for(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        found = what()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("waited in vain")


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory, digits: Path, patches: Path) -> Path:
    """Two sources, one of them images, under two seeds."""
    space = {"source": {"grid": ["gaussian", str(patches)]}}
    return write(tmp_path_factory.mktemp("grid") / "sweep.yaml", digits, space, {"log.tensorboard": True}, seeds=2)


@pytest.fixture(scope="module")
def by_hand(grid: Path, digits: Path, patches: Path) -> dict[str, Path]:
    """The same four trainings, one after the other, in peace."""
    overrides = [f"{key}={value}" for key, value in TINY.items()]
    runs = {}
    for number, (name, source) in enumerate((("gaussian", "gaussian"), ("patches", patches))):
        for seed in (0, 1):
            run = grid.parent / "by_hand" / f"{number:04d}_source-{name}_seed-{seed}"
            api.train("dcgan", run, data=digits, source=source, kimg=0.16, seed=seed, overrides=overrides)
            runs[run.name] = run
    return runs


@pytest.fixture(scope="module")
def killed(address: str, grid: Path) -> tuple[Path, SweepReport]:
    """A sweep after kill -9 of its driver, which has a Ray of its own, and in the second start of one training."""
    out = grid.parent / "killed"
    command = [sys.executable, "-m", "spider", "sweep", str(grid), "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as driver:
        wait_for(lambda: list(out.glob("runs/*/evaluations/*.json")) and trainings(out))
        driver.kill()
        driver.communicate()
    wait_for(lambda: not trainings(out))  # no orphans
    victims = []

    def kill_one() -> None:
        begun = set(out.glob("runs/*/metrics.jsonl"))

        def fresh() -> list[int]:
            return [pid for file in set(out.glob("runs/*/metrics.jsonl")) - begun for pid in trainings(file.parent)]

        while not victims:
            with suppress(ProcessLookupError):  # it has just ended; there are others
                victim = wait_for(fresh)[0]
                os.kill(victim, signal.SIGKILL)
                victims.append(victim)

    killer = threading.Thread(target=kill_one)
    killer.start()
    report = sweep(grid, out, ray=address)
    killer.join()
    assert len(victims) == 1
    return out, report


def test_what_was_killed_and_what_was_not_end_the_same(
    killed: tuple[Path, SweepReport], by_hand: dict[str, Path]
) -> None:
    out, report = killed
    assert report.is_complete
    assert report.counts == {"finished": 4}
    assert {run.name for run in (out / "runs").iterdir()} == by_hand.keys()
    for name, peaceful in by_hand.items():
        assert values(out / "runs" / name) == values(peaceful)
        assert weights(out / "runs" / name) == weights(peaceful)
    assert sum(starts(out).values()) > 4  # one was killed while it trained
    assert not trainings(out)


def test_seeds_give_mean_and_spread(killed: tuple[Path, SweepReport]) -> None:
    out, report = killed
    for row in report.rows:
        runs = [out / "runs" / trial.name for trial in row.configuration.trials]
        found = [values(run)["000000.160-kimg.json"] for run in runs]
        assert row.values == found
        assert row.mean == pytest.approx(sum(found) / 2)
        assert row.std == pytest.approx(abs(found[0] - found[1]) / 2**0.5)
        assert row.kimg == 0.16
    means = [row.mean for row in report.rows]
    assert means == sorted(means)


def test_a_finished_sweep_only_reports(killed: tuple[Path, SweepReport], grid: Path) -> None:
    out, report = killed
    before = starts(out)
    assert sweep(grid, out, ray="nowhere:1").to_json() == report.to_json()
    assert starts(out) == before


def test_every_trial_is_an_ordinary_run(killed: tuple[Path, SweepReport], tmp_path: Path) -> None:
    out, _ = killed
    run = tmp_path / "alone"
    shutil.copytree(min((out / "runs").iterdir()), run)
    assert api.train(None, run) == "already finished"
    assert api.train(None, run, kimg="+0.08") == "finished"
    assert [summary.state for summary in api.ls(out)] == ["finished"] * 4
    assert len(api.compare([out / "runs"]).experiments) == 2


def test_tensorboard_shows_all_trials_by_images_and_with_what_was_chosen(killed: tuple[Path, SweepReport]) -> None:
    for run in (killed[0] / "runs").iterdir():
        events = EventAccumulator(str(run / "tensorboard"), size_guidance={"tensors": 0})
        events.Reload()
        assert [event.step for event in events.Scalars("metrics/FD[offline]")] == [80, 160]
        assert "_hparams_/session_start_info" in events.summary_metadata


def test_under_asha_no_trial_is_lost_or_run_twice_and_what_is_not_finite_is_over(
    address: str, tmp_path: Path, digits: Path
) -> None:
    space = {"d_optimizer.lr": {"grid": [2e-4, 1e18, 1e-9, 1e-10]}}
    file = write(
        tmp_path / "sweep.yaml",
        digits,
        space,
        {"guard.max_skipped": 0, "ema.half_life_kimg": 0},
        kimg=0.4,
        scheduler={"kind": "asha", "grace_kimg": 0.08, "reduction_factor": 2},
        at_once=2,
    )
    out = tmp_path / "out"
    report = sweep(file, out, ray=address)
    trials = {row.labels["d_optimizer.lr"]: row.configuration.trials[0] for row in report.rows}
    assert trials["1e+18"].outcome == "not finite"
    assert "not finite" in trials["1e+18"].error
    assert report.rows[-1].mean is None
    outcomes = [trial.outcome for trial in trials.values()]
    assert "finished" in outcomes
    assert "stopped" in outcomes
    assert all(trial.kimg < 0.4 for trial in trials.values() if trial.outcome == "stopped")
    assert starts(out) == dict.fromkeys(starts(out), 1)  # none twice, the one that is not finite neither
    assert len(starts(out)) == 4

    # As if the driver had died before it wrote down how a trial ended
    finished = next(out / "configurations" / f"{row.configuration.number:04d}.json" for row in report.rows[:1])
    tree = json.loads(finished.read_text())
    tree["trials"][0] |= {"outcome": None, "kimg": 0.0}
    finished.write_text(json.dumps(tree))
    assert sweep(file, out, ray=address).to_json() == report.to_json()
    assert starts(out) == dict.fromkeys(starts(out), 1)


def test_trainings_go_on_from_what_was_saved_after_a_stop_and_after_a_kill(
    address: str, tmp_path: Path, digits: Path
) -> None:
    file = write(
        tmp_path / "sweep.yaml", digits, {"penalties.r1_gamma": {"grid": [1]}}, {"checkpoint.every_kimg": 9}, kimg=1.6
    )
    out = tmp_path / "out"
    command = [sys.executable, "-m", "spider", "sweep", str(file), "--out", str(out), "--ray", address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
        wait_for(lambda: list(out.glob("runs/*/metrics.jsonl")))
        driver.send_signal(signal.SIGHUP)  # a closed terminal
        told, error = driver.communicate(timeout=DEADLINE_S)
    assert driver.returncode == 130, error
    assert "the same command goes on" in told
    assert not trainings(out)
    *_, saved = sorted((out / "runs").glob("*/checkpoints/*"))  # none was due by the clock

    def kill_it() -> None:
        [log] = (out / "logs").iterdir()
        wait_for(lambda: "going on from" in log.read_text())
        os.kill(trainings(out)[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_it)
    killer.start()
    report = sweep(file, out, ray=address)
    killer.join()
    assert report.counts == {"finished": 1}
    ((first, stopped, killed),) = environments(out).values()
    assert first["from_images"] == 0
    assert stopped["from_images"] == images_of(saved.name)
    assert killed["from_images"] >= images_of(saved.name)


def test_a_trial_that_would_fail_again_is_named_at_once(address: str, tmp_path: Path, digits: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(digits, bad)
    for shard in bad.glob("*.tar"):
        shard.write_bytes(b"")
    space = {"source": {"grid": [str(bad)]}}
    file = write(tmp_path / "sweep.yaml", digits, space, kimg=0.08)
    report = sweep(file, tmp_path / "out", ray=address)
    assert report.counts == {"failed": 1}
    [warning] = [line for line in report.warnings if "failed" in line]
    assert "source.path" in warning or ".tar" in warning
    [log] = (tmp_path / "out" / "logs").glob("*bad*.txt")
    assert log.read_text().count("error: ") == 1
    assert report.failure().exit_code == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("deaths", [1, 2])
def test_an_actor_killed_for_memory_is_a_death(
    address: str, tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch, deaths: int
) -> None:
    """`retries` of them are forgiven; after them it was the machine, and the same command goes on."""
    import ray

    get, left = ray.get, [deaths]

    def short_of_memory(what: Any, **options: Any) -> Any:
        value = get(what, **options)
        if left[0] and isinstance(value, dict) and "trained_kimg" in value:
            left[0] -= 1
            raise ray.exceptions.OutOfMemoryError("2 worker(s) were killed\ntask name=ResourceTrainable.__init__")
        return value

    monkeypatch.setattr(ray, "get", short_of_memory)
    file = write(tmp_path / "sweep.yaml", digits, {"penalties.r1_gamma": {"grid": [1]}}, kimg=0.08, retries=1)
    report = sweep(file, tmp_path / "out", ray=address)
    assert left == [0]
    if deaths == 1:
        assert report.counts == {"finished": 1}
        return
    assert any("low on memory" in line for line in report.warnings)
    failure = report.failure()
    assert isinstance(failure, MachineError)
    assert "the same command goes on" in str(failure)
    assert sweep(file, tmp_path / "out", ray=address).counts == {"finished": 1}


@pytest.mark.parametrize("of_machine", [True, False])
def test_a_traceback_after_all_retries_is_no_failure_of_the_machine(
    address: str, tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch, of_machine: bool
) -> None:
    class Failing(TrialActor):
        def _start(self) -> None:
            self._training = SimpleNamespace(  # type: ignore[assignment]
                has_ended=lambda: True,
                failure=lambda: Cause("ValueError: a fault"),
                is_of_machine=lambda cause: of_machine,
                stop=lambda: None,
            )

    monkeypatch.setattr("sweeps.ray_tune.TrialActor", Failing)
    file = write(tmp_path / "sweep.yaml", digits, {"penalties.r1_gamma": {"grid": [1]}}, kimg=0.08, retries=1)
    report = sweep(file, tmp_path / "out", ray=address)
    assert "ValueError: a fault" in "; ".join(report.warnings)
    failure = report.failure()
    assert failure.exit_code == (3 if of_machine else 1)  # type: ignore[union-attr]
    assert ("the same command goes on" in str(failure)) == of_machine


def test_a_trial_gets_its_gpus_and_finds_its_images_where_the_command_was_given(
    address: str, tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "digits").symlink_to(digits)
    (tmp_path / "base.yaml").write_text("data: {path: digits}\n")
    monkeypatch.chdir(tmp_path)
    space = {"penalties.r1_gamma": {"grid": [1, 2]}}
    # Ray's word for GPUs that are not there, which no training would do without unasked
    settings = {"kimg": 0.08, "config": "base.yaml", "overrides": {"compute.device": "cpu"}}
    sweep(write(Path("parts.yaml"), None, space, resources={"gpus": 0.6}, **settings), "parts", ray=address)
    found = [start for [start] in environments(tmp_path / "parts").values()]
    assert {start["cuda_visible_devices"] for start in found} == {"0", "1"}  # not both on what is left of the first
    assert [start["world_size"] for start in found] == [1, 1]
    space = {"penalties.r1_gamma": {"grid": [1]}}
    sweep(write(Path("two.yaml"), None, space, resources={"processes": 2, "cpus": 2}, **settings), "two", ray=address)
    ((start,),) = environments(tmp_path / "two").values()
    assert (start["cuda_visible_devices"], start["world_size"]) == ("0,1", 2)


def test_more_than_any_machine_has_is_refused(address: str, tmp_path: Path, digits: Path) -> None:
    file = write(tmp_path / "sweep.yaml", digits, {"penalties.r1_gamma": {"grid": [1]}}, resources={"cpus": 64})
    with pytest.raises(Exception, match=r"resources: a trial needs cpus=64 .* has 2 and 2"):
        sweep(file, tmp_path / "out", ray=address)
