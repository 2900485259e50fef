"""What a training measures again and again, by `evaluate.*`: opened once, and the same samples every time."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cluster.world import World
from shards.dataset import ShardDataset
from spider.config.schema import EvaluateConfig
from spider.errors import SpiderError, SpiderUsageError
from spider.files import cache_directory
from spider.gan.conditions.conditions import Conditions
from spider.gan.sources.frozen import FrozenGenerator
from spider.heartbeat import Heartbeat
from spider.judge.collapse import CollapseWatch
from spider.judge.embed.cache import FeatureCache
from spider.judge.embed.given import GivenFeatures
from spider.judge.evaluation import open_embedding, open_reference, reference_notes
from spider.judge.metrics.by_class import require_classes
from spider.judge.metrics.evaluate import evaluate_images, require_given
from spider.judge.metrics.protocols import protocol_named
from spider.judge.metrics.registry import metrics_named
from spider.judge.metrics.results import MetricResult, read_results, write_result
from spider.judge.of_classes import ImagesOfClasses, only_of, training_of
from spider.runs.provenance import versions


class RepeatedEvaluation:
    """An embedding, metrics and reference images.

    Attributes:
        metrics: the first one says which checkpoint is best.
        notes: what a reader must know of the sizes of the images, and of the eyes.
    """

    def __init__(
        self,
        settings: EvaluateConfig,
        training: ShardDataset,
        image_shape: tuple[int, int, int],
        conditions: Conditions,
        world: World,
        *,
        looks_through: Collection[str] = (),
    ) -> None:
        """Open all that it needs, so that what is missing or misspelt stops a run at its start.

        Args:
            training: images that the generator learns.
            image_shape: (C, H, W) of the generator's images.
            conditions: of the generator.
            looks_through: the embeddings that judge by a network which the discriminator looks through.

        Raises:
            SpiderUsageError: an unknown name, or a first metric by which no checkpoint is best; it names the key.
            SpiderError, ShardsError: something cannot be opened.
        """
        self.settings = settings
        self.world = world
        with _at("evaluate.classes"):
            judged = conditions.among(settings.classes) if settings.classes else conditions
        self.training = training_of(judged, training)
        if settings.protocol is not None:
            with _at("evaluate.protocol"):
                protocol_named(settings.protocol)
        with _at("evaluate.embedding"):
            self.embedding = open_embedding(settings.embedding, settings.protocol, settings.weights, world)
        with _at("evaluate.metrics"):
            self.metrics = metrics_named(list(settings.metrics), self.embedding)
        if self.metrics[0].better is None:
            raise SpiderUsageError(
                f"evaluate.metrics: {self.metrics[0].name} comes first, and no checkpoint is best by it"
            )
        self.reference: ShardDataset | ImagesOfClasses | GivenFeatures = self.training
        if settings.reference is not None:
            with _at("evaluate.reference"):
                self.reference = open_reference(settings.reference, self.embedding)
        with _at("evaluate.metrics"):
            if isinstance(self.reference, GivenFeatures):
                require_given(self.reference, self.metrics)
            elif any(metric.needs_classes for metric in self.metrics):
                require_classes({"the generator": conditions.names, "the reference": self.reference.class_names})
        self.notes = reference_notes(image_shape, self.reference)
        if self.embedding.name in looks_through:
            self.notes.append(
                f"the discriminator looks through the network of {self.embedding.name} too, which flatters numbers "
                "under it: measure by another embedding too, such as offline, or inception if its weights are at hand"
            )
        self._collapse: CollapseWatch | None = None  # until the first evaluation of this start
        self.cache = FeatureCache(cache_directory("features"))

    def measure(
        self, generator: FrozenGenerator, name: str, heartbeat: Heartbeat, *, progress: bool = False
    ) -> list[MetricResult]:
        """The metrics of a generator, which results call `name`, in the order of the settings. All ranks."""
        return evaluate_images(
            only_of(generator, self.settings.classes).numbered(name, self.settings.seed, self.settings.count),
            self.reference,
            metrics=self.settings.metrics,
            embedding=self.embedding,
            world=self.world,
            protocol=self.settings.protocol,
            training=self.training,
            seed=self.settings.seed,
            cache=self.cache,
            progress=progress,
            heartbeat=heartbeat,
        )

    def remarks(self, results: list[MetricResult], file: Path, *, first: bool) -> list[str]:
        """What to say of an evaluation: at the first time all that its numbers hang on, then whether it collapsed.

        Args:
            file: where it will be written, beside those that came before and have names that sort before.
        """
        if self._collapse is None:
            self._collapse = CollapseWatch()
            for earlier in sorted(each for each in file.parent.glob("*.json") if each.name < file.name):
                with suppress(SpiderError):  # one that is damaged ends no training
                    self._collapse.remarks(read_results(earlier))
        few = [f"{each.label}: {text}" for each in results for text in each.warnings]
        return [*([*self.notes, *few] if first else []), *self._collapse.remarks(results)]

    def write(self, file: Path, results: list[MetricResult], generator: dict[str, Any], images: int) -> None:
        """Write results, whole or not at all, with the `generator`'s provenance at so many `images` on the clock."""
        about = {"images": images, "notes": self.notes, "versions": versions()}
        write_result(file, results, generator | about)


@contextmanager
def _at(key: str) -> Iterator[None]:
    """What is refused within is refused by its key."""
    try:
        yield
    except SpiderError as error:
        raise type(error)(f"{key}: {error}") from None
