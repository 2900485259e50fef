"""The configuration of a training run: one immutable object that says everything a run computes.

An experiment is a point in a product of independent choices, and this is the product. Whatever cannot work together
is refused here, by the names of the keys, before anything is built. Keys marked `runtime` may change on a resume.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from itertools import chain
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from spider.arguments import MAX_IMAGES, MAX_PROCESSES, MAX_SEED, MIN_KIMG
from spider.errors import SpiderUsageError
from spider.gan.augment.config import AugmentationConfig
from spider.gan.auxiliary.config import AuxiliaryConfig
from spider.gan.conditions.config import ConditionConfig, NoConditionConfig
from spider.gan.init.config import InitConfig, RandomInitConfig
from spider.gan.networks.choices import DiscriminatorNetworkConfig, GeneratorNetworkConfig
from spider.gan.networks.config import NetworkChoice
from spider.gan.networks.dcgan_config import DcganDiscriminatorConfig, DcganGeneratorConfig
from spider.gan.objectives.config import (
    AnyObjectiveConfig,
    GeneratorPenaltiesConfig,
    ObjectiveConfig,
    PenaltiesConfig,
)
from spider.gan.overfit.config import OverfitConfig
from spider.gan.selection.config import SelectionConfig
from spider.gan.sources.config import GaussianConfig, SourceConfig
from spider.measures import EMBEDDINGS, FEATURE_FILES, METRICS, PROTOCOLS
from spider.settings.auto import Follows, OfImages
from spider.settings.choices import is_outside, overrides, sections_of
from spider.settings.marks import Names
from spider.settings.schedule import AutoSchedule, Bounds, Schedule, value_at
from spider.settings.section import (
    MAX_BATCH,
    MAX_FACTOR,
    MAX_KIMG,
    MAX_MINUTES,
    MAX_RATE,
    MAX_STEPS,
    OptionalPlace,
    Place,
    Section,
    runtime,
)
from untrusted.words import not_known


class DataConfig(Section):
    """The target: the images to learn."""

    path: Annotated[OptionalPlace, Names("images")] = Field(
        "", description="images to learn; may move, their content is compared"
    )
    order: Literal["full", "shard_local"] = Field(
        "full", description="full: one permutation per epoch; shard_local: every rank reads about 1/world of the bytes"
    )
    mirror: bool = Field(False, description="flip half of the images left to right")
    workers: int = runtime(
        0, ge=0, le=MAX_PROCESSES, description="reading processes per rank; 0 = read in a thread of the trainer"
    )


def _usual_lr(config: Config, images: OfImages) -> float:
    """Of StyleGAN2-ADA's cfg=auto (train.py)."""
    return 0.002 if images.side >= 1024 else 0.0025


class OptimizerConfig(Section):
    """Adam."""

    lr: Annotated[AutoSchedule, Bounds(gt=0, le=MAX_RATE), Follows(_usual_lr)] = Field(
        2e-4, description="learning rate; auto = StyleGAN2-ADA's rule: 0.0025, and from 1024 px 0.002"
    )
    beta1: Annotated[Schedule, Bounds(ge=0, lt=1)] = Field(0.5, description="decay of the gradient's mean")
    beta2: Annotated[Schedule, Bounds(ge=0, lt=1)] = Field(0.999, description="decay of the gradient's square")
    eps: float = Field(1e-8, gt=0, le=MAX_FACTOR, description="added to the root of the gradient's square")

    def at(self, images: int, own_phase_interval: int | None = None) -> dict[str, Any]:
        """Adam's learning rate and betas when the clock stands at `images`.

        With `own_phase_interval` = k the player steps k + 1 times in k iterations, the extra one for a lazy penalty,
        and lr and betas become what makes that equivalent: lr c, beta^c, c = k / (k + 1) (StyleGAN2, appendix B).
        """
        c = 1.0 if own_phase_interval is None else own_phase_interval / (own_phase_interval + 1)
        lr, beta1, beta2 = (value_at(schedule, images) for schedule in (self.lr, self.beta1, self.beta2))
        return {"lr": lr * c, "betas": (beta1**c, beta2**c)}


def _usual_half_life(config: Config, images: OfImages) -> float:
    """Of StyleGAN2-ADA's cfg=auto (train.py), in thousand images."""
    return config.batch * 10 / 32


