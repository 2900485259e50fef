"""What a sweep remembers is what stands on disk: whoever comes after a kill goes on with the same points and results.

No training runs here: a run is played by the evaluations that it would have written.
"""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from spider.config.load import make_config
from spider.judge.metrics.results import MetricResult, write_result
from spider.judge.sid.rules import RULES
from spider.runs.directory import RunDirectory, checkpoint_name
from spider.runs.request import TrainRequest
from sweeps.config import AshaConfig, AxisConfig
from sweeps.ledger import Ledger, Trial
from sweeps.measure import PENALTY
from sweeps.neighbor_sources import search_neighbors
from sweeps.plan import SweepPlan
from sweeps.progress import Progress
from sweeps.report import SweepReport, make_report
from sweeps.space import make_axis

EVERY, LENGTH = 10, 40
Value = Callable[[dict[str, Any], int], float | None]

DRAWN = {
    "penalties.r1_gamma": {"loguniform": [0.01, 100]},
    "d_steps": {"randint": [1, 3]},
    "source": {"choice": ["gaussian", "gamma"]},
}


@pytest.fixture
def make(tmp_path: Path, digits: Path) -> Callable[..., SweepPlan]:
    """The plan of a sweep in a folder of its own."""

    def make(**keys: Any) -> SweepPlan:
        sweep = {
            "config": "dcgan",
            "data": str(digits),
            "kimg": LENGTH,
            "overrides": {"evaluate.every_kimg": EVERY, "evaluate.embedding": "offline"},
            "seeds": 2,
            **keys,
        }
        file = tmp_path / "sweep.yaml"
        file.write_text(yaml.safe_dump(sweep, sort_keys=False))
        plan = SweepPlan(file, tmp_path / "out")
        plan.write()
        return plan

    return make


def play(ledger: Ledger, trial: Trial, value: float | None, upto: int = LENGTH) -> None:
    """The run's evaluations, and its end. They fall to `value` at the length."""
    for kimg in range(EVERY, upto + 1, EVERY):
        write_evaluation(ledger, trial.name, kimg, None if value is None else value + (LENGTH - kimg) / 100)
    outcome = "not finite" if value is None else "finished" if upto == LENGTH else "stopped"
    ledger.settle(trial.name, outcome, upto)


def write_evaluation(ledger: Ledger, name: str, kimg: float, value: float | None) -> None:
    result = MetricResult("fid", "FD[offline]", value, {"seed": 0}, {"reference": {"fingerprint": "x"}})
    folder = ledger.out / "runs" / name / "evaluations"
    write_result(folder / f"{checkpoint_name(round(kimg * 1000))}.json", [result], {})


def bowl(point: dict[str, Any], seed: int) -> float:
    """Best at r1_gamma 1, a little worse for the second seed."""
    return 1 + abs(math.log10(point["penalties.r1_gamma"])) + 0.1 * seed


def run(plan: SweepPlan, value: Value = bowl, stop_after: int | None = None) -> list[tuple[dict[str, Any], int]]:
    """Play trials one at a time; what was run, in order."""
    ledger, done = plan.ledger(plan.axes([])), []
    while stop_after is None or len(done) < stop_after:
        following = ledger.next_trial()
        if following is None:
            break
        configuration, trial = following
        play(ledger, trial, value(configuration.point, trial.seed))
        done.append((configuration.point, trial.seed))
    return done


def report(plan: SweepPlan) -> SweepReport:
    axes = plan.axes([])
    return make_report(plan, axes, plan.ledger(axes), [])


@pytest.mark.parametrize("kind", ["random", "optuna"])
def test_a_search_killed_after_any_trial_goes_on_as_if_it_had_not_been(
    kind: str, make: Callable[..., SweepPlan], tmp_path: Path
) -> None:
    """Optuna's random numbers, and the seeds that a configuration still lacks, are a matter of files as well."""
    search = {"kind": kind, "trials": 14, "seed": 5}
    plan = make(space=DRAWN, search=search)
    whole = run(plan)
    assert len(whole) == 28
    (tmp_path / "out").rename(tmp_path / "whole")
    pieces, plan = [], make(space=DRAWN, search=search)
    for size in (1, 2, 10, 11, 99):
        pieces += run(plan, stop_after=size)
    assert pieces == whole


