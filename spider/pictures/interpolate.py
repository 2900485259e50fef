"""The way from one image to another, at any stage of a cascade.

    OUT.png          a square grid: four inputs in the corners, bilinear between them
    OUT/r2c5.png     the images of the same grid by themselves, by row and column as the grid's captions have them
    OUT.gif, .mp4    a loop through the inputs and back to the first

Stages are counted from the innermost: in z -> G1 -> G2, stage 1 is G1, fed vectors, and stage 2 is G2, fed G1's images.
Interpolating at stage K means blending what is fed to it, or its w where it has a mapping network, and letting the
stages from K on make images of the blends.
Images and vectors are those of the image numbers that were asked for (evaluation seed 0), so that the corners are the
images that `spider generate` writes. Classes are blended with the inputs: their vectors, by the weights w. So is the
noise that a network draws, by w / |w|, which keeps its law.

How inputs are blended, w being weights that sum to 1:
  images     sum w x, pixel by pixel. The noise that the source adds is blended by w / |w|, which keeps its deviation.
  spherical  sum w z / |w|. Independent normal coordinates so blended have the law of the drawn ones at every step
             (between two vectors of one length it is the great circle, up to speed); sum w z would pass through vectors
             that are too short for the generator to have met. Default for a gaussian prior.
  linear     sum w z, as the published interpolations do. Default for the other priors: Cauchy coordinates so blended
             have the law of the drawn ones, the nonparametric prior is made for it, gamma's has vectors of any length.
             Default for images and for w.
  cubic      of loops: the periodic cubic spline through the inputs, which has no corners (StyleGAN3's videos, in w).
  circular   of loops through two inputs of a gaussian prior: a cos t + b sin t, all the way round. Every frame has the
             law of the drawn vectors, and every step is equally long.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from spider.backbones.perceptual import PerceptualDistance, perceptual_distance
from spider.errors import SpiderUsageError
from spider.gan.outputs import Condition
from spider.gan.pixels import to_uint8
from spider.gan.sources.frozen import BLOCK, FrozenGenerator
from spider.gan.sources.gaussian import Gaussian
from spider.gan.sources.generator import Generator
from spider.gan.sources.gmm import Gmm
from spider.gan.sources.image_source import ImageSource
from spider.pictures.generate import SEED, Photos, caption, class_numbers, require_class, told_by_bank
from spider.pictures.grids import sample_grid, write_png
from spider.pictures.movies import MOVIES, require_writer, write_movie
from spider.pictures.png import png_bytes, write_picture
from spider.pictures.request import Blend, InterpolateRequest, Space
from spider.pictures.steps import Steps, grid_steps, loop_steps, measure_steps
from spider.pictures.ways import grid_weights, loop_weights, shares, unit

_HAS = {"w": "has w", "instance": "is told an instance"}
_GOES = {"z": "fed to", "image": "fed to", "w": "of", "instance": "told to"}  # what is blended, to a stage


@dataclass(frozen=True)
class Interpolation:
    """What was written, and what was blended how."""

    out: str
    space: Space
    stage: int
    blend: Blend
    numbers: list[int]
    images: int  # in the grid, or frames of the loop
    classes: list[str]  # of the inputs, if the generator is told of any
    steps: Steps | None = None  # how far it is from image to image, if that was asked for
    instances: list[str] = field(default_factory=list)  # names of the photos that it is told of, if any were given
    stages: int = 1  # generators of the cascade

    def blended(self) -> str:
        """What changes from image to image, in words."""
        images = len(set(self.numbers)) > 1
        how = "" if (self.space, self.blend) == ("image", "linear") else f" ({self.blend})"
        inputs = {"image": "the images", "z": "the vectors", "w": "w", "instance": "the instances"}[self.space]
        where = f" {_GOES[self.space]} stage {self.stage} of {self.stages}" if self.stages > 1 else ""
        parts = [f"{inputs}{how}{where}"] if images or len(set(self.classes)) < 2 else []
        if len(set(self.classes)) > 1:
            parts.append(f"the classes {', '.join(self.classes)}" + ("" if images else f" at seed {self.numbers[0]}"))
        return " and ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return dict(vars(self)) | {"steps": None if self.steps is None else asdict(self.steps)}


def interpolate(generator: FrozenGenerator, request: InterpolateRequest, photos: Photos | None = None) -> Interpolation:
    """Write a grid or a loop.

    Args:
        photos: what `request.instances` are.

    Raises:
        SpiderUsageError: a suffix, a space, a stage, a class or a number of inputs that cannot be.
        SpiderError: .mp4 without ffmpeg, or ffmpeg failed.
    """
    numbers, steps, path = request.numbers, request.steps, Path(request.out)
    _check(path, numbers, request.fps)
    if request.truncation is not None:
        generator.truncate(request.truncation)
    if request.bank is not None:
        generator = told_by_bank(generator, Path(request.bank), request.classes)
    chain = stages(generator)
    several = photos is not None and len(photos.stems) > 1
    space, stage = _place(chain, request.space or ("instance" if several else None), request.stage)
    blend = _blend(chain[stage - 1], space, request.blend)
    _check_blend(path, numbers, blend)
    weights = loop_weights(len(numbers), steps, blend) if path.suffix in MOVIES else grid_weights(steps)
    told = _classes(generator, numbers, [*map(str, request.classes)])
    if photos is not None:
        require_class(generator, request.classes, "--instance", "a photo has none")
        told = _told_of(photos, told, numbers)
    distance = request.distance and perceptual_distance(request.distance, request.weights_file, generator.device)
    parts = _run(chain[stage - 1 :], numbers, weights, blend, told, space)
    walked = None
    if distance:
        blocks = list(parts)
        parts, walked = iter(blocks), _walked(blocks, steps, len(numbers), path, distance)
    classes = [] if told.labels is None else [generator.conditions.names[label] for label in told.labels.tolist()]
    stems = [] if photos is None else photos.stems
    written = Interpolation(str(path), space, stage, blend, numbers, len(weights), classes, walked, stems, len(chain))
    if path.suffix in MOVIES:
        write_movie(path, _frames(parts), request.fps)
    else:
        note = f"Blended from corner to corner: {written.blended()}."
        _write_still(path, parts, steps, _names_of_inputs(numbers, classes, photos, space), note)
    return written


def _names_of_inputs(numbers: Sequence[int], classes: Sequence[str], photos: Photos | None, space: Space) -> list[str]:
    """What the corners of a grid are called: by what asks for them again."""
    names = list(classes) or [""] * len(numbers)
    if photos is not None and len(photos.stems) > 1:
        return [f"{name} {stem}".strip() for name, stem in zip(names, photos.stems, strict=True)]
    if space == "instance":  # all are fed what the first one is
        return [f"{name} instance {number}".strip() for name, number in zip(names, numbers, strict=True)]
    return [caption(number, name) for number, name in zip(numbers, names, strict=True)]


def _walked(
    blocks: Sequence[tuple[Tensor, Tensor | None]], steps: int, inputs: int, path: Path, distance: PerceptualDistance
) -> Steps:
    """The steps of a loop through so many inputs, or of a grid, by what `path` is."""
    images = torch.cat([made for made, _ in blocks])
    if path.suffix in MOVIES:
        frames = [f"frame {number}" for number in range(1, len(images) + 1)]
        whole = [number * steps for number in range(inputs)]
        return measure_steps(images, frames, loop_steps(len(images)), whole, distance)
    return measure_steps(images, _places(steps), grid_steps(steps), _corners(steps), distance)


def _places(side: int) -> list[str]:
    """Names of the images of a grid, by rows."""
    return [f"r{row}c{column}" for row in range(1, side + 1) for column in range(1, side + 1)]


def _corners(side: int) -> tuple[int, int, int, int]:
    """Numbers of the images of a grid that are the inputs'."""
    return 0, side - 1, side * (side - 1), side**2 - 1


