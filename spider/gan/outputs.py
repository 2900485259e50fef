"""What networks are told and return. Fields are added as networks need them; the trainer reads only these."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from spider import draws
from spider.errors import SpiderUsageError
from spider.precision import at_least_float32

Record = TypeVar("Record")

# In DOut.features, of a discriminator that is sliced (`spider.gan.networks.slicing`)
DIRECTION = "direction"  # [N, P], the reading by which the direction of the last layer learns
FACING = (
    "facing"  # [N, F], what that layer is given times its length, without a graph; where all images share a direction
)


@dataclass(frozen=True)
class ConditionShape:
    """What a network is told of every image: what it is built for."""

    classes: int = 0  # labels are 0 .. classes - 1; 0: it is told no class
    features: int = 0  # of the instance that an image belongs to; 0: it is told none
    names: tuple[str, ...] = field(default=(), compare=False)  # of the classes, where they are known


UNCONDITIONAL = ConditionShape()


@dataclass(frozen=True)
class Draw:
    """Random numbers that a network asks for, of every image. A network names them in an attribute `draws`.

    `source` is another input of the generator's source. A generator gets it in training alone.
    """

    law: Literal["normal", "uniform", "source"]  # standard normal; from [0, 1); as the source's inputs
    shape: tuple[int, ...] = ()  # of `source`, the source's


@dataclass(frozen=True)
class Condition:
    """What travels with every batch of images. None: the network is not told."""

    labels: Tensor | None = None  # int64 [N]; or float [N, classes], the share of each class, for what lies between
    features: Tensor | None = None  # [N, F], of the instance that each image belongs to
    # How far an augmentation has changed the image, from 0, not at all: [N], or [N, channels] of a network's inner maps
    time: Tensor | None = None
    draws: Mapping[str, Tensor] = field(default_factory=dict)  # [N, *shape], those that the network asks for
    sizes: Mapping[str, Tensor] = field(default_factory=dict)  # [N, C, h, w], see `spider.gan.sizes`
    views: Mapping[str, Tensor] = field(default_factory=dict)  # [N, C, H, W], see `spider.gan.augment.shown`
    use: str | None = None  # in training, what a discriminator judges the images for: PHASE.USE, such as "d_main.real"

    def part(self, chosen: slice) -> Condition:
        """Of some of the images."""
        return changed(self, lambda values: values[chosen])


def with_draws(
    condition: Condition, network: nn.Module, seed: int, stream: str, indices: Sequence[int], like: Tensor
) -> Condition:
    """A condition with the numbers that a network asks for, at addresses of `spider.draws`, in its precision.

    They are tensors before the network runs, so that compiling it sees no addresses, which change at every step.

    Args:
        network: `draws`, a mapping of names to `Draw`, says what it asks for. Without such an attribute it gets none.
        stream: where the draws stand, but for their names.
        indices: of the images.
        like: what the network is given besides; says the device and the precision, which is float32 at least.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    if condition.features is not None:
        condition = replace(condition, features=condition.features.to(dtype))
    asked: Mapping[str, Draw] = getattr(network, "draws", {})
    if not asked:
        return replace(condition, draws={}) if condition.draws else condition
    laws = {"normal": draws.normal, "uniform": draws.uniform}
    drawn = {
        name: laws[draw.law](seed, f"{stream}.{name}", indices, draw.shape, like.device).to(dtype)
        for name, draw in asked.items()
        if draw.law != "source"
    }
    fed = {name: condition.draws[name] for name in names_of_inputs(network) if name in condition.draws}
    return replace(condition, draws={**drawn, **fed})


def names_of_inputs(network: nn.Module) -> list[str]:
    """The draws of a network that are inputs of the source: `train/feeds.py` brings them with the batch."""
    asked: Mapping[str, Draw] = getattr(network, "draws", {})
    return [name for name, draw in asked.items() if draw.law == "source"]


@dataclass(frozen=True)
class GOut:
    """A generator's output."""

    images: Tensor  # [N, C, H, W], -1 to 1
    latents: Tensor | None = None  # [N, ...], what its layers are given (w), where the network tells
    # Values of each image, [N, ...] by name: what `Method.stepped` of a network that remembers gets of the global batch
    keep: Mapping[str, Tensor] = field(default_factory=dict)
    sizes: Mapping[str, Tensor] = field(default_factory=dict)  # the images again, [N, C, h, w], see `spider.gan.sizes`


@dataclass(frozen=True)
class DOut:
    """A discriminator's output. High is real."""

    logits: Tensor  # [N, P]: P judgements of every image
    # What inner layers saw, [N, ...] by name, as far as the network tells; "last", [N, F]: what its last layer is given
    features: Mapping[str, Tensor] = field(default_factory=dict)
    # As of the generator. `stepped` gets it as "real.NAME" and "fake.NAME", of the images that the main losses judge
    keep: Mapping[str, Tensor] = field(default_factory=dict)
    # [P], of mean 1: how the P judgements weigh wherever a mean over them is taken, such as in losses; None: alike
    weights: Tensor | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> DOut:
        """The same, of which every tensor is changed."""
        return changed(self, change)


def as_made(out: object) -> GOut:
    """What a generator has returned. Raises SpiderUsageError: it is no GOut, or has no images."""
    if not isinstance(out, GOut):
        raise SpiderUsageError(f"the generator returned {type(out).__name__}: it must return GOut(images=[N, C, H, W])")
    if out.images.dim() != 4:
        shape = list(out.images.shape)
        raise SpiderUsageError(f"the generator returned images of shape {shape}: it must return [N, C, H, W]")
    return out


def as_judgement(out: object, count: int) -> DOut:
    """What a discriminator has returned of so many images. Raises SpiderUsageError: it is no DOut, or has no logits."""
    if not isinstance(out, DOut):
        raise SpiderUsageError(f"the discriminator returned {type(out).__name__}: it must return DOut(logits=[N, P])")
    if out.logits.dim() < 2 or len(out.logits) != count:
        shape = list(out.logits.shape)
        raise SpiderUsageError(
            f"the discriminator returned logits of shape {shape} for {count} images: it must return [N, P], "
            f"such as [{count}, 1]"
        )
    return out


def changed(record: Record, change: Callable[[Tensor], Tensor]) -> Record:
    """A record of which every tensor is changed, those in mappings as well. Texts stay."""
    return type(record)(**{name: _changed(value, change) for name, value in vars(record).items()})


def exact(tensor: Tensor) -> Tensor:
    """In float32 at least; whole numbers as they are."""
    return at_least_float32(tensor) if tensor.is_floating_point() else tensor


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Mapping):
        return {name: change(tensor) for name, tensor in value.items()}
    return value if value is None or isinstance(value, str) else change(value)