def test_every_configuration_is_tried_once_under_each_seed(make: Callable[..., SweepPlan]) -> None:
    done = run(make(space={"penalties.r1_gamma": {"grid": [0.1, 1]}, "batch": {"grid": [8, 16]}}, seeds=[3, 7]))
    assert [seed for _, seed in done] == [3, 7] * 4
    assert [point for point, _ in done[::2]] == [
        {"penalties.r1_gamma": gamma, "batch": batch} for gamma in (0.1, 1) for batch in (8, 16)
    ]


def test_values_that_differ_have_labels_that_differ() -> None:
    near = [0.1, 0.1000001, 0.10000001]
    axis = make_axis("penalties.r1_gamma", AxisConfig(grid=near))
    assert len({axis.label(value) for value in near}) == len(near)


def test_a_grid_under_random_search_meets_every_draw(make: Callable[..., SweepPlan]) -> None:
    space = {"batch": {"grid": [8, 16]}, "penalties.r1_gamma": {"uniform": [0, 1]}}
    points = [
        point for point, _ in run(make(space=space, search={"kind": "random", "trials": 3}, seeds=1), lambda p, s: 1)
    ]
    draws = [point["penalties.r1_gamma"] for point in points]
    assert [point["batch"] for point in points] == [8, 16] * 3
    assert draws[::2] == draws[1::2]
    assert len(set(draws)) == 3


def test_draws_stay_within_their_bounds(make: Callable[..., SweepPlan]) -> None:
    points = [point for point, _ in run(make(space=DRAWN, search={"kind": "random", "trials": 200}, seeds=1))]
    gammas = sorted(point["penalties.r1_gamma"] for point in points)
    assert gammas[0] >= 0.01
    assert gammas[-1] <= 100
    assert 0.3 < gammas[100] < 3  # the middle of the logarithm
    assert {point["d_steps"] for point in points} == {1, 2, 3}


def test_optuna_is_told_the_mean_over_the_seeds_and_heeds_it(make: Callable[..., SweepPlan], tmp_path: Path) -> None:
    """The same search goes down where low is good, and up where high is."""

    def height(point: dict[str, Any], seed: int) -> float:
        return math.log10(point["penalties.r1_gamma"]) + 0.1 * seed

    ends = []
    for sign in (1, -1):
        plan = make(space=DRAWN, search={"kind": "optuna", "trials": 40})
        points = [point for point, _ in run(plan, lambda point, seed, sign=sign: 9 + sign * height(point, seed))][::2]
        ends.append(sum(height(point, 0) for point in points[-20:]) / 20)
        ledger = plan.ledger(plan.axes([]))
        told = ledger.score(ledger.configurations[0])
        assert told == pytest.approx(9 + sign * (height(points[0], 0) + 0.05))
        (tmp_path / "out").rename(tmp_path / f"went {sign}")
    assert ends[0] < ends[1] - 0.8


def test_a_seed_that_is_not_finite_is_penalised_and_shown_as_that(make: Callable[..., SweepPlan]) -> None:
    plan = make(space={"penalties.r1_gamma": {"grid": [0.1, 1]}})
    run(plan, lambda point, seed: None if point["penalties.r1_gamma"] == 1 and seed == 1 else 5.0)
    ledger = plan.ledger(plan.axes([]))
    assert ledger.score(ledger.configurations[1]) == pytest.approx((5.3 + PENALTY) / 2, rel=0.1)
    first, second = report(plan).rows
    assert (first.labels["penalties.r1_gamma"], second.labels["penalties.r1_gamma"]) == ("0.1", "1")
    assert second.state() == "1 finished, 1 not finite"
    assert second.values == [5.0]


def test_a_configuration_is_judged_where_all_its_seeds_came_to(make: Callable[..., SweepPlan]) -> None:
    plan = make(space={"penalties.r1_gamma": {"grid": [0.1, 1]}})
    ledger = plan.ledger(plan.axes([]))
    for upto, value in ((LENGTH, 3.0), (LENGTH, 4.0), (LENGTH, 1.0), (20, 2.0)):
        _, trial = ledger.next_trial()
        play(ledger, trial, value, upto)
    first, second = report(plan).rows
    assert (first.kimg, first.mean, first.std) == (LENGTH, 3.5, pytest.approx(0.5**0.5))
    assert (second.kimg, second.mean) == (20, pytest.approx((1.2 + 2.2) / 2))  # not 1.0, that of the lucky seed


