"""Training of toys: the trainer itself, stopped now and then to be looked at."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cluster.world import World
from shards.builtin import PLANES
from shards.points import Modes, modes
from shards.progress import Bar
from spider.arguments import image_numbers
from spider.config.load import load_config
from spider.config.schema import Config
from spider.data import locate_images
from spider.errors import SpiderUsageError
from spider.files import write_text
from spider.gan.networks.slicing import Sliceable
from spider.gan.objectives.build import build_objective
from spider.gan.objectives.slicing import Slicing
from spider.gan.outputs import Condition
from spider.gan.pixels import to_float
from spider.gan.saved import copy_of
from spider.gan.sources.frozen import FrozenGenerator
from spider.precision import set_numerics
from spider.toy.page import LAST, MOVIE, NUMBERS, REPORT, SEEDS, paired, write_report
from spider.toy.picture import Field, Look, draw, draw_seeds
from spider.toy.request import ToyRequest
from spider.toy.score import Points, score
from spider.train.trainer import Trainer
from untrusted.terminal import tell
from untrusted.words import not_known

SHOWN = 1000  # points of a frame, and of a score
_SIDE = 56  # places on a side of D's field
_REACH = 1.15  # of the field, from the centre


@dataclass
class Variant:
    """One way to learn, under one seed.

    Attributes:
        rows: what was measured, in order: kimg, distance, modes, good, optimality, and what methods say of themselves.
        looks: what the frames show, of the first seed.
    """

    name: str
    seed: int
    config: Config
    rows: list[dict[str, Any]] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)

    @property
    def iterations(self) -> int:
        """Of its whole length."""
        return -(-int(self.config.kimg * 1000) // self.config.batch)

    def outcome(self, measure: str) -> float | None:
        """What a measure came to: its last value; of the optimality, which moves much, the mean of the second half."""
        second_half = [row for row in self.rows if row["kimg"] > self.rows[-1]["kimg"] / 2]
        rows = second_half if measure == "optimality" else self.rows[-1:]
        values = [row[measure] for row in rows if row.get(measure) is not None]
        return fmean(values) if values else None


@dataclass(frozen=True)
class Laboratory:
    """What came out.

    Attributes:
        files: written, the report first.
    """

    law: Modes | None
    variants: list[Variant]
    files: list[Path]

    def text(self) -> str:
        """A line for each variant and seed, over several seeds what differs, and where the report is."""
        several = len({each.seed for each in self.variants}) > 1
        lines = [f"{each.name}, seed {each.seed}: {', '.join(_parts(each, self.law))}" for each in self.variants]
        return "\n".join([*lines, *(paired(self.variants, self.law) if several else []), f"look at {self.files[0]}"])


def toy(request: ToyRequest) -> Laboratory:
    """Train all variants and write what is to be seen. Raises SpiderUsageError: an unknown set, key or value."""
    if request.plane not in PLANES:
        raise SpiderUsageError(f"plane {not_known(request.plane, PLANES)}")
    path, law = locate_images(f"builtin:{request.plane}"), modes(request.plane)
    seeds = image_numbers("seeds", request.seeds)
    variants = [
        Variant(name, seed, _config(request, path, words, seed))
        for seed in seeds
        for name, words in request.named.items()
    ]
    total = sum(each.iterations for each in variants)
    with Bar(shown=request.progress, total=total, unit="iteration", desc=f"toy {request.plane}") as bar:
        for each in variants:
            _learn(each, law, request.frames, bar, shown=each.seed == seeds[0])
    out = Path(request.out)
    out.mkdir(parents=True, exist_ok=True)
    first = [each for each in variants if each.seed == seeds[0]]
    count = min(len(each.looks) for each in first)
    if request.progress:
        tell(f"toy: drawing {count} frames")
    with Bar(shown=request.progress, total=count, unit="frame", desc="draw") as bar:
        draw(first, law, out / MOVIE, out / LAST, drawn=bar.update)
    files = [out / name for name in (REPORT, MOVIE, LAST, NUMBERS)]
    if len(seeds) > 1:
        draw_seeds(variants, law, out / SEEDS)
        files.append(out / SEEDS)
    document = {
        "plane": request.plane,
        "command": shlex.join(["spider", *request.words()]),
        "points_measured": SHOWN,
        "variants": [
            {"name": each.name, "seed": each.seed, "rows": each.rows, "config": _as_json(each.config, request.plane)}
            for each in variants
        ],
    }
    write_text(out / NUMBERS, json.dumps(document, indent=2, allow_nan=False) + "\n")
    write_report(request, variants, law, out)
    return Laboratory(law, variants, files)


def _config(request: ToyRequest, path: str, words: list[str], seed: int) -> Config:
    length = [] if request.kimg is None else [f"kimg={request.kimg}"]
    return load_config("toy", [f"data.path={path}", f"seed={seed}", *length, *request.overrides, *words])


def _as_json(config: Config, plane: str) -> dict[str, Any]:
    """The configuration, in which the points have the name that holds on any machine."""
    found = config.model_dump(mode="json")
    return found | {"data": found["data"] | {"path": f"builtin:{plane}"}}


def _learn(variant: Variant, law: Modes | None, frames: int, bar: Bar, *, shown: bool) -> None:
    config = variant.config
    set_numerics(deterministic=config.compute.deterministic, tf32=config.compute.tf32, compiled=config.compute.compile)
    trainer = Trainer(config, World.single())
    if trainer.image_shape != (1, 1, 2):
        raise SpiderUsageError(f"data.path={config.data.path}: no points of a plane")
    try:
        real = to_float(trainer.dataset.batch(0, SHOWN)).flatten(1).double().numpy()
        stops = {round(share * variant.iterations) for share in np.linspace(0, 1, frames)}
        for number in range(variant.iterations + 1):
            if number in stops:
                generated = _generated(trainer)
                found = {**asdict(score(generated, real, law)), "optimality": _optimality(trainer), **_told(trainer)}
                variant.rows.append({"kimg": trainer.images / 1000, **found})
                if shown:
                    variant.looks.append(Look(trainer.images / 1000, generated, real, _field(trainer)))
            if number < variant.iterations:
                trainer.iterate()
                bar.update()
    finally:
        trainer.close()


def _generated(trainer: Trainer) -> Points:
    images, _ = trainer.frozen().with_sources(0, range(SHOWN))
    return images.flatten(1).double().cpu().numpy()


def _told(trainer: Trainer) -> dict[str, float | None]:
    """What methods say of themselves: p, k, the optimality of the direction."""
    return {
        name: value
        for method in trainer.plan.methods.values()
        for name, value in method.columns(trainer.images).items()
    }


def _optimality(trainer: Trainer) -> float | None:
    """How well the direction of D's last layer tells real from generated points, with SAN or without: see `Slicing`.

    None: D, the objective or what they are told leaves no direction that all points share.
    """
    network, device = copy_of(trainer.discriminator.module).eval(), trainer.world.device
    if not isinstance(network, Sliceable):
        return None
    network.slice()
    try:
        asked = trainer.config.objective.model_copy(update={"slicing": True})
        slicing = build_objective(asked, network, device)
    except SpiderUsageError:
        return None
    assert isinstance(slicing, Slicing)
    module = copy_of(trainer.generator.module)  # which D has met, and not its average
    data, shape = trainer.dataset.fingerprint, trainer.image_shape
    generator = FrozenGenerator(module, trainer.source, trainer.conditions, shape, device, training=data)
    told = generator.told(0, range(SHOWN))
    fakes = generator.images(0, range(SHOWN), told)
    reals = to_float(trainer.dataset.batch(0, SHOWN)).to(fakes)
    with torch.no_grad():
        return slicing.optimality_of(network(reals, told), network(fakes, told))


def _field(trainer: Trainer) -> Field:
    """D and its slope on a grid of the plane, of the first class where there are classes."""
    network, device = copy_of(trainer.discriminator.module).eval(), trainer.world.device
    dtype = next(network.parameters()).dtype
    steps = torch.linspace(-_REACH, _REACH, _SIDE, dtype=dtype, device=device)
    places = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).reshape(-1, 1, 1, 2).requires_grad_()
    labels = torch.zeros(len(places), dtype=torch.int64, device=device) if trainer.conditions.shape.classes else None
    with torch.enable_grad():
        logits = network(places, Condition(labels)).logits.mean(1)
        (slopes,) = torch.autograd.grad(logits.sum(), places)
    return Field(_REACH, _grid(logits), _grid(slopes[:, 0, 0]))


def _grid(values: torch.Tensor) -> NDArray[np.float64]:
    """[S S, ...] -> [S, S, ...]."""
    found: NDArray[np.float64] = values.detach().double().cpu().numpy().reshape(_SIDE, _SIDE, *values.shape[1:])
    return found


def _parts(variant: Variant, law: Modes | None) -> Iterator[str]:
    row = variant.rows[-1]
    if law is not None:
        yield f"{row['modes']} of {len(law.centres)} modes"
        yield f"{row['good']:.0%} of the points near one"
    yield f"energy distance {row['distance']:.3f}"
    if variant.config.selection.kind == "adaptive":
        batch, least = variant.config.batch, min(each["selection/k_now"] for each in variant.rows)
        yield f"k fell to {least:g} of {batch}" if least < batch else f"k stayed {batch}: D did not overfit"
    if (optimality := variant.outcome("optimality")) is not None:
        yield f"optimality of the direction {optimality:.2f}"
