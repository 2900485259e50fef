"""How good a run's images are, or any images: as `spider evaluate` measures, over several evaluation seeds.

The seeds are apart from the training seed: seed s means samples number 0, 1, 2, ... of a stream that training never
draws from. The reference is a set of images; a run that names none is measured against its own training images, which
rewards memorising, and both the table and the result file say so.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cluster.world import World
from shards.dataset import ShardDataset
from shards.errors import ShardsError
from shards.missing import no_such
from shards.progress import Bar
from spider.config.load import with_values
from spider.data import open_images
from spider.errors import SpiderError, SpiderUsageError
from spider.files import cache_directory
from spider.gan.conditions.bank import InstanceBank
from spider.gan.conditions.instances import Instances
from spider.gan.sources.frozen import FrozenGenerator
from spider.gan.sources.images import Images
from spider.judge.embed.cache import FeatureCache
from spider.judge.embed.embedding import Embedding
from spider.judge.embed.features import extract_features
from spider.judge.embed.given import GivenFeatures, read_features, write_features
from spider.judge.embed.images import DrawnImages, NumberedImages
from spider.judge.embed.load import load_embedding
from spider.judge.generator_metrics import measure_generator
from spider.judge.instances.page import NAME as INSTANCES
from spider.judge.instances.page import draw_instances
from spider.judge.metrics.evaluate import evaluate_images
from spider.judge.metrics.nearest import FEW_IMAGES, page_name
from spider.judge.metrics.protocols import protocol_named
from spider.judge.metrics.registry import METRICS
from spider.judge.metrics.results import MetricResult, document, table, write_result
from spider.judge.of_classes import ImagesOfClasses, only_of, training_of
from spider.judge.request import DEFAULT_COUNT, DEFAULT_SEEDS, EvaluateRequest, holds_features
from spider.pictures.generate import told_by_bank
from spider.runs.directory import RunRef, checkpoint_name, images_of, is_run, kimg_text, resolve, weights_digest
from spider.runs.generator import open_generator
from spider.runs.inputs import at_key, find_images, note_places, recorded
from spider.runs.provenance import git_state, versions


@dataclass(frozen=True)
class Evaluation:
    """Results of every metric and seed, and where they come from."""

    results: list[MetricResult]
    provenance: dict[str, Any]

    def table(self) -> str:
        """For a terminal: mean and spread over the seeds."""
        notes = [f"! {note}" for note in self.provenance["notes"]]
        if self.provenance["reference"] == "training":
            notes += ["! the reference is the run's own training images: copies of them would score best (--reference)"]
        if self.provenance["memorisation_page"] is not None:
            notes.append(f"are they copies? look at {self.provenance['memorisation_page']}")
        if (source := self.provenance.get("source_itself")) is not None:
            values = ", ".join(f"{label} {value:.5g}" for label, value in source["values"].items())
            notes.append(f"for scale, its source itself, {source['name']} ({source['count']:,} images): {values}")
        if "instances" in self.provenance:
            notes.append(f"instances, the images near them, and samples: {self.provenance['instances']}")
        return "\n".join([table(self.results), *notes])

    def as_json(self) -> dict[str, Any]:
        """Plain data: what `write` writes."""
        return document(self.results, self.provenance)

    def write(self, path: str | Path) -> None:
        """A JSON file, whole or not at all."""
        write_result(Path(path), self.results, self.provenance)


def evaluate(request: EvaluateRequest, world: World) -> Evaluation:
    """Measure a run's averaged generator, or a set of images. All ranks.

    Raises:
        SpiderUsageError: an unknown name, or a combination that cannot be.
        SpiderError, ShardsError, ClusterError: what failed, in one line.
    """
    subject, progress = request.subject, request.progress
    run = resolve(str(subject)) if is_run(str(subject)) else None
    if run is None and request.reference is None:
        raise SpiderUsageError(f"{subject}: a set of images needs a --reference to be measured against")
    of_runs: dict[str, object] = {"source": request.source, "data": request.data, "bank": request.bank}
    of_runs |= {"class": next(iter(request.classes), None), "balanced": request.balanced or None}
    for option, value in of_runs.items():
        if run is None and value is not None:
            asked = f"--{option}" if value is True else f"--{option} {value}"
            raise SpiderUsageError(f"{asked}: of a run only, and {subject} is a set of images")
    if run is None and request.of_generator:
        name = request.of_generator[0]
        raise SpiderUsageError(f"metric {name!r} is of a generator, and {subject} is a set of images")
    chosen = request.seed_list(DEFAULT_SEEDS if run else 1)
    network = None
    if request.compares:
        network = open_embedding(request.embedding, request.protocol, request.weights, world)
    generator = None
    if run is not None:
        place = None if request.source is None else str(request.source)
        generator = open_generator(str(run), world.device, source_place=place, world=world, progress=progress)
        if request.bank is not None:
            generator = told_by_bank(generator, Path(request.bank), request.classes, alike=request.balanced)
        generator = _judged(generator, run, request)
    found = Evaluation([], {"reference": None, "notes": [], "memorisation_page": None})
    if network is not None:
        found = _compared(request, run, generator, network, chosen, world)
    if run is not None and generator is not None:
        name, origin = _named(run, generator, request.bank)
        found.provenance.update(origin)
        if request.of_generator:
            found.results.extend(_moved(request, name, generator, chosen, world))
    found.provenance.update(_surroundings(world))
    if request.out is not None and world.is_main:
        found.write(request.out)
    return found


def _judged(generator: FrozenGenerator, run: RunRef, request: EvaluateRequest) -> FrozenGenerator:
    """The generator, of the classes that are asked for or else those that the run says, in the shares asked for."""
    if request.classes:
        with at_key("--class"):
            generator = only_of(generator, [str(name) for name in request.classes])
    else:
        with at_key(f"{run.directory.path}: evaluate.classes"):
            generator = only_of(generator, run.directory.config().evaluate.classes)
    if not request.balanced:
        return generator
    with at_key("--balanced"):
        return generator.with_conditions(generator.conditions.with_classes_alike())


def _moved(
    request: EvaluateRequest, name: str, generator: FrozenGenerator, seeds: Sequence[int], world: World
) -> list[MetricResult]:
    """The metrics of a generator itself, under each seed."""
    results: list[MetricResult] = []
    for _, seed in _in_turn(seeds, shown=request.progress and world.is_main):
        results += measure_generator(
            generator,
            name,
            request.of_generator,
            world,
            seed=seed,
            count=request.count or DEFAULT_COUNT,
            distance=request.distance,
            progress=request.progress,
        )
    return results


def _compared(
    request: EvaluateRequest,
    run: RunRef | None,
    generator: FrozenGenerator | None,
    network: Embedding,
    seeds: Sequence[int],
    world: World,
) -> Evaluation:
    """The metrics of images, and their memorisation page."""
    count, progress, metrics = request.count, request.progress, request.of_images
    given = None if request.reference is None else open_reference(request.reference, network, world, progress)
    training: ShardDataset | ImagesOfClasses | None = None
    notes: list[str] = []
    provenance: dict[str, Any] = {}
    samples: list[NumberedImages]
    if run is None or generator is None:
        samples, provenance, shape = _of_images(request.subject, seeds, count, world, progress)
    else:
        name, _ = _named(run, generator, request.bank)
        samples = [generator.numbered(name, seed, count or DEFAULT_COUNT) for seed in seeds]
        shape = generator.image_shape
        training, notes = _learnt(run, generator, request, world)
        if given is None and generator.conditions.rebalanced:
            notes.append("samples are of all classes alike and the reference, the training images, is not: --reference")
    against = training if given is None else given
    assert against is not None
    bank = None if request.bank is None else InstanceBank.open(request.bank)
    if bank is None or (training is not None and bank.about.dataset == training.fingerprint):
        page = _page_of(run, training, against, network, request, world)
    else:
        page, what = None, f"samples are told of {bank.about.name}, and not of the images that the run has learnt"
        notes.append(f"no memorisation page: {what}")
    if page is None and isinstance(against, GivenFeatures) and against.rows is None and _is_small(training):
        notes.append(f"no memorisation page: {against.path} holds {against.holds}, and no features of each image")
    if page is not None and "nearest" not in metrics:
        metrics.append("nearest")

    cache = FeatureCache(cache_directory("features"))
    measured = partial(
        evaluate_images,
        reference=against,
        embedding=network,
        world=world,
        protocol=request.protocol,
        training=training,
        cache=cache,
        progress=progress,
    )
    results: list[MetricResult] = []
    for number, seed in _in_turn(seeds, shown=progress and world.is_main):
        results += measured(
            samples[number],
            metrics=metrics,
            count=count,
            seed=seed,
            keep_samples=run is None,
            page=page if number == 0 else None,
        )
    drawn = _draw_instances(run, generator, training, against, bank, request, world)
    if generator is not None and isinstance(generator.source, Images):
        drawn |= _of_source(generator.source, request, measured)
    is_own = training is not None and training.fingerprint == against.fingerprint
    is_own = is_own or any(result.provenance["reference"].get("held_out") is False for result in results)
    provenance |= {
        "reference": "training" if is_own else "given",
        "notes": [*reference_notes(shape, against), *notes],
        "memorisation_page": None if page is None else str(page),
        **drawn,
    }
    if request.reference_out is not None:
        assert not isinstance(against, GivenFeatures)
        rows = extract_features(against, network, world, cache=cache, progress=progress)
        if world.is_main:
            about = {"name": against.name, "fingerprint": against.fingerprint, "count": len(against)}
            write_features(Path(request.reference_out), rows, network, about)
    return Evaluation(results, provenance)


def _of_source(source: Images, request: EvaluateRequest, measured: Callable[..., list[MetricResult]]) -> dict[str, Any]:
    """The same measures of the images that feed a generator, as they are: what it should be better than."""
    images = source.dataset
    drawn = DrawnImages(images, min(request.count or DEFAULT_COUNT, len(images)), 0)
    metrics = [name for name in request.of_images if not METRICS[name].needs_classes]
    try:
        found = measured(drawn, metrics=metrics, keep_samples=True) if metrics else []
    except SpiderUsageError:  # a metric for which they are too few
        return {}
    values = {result.label: result.value for result in found if result.value is not None}
    told = {"name": images.name, "fingerprint": drawn.fingerprint, "count": len(drawn), "values": values}
    return {"source_itself": told} if values else {}


def _draw_instances(
    run: RunRef | None,
    generator: FrozenGenerator | None,
    training: ShardDataset | ImagesOfClasses | None,
    against: ShardDataset | ImagesOfClasses | GivenFeatures,
    foreign: InstanceBank | None,
    request: EvaluateRequest,
    world: World,
) -> dict[str, Any]:
    """Draw what becomes of instances, if figures are asked for: what a result says of that.

    Args:
        foreign: `request.bank`.
    """
    if generator is None or run is None or request.figures is None or not isinstance(generator.conditions, Instances):
        return {}
    bank, images = (_own_bank(run), training) if foreign is None else (foreign, against)
    if isinstance(bank, str):
        return {"instances": f"not drawn: {bank}"}
    if not isinstance(images, ShardDataset):
        return {"instances": "not drawn: their images are not at hand, or not all of them"}
    if images.fingerprint != bank.about.dataset:
        return {"instances": f"not drawn: the reference is not {bank.about.name}, whose bank --bank is"}
    if images.index.shape != generator.image_shape:
        return {"instances": f"not drawn: {images.path} and the samples are of different sizes"}
    file = Path(request.figures) / INSTANCES
    if world.is_main:
        draw_instances(file, generator, bank, images)
    return {"instances": str(file)}


def _own_bank(run: RunRef) -> InstanceBank | str:
    """The bank that a run has read, or why it is not at hand."""
    place = getattr(run.directory.config().condition, "bank", "")
    if not Path(place).is_file():
        return no_such(place, "file")
    read = recorded(run.directory).get("condition.bank")
    with open(place, "rb") as content:
        if read is not None and hashlib.file_digest(content, "sha256").hexdigest() != read.fingerprint:
            return f"{place} holds another bank than the run has read"
    return InstanceBank.open(place)


def _in_turn(seeds: Sequence[int], *, shown: bool) -> Iterator[tuple[int, int]]:
    """Number and seed, under a bar that says which of how many."""
    words = [f"evaluation seed {number} of {len(seeds)}" for number in range(1, len(seeds) + 1)]
    with Bar(total=len(seeds), desc=words[0], unit="seed", shown=shown and len(seeds) > 1) as bar:
        for number, seed in enumerate(seeds):
            bar.set_description_str(words[number], refresh=False)
            yield number, seed
            bar.update()


def open_embedding(name: str | None, protocol: str | None, weights: str | Path | None, world: World) -> Embedding:
    """The embedding called `name`, or that of the named protocol, with that protocol's resize rule."""
    rules = protocol_named(protocol) if protocol is not None else None
    name = name or (rules.embedding if rules else "inception")
    return load_embedding(
        name,
        protocol=rules.resize if rules else None,
        weights=Path(weights) if weights is not None else None,
        device=world.device,
    )