def test_the_report_has_every_configuration_and_the_command_of_the_winner(
    make: Callable[..., SweepPlan], tmp_path: Path, digits: Path
) -> None:
    plan = make(space=DRAWN, search={"kind": "random", "trials": 5})
    run(plan, lambda point, seed: None if point["d_steps"] == 3 else bowl(point, seed))
    found = report(plan)
    found.write(plan.out)
    document = json.loads((plan.out / "sweep.json").read_text())
    assert document["complete"]
    best = min(document["configurations"], key=lambda each: each["mean"] if each["mean"] is not None else math.inf)
    assert best == document["configurations"][0]
    assert best["std"] == pytest.approx(0.1 / 2**0.5)
    lines = list(csv.DictReader((plan.out / "sweep.csv").open()))
    assert [float(lines[0][f"seed {seed}"]) for seed in (0, 1)] == best["values"]
    assert [int(line["configuration"]) for line in lines] == [e["number"] for e in document["configurations"]]
    with Image.open(plan.out / "parallel.png") as figure:
        assert figure.width > 600
    spider, train, config, *words = document["winner"].split()
    assert (spider, train, config) == ("spider", "train", "dcgan")
    flags = dict(zip(words[:10:2], words[1:10:2], strict=True))
    assert flags["--kimg"] == "2000"  # the preset's own length, not the sweep's
    request = TrainRequest(config, tmp_path / "w", data=flags["--data"], source=flags["--source"], overrides=words[10:])
    composed = request.compose()
    assert composed.penalties.r1_gamma == best["point"]["penalties.r1_gamma"]
    assert composed.source.kind == best["point"]["source"]


def test_what_was_small_for_speed_is_told_beside_the_winner(make: Callable[..., SweepPlan]) -> None:
    every = {"evaluate.every_kimg": EVERY, "evaluate.embedding": "offline"}
    small = {"generator.width": 0.25, "evaluate.count": 64, "batch": 8}
    plan = make(space=DRAWN, search={"kind": "random", "trials": 2}, overrides={**every, **small})
    run(plan, bowl)
    found = report(plan)
    assert found.small == ["generator.width=0.25", "evaluate.count=64"]
    assert found.table().splitlines()[-1].endswith("kept small: generator.width=0.25, evaluate.count=64")
    assert found.to_json()["small"] == found.small


def test_what_optuna_suggests_and_no_run_can_be_is_refused_and_passed_over(make: Callable[..., SweepPlan]) -> None:
    """Each value can be tried beforehand, and every combination of them cannot."""
    plan = make(
        space={
            "batch": {"choice": [64, 16]},
            "selection": {"choice": [{"kind": "fixed", "k": k} for k in (8, 32)]},
        },
        search={"kind": "optuna", "trials": 12},
        seeds=1,
    )
    tried = run(plan, lambda point, seed: 1.0)
    refused = [each for each in plan.ledger(plan.axes([])).configurations if each.refused]
    assert len(tried) + len(refused) == 12
    assert refused
    assert {(each.point["batch"], each.point["selection"]["k"]) for each in refused} == {(16, 32)}
    assert all((point["batch"], point["selection"]["k"]) != (16, 32) for point, _ in tried)
    assert "refused: " in report(plan).table()
    assert "selection.k=32 exceeds batch=16" in report(plan).table()


def asha_of(make: Callable[..., SweepPlan], **keys: Any) -> tuple[SweepPlan, Callable[[], tuple[Any, Ledger]]]:
    """A plan of four trials, and what makes a scheduler that knows no more than the files."""
    from sweeps.ray_tune import _Asha

    asha = AshaConfig(**{"grace_kimg": EVERY, "reduction_factor": 2, **keys})
    plan = make(space={"penalties.r1_gamma": {"grid": [1, 2, 3, 4]}}, seeds=1, scheduler=asha.model_dump())

    def start() -> tuple[Any, Ledger]:
        ledger = plan.ledger(plan.axes([]))
        return _Asha(asha, ledger, "min"), ledger

    return plan, start


def judge(scheduler: Any, ledger: Ledger, name: str, kimg: float, value: float) -> str:
    """What the scheduler says of an evaluation, which is written beforehand, as a training does."""
    write_evaluation(ledger, name, kimg, value)
    handle = type("Handle", (), {"config": {"name": name}})
    scheduler.on_trial_add(None, handle)
    return scheduler.on_trial_result(None, handle, {"kimg": kimg, "value": value})