class EmaConfig(Section):
    """The moving average of the generator's weights, which samples and metrics use."""

    half_life_kimg: Annotated[AutoSchedule, Bounds(ge=0, le=MAX_KIMG), Follows(_usual_half_life)] = Field(
        10.0,
        description="images after which a weight has half its influence, in thousands; 0 = no average; auto = "
        "StyleGAN2-ADA's rule: 10 batch / 32",
    )
    rampup: float | None = Field(
        0.05, gt=0, le=MAX_FACTOR, description="half life is at most this part of the images seen; null = none"
    )
    statistics: Literal["copied", "averaged"] = Field(
        "copied",
        description="running statistics of batch normalisation: those of the generator that trains, or averaged as its "
        "weights, as BigGAN's code does",
    )


class ComputeConfig(Section):
    """Precision and speed."""

    precision: Literal["fp32", "bf16", "fp16", "fp64"] = Field(
        "fp32", description="bf16, fp16: autocast of the first-order phases; parameters and penalties stay fp32"
    )
    loss_scale: float = Field(
        1.0, gt=0, le=MAX_FACTOR, description="losses are multiplied and gradients divided by this (fp16: 256 or more)"
    )
    tf32: bool = Field(False, description="let GPUs round the factors of float32 products to 11 bits, for speed")
    channels_last: bool = Field(False, description="memory format of the networks")
    compile: bool = Field(
        False, description="torch.compile for the first-order phases; penalties run the same modules eagerly"
    )
    deterministic: bool = Field(
        False, description="refuse operations that are not deterministic (needed on GPUs for bit-exact resume)"
    )
    device: Literal["auto", "cpu", "cuda"] = runtime("auto", description="where to compute")

    def refusals(self, config: Config) -> Iterator[str]:
        """See Section."""
        if self.loss_scale != 1 and self.precision != "fp16":
            yield "compute.loss_scale goes with compute.precision=fp16"


class GuardConfig(Section):
    """What happens when a loss or a gradient is not finite: the step is skipped and counted."""

    max_skipped: int = runtime(
        10, ge=0, le=MAX_STEPS, description="stop after so many skipped steps in a row; 0 = stop at the first"
    )


class CheckpointConfig(Section):
    """When to save. A stop (Ctrl-C, SIGTERM, a closed terminal) and the end of a run save as well."""

    every_kimg: float = runtime(100.0, ge=MIN_KIMG, le=MAX_KIMG, description="save every so many thousand images")
    every_min: float | None = runtime(
        15.0, gt=0, le=MAX_MINUTES, description="and whenever so many minutes have passed; null = not by time"
    )
    keep_last: int = runtime(3, ge=1, le=MAX_STEPS, description="how many to keep, besides the best")
    keep_every_kimg: float | None = runtime(
        None,
        ge=MIN_KIMG,
        le=MAX_KIMG,
        description="save at multiples of this as well, and keep those while this stays; null = none",
    )


class LogConfig(Section):
    """How often numbers and samples are written."""

    every_kimg: float = Field(
        1.0, ge=MIN_KIMG, le=MAX_KIMG, description="thousand images between two rows of metrics.jsonl and TensorBoard"
    )
    samples_every_kimg: float = Field(
        20.0, ge=MIN_KIMG, le=MAX_KIMG, description="thousand images between two grids of samples"
    )
    samples: int = Field(32, ge=1, le=10_000, description="images in the grid")
    tensorboard: bool = runtime(True, description="write TensorBoard event files")


def _as_names(value: object) -> object:
    """Texts for numbers of classes, in a list; one alone stands for a list of one."""
    items = value if isinstance(value, list | tuple) else [value]
    return [str(each) if isinstance(each, int) and not isinstance(each, bool) else each for each in items]