def _of_images(
    path: str | Path, seeds: Sequence[int], count: int | None, world: World, progress: bool
) -> tuple[list[NumberedImages], dict[str, Any], tuple[int, int, int]]:
    """What is measured under each seed, what a result must say of it, and (C, H, W)."""
    images = open_images(path, world=world, progress=progress)
    # The first `count` of a set sorted by class would be a few classes
    drawn: list[NumberedImages] = [images if count is None else DrawnImages(images, count, seed) for seed in seeds]
    return drawn, {"subject": images.path}, images.index.shape


def _named(run: RunRef, generator: FrozenGenerator, bank: str | Path | None) -> tuple[str, dict[str, Any]]:
    """What tables call a run's generator, and what a result must say of it."""
    clock = images_of(run.checkpoint)
    name = f"{run.directory.path.name}@{kimg_text(clock)}"
    facts = {"subject": str(run), "images": clock, "weights": weights_digest(run), **generator.provenance()}
    if bank is None:
        return name, facts
    opened = InstanceBank.open(bank)
    told = {"path": str(bank), "dataset": opened.about.name, "fingerprint": opened.about.dataset}
    assert isinstance(generator.conditions, Instances)
    return f"{name} told of {Path(bank).stem}", {
        **facts,
        "bank": {**told, "instances": len(generator.conditions.features)},
    }