def test_asha_remembers_what_was_measured_before_a_restart(make: Callable[..., SweepPlan]) -> None:
    """Ray Tune's own restore begins with empty rungs, which let the next trial through whatever it is worth."""
    _, start = asha_of(make)
    scheduler, ledger = start()
    a, b, c, d = [ledger.next_trial()[1].name for _ in range(4)]
    assert judge(scheduler, ledger, a, EVERY, 1.0) == "CONTINUE"
    assert judge(scheduler, ledger, b, EVERY, 9.0) == "STOP"
    ledger.settle(b, "stopped", EVERY)
    assert judge(scheduler, ledger, c, EVERY, 0.5) == "CONTINUE"

    scheduler, ledger = start()
    [ledger.next_trial() for _ in range(4)]
    assert judge(scheduler, ledger, d, EVERY, 5.0) == "STOP"  # two of three were better
    ledger.settle(d, "stopped", EVERY)
    assert judge(scheduler, ledger, a, EVERY, 99.0) == "CONTINUE"  # decided once, however it compares by now
    assert judge(scheduler, ledger, c, 20, 0.4) == "CONTINUE"
    assert judge(scheduler, ledger, a, 20, 9.0) == "STOP"  # that was not decided yet


def test_asha_decides_of_no_evaluation_that_nobody_has_told_it(make: Callable[..., SweepPlan]) -> None:
    """A training that was killed with its driver may have measured what no scheduler has seen."""
    _, start = asha_of(make)
    scheduler, ledger = start()
    a, b, c = [ledger.next_trial()[1].name for _ in range(3)]
    judge(scheduler, ledger, b, EVERY, 1.0)
    judge(scheduler, ledger, c, EVERY, 2.0)
    write_evaluation(ledger, a, EVERY, 50.0)
    write_evaluation(ledger, a, 20, 40.0)
    scheduler, ledger = start()
    assert judge(scheduler, ledger, a, EVERY, 50.0) == "STOP"


def test_asha_counts_what_was_not_finite_after_a_restart_as_before(make: Callable[..., SweepPlan]) -> None:
    _, start = asha_of(make)
    scheduler, ledger = start()
    a = ledger.next_trial()[1].name
    handle = type("Handle", (), {"config": {"name": a}})
    scheduler.on_trial_add(None, handle)
    scheduler.on_trial_complete(None, handle, {"kimg": EVERY, "value": PENALTY})
    write_evaluation(ledger, a, EVERY, None)
    ledger.settle(a, "not finite", EVERY)
    rungs = scheduler._brackets[0]._rungs
    again, _ = start()
    assert again._brackets[0]._rungs == rungs
    assert any(recorded for _, recorded in rungs)


def test_asha_decides_once_of_an_evaluation(make: Callable[..., SweepPlan]) -> None:
    """Between two evaluations there may be two rungs, and an actor that takes over tells all of them again."""
    _, start = asha_of(make, grace_kimg=11, reduction_factor=1.2)
    scheduler, ledger = start()
    a, b, c = [ledger.next_trial()[1].name for _ in range(3)]
    for name, value in ((a, 3.0), (b, 1.0), (c, 2.0)):
        judge(scheduler, ledger, name, 20, value)
    before = [dict(recorded) for _, recorded in scheduler._brackets[0]._rungs]
    assert judge(scheduler, ledger, a, 20, 3.0) == "CONTINUE"
    assert judge(scheduler, ledger, a, 10, 9.0) == "CONTINUE"
    assert [recorded for _, recorded in scheduler._brackets[0]._rungs] == before


def test_a_trial_made_longer_afterwards_is_the_trial_that_it_was(make: Callable[..., SweepPlan]) -> None:
    """An evaluation at a length that is no multiple is taken back, and others come after it."""
    plan = make(space={"penalties.r1_gamma": {"grid": [1]}}, seeds=1, kimg=35)
    ledger = plan.ledger(plan.axes([]))
    name = ledger.next_trial()[1].name
    for kimg in (10, 20, 30, 35):
        write_evaluation(ledger, name, kimg, float(kimg))
    ledger.settle(name, "finished", 35)
    before = report(plan).to_json()
    assert before["configurations"][0]["mean"] == 35
    (plan.out / "runs" / name / "evaluations" / f"{checkpoint_name(35_000)}.json").unlink()
    for kimg in (40, 50):
        write_evaluation(plan.ledger(plan.axes([])), name, kimg, float(kimg))
    assert report(plan).to_json() == before
    shutil.rmtree(plan.out / "runs" / name)
    assert report(plan).rows[0].mean == 35
    assert any("its run is gone from runs/" in line for line in report(plan).warnings)


