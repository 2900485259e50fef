"""What `generate`, `interpolate` and `project` are asked for. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import ClassVar, Literal, get_args

from spider.arguments import Kind, image_numbers, image_numbers_as_given, list_of, one_of, place, whole
from spider.errors import SpiderUsageError
from spider.request import Reads, Request

Space = Literal["z", "image", "w", "instance"]
Blend = Literal["linear", "spherical", "cubic", "circular"]
SearchSpace = Literal["w", "w+", "z", "source"]
Video = Literal["gif", "mp4"]

MAX_SEARCH_STEPS = 1_000_000
MAX_FPS = 240

_OPTIONS = {"classes": "--class", "source_images": "--source-image", "instances": "--instance"}
_FED: Mapping[str, Reads] = {"run": "run", "source": "images or run", "weights": "file"}
_TOLD: Mapping[str, Reads] = {"instances": "file", "bank": "file"}
_INSTEAD_OF_POINTS = {
    "seeds": "--seeds",
    "classes": "--class",
    "source_images": "--source-image",
    "instances": "--instance",
    "bank": "--bank",
    "truncation": "--trunc",
    "styles": "--styles",
}


@dataclass(frozen=True)
class GenerateRequest(Request):
    """Images of a run's averaged generator.

    Attributes:
        run: RUN, RUN@best, RUN@last or RUN@KIMG.
        seeds: numbers of the images under evaluation seed 0, each written once. With `source_images`, of the noise
            that is added. None: 0-99, or 0 with `source_images`.
        out: a folder, or a file that ends in .zip, for the PNGs.
        classes: names or numbers of classes. Every number is made of each; without any, of the class that it has.
        source_images: files to feed instead of the source's own images, each with every number's noise.
        grid: a PNG with all of them under their numbers, each beside the source image that made it if there is one; a
            row for each class that was asked for.
        truncation: psi, by which w keeps its distance from its mean: 1 leaves it, 0 is the mean. Of generators that
            have a mapping network.
        points: files NAME.npz of `spider project`, made in place of numbered images.
        tuned: a file of tuned weights of `spider project`, in place of the run's own.
        source: where the images or the run that feed it lie now, if they have moved. The run notes it.
        styles: numbers of images; the grid then has a row for each of `seeds` and a column for each of these, of which
            it takes w in some layers. Of generators that have a mapping network.
        style_layers: numbers of these layers, from 0, the one at 4 px; None: the first half, which are the coarse ones.
        instances: image files, of which a generator with condition.kind=instance is told; each with every number.
        bank: a bank of instances of any images, by the same embedding, in place of the run's: numbers draw from it.
        weights: a weights file for the embedding of `instances`; None: the published one.
    """

    command: ClassVar[tuple[str, ...]] = ("generate",)
    alone: ClassVar[tuple[str, ...]] = ("run",)
    repeated: ClassVar[tuple[str, ...]] = (*_OPTIONS, "points")
    options: ClassVar[Mapping[str, str]] = {**_OPTIONS, "truncation": "--trunc", "points": "--point"}
    kinds: ClassVar[Mapping[str, Kind]] = dict.fromkeys(("seeds", "styles", "style_layers"), image_numbers_as_given)
    places: ClassVar = {**_FED, **_TOLD, "source_images": "file", "points": "file", "tuned": "file"}
    written: ClassVar = ("out", "grid")

    run: str | Path
    _: KW_ONLY
    seeds: str | Sequence[int] | None = None
    out: str | Path | None = None
    classes: Sequence[str | int] = ()
    source_images: Sequence[str | Path] = ()
    grid: str | Path | None = None
    truncation: float | None = None
    points: Sequence[str | Path] = ()
    tuned: str | Path | None = None
    source: str | Path | None = None
    styles: str | Sequence[int] | None = None
    style_layers: str | Sequence[int] | None = None
    instances: Sequence[str | Path] = ()
    bank: str | Path | None = None
    weights: str | Path | None = None

    def __post_init__(self) -> None:
        """Raises SpiderUsageError: a field, the value found and what would be valid; or nowhere to write."""
        super().__post_init__()
        for name, option in _INSTEAD_OF_POINTS.items():
            if self.points and getattr(self, name) not in (None, (), []):
                raise SpiderUsageError(f"{option}: not with --point, which says all of its image")
        if self.out is None and self.grid is None:
            raise SpiderUsageError("nowhere to write to: name --out or --grid")
        if self.style_layers is not None and self.styles is None:
            raise SpiderUsageError("--style-layers: of --styles only")
        if self.instances and (self.source_images or self.styles is not None or self.bank is not None):
            raise SpiderUsageError("--instance: not with --source-image, --styles or --bank")
        if self.weights is not None and not self.instances:
            raise SpiderUsageError(f"--weights {self.weights}: of --instance only")

    @property
    def numbers(self) -> list[int]:
        """Of the images."""
        default = "0" if self.source_images else "0-99" if self.styles is None else "0-5"
        default = "0-7" if self.instances else default
        return image_numbers("seeds", default if self.seeds is None else self.seeds)


@dataclass(frozen=True)
class InterpolateRequest(Request):
    """A grid or a loop between images of a run.

    Attributes:
        run: as of `GenerateRequest`.
        out: a file that ends in .png, .gif or .mp4, or a folder.
        space: `z`, the vectors of a prior, `image`, `w` of a stage with a mapping network, or `instance`, of which a
            stage is told, while it is fed what the first of `seeds` is; None: what stage `stage` is fed.
        stage: counted from the innermost, 1; None: the innermost that has what `space` says.
        seeds: numbers of the images; four for a grid or a folder, two or more for a loop. None: 0-3, or so many as
            there are `instances`.
        classes: names or numbers: one for all inputs, or one for each; none: those that the numbers have.
        steps: images on a side of the grid; frames from one input to the next.
        blend: how; None: by the prior, see `spider.pictures.interpolate`.
        fps: frames of a loop in a second; at most 50 of a .gif.
        truncation: as of `GenerateRequest`; of the last stage.
        distance: `efficientnet`, `lpips_alex` or `lpips_vgg`: also measure how far it is from an image to the next, see
            `spider.pictures.steps`.
        weights: a file for the distance's network; without `distance` for the embedding of `instances`; None: the
            published one.
        source, bank: as of `GenerateRequest`.
        instances: image files, of which the last stage is told: one for all inputs, or one for each. Between several
            `space` is `instance`, unless it says otherwise.
    """

    command: ClassVar[tuple[str, ...]] = ("interpolate",)
    alone: ClassVar[tuple[str, ...]] = ("run",)
    repeated: ClassVar[tuple[str, ...]] = tuple(_OPTIONS)
    options: ClassVar[Mapping[str, str]] = {**_OPTIONS, "truncation": "--trunc"}
    kinds: ClassVar[Mapping[str, Kind]] = {"seeds": image_numbers_as_given, "fps": whole(1, MAX_FPS)}
    places: ClassVar = {**_FED, **_TOLD}

    run: str | Path
    out: str | Path
    _: KW_ONLY
    space: Space | None = None
    stage: int | None = None
    seeds: str | Sequence[int] | None = None
    classes: Sequence[str | int] = ()
    steps: int = 8
    blend: Blend | None = None
    fps: int = 12
    truncation: float | None = None
    distance: str | None = None
    weights: str | Path | None = None
    source: str | Path | None = None
    instances: Sequence[str | Path] = ()
    bank: str | Path | None = None

    def __post_init__(self) -> None:
        """Raises SpiderUsageError: a field, the value found and what would be valid; or weights for nothing."""
        super().__post_init__()
        if self.instances and self.bank is not None:
            raise SpiderUsageError("--instance: not with --bank")
        if self.weights is not None and self.distance is None and not self.instances:
            raise SpiderUsageError(f"--weights {self.weights}: of a --distance or of --instance only")

    @property
    def weights_file(self) -> Path | None:
        """The weights as a path."""
        return None if self.weights is None else Path(self.weights)

    @property
    def numbers(self) -> list[int]:
        """Of the images."""
        several = len(self.instances) if len(self.instances) > 1 else 4
        return image_numbers("seeds", range(several) if self.seeds is None else self.seeds)


@dataclass(frozen=True)
class ProjectRequest(Request):
    """The inputs by which a run's generator makes given images.

    Attributes:
        run: as of `GenerateRequest`.
        images: image files, folders of images, or whatever else `pack` takes. Each is made as `pack` makes it: the
            largest centred square, at the generator's size and channels.
        out: a folder. One that holds projections of the same settings goes on with the images that are not done.
        space: what is searched, see `spider.pictures.projection.spaces`; None: `w` of a generator that has a mapping
            network, else what it is fed, `z` or `source`.
        steps: of the search. `w+` takes as many again, after those of `w`.
        tune: steps of pivotal tuning after the search; 0: none.
        samples: of the generator, among which the nearest to an image is looked for.
        distance: `efficientnet`, `lpips_alex` or `lpips_vgg`: what is made small, with L2.
        weights: a file for the distance's network; None: the published one.
        classes: names or numbers: one for all images, or one for each. Of generators that are told classes.
        seed: of what is added to w on the way.
        video: also write the way of each image, as `gif` or `mp4`.
        source: as of `GenerateRequest`.
        progress: show bars.
    """

    command: ClassVar[tuple[str, ...]] = ("project",)
    alone: ClassVar[tuple[str, ...]] = ("run", "images")
    repeated: ClassVar[tuple[str, ...]] = ("classes",)
    options: ClassVar[Mapping[str, str]] = {"classes": "--class"}
    kinds: ClassVar[Mapping[str, Kind]] = {
        "images": list_of(place, "a path, or a list of paths"),
        "space": one_of(*get_args(SearchSpace)),
        "steps": whole(1, MAX_SEARCH_STEPS),
        "tune": whole(0, MAX_SEARCH_STEPS),
    }
    places: ClassVar = {**_FED, "images": "images"}

    run: str | Path
    images: Sequence[str | Path]
    out: str | Path
    _: KW_ONLY
    space: SearchSpace | None = None
    steps: int = 1000
    tune: int = 0
    samples: int = 256
    distance: str = "efficientnet"
    weights: str | Path | None = None
    classes: Sequence[str | int] = ()
    seed: int = 0
    video: Video | None = None
    source: str | Path | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        """Raises SpiderUsageError: a field, the value found and what would be valid; or no image."""
        super().__post_init__()
        if not self.images:
            raise SpiderUsageError("images: none; name files or folders")

    @property
    def weights_file(self) -> Path | None:
        """The weights as a path."""
        return None if self.weights is None else Path(self.weights)

    def require_inputs(self) -> None:
        """Refuse images that are not there. Raises ShardsUsageError."""
        from spider.data import require_images

        for each in self.images:
            require_images(each)
