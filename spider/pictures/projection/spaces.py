"""What is searched for an image, and how an image is made of a point of it.

    w        [w_dim], one for all layers of a network that has a mapping network. The search begins at the mean
    w+       [L, w_dim], one for each layer. It begins where the search of w ended
    z        the vector that the source draws. It begins at that of the nearest sample
    source   the image that is fed, [C, H, W], -1 to 1, before noise is added. It begins at that of the nearest sample

What a sample has besides (noise of the source, draws of the network) stays that of the nearest sample. Noise that the
layers of a network with a mapping network add is searched as well, whether it is drawn or constant: it begins as the
nearest sample has it. Nothing is truncated: psi is 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spider.errors import SpiderUsageError
from spider.gan.outputs import Condition, as_made
from spider.gan.sources.frozen import FrozenGenerator, WithMapping
from spider.gan.sources.image_source import ImageSource
from spider.pictures.projection.nearest import SEED
from spider.pictures.request import SearchSpace

W_SAMPLES = 10_000  # of which the mean of w and its deviation are taken, as in the projector of StyleGAN2-ADA
_W_AT_ONCE = 1000
_RATE = 0.1  # Adam's in w, of the same
_SOURCE_RATE = 0.02  # in pixels, -1 to 1
_WANDER = 0.05  # the deviation of what is added to w at first, in deviations of w; of the same
_SPREAD_SAMPLES = 1000
_MAD = 0.6745  # the median magnitude of a standard normal number


LayersKey = Literal["w", "ws"]


@dataclass(frozen=True)
class Point:
    """A point of a space.

    Attributes:
        where: [1, ...], as the module says for each space.
        noise: [1, numbers] of all layers, where a network adds any.
    """

    where: Tensor
    noise: Tensor | None

    def tensors(self) -> list[Tensor]:
        """All that it is made of."""
        return [self.where] if self.noise is None else [self.where, self.noise]

    def copy(self) -> Point:
        """The same numbers in tensors of their own, without a graph."""
        return Point(self.where.detach().clone(), None if self.noise is None else self.noise.detach().clone())


@dataclass(frozen=True)
class MeanW:
    """Where w lies.

    Attributes:
        mean: [1, w_dim].
        wander: the deviation of what a search adds to w at first: a share of the root of the mean squared distance
            from the mean.
    """

    mean: Tensor
    wander: float


class SpaceOfImages(ABC):
    """A space, for images of one class, with what sample `number` has besides.

    Attributes:
        key: what the array of a point is called in a file.
        rate: Adam's learning rate.
    """

    key: str
    rate: float = _RATE

    def __init__(self, generator: FrozenGenerator, number: int, label: int | None) -> None:
        self.generator = generator
        self.number = number
        self.label = label
        self.condition = generator.condition_at(SEED, [number], label)

    @abstractmethod
    def sample(self) -> Point:
        """The point of sample `number`."""

    @abstractmethod
    def image(self, point: Point, network: nn.Module | None = None) -> Tensor:
        """The image of a point, [1, C, H, W], with gradients to it; by another network than the generator's."""

    def bound(self, where: Tensor) -> None:
        """Move a point to the next one that is allowed, in place. Here all are."""
        return

    def noise(self) -> Tensor | None:
        """What the layers add to sample `number`, [1, numbers]."""
        network = self.generator.module
        noise = network.noise(self.condition) if isinstance(network, WithMapping) else None
        return None if noise is None else noise.detach()

    def arrays(self, point: Point) -> dict[str, NDArray[np.generic]]:
        """What a file keeps of it: float32 arrays, and the whole numbers `number` and, of a class, `label`."""
        kept: dict[str, NDArray[np.generic]] = {self.key: _float32(point.where[0]), "number": np.array(self.number)}
        if point.noise is not None:
            kept["noise"] = _float32(point.noise[0])
        if self.label is not None:
            kept["label"] = np.array(self.label)
        return kept


class SpaceOfLayers(SpaceOfImages):
    """w and w+, of a network that has a mapping network."""

    def __init__(self, generator: FrozenGenerator, number: int, label: int | None, key: LayersKey) -> None:
        super().__init__(generator, number, label)
        self.key = key

    def image(self, point: Point, network: nn.Module | None = None) -> Tensor:
        """See SpaceOfImages."""
        module = _with_mapping(network or self.generator.module)
        ws = module.for_layers(point.where, self.condition) if self.key == "w" else point.where
        return module.from_ws(ws, point.noise)

    @torch.no_grad()
    def sample(self) -> Point:
        """See SpaceOfImages."""
        module, source = _with_mapping(self.generator.module), self.generator.source
        w = module.to_w(_as_fed(self.generator, source.at(SEED, [self.number])), self.condition)
        return Point(w if self.key == "w" else self.spread(w), self.noise())

    def spread(self, w: Tensor) -> Tensor:
        """w [1, w_dim] to as many as there are layers, [1, L, w_dim]."""
        return _with_mapping(self.generator.module).for_layers(w, self.condition).contiguous()