def test_chance_is_told_by_how_few_seeds_there_are(make: Callable[..., SweepPlan]) -> None:
    """Two seeds that agree about a difference prove little; ten that do are enough."""
    for seeds, is_chance in ((2, True), (10, False)):
        plan = make(space={"penalties.r1_gamma": {"grid": [0.1, 1]}}, seeds=seeds)
        run(plan, lambda point, seed: 5 + point["penalties.r1_gamma"] * (1 + 0.4 * (seed % 2)))
        told = [line for line in report(plan).warnings if "chance, perhaps" in line]
        assert bool(told) == is_chance
        assert all(f"with {seeds} seeds" in line for line in told)
        plan.out.rename(plan.out.with_name(f"{seeds} seeds"))


def test_a_log_hears_of_a_sweep_until_a_trial_has_numbers(make: Callable[..., SweepPlan]) -> None:
    plan = make(space=DRAWN, search={"kind": "random", "trials": 1}, seeds=1)
    ledger = plan.ledger(plan.axes([]))
    trial = ledger.next_trial()
    assert trial is not None
    telling = lambda: [thread.name for thread in threading.enumerate() if thread.name == "now_and_then"]  # noqa: E731
    for numbers in (True, False):
        progress = Progress(ledger, 1, shown=True)
        assert telling()
        if numbers:
            progress.reported(trial[1].name, 1.0, None)
            assert not telling()
        progress.close()
        assert not telling()


def test_progress_never_passes_its_total(make: Callable[..., SweepPlan], capsys: pytest.CaptureFixture[str]) -> None:
    """A trial ends with the batch that passes its length."""
    plan = make(space={"penalties.r1_gamma": {"grid": [0.1, 1]}}, seeds=1)
    ledger = plan.ledger(plan.axes([]))
    progress = Progress(ledger, 1, shown=True)
    bar, total = progress._bar, 2 * ledger.measure.length_kimg
    while (following := ledger.next_trial()) is not None:
        name = following[1].name
        progress.started(name)
        progress.reported(name, ledger.measure.length_kimg + 0.008, None)
        play(ledger, following[1], 1.0)
        progress.ended(name)
        assert bar.n <= bar.total == total
    assert bar.n == total
    progress.close()
    told = capsys.readouterr().err.splitlines()
    assert [line[:3] for line in told] == ["1/2", "2/2"], "in a log, a line for each trial"


def test_a_winner_that_lost_a_seed_is_told(make: Callable[..., SweepPlan]) -> None:
    plan = make(space={"penalties.r1_gamma": {"grid": [0.1, 1]}})
    run(plan, lambda point, seed: None if seed else point["penalties.r1_gamma"])
    assert "no configuration has a value under every seed; the first is 1 finished, 1 not finite" in (
        report(plan).warnings
    )
    plan = make(space={"penalties.r1_gamma": {"grid": [0.1, 1]}})
    assert "the winner at full length" in report(plan).table()
    ledger = plan.ledger(plan.axes([]))
    ledger.settle(ledger.configurations[1].trials[0].name, None)
    assert "the best so far at full length" in report(plan).table()


def test_neighbours_of_any_order_are_trained_on_once_and_stand_beside_the_result(
    make: Callable[..., SweepPlan], patches: Path
) -> None:
    search = {
        "sources": {"letters": "builtin:letters", "patches": str(patches), "digits": "builtin:digits"},
        "orders": [-1, 1],
        "picks": 1,
        "embedding": "offline",
        "images": 150,
        "mode": "screen",
    }
    plan = make(config="spider-dcgan", space={"source": {"neighbors": search}}, seeds=2)
    rankings = search_neighbors(
        plan.neighbors, plan.example.data.path, plan.out / "neighbors", ray=None, progress=False
    )
    assert [ranking.order for ranking in rankings] == ["-1", "1"]
    axes = plan.axes(rankings)
    picked = {name for ranking in rankings for name in ranking.picks}
    assert axes[0].labels == tuple(dict.fromkeys(name for ranking in rankings for name in ranking.picks))
    assert len(picked) == len(axes[0].values) < 3
    ledger = plan.ledger(axes)
    while (following := ledger.next_trial()) is not None:
        play(ledger, following[1], 2.0 + following[0].number + 0.1 * following[1].seed)
    found = make_report(plan, axes, ledger, rankings)
    found.write(plan.out)
    table = found.table()
    assert "picked under order" in table
    assert "does a near place by CSID[-1] make a better GAN? " in table
    assert (plan.out / "outcome.png").is_file()
    (plan.out / "neighbors" / "neighbors.csv").unlink()
    search_neighbors(plan.neighbors, plan.example.data.path, plan.out / "neighbors", ray=None, progress=False)
    assert not (plan.out / "neighbors" / "neighbors.csv").exists()  # what is there is not searched again


