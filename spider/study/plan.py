"""STUDY.yaml, and what it asks for: the stages of a pipeline (spider/jobs/stages.py), one run per variant and seed.

    title: Does ADA help with 285 cat faces?
    claim: With 2,000 images ADA takes FID from 52 to 19 (arXiv 2006.06676, Table 2).
    values: {data: data, kimg: 12}            # {data} and {kimg} below; `spider study FILE data=/my/tars` changes one
    seeds: 0-2                                # of the trainings, all variants under each
    stages:                                   # what comes before, as in a pipeline; where {seed} occurs, once per seed
      cats:   {verb: pack, source: "{data}/cats.tar", out: "{out}/shards/cats", resolution: 64}
    train:    {config: dcgan, data: "{out}/shards/cats", kimg: "{kimg}", after: cats,
               overrides: [evaluate.every_kimg=3, evaluate.embedding=efficientnet]}
    variants:
      plain:  {}
      ada:    {overrides: ["augment=[{kind: ada}]"], published: FID 19 of 52}
    baseline: plain                           # the others are held against it; default: the first
    measure:  {metrics: [fid, kid, nearest], embedding: efficientnet, count: 1000, seeds: 1}

`train` and a variant have the keys of `spider.api.train`, and `after`; a variant's come after, and its overrides behind
those of `train`. `measure` has the keys of `spider.api.evaluate`: the last and the best checkpoint of every run are
measured so; a list measures by several embeddings. `{out}` is the study's folder, and `{seed}` the training's seed.
Lists within `overrides` are joined, so that stages share them by YAML's anchors.

    OUT/study.yaml             the file, as it was; values.json, its `values`, which count until others are said
        runs/VARIANT-SEED/     the runs, each an ordinary one
        measures/VARIANT-SEED-{last,best}.json, and beside it the memorisation page of few images
        measures/VARIANT-SEED-{last,best}-EMBEDDING.json, of the second embedding on
        stages/NAME/           how a stage ended: ended.json, or its job's files
        logs/NAME.txt          what it printed
        report.html, study.json, curves.png
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from shards.missing import no_such
from spider.arguments import image_numbers
from spider.config.load import read_mapping
from spider.errors import SpiderUsageError
from spider.jobs.stages import PipelineConfig, Stage, StageConfig, filled, listed, make_stages, refusal
from spider.jobs.submit import Place
from spider.judge.request import EvaluateRequest
from spider.measures import GENERATOR_METRICS, WITHOUT_A_BETTER_END, embedding_of
from spider.request import Request
from spider.runs.request import TrainRequest
from untrusted.errors import UnreadableError
from untrusted.files import read_regular
from untrusted.json_data import read_json
from untrusted.text import decode
from untrusted.typed import checked
from untrusted.words import not_known
from untrusted.yaml_data import MAX_BYTES

FILE, VALUES = "study.yaml", "values.json"  # in the study's folder
CHECKPOINTS = ("last", "best")

_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$", max_length=60)]
_OWN = ("run", "seed", "verb")  # the study says them


def flat(value: object) -> list[object]:
    """A text alone stands for a list of one, and lists within lists are joined: they may be YAML's anchors."""
    return [each for part in value for each in flat(part)] if isinstance(value, list | tuple) else [value]


def _no_number(value: object) -> object:
    """Refuse a number alone: which seeds, or how many?"""
    if isinstance(value, int):
        raise ValueError(f"a number alone: write 0-{value} for several, or [{value}] for this one")
    return value


def _several(value: object) -> object:
    """A mapping alone stands for a list of one."""
    return [value] if isinstance(value, dict) else value


class TrainConfig(BaseModel):
    """`train` and each variant. The keys that are not here are those of `spider.api.train`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    after: Annotated[tuple[str, ...], BeforeValidator(listed)] = ()
    overrides: Annotated[tuple[str, ...], BeforeValidator(flat)] = ()
    slurm: dict[str, Any] = {}


class VariantConfig(TrainConfig):
    """A variant.

    Attributes:
        published: what its source says came out, for the table.
        about: what it is, in a few words.
        baseline: the variant that it is held against; None: that of the study.
    """

    published: str = ""
    about: str = ""
    baseline: str | None = None


class StudyConfig(BaseModel):
    """The file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    claim: str = ""
    values: dict[str, str | int | float] = {}
    seeds: Annotated[str | tuple[int, ...], BeforeValidator(_no_number)] = (0,)
    stages: dict[_Name, StageConfig] = {}
    train: TrainConfig
    variants: Annotated[dict[_Name, VariantConfig], Field(min_length=1)]
    baseline: str | None = None
    measure: Annotated[tuple[dict[str, Any], ...], BeforeValidator(_several), Field(min_length=1)]


