"""Images of a finished run, as files.

OUT/seed000042.png                    image number 42 of evaluation seed 0, whatever else is asked for
OUT/class0003-seed000042.png          the same number's input with class 3 in place of its own
OUT/cat-seed000042.png                the same number's noise on the source image cat.jpg
OUT/cat.png                           the image of the point cat.npz
OUT/class0003-dog-seed000042.png      an image of an instance like dog.jpg, of the class if one was asked for
OUT.zip                               the same files, stored, the same bytes every time
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shards.files import naming
from shards.images import MAX_FILE_BYTES, BadImage, Target, normalise, read_header
from shards.missing import no_such
from spider.arguments import image_numbers
from spider.errors import SpiderError, SpiderUsageError
from spider.gan.conditions.bank import InstanceBank
from spider.gan.conditions.instances import Instances
from spider.gan.pixels import to_float, to_uint8
from spider.gan.saved import load_saved
from spider.gan.sources.frozen import BLOCK, FrozenGenerator
from spider.gan.sources.image_source import ImageSource
from spider.pictures.grids import COLUMNS, sample_grid, write_png
from spider.pictures.png import png_bytes, write_picture
from spider.pictures.projection.points import read_point
from spider.pictures.request import GenerateRequest
from spider.pictures.style_mixing import mixed_styles, named_layers, style_layers
from spider.precision import exact_float32
from spider.runs.inputs import at_key
from spider.tensors import load_state_dict
from untrusted.errors import UnreadableError
from untrusted.files import read_regular

SEED = 0  # the evaluation seed that numbered images are drawn under
_STYLE_SIDE = 128  # px; the least side of images in a grid of styles, whose names need the room
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say: no time of day gets into the bytes


def caption(number: int, stem: str = "") -> str:
    """What a grid calls image `number`: by the option that asks for it again."""
    return f"{stem} seed {number}".strip()


@dataclass(frozen=True)
class Generated:
    """What was written.

    Attributes:
        files: names of the images in `out`, in order.
        generator: digest of weights and source.
    """

    out: str | None
    files: list[str]
    grid: str | None
    generator: str
    seed: int = SEED
    classes: list[str] = field(default_factory=list)  # that were asked for, by name

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return dict(vars(self))


@dataclass(frozen=True)
class _Part:
    """Some images with what fed them: float [N, C, H, W]."""

    names: list[str]
    captions: list[str]
    images: Tensor
    sources: Tensor | None


@dataclass(frozen=True)
class Photos:
    """Image files that a generator is told of.

    Attributes:
        stems: of the files' names, which differ.
        pixels: float [n, C, H, W] in [-1, 1], at the generator's size.
        features: [n, D], of length 1.
    """

    stems: list[str]
    pixels: Tensor
    features: Tensor


def generate(generator: FrozenGenerator, request: GenerateRequest, photos: Photos | None = None) -> Generated:
    """Write images of `generator` as PNGs.

    Args:
        photos: what `request.instances` are.

    Raises:
        SpiderUsageError: source images for a generator that takes none, a class that it does not know, or truncation or
            styles of one that has no mapping network; styles with what they do not go with.
        SpiderError: a source image cannot be read.
    """
    out, grid = request.out, request.grid
    numbers = list(dict.fromkeys(request.numbers))
    labels = _classes(generator, list(dict.fromkeys(map(str, request.classes))))
    if request.tuned is not None:
        _take_over(generator, Path(request.tuned))
    if request.truncation is not None:
        generator.truncate(request.truncation)
    if request.bank is not None:
        generator = told_by_bank(generator, Path(request.bank), request.classes)
    if request.styles is not None:
        return _style_grid(generator, numbers, request)
    if request.points:
        parts = _from_points(generator, request.points)
    elif photos is not None:
        parts = _of_photos(generator, numbers, photos, labels)
    else:
        parts = _parts(generator, numbers, labels, request.source_images)
    names: list[str] = []
    kept: list[_Part] = []
    with _writer(out) as write:
        for part in parts:
            for name, pixels in zip(part.names, to_uint8(part.images).cpu(), strict=True):
                write(f"{name}.png", png_bytes(pixels))
            names += [f"{name}.png" for name in part.names]
            kept += [part] if grid is not None else []
    if grid is not None:
        sources = [part.sources for part in kept if part.sources is not None]
        shown = torch.cat([part.images for part in kept])
        captions = [caption for part in kept for caption in part.captions]
        classes = [generator.conditions.names[label] for label in labels]
        photographed = [] if photos is None else photos.stems
        rows = [f"{name} {stem}".strip() for name in classes or [""] for stem in photographed or [""]]
        has_rows = bool(classes or photographed)
        pixels = sample_grid(
            shown,
            torch.cat(sources) if sources else None,
            columns=len(shown) // len(rows) if has_rows else COLUMNS,
            captions=captions,
            rows=rows if has_rows else None,
            note="" if request.bank is None else f"Told of instances of {InstanceBank.open(request.bank).about.name}.",
        )
        write_png(Path(grid), pixels)
    return Generated(
        out=None if out is None else str(out),
        files=names,
        grid=None if grid is None else str(grid),
        generator=generator.digest,
        classes=[generator.conditions.names[label] for label in labels],
    )


def _style_grid(generator: FrozenGenerator, numbers: Sequence[int], request: GenerateRequest) -> Generated:
    """A grid with the styles above, the images on the left, and each image with each style."""
    others = {"--out": request.out, "--class": request.classes, "--source-image": request.source_images}
    given = [f", not with {option}" for option, value in others.items() if value]
    if request.grid is None or given:
        raise SpiderUsageError(f"--styles: goes with --seeds and --grid{''.join(given[:1])}")
    styles = image_numbers("styles", request.styles)
    asked = None if request.style_layers is None else image_numbers("style_layers", request.style_layers)
    layers = style_layers(generator, asked)
    rows, columns, mixed = mixed_styles(generator, SEED, numbers, styles, layers)
    lines = [torch.cat([torch.ones_like(rows[:1]), columns])]
    for row, cells in zip(rows, mixed.reshape(len(rows), len(styles), *rows.shape[1:]), strict=True):
        lines.append(torch.cat([row[None], cells]))
    pixels = sample_grid(
        torch.cat(lines),
        columns=1 + len(styles),
        rows=["", *(caption(number) for number in numbers)],
        heads=["", *(f"style: {caption(number)}" for number in styles)],
        note=f"w is the column's in layers {named_layers(generator, layers)}; it is the row's in all others.",
        least_side=_STYLE_SIDE,
    )
    write_png(Path(str(request.grid)), pixels)
    return Generated(out=None, files=[], grid=str(request.grid), generator=generator.digest)


def _parts(
    generator: FrozenGenerator, numbers: Sequence[int], labels: Sequence[int], source_images: Sequence[str | Path]
) -> Iterator[_Part]:
    for label in labels or (None,):
        if source_images:
            yield from _from_files(generator, numbers, source_images, label)
        else:
            yield from _numbered(generator, numbers, label)


def class_numbers(generator: FrozenGenerator, names: Sequence[str]) -> list[int]:
    """The classes that `--class` names. Raises SpiderUsageError: the generator does not know one."""
    try:
        return [generator.conditions.class_number(name) for name in names]
    except SpiderUsageError as error:
        raise SpiderUsageError(f"--class: {error}") from None


def _classes(generator: FrozenGenerator, names: Sequence[str]) -> list[int]:
    """The classes, of which no two names may mean the same one."""
    found: dict[int, str] = {}
    for name, number in zip(names, class_numbers(generator, names), strict=True):
        if number in found:
            raise SpiderUsageError(f"--class: {found[number]} and {name} are the same class")
        found[number] = name
    return list(found)


def _numbered(generator: FrozenGenerator, numbers: Sequence[int], label: int | None) -> Iterator[_Part]:
    """Made in the blocks that evaluation makes them in, so that the bytes are the same whatever else is asked for."""
    for block in dict.fromkeys(number // BLOCK for number in numbers):
        of_block = range(block * BLOCK, (block + 1) * BLOCK)
        images, sources = generator.with_sources(SEED, of_block, generator.told(SEED, of_block, label))
        wanted = [number for number in numbers if number // BLOCK == block]
        rows = [number % BLOCK for number in wanted]
        yield _Part(
            [f"{_prefix(label)}seed{number:06d}" for number in wanted],
            [caption(number) for number in wanted],
            images[rows],
            None if sources is None else sources[rows],
        )


def _prefix(label: int | None) -> str:
    """Of a file's name: a class by its number, because its name may be none of a file."""
    return "" if label is None else f"class{label:04d}-"