def test_rank_correlation_says_when_the_nearest_makes_the_best(make: Callable[..., SweepPlan], patches: Path) -> None:
    search = {"sources": {"a": "builtin:letters", "b": str(patches)}, "embedding": "offline", "images": 150}
    search |= {"picks": "all", "mode": "screen"}
    search["sources"] |= {"c": "builtin:digits"}  # the target itself, which the rule never picks
    plan = make(config="spider-dcgan", space={"source": {"neighbors": search}}, seeds=1)
    rankings = search_neighbors(
        plan.neighbors, plan.example.data.path, plan.out / "neighbors", ray=None, progress=False
    )
    rank = {each.source: each.rank for each in rankings[0].sources}
    assert "c" not in rankings[0].picks
    axes = plan.axes(rankings)
    ledger = plan.ledger(axes)
    while (following := ledger.next_trial()) is not None:
        play(ledger, following[1], 10 + rank[axes[0].label(following[0].point["source"])])
    (agreement,) = make_report(plan, axes, ledger, rankings).outcome.agreements
    assert agreement.correlation == pytest.approx(1)
    assert agreement.interval is None
    assert agreement.words == "rank correlation +1.00, 3 sources: too few for an interval"
    outcome = make_report(plan, axes, ledger, rankings).outcome
    assert [each.rule for each in outcome.by_rule] == list(RULES)
    assert outcome.by_rule[0].words == agreement.words  # the paper's rule, under which the search ranked
    assert re.search(r"^rank correlation under each rule: .*fd [+-]", outcome.table(), re.MULTILINE)
    nearest = ledger.configurations[0].trials[0]
    ledger.settle(nearest.name, "not finite", 10)
    outcome = make_report(plan, axes, ledger, rankings).outcome
    assert outcome.diverged == [axes[0].labels[0]]
    assert outcome.agreements[0].correlation == pytest.approx(-0.5)  # the nearest counts as the worst
    assert "counted as the worst" in outcome.table()


def test_a_sweep_trains_on_what_its_rule_picks(make: Callable[..., SweepPlan], patches: Path) -> None:
    search = {"sources": {"letters": "builtin:letters", "patches": str(patches)}, "picks": 1, "rule": "fd"}
    search |= {"embedding": "offline", "images": 150}
    plan = make(config="spider-dcgan", space={"source": {"neighbors": search}}, seeds=1)
    rankings = search_neighbors(
        plan.neighbors, plan.example.data.path, plan.out / "neighbors", ray=None, progress=False
    )
    rows = json.loads((plan.out / "neighbors" / "neighbors.json").read_text())["rows"]
    nearest = min(rows, key=lambda row: row["fd"])["source"]
    assert (rankings[0].rule, rankings[0].picks) == ("fd", [nearest])
    assert plan.axes(rankings)[0].labels == (nearest,)


def test_a_run_as_source_is_one_checkpoint_for_the_whole_sweep(make: Callable[..., SweepPlan], tmp_path: Path) -> None:
    fed = RunDirectory(tmp_path / "fed")
    fed.write_config(make_config({"data": {"path": "x"}}))
    for name in ("000001-kimg", "000002-kimg"):
        (fed.checkpoints / name).mkdir(parents=True)
    plan = make(space={"source": {"grid": ["gaussian", f"{fed.path}"]}}, seeds=1)
    ledger = plan.ledger(plan.axes([]))
    given = [ledger.next_trial() for _ in range(2)]
    (fed.checkpoints / "000003-kimg").mkdir()
    again = plan.ledger(plan.axes([]))
    assert again.configurations[1].source == f"{fed.path}@2"
    assert f"{fed.path}@2" in plan.trial_spec(plan.axes([]), 0, again.configurations[1], given[1][1]).words