@dataclass(frozen=True)
class StudyRun:
    """A variant under one seed.

    Attributes:
        variant: its name.
        seed: of the training.
        train: the stage.
        measures: by checkpoint, `last` and `best`, the stages that measure it, one for each embedding.
        before: the stages that it waits for, and those that they wait for.
    """

    variant: str
    seed: int
    train: Stage
    measures: Mapping[str, tuple[Stage, ...]]
    before: tuple[Stage, ...]

    @property
    def name(self) -> str:
        """Of the run below OUT/runs."""
        return self.train.name


@dataclass(frozen=True)
class StudyPlan:
    """A study that was read and checked.

    Attributes:
        config: the file.
        text: the same as it was written.
        values: by name, with what was said instead of the file's.
        out: absolute.
        seeds: of the trainings.
        baseline: the variant that the others are held against.
        stages: all of them, each behind those that it waits for.
        runs: variant by variant.
        places: by a stage's name, where it stands in the file: `variants.ada`.
        only: variants and names of runs that are worked on; empty: all.
    """

    config: StudyConfig
    text: str
    values: dict[str, Any]
    out: Path
    seeds: list[int]
    baseline: str
    stages: list[Stage]
    runs: list[StudyRun]
    places: Mapping[str, str]
    only: Sequence[str] = ()

    @property
    def wanted(self) -> list[Stage]:
        """The trainings of the variants that are worked on, and what measures them."""
        runs = [run for run in self.runs if not self.only or {run.variant, run.name} & {*self.only}]
        return [stage for run in runs for stage in (run.train, *chain(*run.measures.values()))]

    @property
    def metrics(self) -> list[list[str]]:
        """What each stage that measures a checkpoint is asked for. The first metric of the first one decides."""
        return [_metrics(stage) for stage in self.runs[0].measures[CHECKPOINTS[0]]]

    def baseline_of(self, variant: str) -> str:
        """What a variant is held against: itself, if it is the study's baseline."""
        return self.config.variants[variant].baseline or self.baseline

    def of_variant(self, name: str) -> list[StudyRun]:
        """Its runs, by seed."""
        return [run for run in self.runs if run.variant == name]


def read_study(
    file: Path,
    out: Path,
    said: Mapping[str, str | int | float],
    place: Place,
    verbs: Mapping[str, type[Request]],
    only: Sequence[str] = (),
) -> StudyPlan:
    """Read and check.

    Args:
        file: see the module.
        out: the study's folder.
        said: values by name, in the place of the file's.
        place: where stages run that do not say otherwise.
        verbs: by name, what a stage can be asked for.
        only: see StudyPlan.

    Raises:
        SpiderUsageError, ClusterUsageError: the file, the key, the value found and what would be valid.
    """
    config, out = _config(file), out.absolute()
    kept = kept_values(out, config)
    for name in said:
        if name not in config.values:
            raise SpiderUsageError(f"{file}: values: value {not_known(name, config.values)}")
    if reserved := {"out", "seed", "run"} & config.values.keys():
        raise SpiderUsageError(f"{file}: values.{min(reserved)}: {{{min(reserved)}}} has a meaning already")
    seeds = image_numbers("seeds", config.seeds)
    baseline = config.baseline or next(iter(config.variants))
    named = {f"variants.{name}.baseline": each.baseline for name, each in config.variants.items() if each.baseline}
    for key, name in {"baseline": baseline, **named}.items():
        if name not in config.variants:
            raise SpiderUsageError(f"{file}: {key}: variant {not_known(name, config.variants)}")
    values = {**config.values, **kept, **said}
    expanded = _Expanded(config, str(file), {**values, "out": str(out)}, seeds, out)
    called = expanded.places.__getitem__
    stages = make_stages(PipelineConfig(stages=expanded.stages), str(file), out, place, verbs, called)
    by_name = {stage.name: stage for stage in stages}
    runs = [
        StudyRun(
            variant,
            seed,
            by_name[f"{variant}-{seed}"],
            {each: tuple(by_name[name] for name in expanded.measured(variant, seed, each)) for each in CHECKPOINTS},
            tuple(_before(by_name[f"{variant}-{seed}"], by_name)),
        )
        for variant in config.variants
        for seed in seeds
    ]
    for name in only:
        if name not in (known := [*config.variants, *(run.name for run in runs)]):
            raise SpiderUsageError(f"{file}: only: variant or run {not_known(name, known)}")
    made = [run for run in (stage.request.made_run for stage in stages) if run is not None]
    for run in runs:
        _require_comparable(run, made, str(file))
    text = decode(read_regular(file, MAX_BYTES), str(file))
    return StudyPlan(config, text, values, out, seeds, baseline, stages, runs, expanded.places, only)