def _learnt(
    run: RunRef, generator: FrozenGenerator, request: EvaluateRequest, world: World
) -> tuple[ShardDataset | ImagesOfClasses | None, list[str]]:
    """The run's training images; or None and a note, where they are not at hand and only the page needs them."""
    looked_at = any(METRICS[name].needs_training for name in request.of_images)
    page_needs_them = request.figures is not None and request.bank is None
    training: ShardDataset | ImagesOfClasses | None = None
    missing = None
    try:
        images = _training_images(run, generator, request.data, world, request.progress)
        training = training_of(generator.conditions, images)
    except (SpiderError, ShardsError) as error:
        if looked_at or request.reference is None or request.data is not None or page_needs_them:
            raise
        missing = f"no memorisation page: {error}"
    notes = [note for note in world.all_gather_json(missing) if note is not None][:1]  # one rank alone may lack them
    return None if notes else training, notes


def _page_of(
    run: RunRef | None,
    training: ShardDataset | ImagesOfClasses | None,
    against: ShardDataset | ImagesOfClasses | GivenFeatures,
    embedding: Embedding,
    request: EvaluateRequest,
    world: World,
) -> Path | None:
    """The file of the memorisation page, if there is to be one. All ranks.

    One that is asked for by a folder for figures lies there. That of a run of few training images lies beside the
    results, or in the run if they have no file.
    """
    name = page_name(embedding.label)
    if request.figures is not None:
        return Path(request.figures) / name
    if run is None or not _is_small(training) or request.bank is not None:  # the run's own page stays
        return None
    if isinstance(against, GivenFeatures) and against.rows is None:
        return None
    if request.out is not None:
        out = Path(request.out)
        return out.with_name(f"{out.stem}-{name}")
    if not world.broadcast_json(os.access(run.directory.path, os.W_OK)):
        return None
    return run.directory.evaluations / f"{checkpoint_name(images_of(run.checkpoint))}-{name}"