def stages(generator: FrozenGenerator) -> list[FrozenGenerator]:
    """A cascade's generators, the innermost first."""
    source = generator.source
    return [*(stages(source.stage) if isinstance(source, Generator) else []), generator]


def _write_still(
    path: Path,
    parts: Iterator[tuple[Tensor, Tensor | None]],
    side: int,
    names: Sequence[str],
    note: str,
) -> None:
    """One picture, its corners under their names and a note below, or a folder of its images by themselves."""
    blocks = list(parts)
    sources = [fed for _, fed in blocks if fed is not None]
    images = torch.cat([made for made, _ in blocks])
    places = _places(side)
    if not path.suffix:
        path.mkdir(parents=True, exist_ok=True)
        for place, pixels in zip(places, to_uint8(images).cpu(), strict=True):
            write_picture(path / f"{place}.png", png_bytes(pixels))
        return
    captions = list(places)
    for corner, name in zip(_corners(side), names, strict=True):
        captions[corner] = name
    fed = torch.cat(sources) if sources else None
    write_png(path, sample_grid(images, fed, columns=side, captions=captions, note=note))


def _check(path: Path, numbers: Sequence[int], fps: int) -> None:
    if path.suffix not in ("", ".png", *MOVIES):
        raise SpiderUsageError(
            f"--out {path}: known endings are .png (grid), .gif and .mp4 (loops); none is a folder for a grid's images"
        )
    if path.suffix not in MOVIES and len(numbers) != 4:
        raise SpiderUsageError(f"--seeds: a grid has four corners, {len(numbers)} given; .gif and .mp4 take any number")
    if len(numbers) < 2:
        raise SpiderUsageError("--seeds: a loop needs two inputs or more")
    require_writer(path, fps)