def _from_files(
    generator: FrozenGenerator, numbers: Sequence[int], files: Sequence[str | Path], label: int | None = None
) -> Iterator[_Part]:
    source = generator.source
    if not isinstance(source, ImageSource):
        raise SpiderUsageError(
            f"--source-image: this generator is fed vectors of shape {list(source.shape)}, no images"
        )
    stems = distinct([Path(file).stem for file in files])
    with at_key("--source-image"):
        clean = [
            source.fitted(to_float(read_image(Path(file)))).to(generator.device) for file in files
        ]  # each [1, C, H, W]
    for start in range(0, len(numbers), BLOCK):
        chosen = list(numbers[start : start + BLOCK])
        noise = source.noise_at(SEED, chosen)
        condition = generator.condition_at(SEED, chosen, label)
        for stem, image in zip(stems, clean, strict=True):
            yield _Part(
                [f"{_prefix(label)}{stem}-seed{number:06d}" for number in chosen],
                [caption(number, stem) for number in chosen],
                generator(image + noise, condition),
                image.expand(len(chosen), -1, -1, -1),
            )


def instances_of(generator: FrozenGenerator, option: str) -> Instances:
    """What the generator is told. Raises SpiderUsageError: of no instances."""
    if not isinstance(generator.conditions, Instances):
        raise SpiderUsageError(f"{option}: for runs with condition.kind=instance; this generator is told of none")
    return generator.conditions


