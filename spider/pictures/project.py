"""The inputs by which a finished generator makes given images: the verb `project`.

For each image, the nearest of the generator's own samples is looked for; the search begins at it, or at the mean of w;
and, if asked for, the generator's weights are tuned about what was found. Images are independent: each has the result
that it has alone. No tensor of the run changes. `spider.pictures.projection.folder` says what is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shards.progress import Bar
from spider.backbones.perceptual import PerceptualDistance, perceptual_distance
from spider.errors import SpiderUsageError
from spider.gan.pixels import to_float
from spider.gan.sources.frozen import FrozenGenerator
from spider.pictures.generate import class_numbers
from spider.pictures.grids import sample_grid
from spider.pictures.movies import Frame, require_writer, write_movie
from spider.pictures.projection.folder import Done, ProjectionFolder, digest
from spider.pictures.projection.judge import Closeness, Judge
from spider.pictures.projection.nearest import Nearest, nearest_samples
from spider.pictures.projection.points import write_point
from spider.pictures.projection.search import Found, search
from spider.pictures.projection.spaces import (
    MeanW,
    Point,
    SpaceOfImages,
    SpaceOfLayers,
    chosen_space,
    mean_w,
    space_of_inputs,
)
from spider.pictures.projection.targets import TargetImage, read_targets
from spider.pictures.projection.tuning import Tuned, tune
from spider.pictures.request import ProjectRequest, SearchSpace
from spider.runs.provenance import versions
from spider.tables import aligned
from spider.tensors import save_state_dict
from untrusted.counts import some_of

_TOGETHER = 32  # images whose nearest samples are looked for at once
_FRAMES = 120  # of a video


@dataclass(frozen=True)
class Projections:
    """What was asked for, and the distances of every image that is done.

    Attributes:
        names: of the images that were asked for, in their order.
        done: see `projection.folder`, by name; with those of earlier commands.
    """

    out: str
    asked: dict[str, str | int]
    names: list[str]
    done: dict[str, Done]
    written: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """What project.json holds."""
        return self.written

    def table(self) -> str:
        """For a terminal."""
        label, images = str(self.asked["distance"]), [self.done[name] for name in self.names]
        tuned = any(each["tuned"] is not None for each in images)
        head = ["image", f"nearest of {self.asked['samples']}", "found", *(["tuned"] if tuned else []), "L2 found"]
        rows = [head]
        for name, each in zip(self.names, images, strict=True):
            after = [] if each["tuned"] is None else [f"{each['tuned'][label]:.3f}"]
            found = each["projection"]
            rows.append([name, f"{each['nearest'][label]:.3f}", f"{found[label]:.3f}", *after, f"{found['L2']:.4f}"])
        where = Path(self.out) / "projections.png"
        head_line = f"{label} from the given images, searched in {self.asked['space']}"
        return "\n".join([head_line, aligned(rows), *self.warnings(), f"look at {where}"])

    def warnings(self) -> list[str]:
        """A line for the images whose search ended farther than the nearest sample is, by the distance."""
        label = str(self.asked["distance"])
        done = {name: self.done[name] for name in self.names}
        worse = [name for name, each in done.items() if each["projection"][label] > each["nearest"][label]]
        if not worse:
            return []
        wider = "; or --space w+" if self.asked["space"] == "w" else ""
        more = f"more steps may help (--steps, here {self.asked['steps']:,}){wider}"
        what = "what was found is farther than the nearest sample"
        return [f"! {some_of(worse, 6)}: {what}: {more}; else the generator does not know such images"]


def project(generator: FrozenGenerator, request: ProjectRequest) -> Projections:
    """Find the inputs, image by image, and write each when it is done.

    Raises:
        SpiderUsageError: images, classes, a space or a folder that cannot be.
        SpiderError: an image, or the distance's weights, cannot be read; a video needs ffmpeg.
    """
    space = chosen_space(generator, request.space)
    targets = read_targets(request.images, generator.image_shape)
    labels = _labels(generator, len(targets), [*map(str, request.classes)])
    if request.video is not None:
        require_writer(Path(f"--video .{request.video}"))
    by = perceptual_distance(request.distance, request.weights_file, generator.device)
    asked: dict[str, str | int] = {
        "generator": generator.digest,
        "space": space,
        "steps": request.steps,
        "tune": request.tune,
        "distance": by.label,
        "samples": request.samples,
        "seed": request.seed,
    }
    provenance = {"run": str(request.run), "provenance": generator.provenance(), "versions": versions()}
    folder = ProjectionFolder(Path(request.out), asked, provenance)
    folder.require_names([target.name for target in targets])
    names_of = generator.conditions.names
    todo = [
        (target, label)
        for target, label in zip(targets, labels, strict=True)
        if not folder.is_done(target, None if label is None else names_of[label])
    ]
    projector = _Projector(generator, by, space, request, folder)
    for start in range(0, len(todo), _TOGETHER):
        projector.project(todo[start : start + _TOGETHER])
    return Projections(str(request.out), asked, [each.name for each in targets], folder.done, folder.as_json())


def _labels(generator: FrozenGenerator, count: int, names: Sequence[str]) -> Sequence[int | None]:
    """The class of each image."""
    known = generator.conditions.names
    if not names:
        if known:
            raise SpiderUsageError(
                f"--class: the generator is told classes; name one for all images, or one for each: {_shown(known)}"
            )
        return [None] * count
    if len(names) not in (1, count):
        raise SpiderUsageError(f"--class: {len(names)} classes for {count} images; give one, or one for each")
    labels = class_numbers(generator, names)
    return labels * (count // len(labels))


def _shown(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


class _Projector:
    """What all images of a command share."""

    def __init__(
        self,
        generator: FrozenGenerator,
        by: PerceptualDistance,
        space: SearchSpace,
        request: ProjectRequest,
        folder: ProjectionFolder,
    ) -> None:
        self.generator = generator
        self.by = by
        self.space = space
        self.request = request
        self.folder = folder
        self.means: dict[int | None, MeanW] = {}

    def project(self, targets: Sequence[tuple[TargetImage, int | None]]) -> None:
        """Images with their classes."""
        judges = [Judge(self._as_made(target), self.by) for target, _ in targets]
        labels = [label for _, label in targets]
        nearest = nearest_samples(self.generator, judges, labels, self.request.samples, progress=self.request.progress)
        for (target, label), judge, sample in zip(targets, judges, nearest, strict=True):
            self._one(target, label, judge, sample)

    def _one(self, target: TargetImage, label: int | None, judge: Judge, nearest: Nearest) -> None:
        request, folder, name = self.request, self.folder, target.name
        search_steps = request.steps * (2 if self.space == "w+" else 1)
        with Bar(total=search_steps + request.tune, desc=name, unit="step", shown=request.progress) as bar:
            watch = _Watch(bar, self.by.label, judge.target, -(-(search_steps + request.tune) // _FRAMES))
            space, found, way = self._search(label, judge, nearest, watch)
            tuned = tune(space, found.point, judge, request.tune, watch) if request.tune else None
        folder.write_image(name, "-target.png", judge.target)
        folder.write_image(name, "-nearest.png", nearest.image)
        folder.write_image(name, ".png", found.image)
        ways = {"way": way, **({} if tuned is None else {"way_tuned": tuned.way})}
        write_point(folder.file(name, ".npz"), space, found.point, ways)
        if tuned is not None:
            self._write_tuned(name, tuned)
        if request.video is not None:
            write_movie(folder.file(name, f".{request.video}"), watch.frames())
        folder.add(name, self._done(target, label, nearest, found.closeness, tuned))

    def _search(
        self, label: int | None, judge: Judge, nearest: Nearest, watch: _Watch
    ) -> tuple[SpaceOfImages, Found, list[float]]:
        """The space, the find in it, and the way of the distance."""
        steps, seed, generator = self.request.steps, self.request.seed, self.generator
        if self.space not in ("w", "w+"):
            fed = space_of_inputs(generator, nearest.number, label)
            found = search(fed, fed.sample(), judge, steps, seed, watch)
            return fed, found, found.way
        if label not in self.means:
            self.means[label] = mean_w(generator, label)
        mean = self.means[label]
        one = SpaceOfLayers(generator, nearest.number, label, "w")
        found = search(one, Point(mean.mean, one.noise()), judge, steps, seed, watch, wander=mean.wander)
        if self.space == "w":
            return one, found, found.way
        each = SpaceOfLayers(generator, nearest.number, label, "ws")
        wider = search(each, Point(each.spread(found.point.where), found.point.noise), judge, steps, seed, watch)
        return each, wider, found.way + wider.way[1:]

    def _as_made(self, target: TargetImage) -> Tensor:
        dtype = next(self.generator.module.parameters()).dtype
        return to_float(torch.tensor(target.pixels)[None].to(self.generator.device), dtype)

    def _write_tuned(self, name: str, tuned: Tuned) -> None:
        self.folder.write_image(name, "-tuned.png", tuned.image)
        save_state_dict(tuned.weights, self.folder.file(name, "-tuned.safetensors"))

    def _done(
        self, target: TargetImage, label: int | None, nearest: Nearest, found: Closeness, tuned: Tuned | None
    ) -> Done:
        return Done(
            target=digest(target.pixels),
            label=None if label is None else self.generator.conditions.names[label],
            number=nearest.number,
            nearest=self._named(nearest.closeness),
            projection=self._named(found),
            tuned=None if tuned is None else self._named(tuned.closeness),
        )

    def _named(self, closeness: Closeness) -> dict[str, float]:
        return {self.by.label: closeness.distance, "L2": closeness.l2}


class _Watch:
    """Moves a bar, and keeps every `every`-th image."""

    def __init__(self, bar: Bar, label: str, target: Tensor, every: int) -> None:
        self._bar = bar
        self._label = label
        self._target = target
        self._every = every
        self._seen = 0
        self._images: list[Tensor] = []

    def __call__(self, step: int, closeness: Closeness, image: Tensor) -> None:
        """See `search`."""
        if self._seen % self._every == 0:
            self._images.append(image.cpu())
        self._seen += 1
        self._bar.set_postfix_str(f"{self._label} {closeness.distance:.3f}", refresh=False)
        self._bar.update(1 if step else 0)

    def frames(self) -> Iterator[Frame]:
        """The given image beside each that was kept."""
        return (sample_grid(image, self._target, columns=1) for image in self._images)