class EvaluateConfig(Section):
    """Measuring while training. Off unless `every_kimg` is set; the best checkpoint is chosen by the first metric."""

    every_kimg: float | None = Field(
        None, ge=MIN_KIMG, le=MAX_KIMG, description="thousand images between two evaluations; null = none"
    )
    metrics: tuple[str, ...] = Field(
        ("fid",), min_length=1, description="names of metrics (see `spider evaluate --help`)"
    )
    embedding: str = Field(
        "inception", description="inception, efficientnet, offline, or another of docs/embeddings.md"
    )
    protocol: str | None = Field(
        None,
        description="whose numbers to agree with (see `spider evaluate --help`); null = tf, or the embedding's own",
    )
    weights: Annotated[Place | None, Names("file")] = Field(
        None, description="weights file of the embedding; null = the cache"
    )
    count: int = Field(5000, ge=2, le=MAX_IMAGES, description="samples to generate")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="seed of the evaluation's samples, apart from the training's")
    reference: Annotated[Place | None, Names("images", file_endings=FEATURE_FILES)] = Field(
        None,
        description="reference images, or an .npz or .npy file of their features (docs/embeddings.md); "
        "null = the training images; may move, their content is compared",
    )
    classes: Annotated[tuple[str, ...], BeforeValidator(_as_names)] = Field(
        (),
        description="names or numbers of classes: the run is judged by its samples of these only, against their "
        "training images (docs/classes.md); [] = all",
    )

    @field_validator("metrics")
    @classmethod
    def _are_known(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        for metric in metrics:
            if metric not in METRICS:
                raise ValueError(f"evaluate.metrics: metric {not_known(metric, METRICS)}")
        return metrics

    @field_validator("embedding")
    @classmethod
    def _is_known(cls, embedding: str) -> str:
        if embedding not in EMBEDDINGS:
            raise ValueError(f"evaluate.embedding: embedding {not_known(embedding, EMBEDDINGS)}")
        return embedding

    @field_validator("protocol")
    @classmethod
    def _is_a_protocol(cls, protocol: str | None) -> str | None:
        if protocol is not None and protocol not in PROTOCOLS:
            raise ValueError(f"evaluate.protocol: protocol {not_known(protocol, PROTOCOLS)}")
        return protocol

    def refusals(self, config: Config) -> Iterator[str]:
        """See Section."""
        if self.classes and "class" not in config.condition.told:
            yield (
                f"evaluate.classes={[*self.classes]}: there are no classes to be judged by; set condition.kind=class, "
                "or condition.classes=true beside instances"
            )

    def unread(self) -> Collection[str]:
        """See Section."""
        return ("weights", "reference") if self.every_kimg is None else ()


class EngineConfig(Section):
    """How gradients of several processes become one."""

    kind: Literal["auto", "local", "ddp", "deepspeed"] = runtime(
        "auto", description="auto = ddp on several processes, local otherwise"
    )
    timeout_min: float | None = runtime(
        10.0,
        gt=0,
        le=MAX_MINUTES,
        description="a rank without a step for so long writes down where it is and ends; null = never",
    )
    zero_stage: int = runtime(0, description="of deepspeed: 1 splits the optimizer's state, 2 the gradients too")

    @property
    def timeout_s(self) -> float | None:
        """`timeout_min` in seconds."""
        return None if self.timeout_min is None else 60 * self.timeout_min

    def refusals(self, config: Config) -> Iterator[str]:
        """See Section."""
        if self.kind == "deepspeed" and config.compute.precision == "fp64":
            yield "engine.kind=deepspeed sums float32 only; compute.precision=fp64 goes with ddp"

    @field_validator("zero_stage")
    @classmethod
    def _keeps_parameters_whole(cls, stage: int) -> int:
        if stage == 3:
            raise ValueError("engine.zero_stage=3 splits parameters, through which no gradient penalty can be taken")
        if stage not in (0, 1, 2):
            raise ValueError(f"engine.zero_stage={stage}: 0, 1 or 2")
        return stage


class Config(Section):
    """A training run."""

    data: DataConfig = DataConfig()
    source: SourceConfig = GaussianConfig()
    condition: ConditionConfig = NoConditionConfig()
    init: InitConfig = RandomInitConfig()
    generator: GeneratorNetworkConfig = DcganGeneratorConfig()
    discriminator: DiscriminatorNetworkConfig = DcganDiscriminatorConfig()
    objective: AnyObjectiveConfig = ObjectiveConfig()
    penalties: PenaltiesConfig = PenaltiesConfig()
    g_penalties: GeneratorPenaltiesConfig = GeneratorPenaltiesConfig()
    g_optimizer: OptimizerConfig = OptimizerConfig()
    d_optimizer: OptimizerConfig = OptimizerConfig()
    d_steps: int = Field(1, ge=1, le=MAX_STEPS, description="discriminator steps per iteration")
    first_player: Literal["discriminator", "generator"] = Field(
        "discriminator",
        description="whose steps come first in an iteration: the discriminator's, or the generator's as StyleGAN2's "
        "code has it",
    )
    augment: tuple[AugmentationConfig, ...] = Field(
        (), description="what images go through on their way to the discriminator, in order, as a list of sections"
    )
    auxiliary: tuple[AuxiliaryConfig, ...] = Field(
        (), description="what joins the adversarial losses, as a list of sections"
    )
    selection: SelectionConfig = SelectionConfig()
    overfit: OverfitConfig = OverfitConfig()
    ema: EmaConfig = EmaConfig()
    batch: int = Field(64, ge=1, le=MAX_BATCH, description="images per iteration, over all ranks")
    accumulation: int = runtime(
        1, ge=1, le=MAX_BATCH, description="micro-batches per rank and step; the batch stays the same"
    )
    kimg: float = runtime(1000.0, ge=MIN_KIMG, le=MAX_KIMG, description="length of the run, in thousand images")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="seed of the run: weights, order of images, every draw")
    compute: ComputeConfig = ComputeConfig()
    guard: GuardConfig = GuardConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    engine: EngineConfig = EngineConfig()

    def refusals(self, config: Config) -> Iterator[str]:
        """See Section."""
        if self.batch % self.accumulation:
            yield f"batch={self.batch} does not divide into accumulation={self.accumulation} micro-batches"
        if self.first_player == "generator" and self.objective.paired and self.objective.g_reals == "shared":
            yield "first_player=generator: it has no real images of the discriminator yet; needs objective.g_reals=own"
        for key, members in (("augment", self.augment), ("auxiliary", self.auxiliary)):
            for kind, count in Counter(each.kind for each in members if not is_outside(each.kind)).items():
                if count > 1:
                    yield f"{key}: kind={kind} is listed {count} times, which would draw the same numbers: list it once"
        for role, network in (("generator", self.generator), ("discriminator", self.discriminator)):
            if is_outside(network.kind) and not overrides(type(network), NetworkChoice, f"build_{role}"):
                own = type(network).__name__
                yield f"{role}.kind={network.kind}: {own} has no method build_{role}, so it is no {role}"

    @model_validator(mode="after")
    def _choices_fit_together(self) -> Config:
        for _, section in sections_of(self):
            for why in chain(section.refusals(self), section.refusals_in_world(self, 1)):
                raise ValueError(why)
        return self

    @property
    def remarks(self) -> list[str]:
        """What the person who trains should know of these settings."""
        if self.evaluate.every_kimg is None:
            return ["nothing is evaluated while it trains (evaluate.every_kimg=null): there will be no RUN@best"]
        return []

    @property
    def networks_shrunk_by(self) -> list[str]:
        """The keys that make the networks smaller."""
        players = (("generator", self.generator), ("discriminator", self.discriminator))
        return [f"{role}.{key}" for role, network in players for key in network.smaller_by()]

    @property
    def checkpoints_kept(self) -> int:
        """How many lie on disk at once: the last few, the one being written, the best, and those kept for good."""
        settings = self.checkpoint
        kept = 0 if settings.keep_every_kimg is None else int(self.kimg / settings.keep_every_kimg)
        return settings.keep_last + 1 + (self.evaluate.every_kimg is not None) + kept

    def for_world(self, world_size: int) -> None:
        """Refuse a batch that does not divide over `world_size` ranks. Raises SpiderUsageError naming the keys."""
        if self.batch % (world_size * self.accumulation):
            raise SpiderUsageError(
                f"batch={self.batch} does not divide over {world_size} ranks x accumulation={self.accumulation}"
            )
        for _, section in sections_of(self):
            for why in section.refusals_in_world(self, world_size):
                raise SpiderUsageError(why)
        if world_size > 1 and self.engine.kind == "local":
            raise SpiderUsageError(f"engine.kind=local serves one process, and there are {world_size}: use ddp or auto")
        if world_size == 1 and self.engine.kind == "deepspeed":
            raise SpiderUsageError(
                "engine.kind=deepspeed serves several processes, and there is one: use local or auto"
            )