def require_class(generator: FrozenGenerator, classes: Sequence[object], option: str, what: str) -> None:
    """Refuse what has no class, of a generator that is told one too. Raises SpiderUsageError."""
    if generator.conditions.shape.classes and not classes:
        raise SpiderUsageError(
            f"{option}: this generator is told a class too, and {what} of its classes: add --class NAME"
        )


def told_by_bank(
    generator: FrozenGenerator, bank: Path, classes: Sequence[object] = (), *, alike: bool = False
) -> FrozenGenerator:
    """The same generator, told of the instances of a bank.

    Args:
        classes: that are asked for, of a generator that is told a class too.
        alike: take instances that are near each class, as a generator does whose samples are of all classes alike.

    Raises:
        SpiderUsageError: it is told of none, or of another embedding's; or it needs a class, and the bank has no labels
            of its classes.
        SpiderError: the bank cannot be read.
    """
    told = instances_of(generator, "--bank").of_bank(InstanceBank.open(bank), alike=alike)
    if not told.labels.shape[1]:
        require_class(generator, classes, "--bank", "the images of this bank have none")
    return generator.with_conditions(told)


def _of_photos(
    generator: FrozenGenerator, numbers: Sequence[int], photos: Photos, labels: Sequence[int]
) -> Iterator[_Part]:
    """Of each photo, and of each class."""
    instances_of(generator, "--instance")
    require_class(generator, labels, "--instance", "a photo has none")
    features, pixels = photos.features.to(generator.device), photos.pixels.to(generator.device)
    for label in labels or (None,):
        for stem, feature, shown in zip(photos.stems, features, pixels, strict=True):
            for start in range(0, len(numbers), BLOCK):
                chosen = list(numbers[start : start + BLOCK])
                told = replace(generator.told(SEED, chosen, label), features=feature.expand(len(chosen), -1))
                yield _Part(
                    [f"{_prefix(label)}{stem}-seed{number:06d}" for number in chosen],
                    [caption(number) for number in chosen],
                    generator.images(SEED, chosen, told),
                    shown.expand(len(chosen), -1, -1, -1),
                )


@torch.no_grad()
def _from_points(generator: FrozenGenerator, files: Sequence[str | Path]) -> Iterator[_Part]:
    stems = distinct([Path(file).stem for file in files], "--point")
    with exact_float32():
        for stem, file in zip(stems, files, strict=True):
            space, point = read_point(Path(file), generator)
            yield _Part([stem], [stem], space.image(point), None)


def _take_over(generator: FrozenGenerator, file: Path) -> None:
    """Weights of a file in place of the generator's own. Raises SpiderError: they are not of such a generator."""
    weights, _ = load_state_dict(file)
    try:
        load_saved(generator.module, weights)
    except RuntimeError as error:
        raise SpiderError(f"--tuned {file}: not weights of this generator: {' '.join(str(error).split())}") from None


def distinct(stems: Sequence[str], option: str = "--source-image") -> list[str]:
    """The same names. Raises SpiderUsageError: two files have one."""
    repeated = {stem for stem in stems if list(stems).count(stem) > 1}
    if repeated:
        raise SpiderUsageError(f"{option}: two files are called {sorted(repeated)[0]}; their images would be too")
    return list(stems)


def read_image(path: Path, target: Target | None = None) -> Tensor:
    """An image file by the rules of `spider pack`, at its own size if no other is asked for: uint8 [1, C, H, W].

    Raises SpiderError: it cannot be read.
    """
    try:
        data = read_regular(path, MAX_FILE_BYTES)
        if target is None:
            header = read_header(data)
            target = Target(1 if header.grey else 3, header.height, header.width, "squash", resize=True)
        pixels, _ = normalise(data, target)
    except UnreadableError as error:
        raise SpiderError(str(error)) from None
    except FileNotFoundError:
        raise SpiderUsageError(no_such(path, "file")) from None
    except OSError as error:
        raise SpiderError(f"{path}: {error.strerror}") from None
    except BadImage as error:
        raise SpiderError(f"{path}: {error}") from None
    return torch.tensor(pixels)[None]


@contextmanager
def _writer(out: str | Path | None) -> Iterator[Callable[[str, bytes], object]]:
    """How a named file is written: into a folder, into a zip that appears when it is whole, or not at all."""
    if out is None:
        yield lambda name, content: None
        return
    path = Path(out)
    if path.suffix != ".zip":
        path.mkdir(parents=True, exist_ok=True)
        yield lambda name, content: write_picture(path / name, content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp")
    try:
        with naming(path), zipfile.ZipFile(beside, "w", zipfile.ZIP_STORED) as archive:
            yield lambda name, content: archive.writestr(_zip_entry(name), content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _zip_entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _ZIP_EPOCH)
    entry.external_attr = 0o644 << 16
    return entry
