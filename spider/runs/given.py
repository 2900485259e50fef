"""What a training is told before it takes over given weights: whose they are, and for which images they were made.

    init: runs/dogs@120: g, g_ema, d
    init: made for colour images of 64x64 px, and these are grey, 32x32 px: what does not fit begins at random
    init: grows from 16x16 to 32x32 px

Of a checkpoint its state says it. Of a file it is known where `spider export` wrote it, which says it beside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.manifest import STATE
from spider.config.explain import as_yaml
from spider.config.schema import Config
from spider.errors import SpiderError, SpiderUsageError
from spider.gan.init.config import GROUPS, RandomInitConfig, RunInitConfig, WeightsInitConfig
from spider.gan.sources.config import PRIORS
from spider.runs.directory import resolve
from untrusted.errors import UnreadableError
from untrusted.json_data import read_json
from untrusted.typed import checked

if TYPE_CHECKING:
    from spider.gan.init.fit import Fit

_GENERATORS = GROUPS["g"], GROUPS["g_ema"]
EXPORT_SETTINGS = "generator.json"  # beside the weights that `spider export` writes

Shape = tuple[int, int, int]


def side_of_given(config: Config) -> int | None:
    """In px, of the images of the run whose weights a training begins with; None if they are of no run."""
    return None if not isinstance(config.init, RunInitConfig) else _shape_of_run(config.init.run)[-1]


def require_same_stem(config: Config) -> None:
    """Refuse other sizes than those of the frozen stem that a generator grows from, whose weights would not fit.

    Raises SpiderUsageError that names each key, and the stem's value.
    """
    init = config.init
    if not (config.generator.grows and isinstance(init, RunInitConfig) and {"g", "g_ema"} & {*init.players}):
        return
    stem = resolve(init.run).directory.config()
    classes = config.condition.kind == stem.condition.kind == "class"
    found = config.generator.unlike_stem(stem.generator, classes=classes)
    other = [(f"generator.{key}", here, there) for key, here, there in found]
    if stem.source.kind in PRIORS and config.source.kind in PRIORS:
        other.append(("source.dim", getattr(config.source, "dim", None), getattr(stem.source, "dim", None)))
    other.append(("condition.kind", config.condition.kind, stem.condition.kind))
    other = [each for each in other if each[1] != each[2]]
    if other:
        said = "; ".join(f"{key}={as_yaml(here)}: the given stem has {as_yaml(there)}" for key, here, there in other)
        raise SpiderUsageError(f"{said}: {_way_out([key for key, _, _ in other], init.run)}")


def _way_out(keys: Sequence[str], run: str) -> str:
    if "generator.kind" in keys:  # theirs may be one that cannot grow
        return "begin with a stem of this kind"
    if {"condition.kind", "generator.sides"} & {*keys}:  # which nothing takes over
        return "give the stem's"
    which = "keys" if keys[1:] else "key"
    return f"leave the {which} out, then --init {run} takes the stem's sizes over; or give the stem's"


def about_given(config: Config, image_shape: Shape) -> list[str]:
    """Whose weights a training begins with, and what they were made for that is not so here; a line each.

    Args:
        image_shape: [C, H, W] of the images to learn.

    Raises SpiderError: the run that is named is damaged.
    """
    init = config.init
    if isinstance(init, RandomInitConfig):
        return []
    place, shape, settings = init.kind, None, dict[str, Any]()
    if isinstance(init, RunInitConfig):
        place, shape = init.run, _shape_of_run(init.run)
    elif isinstance(init, WeightsInitConfig):
        place, (shape, settings) = init.file, _said_of_file(Path(init.file))
    lines = [f"init: {place}: {', '.join(init.players)}", *_other_settings(config, settings)]
    if shape is not None and shape != image_shape:
        lines.append(f"init: {_other_images(config, shape, image_shape)}")
    return lines


def lines_of_given(config: Config, image_shape: Shape, fits: Mapping[str, Fit]) -> list[str]:
    """All that a training says of the weights that it has taken over; nothing if there are none."""
    return [*about_given(config, image_shape), *lines_of_fits(fits)] if fits else []


def lines_of_fits(fits: Mapping[str, Fit], *, in_full: bool = False) -> list[str]:
    """How given weights fit, a line for each network; in full also one for each tensor that does not.

    A generator and its average that fit alike have their lines together.
    """
    both = " and ".join(_GENERATORS)
    if len({tuple(fits[each].lines(both, in_full=in_full)) for each in _GENERATORS if each in fits}) == 1:
        first, *others = _GENERATORS
        fits = {both if network == first else network: fit for network, fit in fits.items() if network not in others}
    return [line for network, fit in fits.items() for line in fit.lines(network, in_full=in_full)]


def _other_images(config: Config, given: Shape, here: Shape) -> str:
    """What it means that weights were made for images of another shape."""
    taken = {"g", "g_ema"} & {*config.init.players}
    if taken and config.generator.last_sides == (given[-1], here[-1]):
        sizes = _size(given).removesuffix(" px"), _size(here)
        before, after = sizes if given[0] == here[0] else (_images(given), _images(here))
        return f"grows from {before} to {after}"
    return f"made for {_images(given)}, and these are {_images(here)}: what does not fit begins at random"


def _images(shape: Shape) -> str:
    kind = {1: "grey", 3: "colour"}.get(shape[0], f"{shape[0]}-channel")
    return f"{kind} images of {_size(shape)}"


def _size(shape: Shape) -> str:
    _, height, width = shape
    return f"{width}x{height} px"


def _shape_of_run(run: str) -> Shape:
    state = resolve(run).path / STATE
    try:
        shape = checked(read_json(state), dict[str, Any], str(state)).get("image_shape")
        return checked(shape, tuple[int, int, int], f"{state}: image_shape")
    except (UnreadableError, OSError) as error:
        raise SpiderError(f"init.run: {error}") from None


def _said_of_file(file: Path) -> tuple[Shape | None, dict[str, Any]]:
    """What `spider export` said of a file's images and of its generator; nothing of any other file."""
    about = file.with_name(EXPORT_SETTINGS)
    try:
        tree = checked(read_json(about), dict[str, Any], str(about))
        images = checked(tree.get("images"), dict[str, Any], str(about)).get("shape")
        _, *shape = checked(images, tuple[str, int, int, int], str(about))
        settings = checked(tree.get("generator"), dict[str, Any], str(about))
    except (UnreadableError, OSError):
        return None, {}
    return (shape[0], shape[1], shape[2]), settings


def _other_settings(config: Config, settings: Mapping[str, Any]) -> list[str]:
    """Keys of the generator that an export says otherwise."""
    here, free = config.generator.model_dump(mode="json"), config.generator.left_by_init()
    if settings.get("kind", here["kind"]) != here["kind"]:
        settings = {"kind": settings["kind"]}
    other = [
        f"generator.{key}={as_yaml(value)}"
        for key, value in settings.items()
        if key not in free and key in here and here[key] != value
    ]
    return [f"init: the weights are of a network with {' '.join(other)}, and this one is another"] if other else []
