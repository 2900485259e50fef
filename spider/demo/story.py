"""The whole story on built-in data, on one machine, offline, in minutes.

    OUT/data/digits, letters, patches   packed images (see shards.pack)
        neighbors/                      which of them are near the digits (see neighbors.report)
        runs/gaussian-seed0, ...        a training run for each source and training seed (see spider.runs.directory):
                                        evaluations/final.json and memorisation-offline.png: what became of it
        floor.json                      how far the digits are from themselves
        timings.json                    what each step took
        figures/, report.html           what to read (see spider.demo.report)

Whatever is there already is not done again: the same call goes on where the one before was stopped.
"""

from __future__ import annotations

import platform
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cluster.launcher import processes
from cluster.world import World
from neighbors.find import neighbors
from neighbors.request import NeighborOptions
from shards.index import INDEX_NAME
from shards.pack import pack
from shards.parallel import usable_cores
from spider.config.schema import Config
from spider.demo.report import Findings, Run, write_report
from spider.demo.steps import Steps
from spider.demo.verdict import Arm, Measure, Verdict, judge
from spider.errors import SpiderUsageError
from spider.judge.evaluation import evaluate
from spider.judge.metrics.registry import METRICS
from spider.judge.metrics.results import read_results
from spider.judge.request import EvaluateRequest
from spider.runs.directory import RunDirectory
from spider.runs.request import TrainRequest
from spider.runs.start import prepare
from spider.train.loop import train
from untrusted.counts import counted
from untrusted.json_data import read_json

PRESET = "demo"
EMBEDDING = "offline"
MEASURED = ("fid", "kid_full", "precision", "recall", "density", "coverage", "nearest")
PRIOR = "gaussian"
_LENGTH = "about 5 minutes on 2 cores"
_WORDS = {PRIOR: "Gaussian noise"}  # a dataset goes by its name


@dataclass(frozen=True)
class Plan:
    """How large the story is.

    Attributes:
        datasets: what to pack, by name; the first is the target, the others are candidates.
        resolution: of every image, px.
        training_seeds: each source is trained once under each.
        evaluation_seeds: each run is measured once under each of 0, 1, ...
        overrides: of the preset.
    """

    datasets: dict[str, str] = field(
        default_factory=lambda: {name: f"builtin:{name}" for name in ("digits", "letters", "patches")}
    )
    resolution: int = 16
    training_seeds: tuple[int, ...] = (0, 1)
    evaluation_seeds: int = 3
    overrides: tuple[str, ...] = ()

    @property
    def target(self) -> str:
        """The name of the dataset to learn."""
        return next(iter(self.datasets))

    @property
    def candidates(self) -> list[str]:
        """The names of the others."""
        return list(self.datasets)[1:]


@dataclass(frozen=True)
class DemoResult:
    """What came out.

    Attributes:
        report: the page to open.
        verdict: what it says.
        label: of the distances.
        distances: at the end, of every source: for each training seed a list over evaluation seeds.
        seconds: what it took, over all the times that it was begun.
    """

    report: Path
    verdict: Verdict
    label: str
    distances: dict[str, list[list[float]]]
    seconds: float

    def text(self) -> str:
        """For a terminal."""
        return "\n".join(
            ["", self.verdict.headline, *(f"- {line}" for line in self.verdict.details), "", f"open {self.report}"]
        )


def demo(out: Path = Path("runs/demo"), *, seed: int = 0, progress: bool = True) -> DemoResult:
    """Pack built-in images, rank neighbours, train with and without them, measure, and write a report.

    Args:
        out: where everything goes; what an earlier call left there is used.
        seed: the first of the two training seeds.
        progress: show steps and bars on stderr.

    Raises:
        KeyboardInterrupt: it was stopped; what was done is saved.
        SpiderUsageError: `out` holds runs with other settings; or this is one of several processes.
    """
    return tell(Plan(training_seeds=(seed, seed + 1)), Path(out), progress=progress)