def _require_comparable(run: StudyRun, made: list[Path], file: str) -> None:
    train = run.train.request
    assert isinstance(train, TrainRequest)
    if train.config is None:
        raise SpiderUsageError(f"{file}: train.config: missing; a preset or a YAML file")
    if train.kimg is None:
        raise SpiderUsageError(f"{file}: train.kimg: missing; all variants are as long, in thousand images")
    if train.foreseen(made).evaluate.every_kimg is None:
        raise SpiderUsageError(
            f"{file}: variants.{run.variant}: overrides: evaluate.every_kimg is not set: there would be no curve "
            "and no best checkpoint"
        )
    first = _metrics(run.measures[CHECKPOINTS[0]][0])[0]
    if first in (*WITHOUT_A_BETTER_END, *GENERATOR_METRICS):
        raise SpiderUsageError(f"{file}: measure.metrics: {first} comes first, and decides, but has no better end")


def _metrics(stage: Stage) -> list[str]:
    request = stage.request
    assert isinstance(request, EvaluateRequest)
    return list(request.metrics)


def kept_values(out: Path, config: StudyConfig) -> dict[str, str | int | float]:
    """What was said for the values of the study in a folder when it was last worked on, as far as it still has them.

    Raises SpiderUsageError: the folder holds another study.
    """
    if (file := out / FILE).exists() and (title := read_mapping(file).get("title")) != config.title:
        raise SpiderUsageError(f"out: {out} holds another study, {title!r}; choose another folder")
    try:
        found = checked(read_json(out / VALUES), dict[str, str | int | float], str(out / VALUES))
    except FileNotFoundError:
        return {}
    except UnreadableError as error:
        raise SpiderUsageError(f"{error}; remove it, and the file's own values count") from None
    return {name: value for name, value in found.items() if name in config.values}