class SpaceZ(SpaceOfImages):
    """z."""

    key = "z"

    def __init__(self, generator: FrozenGenerator, number: int, label: int | None) -> None:
        super().__init__(generator, number, label)
        drawn = generator.source.at(SEED, range(_SPREAD_SAMPLES))
        self.rate = _RATE * float((drawn - drawn.median()).abs().median()) / _MAD

    def sample(self) -> Point:
        """See SpaceOfImages."""
        return Point(_as_fed(self.generator, self.generator.source.at(SEED, [self.number])), self.noise())

    def image(self, point: Point, network: nn.Module | None = None) -> Tensor:
        """See SpaceOfImages."""
        return _of_input(network or self.generator.module, point.where, point.noise, self.condition)


class SpaceOfSources(SpaceOfImages):
    """Source images."""

    key = "source"
    rate = _SOURCE_RATE

    def __init__(self, generator: FrozenGenerator, number: int, label: int | None, source: ImageSource) -> None:
        super().__init__(generator, number, label)
        self.source = source
        self._added = _as_fed(generator, source.noise_at(SEED, [number]))

    def sample(self) -> Point:
        """See SpaceOfImages."""
        return Point(_as_fed(self.generator, self.source.images_at(SEED, [self.number])), self.noise())

    def image(self, point: Point, network: nn.Module | None = None) -> Tensor:
        """See SpaceOfImages."""
        fed = point.where + self._added
        return _of_input(network or self.generator.module, fed, point.noise, self.condition)

    def bound(self, where: Tensor) -> None:
        """See SpaceOfImages: -1 to 1."""
        where.clamp_(-1, 1)


def spaces_of(generator: FrozenGenerator) -> list[SearchSpace]:
    """Those that a generator has, the default first."""
    fed: list[SearchSpace] = ["source" if isinstance(generator.source, ImageSource) else "z"]
    return ["w", "w+", *fed] if isinstance(generator.module, WithMapping) else fed


def chosen_space(generator: FrozenGenerator, space: SearchSpace | None) -> SearchSpace:
    """The one that was asked for, or the default. Raises SpiderUsageError: the generator has none of that name."""
    known = spaces_of(generator)
    if space is not None and space not in known:
        lack = {"z": "is fed images", "source": "is fed vectors"}.get(space, "has no mapping network")
        raise SpiderUsageError(f"--space {space}: this generator {lack}; it has {', '.join(known)}")
    return space or known[0]


def space_of_inputs(generator: FrozenGenerator, number: int, label: int | None) -> SpaceOfImages:
    """What the generator is fed: z or source images."""
    if isinstance(generator.source, ImageSource):
        return SpaceOfSources(generator, number, label, generator.source)
    return SpaceZ(generator, number, label)


def all_spaces(generator: FrozenGenerator, number: int, label: int | None) -> list[SpaceOfImages]:
    """Every one that the generator has."""
    fed = space_of_inputs(generator, number, label)
    if not isinstance(generator.module, WithMapping):
        return [fed]
    return [SpaceOfLayers(generator, number, label, "w"), SpaceOfLayers(generator, number, label, "ws"), fed]


@torch.no_grad()
def mean_w(generator: FrozenGenerator, label: int | None) -> MeanW:
    """Of W_SAMPLES drawn inputs, told a class where there are classes."""
    network, parts = _with_mapping(generator.module), []
    for start in range(0, W_SAMPLES, _W_AT_ONCE):
        numbers = range(start, start + _W_AT_ONCE)
        told = generator.told(SEED, numbers, label)
        parts.append(network.to_w(_as_fed(generator, generator.source.at(SEED, numbers)), told))
    w = torch.cat(parts)
    mean = w.mean(0, keepdim=True)
    return MeanW(mean, _WANDER * float((w - mean).square().sum(1).mean().sqrt()))


def _as_fed(generator: FrozenGenerator, tensor: Tensor) -> Tensor:
    """On the device and in the precision of the network."""
    return tensor.to(generator.device, next(generator.module.parameters()).dtype)


def _of_input(network: nn.Module, fed: Tensor, noise: Tensor | None, condition: Condition) -> Tensor:
    """The image of what a network is fed, [1, C, H, W], not truncated."""
    if isinstance(network, WithMapping):
        return network.from_ws(network.for_layers(network.to_w(fed, condition), condition), noise)
    return as_made(network(fed, condition)).images


def _with_mapping(network: nn.Module) -> WithMapping:
    assert isinstance(network, WithMapping)
    return network


def _float32(tensor: Tensor) -> NDArray[np.generic]:
    return tensor.detach().to("cpu", torch.float32).numpy()