def tell(plan: Plan, out: Path, *, progress: bool) -> DemoResult:
    """The story of `plan`; otherwise as `demo`."""
    if processes() > 1:
        raise SpiderUsageError("the demo is one process: start it without torchrun")
    steps = Steps(out / "timings.json", 4 + 3 * len(plan.training_seeds), progress)
    steps.say(f"{counted(steps.count, 'step')}, {_LENGTH}; the same command goes on with a demo that was stopped")
    story = Story(plan, out, steps)
    with _one_thread():
        story.pack()
        ranked = [row["source"] for row in story.rank()["rows"]]
        sources = [PRIOR, ranked[0], ranked[-1]]
        for seed in plan.training_seeds:
            for source in sources:
                story.train(source, seed)
        story.measure(sources)
        return story.report(sources)


class Story:
    """The steps, each of which finds out what of it is done."""

    def __init__(self, plan: Plan, out: Path, steps: Steps) -> None:
        self.plan, self.out, self.steps = plan, out, steps
        self.world = World.single("cpu")

    def pack(self) -> None:
        """Pack the datasets that are not packed yet."""
        missing = [name for name in self.plan.datasets if not (self._data(name) / INDEX_NAME).is_file()]

        def work() -> None:
            for name in missing:
                pack(
                    self.plan.datasets[name],
                    self._data(name),
                    resolution=self.plan.resolution,
                    encoding="raw",
                    progress=self.steps.progress,
                )

        self.steps.do(f"pack {', '.join(self.plan.datasets)}", work, done=not missing)

    def rank(self) -> dict[str, Any]:
        """Rank the candidates; returns the document of neighbors.json."""
        file = self._neighbours / "neighbors.json"

        def work() -> None:
            report = neighbors(
                self._data(self.plan.target),
                {name: self._data(name) for name in self.plan.candidates},
                out=file.parent,
                options=NeighborOptions(
                    embedding=EMBEDDING,
                    picks=1,  # two candidates
                    progress=self.steps.progress,
                ),
            )
            self.steps.say(report.table())

        self.steps.do(f"rank the neighbours of {self.plan.target}", work, done=file.is_file())
        document: dict[str, Any] = read_json(file)
        return document

    def train(self, source: str, seed: int) -> None:
        """Train on the target, fed by `source`, from wherever an earlier call left off."""
        directory = self._run(source, seed)
        config = self._config(source, seed)

        def work() -> None:
            _final(directory).unlink(missing_ok=True)
            if train(config, directory, self.world, progress=self.steps.progress) == "stopped":
                raise KeyboardInterrupt

        step = f"train on {self.plan.target} fed by {_words(source)}, seed {seed}, {config.kimg:g} kimg"
        done = directory.success_file.is_file() and directory.config() == config
        self.steps.do(step, work, done=done)

    def measure(self, sources: list[str]) -> None:
        """Measure every run, and the target against itself."""
        runs = [self._run(source, seed) for source in sources for seed in self.plan.training_seeds]
        unmeasured = [run for run in runs if not _final(run).is_file()]
        target, count = self._data(self.plan.target), runs[0].config().evaluate.count

        def work() -> None:
            for run in unmeasured:
                request = EvaluateRequest(
                    run.path,
                    metrics=MEASURED,
                    protocol=EMBEDDING,
                    count=count,
                    seeds=self.plan.evaluation_seeds,
                    figures=run.evaluations,
                    out=_final(run),
                    progress=self.steps.progress,
                )
                evaluate(request, self.world)
            itself = EvaluateRequest(
                target, reference=target, metrics=["fid"], protocol=EMBEDDING, count=count, out=self._floor
            )
            evaluate(itself, self.world)

        step = f"measure {counted(len(runs), 'run')} under {counted(self.plan.evaluation_seeds, 'evaluation seed')}"
        self.steps.do(step, work, done=not unmeasured and self._floor.is_file())

    def report(self, sources: list[str]) -> DemoResult:
        """Judge what came out and write it down."""
        self.steps.begin("write the report")
        (floor,) = read_results(self._floor)
        runs = [
            Run(source, seed, self._run(source, seed), read_results(_final(self._run(source, seed))))
            for source in sources
            for seed in self.plan.training_seeds
        ]
        arms = [_arm(source, runs, floor.label) for source in sources]
        of_prior, of_first = ([run for run in runs if run.source == source] for source in sources[:2])
        others = _other_measures(of_prior, of_first, but=floor.label)
        verdict = judge(*arms, label=floor.label, target=f"the {self.plan.target}", others=others)
        findings = Findings(
            neighbours=self._neighbours,
            arms=arms,
            runs=runs,
            floor=floor,
            verdict=verdict,
            timings=self.steps.timings,
            machine=f"{usable_cores()} cores ({platform.machine()}), of which the networks take one",
            commands=self._commands(sources),
        )
        return DemoResult(
            report=write_report(findings, self.out),
            verdict=verdict,
            label=floor.label,
            distances={arm.source: arm.finals for arm in arms},
            seconds=sum(timing.wall_s for timing in self.steps.timings),
        )

    def _config(self, source: str, seed: int) -> Config:
        """The preset fed by `source`, in agreement with what the run's folder holds."""
        directory = self._run(source, seed)
        composed = TrainRequest(
            PRESET,
            directory.path,
            data=self._data(self.plan.target),
            source=self._feed(source),
            seed=seed,
            overrides=self.plan.overrides,
        ).compose()
        try:
            return prepare(composed, directory)
        except SpiderUsageError as error:
            raise SpiderUsageError(
                f"{self.out} holds another demo: remove it or choose another --out ({error})"
            ) from None

    def _commands(self, sources: list[str]) -> list[str]:
        """What would do the same by hand."""
        plan, target = self.plan, _quoted(self._data(self.plan.target))
        places = {name: _quoted(self._data(name)) for name in plan.datasets}
        runs = [(source, seed, self._run(source, seed)) for source in sources for seed in plan.training_seeds]
        measured = f"--protocol {EMBEDDING} --count {self._config(PRIOR, plan.training_seeds[0]).evaluate.count}"
        metrics = f"--metrics {','.join(MEASURED)} --seeds {plan.evaluation_seeds}"
        preset = " ".join([PRESET, *map(shlex.quote, plan.overrides)])
        return [
            "export OMP_NUM_THREADS=1",
            *(
                f"spider pack {_quoted(origin)} {places[name]} --resolution {plan.resolution} --encoding raw"
                for name, origin in plan.datasets.items()
            ),
            f"spider neighbors {' '.join(places.values())} --embedding {EMBEDDING} --out {_quoted(self._neighbours)}",
            *(
                f"spider train {preset} --data {target} --source {_quoted(self._feed(source))} --seed {seed} "
                f"--run {_quoted(run.path)}"
                for source, seed, run in runs
            ),
            *(
                f"spider evaluate {_quoted(run.path)} {measured} {metrics} --figures {_quoted(run.evaluations)} "
                f"--out {_quoted(_final(run))}"
                for _, _, run in runs
            ),
            f"spider evaluate {target} --reference {target} {measured} --metrics fid --out {_quoted(self._floor)}",
        ]

    def _feed(self, source: str) -> str:
        """What `--source` takes for it."""
        return source if source == PRIOR else str(self._data(source))

    @property
    def _neighbours(self) -> Path:
        return self.out / "neighbors"

    @property
    def _floor(self) -> Path:
        return self.out / "floor.json"

    def _data(self, name: str) -> Path:
        return self.out / "data" / name

    def _run(self, source: str, seed: int) -> RunDirectory:
        return RunDirectory(self.out / "runs" / f"{source}-seed{seed}")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Networks this small gain little from more, and lose much by them on a busy machine.

    Sums round by the number of threads, so this also makes the numbers of the story those of any machine like this one.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _final(run: RunDirectory) -> Path:
    """Where the measurements at the end of a run are."""
    return run.evaluations / "final.json"


def _quoted(path: Path | str) -> str:
    """As a shell reads it."""
    return shlex.quote(str(path))


def _words(source: str) -> str:
    return _WORDS.get(source, source)


def _arm(source: str, runs: list[Run], label: str) -> Arm:
    """All runs that `source` fed, by the metric of that label."""
    own = [run for run in runs if run.source == source]
    return Arm(
        source=source,
        words=_words(source),
        finals=[run.finals(label) for run in own],
        curves=[run.curve(label) for run in own],
    )


def _other_measures(prior: list[Run], first: list[Run], but: str) -> list[Measure]:
    """What two sources came to by every metric that has a better side, but one label."""
    sides = {result.label: METRICS[result.name].better for result in prior[0].results}
    return [
        Measure(
            label,
            side == "higher",
            *([value for run in runs for value in run.finals(label)] for runs in (prior, first)),
        )
        for label, side in sides.items()
        if side is not None and label != but
    ]