def _is_small(training: ShardDataset | ImagesOfClasses | None) -> bool:
    """Whether a generator may well learn these images by heart."""
    return training is not None and len(training) < FEW_IMAGES


def _training_images(
    run: RunRef, generator: FrozenGenerator, place: str | Path | None, world: World, progress: bool
) -> ShardDataset:
    """The images that the run learnt, at `place` if they have moved there. Raises SpiderError if they are others."""
    directory, key = run.directory, "data.path"
    config = directory.config()
    if directory.imported_file.exists():
        raise SpiderUsageError(f"{directory.path}: an import, which has learnt no images here: --reference names some")
    named = config.data.path if place is None else str(place)
    with at_key(f"{directory.path}: {key}"):
        found = find_images(key, named, recorded(directory).get(key), world, progress)
        if found.fingerprint != generator.training:
            raise (SpiderError if place is None else SpiderUsageError)(
                f"{named} holds other images (fingerprint {found.fingerprint}) "
                f"than the run was trained on ({generator.training})"
            )
    if place is not None and world.is_main:
        note_places(directory, with_values(config, {key: found.path}), {key: found})
    return ShardDataset(found.packed)


def open_reference(
    place: str | Path, embedding: Embedding, world: World | None = None, progress: bool = False
) -> ShardDataset | GivenFeatures:
    """Images, as `open_images` opens them, or a file of their features under the embedding. Raises as both."""
    if holds_features(place):
        return read_features(Path(place), embedding)
    return open_images(place, world=world, progress=progress)


def reference_notes(shape: tuple[int, ...], reference: ShardDataset | ImagesOfClasses | GivenFeatures) -> list[str]:
    """What a reader must know of the reference."""
    if not isinstance(reference, GivenFeatures):
        return _size_notes(shape, reference.index.shape)
    if reference.is_known:
        return []
    file = f"{reference.path} (sha256 {reference.sha256[:12]})"
    return [f"the reference is {file}, which does not say what it was made with; {reference.embedding} was asked for"]


def _size_notes(shape: tuple[int, ...], reference: tuple[int, ...]) -> list[str]:
    """What a reader must know of the sizes and channels [C, H, W] of two sets."""
    if shape == reference:
        return []
    mine, other = (f"{w}x{h} {'grey' if c == 1 else 'RGB'}" for c, h, w in (shape, reference))
    what = f"the images are {mine}, the reference {other}: the embedding resizes both, and what that blurs changes the"
    return [f"{what} number; compare it only with numbers that were measured at these sizes"]


def _surroundings(world: World) -> dict[str, Any]:
    return {
        "world_size": world.size,
        "device": world.device_name,
        "versions": versions(),
        "git": git_state(),
    }