def _place(chain: Sequence[FrozenGenerator], space: Space | None, stage: int | None) -> tuple[Space, int]:
    """Where to interpolate. `chain` is the cascade, the innermost first."""
    spaces = [_spaces(each) for each in chain]
    if stage is None:
        having = [number for number, each in enumerate(spaces, start=1) if space is None or space in each]
        if not having:
            none = "no stage has that" if chain[1:] else "the generator has none"
            raise SpiderUsageError(f"--space {space}: {none}; {_described(spaces)}")
        stage = having[0]
    if not 1 <= stage <= len(chain):
        none = "there is no such stage" if chain[1:] else "this is no cascade of several generators"
        raise SpiderUsageError(f"--stage {stage}: {none}; {_described(spaces)}")
    if space is not None and space not in spaces[stage - 1]:
        it = "that stage" if chain[1:] else "the generator"
        raise SpiderUsageError(f"--space {space} --stage {stage}: {it} has no {space}; {_described(spaces)}")
    return space or spaces[stage - 1][0], stage


def _spaces(stage: FrozenGenerator) -> list[Space]:
    """What can be blended at a stage: what it is fed, and w."""
    fed: Space = "image" if isinstance(stage.source, ImageSource) else "z"
    found: list[Space] = [fed, "w"] if stage.has_w else [fed]
    return [*found, "instance"] if stage.conditions.shape.features else found


def _described(spaces: Sequence[Sequence[Space]]) -> str:
    return ", ".join(
        " and ".join(
            [f"{f'stage {number}' if spaces[1:] else 'the generator'} is fed {fed}", *(_HAS[each] for each in more)]
        )
        for number, (fed, *more) in enumerate(spaces, start=1)
    )


def _blend(stage: FrozenGenerator, space: Space, blend: Blend | None) -> Blend:
    if space != "z":
        if blend in ("spherical", "circular"):
            raise SpiderUsageError(f"--blend {blend} is of vectors of a prior; {space} goes linear or cubic")
        return blend or "linear"
    if isinstance(stage.source, Gmm):
        raise SpiderUsageError("a gmm source draws a component and a place in it: there is nothing between two of them")
    if blend == "circular" and not isinstance(stage.source, Gaussian):
        raise SpiderUsageError("--blend circular: only of a gaussian prior's vectors has a circle the law")
    return blend or ("spherical" if isinstance(stage.source, Gaussian) else "linear")


def _check_blend(path: Path, numbers: Sequence[int], blend: Blend) -> None:
    if blend in ("cubic", "circular") and path.suffix not in MOVIES:
        raise SpiderUsageError(f"--blend {blend} is of loops, which end in .gif or .mp4")
    if blend == "circular" and len(numbers) != 2:
        raise SpiderUsageError(f"--blend circular: a circle goes through two inputs, --seeds gives {len(numbers)}")