class _Expanded:
    """The stages that the file means, all places filled in, and by their names where they stand in the file."""

    def __init__(
        self, config: StudyConfig, file: str, words: Mapping[str, object], seeds: list[int], out: Path
    ) -> None:
        self.config, self.file, self.words, self.seeds, self.out = config, file, words, seeds, out
        self.stages: dict[str, StageConfig] = {}
        self._endings = self._measure_endings()
        self.places: dict[str, str] = {}
        self._by_seed = {name for name, stage in config.stages.items() if "{seed}" in repr(stage.model_extra)}
        waits: list[str] = []  # a stage behind one that is there for each seed is there for each seed
        while waits != (waits := sorted(self._by_seed)):
            self._by_seed |= {name for name, stage in config.stages.items() if self._by_seed.intersection(stage.after)}
        for name, stage in config.stages.items():
            for seed in seeds if name in self._by_seed else [None]:
                self._add(self._named(name, seed), f"stages.{name}", seed, stage, dict(stage.model_extra or {}))
        for name, variant in config.variants.items():
            for seed in seeds:
                self._add_run(name, variant, seed)

    def _add_run(self, name: str, variant: VariantConfig, seed: int) -> None:
        train, run = self.config.train, f"{name}-{seed}"
        keys = {**(train.model_extra or {}), **(variant.model_extra or {})}
        for key in _OWN:
            if key in keys:
                raise SpiderUsageError(f"{self.file}: variants.{name}.{key}: the study says it; leave it out")
        keys |= {"run": str(self.out / "runs" / run), "seed": seed}
        keys["overrides"] = [*train.overrides, *variant.overrides]
        after = tuple(dict.fromkeys([*train.after, *variant.after]))
        asked = StageConfig(verb="train", after=after, slurm={**train.slurm, **variant.slurm})
        self._add(run, f"variants.{name}", seed, asked, keys)
        for number, measure in enumerate(self.config.measure):
            waits = [run]
            for checkpoint in CHECKPOINTS:
                stage = self.measured(name, seed, checkpoint)[number]
                measured = {
                    **measure,
                    "subject": f"{self.out / 'runs' / run}@{checkpoint}",
                    "out": str(self.out / "measures" / f"{stage}.json"),
                }
                own = StageConfig(verb="evaluate", slurm=asked.slurm)
                self._add(stage, "measure", seed, own, measured, after=tuple(waits))
                waits.append(stage)  # one may be a copy of the other

    def measured(self, variant: str, seed: int, checkpoint: str) -> list[str]:
        """The names of the stages that measure a checkpoint."""
        return [f"{variant}-{seed}-{checkpoint}{ending}" for ending in self._endings]

    def _measure_endings(self) -> list[str]:
        """Of the names of what measures: none for the first, the embedding for the others."""
        embeddings: list[str] = []
        for measure in self.config.measure:
            for key in ("subject", "out"):
                if key in measure:
                    raise SpiderUsageError(f"{self.file}: measure.{key}: the study says it; leave it out")
            said = {key: str(measure[key]) for key in ("embedding", "protocol") if measure.get(key) is not None}
            try:
                said = filled(said, self.words)
            except SpiderUsageError as error:
                raise SpiderUsageError(f"{self.file}: measure: {error}") from None
            embedding = said.get("embedding") or embedding_of(said.get("protocol"))
            if embedding in embeddings:
                raise SpiderUsageError(f"{self.file}: measure: {embedding} is there twice; name all its metrics in one")
            embeddings.append(embedding)
        return ["", *(f"-{embedding}" for embedding in embeddings[1:])]

    def _add(
        self,
        name: str,
        where: str,
        seed: int | None,
        stage: StageConfig,
        keys: dict[str, Any],
        *,
        after: tuple[str, ...] | None = None,
    ) -> None:
        if name in self.stages:
            raise SpiderUsageError(f"{self.file}: {where}: the name {name} is another stage's; choose another")
        words = {**self.words, **({} if seed is None else {"seed": seed})}
        if "overrides" in keys:
            keys = {**keys, "overrides": flat(keys["overrides"])}
        try:
            found = filled(keys, words)
        except SpiderUsageError as error:
            raise SpiderUsageError(f"{self.file}: {where}: {error}") from None
        waits = after if after is not None else tuple(each for name in stage.after for each in self._meant(name, seed))
        self.places[name] = where
        self.stages[name] = StageConfig(verb=stage.verb, after=waits, slurm=stage.slurm, **found)

    def _meant(self, name: str, seed: int | None) -> list[str]:
        """The stages of that name in the file."""
        if name not in self.config.stages:
            raise SpiderUsageError(f"{self.file}: after: stage {not_known(name, self.config.stages)}")
        return [self._named(name, seed if name in self._by_seed else None)]

    @staticmethod
    def _named(name: str, seed: int | None) -> str:
        return name if seed is None else f"{name}-{seed}"


def _before(stage: Stage, by_name: Mapping[str, Stage]) -> list[Stage]:
    """Those that it waits for, and theirs, each once, the first ones first."""
    found: dict[str, Stage] = {}
    for name in stage.after:
        for each in (*_before(by_name[name], by_name), by_name[name]):
            found.setdefault(each.name, each)
    return list(found.values())


def _config(file: Path) -> StudyConfig:
    if not file.is_file():
        raise SpiderUsageError(no_such(file, "file"))
    try:
        return StudyConfig.model_validate(read_mapping(file))
    except ValidationError as error:
        raise refusal(error, str(file), StudyConfig) from None