def _run(
    chain: Sequence[FrozenGenerator],
    numbers: list[int],
    weights: Tensor,
    blend: Blend,
    told: Condition,
    space: Space,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Blocks of images float [n, C, H, W] of the last stage, each with the images fed to it.

    Args:
        chain: the stages from the one on at whose input is blended.
        weights: [F, M], M the number of inputs.
        told: what the last stage is told of each input.
        space: w of the first of these stages is blended, or what it is told, and not its input.
    """
    first, device = chain[0].source, chain[0].device
    conditions = [*(stage.condition_at(SEED, numbers) for stage in chain[:-1]), told]
    if space == "w":
        corners = chain[0].latents(first.at(SEED, numbers), conditions[0])
    else:
        corners = first.images_at(SEED, numbers) if isinstance(first, ImageSource) else first.at(SEED, numbers)
    for block in torch.split(weights, BLOCK):
        told_by = given = block.to(device)
        if space == "instance":  # all is fed what the first input is
            given = torch.eye(len(numbers), device=device)[:1].expand(len(block), -1)
        fed = _mixed(unit(given) if blend == "spherical" else given, corners.to(device))
        clean = None
        for stage, condition in zip(chain, conditions, strict=True):
            between = _between(condition, given, shares(told_by, blend), stage)
            if space == "w" and stage is chain[0]:
                fed = stage.of_latents(fed, between)
                continue
            if isinstance(stage.source, ImageSource):
                clean = stage.source.fitted(fed)
                fed = clean + _mixed(unit(given), stage.source.noise_at(SEED, numbers))
            fed = stage(fed, between)
        yield fed, clean


def _classes(generator: FrozenGenerator, numbers: list[int], names: Sequence[str]) -> Condition:
    """What the generator is told of each input."""
    if not names:
        return generator.condition_at(SEED, numbers)
    if len(names) not in (1, len(numbers)):
        raise SpiderUsageError(f"--class: {len(names)} classes for {len(numbers)} images; give one, or one for each")
    labels = class_numbers(generator, names)
    told = generator.told(SEED, numbers, labels * (len(numbers) // len(labels)))
    return generator.with_draws(told, SEED, numbers)


def _told_of(photos: Photos, told: Condition, numbers: Sequence[int]) -> Condition:
    """The same, but of photos in the place of the instances that the numbers have."""
    if len(photos.stems) not in (1, len(numbers)):
        raise SpiderUsageError(
            f"--instance: {len(photos.stems)} photos for {len(numbers)} images; give one, or one for each"
        )
    features = photos.features.to(told.features.device if told.features is not None else photos.features.device)
    return replace(told, features=features.expand(len(numbers), -1))


def _between(condition: Condition, weights: Tensor, of_classes: Tensor, stage: FrozenGenerator) -> Condition:
    """Blends of the conditions of M inputs: by weights [F, M] of noise, and by shares [F, M] of the rest.

    Normal numbers that the network draws (noise) are blended so that they stay normal, but where all images have the
    same. Of other numbers the first input's stay throughout.
    """
    drawn = {name: values[:1].expand(len(weights), *values.shape[1:]) for name, values in condition.draws.items()}
    for name in stage.noises:
        drawn[name] = _mixed(unit(weights), condition.draws[name])
    classes = features = None
    if condition.labels is not None:
        classes = of_classes @ one_hot(condition.labels, stage.conditions.shape.classes).to(of_classes.dtype)
    if condition.features is not None:  # of length 1, as a network knows them
        features = normalize(of_classes.to(condition.features.dtype) @ condition.features, dim=1)
    return Condition(classes, features, draws=drawn)


def _mixed(weights: Tensor, corners: Tensor) -> Tensor:
    """[F, M], [M, ...] -> [F, ...], in the precision of what is mixed."""
    return torch.einsum("fm,m...->f...", weights.to(corners.dtype), corners)


def _frames(parts: Iterator[tuple[Tensor, Tensor | None]]) -> Iterator[npt.NDArray[np.uint8]]:
    """Frames uint8 [height, width, 3], each an image beside the one that made it, if one did."""
    for images, sources in parts:
        for i in range(len(images)):
            yield sample_grid(images[i : i + 1], None if sources is None else sources[i : i + 1], columns=1)
