"""A finished generator: a network that only serves.

It holds averaged weights, stays in evaluation mode, never trains, and is never saved again. Image i of it is always
the same image, and of the same class if there are classes, whatever else is asked for: that is what metrics, grids and
cascades rely on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spider.errors import SpiderUsageError
from spider.gan.conditions.conditions import Conditions
from spider.gan.outputs import Condition, Draw, as_made, with_draws
from spider.gan.pixels import to_uint8
from spider.gan.saved import named_weights, saved_tensors
from spider.gan.sources.growth import largest_growth
from spider.gan.sources.image_source import ImageSource
from spider.gan.sources.source import Source
from spider.precision import exact_float32, half_dtype

BLOCK = 64  # images are made in blocks of consecutive numbers, because a convolution's rounding depends on its batch
# Numbers in the largest tensor of a pass, whose memory is about 3.3 times theirs, on a GPU too: 64 images of StyleGAN2
# at 128 px, 16 at 256 px, one of StyleGAN3 at 256 px
_NUMBERS = 2**27
_A_PIXEL = 2**11  # numbers in it for each pixel of an image, at most, by which few and small images are not measured


@runtime_checkable
class _Truncated(Protocol):
    truncation: float


@runtime_checkable
class WithMapping(Protocol):
    """A network that makes w of its input, and an image of a w for each of its layers: `StyledGenerator`.

    Attributes:
        truncation: psi of the images that it makes of inputs; 1: none.
        layer_sides: the greater side of what each layer makes, in px, of all L, in their order.
        noise_sizes: heights and widths of the maps of noise that its layers add, in px, in their order; empty: none.
    """

    truncation: float
    layer_sides: Sequence[int]
    noise_sizes: Sequence[tuple[int, int]]

    def to_w(self, inputs: Tensor, condition: Condition) -> Tensor:
        """What it is fed -> w [N, w_dim]."""

    def for_layers(self, w: Tensor, condition: Condition, psi: float = 1.0) -> Tensor:
        """w [N, w_dim] -> ws [N, L, w_dim], pulled by psi to the mean of w, or to that of each image's class."""

    def noise(self, condition: Condition) -> Tensor | None:
        """What its layers add to images of a condition, their maps one after the other: [N or 1, numbers]."""

    def from_ws(self, ws: Tensor, noise: Tensor | None) -> Tensor:
        """Images [N, C, H, W] of the layers' w, with noise as of `noise`."""


class FrozenGenerator:
    """A generator with its source, and with what it is told.

    Attributes:
        digest: identifies weights, source and conditions, sha256 in hex.
        image_shape: (C, H, W).
        training: fingerprint of the images that it learnt.
        shares_draws: whether all images have the same draws of its network, under any seed.
    """

    def __init__(
        self,
        module: nn.Module,
        source: Source,
        conditions: Conditions,
        image_shape: tuple[int, int, int],
        device: torch.device,
        *,
        training: str,
    ) -> None:
        self.module = module.to(device).eval().requires_grad_(False)
        self.source = source
        self.conditions = conditions
        self.image_shape = image_shape
        self.device = device
        self.training = training
        self.shares_draws = False
        self.digest = _digest(module, source, conditions)
        self._stream = f"generator{getattr(source, 'depth', 0)}"  # stages of a cascade draw apart
        self._at_once: dict[str, int] = {}

    @torch.no_grad()
    def __call__(self, inputs: Tensor, condition: Condition) -> Tensor:
        """Images of given inputs: [N, *source.shape] -> float [N, C, H, W] in [-1, 1]."""
        dtype = next(self.module.parameters()).dtype

        def made(part: slice) -> Tensor:
            return as_made(self.module(inputs[part].to(self.device, dtype), condition.part(part))).images

        return self._in_parts("inputs", len(inputs), made)

    def _in_parts(self, of: str, count: int, made: Callable[[slice], Tensor]) -> Tensor:
        """What is made `of` so many, a few at once, because a pass of all would take too much memory."""
        with exact_float32():  # whatever a training around it has switched on
            if count == 1 or count * self.image_shape[1] * self.image_shape[2] * _A_PIXEL <= _NUMBERS:
                return made(slice(count))
            if of not in self._at_once:
                self._at_once[of] = max(1, _NUMBERS // largest_growth(made))
            step = self._at_once[of]
            return torch.cat([made(slice(first, min(first + step, count))) for first in range(0, count, step)])

    @property
    def precision(self) -> str:
        """In what its layers compute, here."""
        like = next(self.module.parameters())
        half = any(getattr(module, "bf16", False) for module in self.module.modules())
        names = [str(dtype).removeprefix("torch.") for dtype in (half_dtype(like) if half else like.dtype, like.dtype)]
        return " and ".join(dict.fromkeys(names))

    def truncate(self, psi: float, asked: str = "--trunc ") -> None:
        """From now on pull w to its mean: 1 leaves it, 0 is the mean. Raises SpiderUsageError: it has no w."""
        if not isinstance(self.module, _Truncated):
            raise SpiderUsageError(f"{asked}{psi:g}: this generator has no truncation: it has no mapping network")
        self.module.truncation = psi

    @property
    def noises(self) -> list[str]:
        """Normal numbers that the network draws of each image, by name; none where all images have the same."""
        asked: Mapping[str, Draw] = getattr(self.module, "draws", {})
        return [name for name, draw in asked.items() if draw.law == "normal" and not self.shares_draws]

    @property
    def has_w(self) -> bool:
        """Whether a mapping network gives w to its layers."""
        return isinstance(self.module, WithMapping)

    @torch.no_grad()
    def latents(self, inputs: Tensor, condition: Condition) -> Tensor:
        """w of each layer [N, L, w_dim], truncated as `truncate` says. Of generators that have w."""
        module, dtype = self.module, next(self.module.parameters()).dtype
        assert isinstance(module, WithMapping)
        with exact_float32():
            w = module.to_w(inputs.to(self.device, dtype), condition)
            return module.for_layers(w, condition, module.truncation)

    @torch.no_grad()
    def of_latents(self, ws: Tensor, condition: Condition) -> Tensor:
        """Images [N, C, H, W] of the layers' w, with the draws of the condition. Of generators that have w."""
        module = self.module
        assert isinstance(module, WithMapping)
        return self._in_parts(
            "ws", len(ws), lambda part: module.from_ws(ws[part], condition.part(part).draws.get("noise"))
        )

    def images(self, seed: int, indices: Sequence[int], condition: Condition | None = None) -> Tensor:
        """Images number `indices` under an evaluation seed, float [N, C, H, W] in [-1, 1].

        Args:
            condition: in place of the one that each number has.
        """
        told = self.told(seed, indices) if condition is None else condition
        return self(self.source.at(seed, indices), self.with_draws(told, seed, indices))

    def with_conditions(self, conditions: Conditions) -> FrozenGenerator:
        """The same network and source, told by others: another generator, with a digest of its own."""
        shape, device = self.image_shape, self.device
        other = FrozenGenerator(self.module, self.source, conditions, shape, device, training=self.training)
        other.shares_draws = self.shares_draws
        return other

    def told(self, seed: int, indices: Sequence[int], classes: Sequence[int] | int | None = None) -> Condition:
        """What images number `indices` are told, but for draws; given classes, or one of all, in place of their own."""
        condition = self.conditions.at(seed, indices, self.device)
        if classes is None:
            return condition
        labels = torch.tensor(classes, device=self.device)
        return replace(condition, labels=labels.expand(len(indices)))

    def condition_at(self, seed: int, indices: Sequence[int], label: int | None = None) -> Condition:
        """As `told`, with the draws that the network asks for."""
        return self.with_draws(self.told(seed, indices, label), seed, indices)

    def with_draws(self, condition: Condition, seed: int, indices: Sequence[int], use: str = "eval") -> Condition:
        """A condition with the draws that images number `indices` have, for a use of the generator."""
        like = next(self.module.parameters())
        if self.shares_draws:
            told = with_draws(condition, self.module, 0, f"shared.{self._stream}", range(1), like)
            shared = {name: each.expand(len(indices), *each.shape[1:]) for name, each in told.draws.items()}
            return replace(told, draws=shared)
        return with_draws(condition, self.module, seed, f"{use}.{self._stream}", indices, like)

    def with_sources(
        self, seed: int, indices: Sequence[int], condition: Condition | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Images, and the source images that made them (before noise); None where the source is no image."""
        sources = self.source.images_at(seed, indices) if isinstance(self.source, ImageSource) else None
        return self.images(seed, indices, condition), sources

    def numbered(self, name: str, seed: int, count: int) -> GeneratedImages:
        """The first `count` images under a seed, as metrics take them."""
        return GeneratedImages(self, name, seed, count)

    def provenance(self) -> dict[str, Any]:
        """What a result must state."""
        return {"generator": self.digest, "training": self.training, "source": self.source.provenance()}


class GeneratedImages:
    """`count` numbered images of a generator (see spider.judge.embed.images.NumberedImages)."""

    def __init__(self, generator: FrozenGenerator, name: str, seed: int, count: int) -> None:
        self.generator = generator
        self.name = name
        self.seed = seed
        self.count = count

    @property
    def fingerprint(self) -> str:
        """Of weights, source and seed."""
        return hashlib.sha256(f"{self.generator.digest}/{self.seed}".encode()).hexdigest()

    def __len__(self) -> int:
        return self.count

    @property
    def class_names(self) -> list[str]:
        """Of the classes by number; empty if the generator is told none."""
        return [*self.generator.conditions.names]

    @property
    def only_classes(self) -> list[str]:
        """The classes that these images are of; empty: of all."""
        return [*self.generator.conditions.only]

    @property
    def classes_alike(self) -> bool:
        """Whether these images are of all classes alike."""
        return self.generator.conditions.alike

    @property
    def rebalanced(self) -> bool:
        """The same, where the training images are not."""
        return self.generator.conditions.rebalanced

    @property
    def class_counts(self) -> list[int]:
        """How many images of each class the generator has learnt."""
        return [*self.generator.conditions.counts]

    def labels(self) -> NDArray[np.int64]:
        """The class of every image, int64 [count], -1 where there is none."""
        labels = self.generator.conditions.at(self.seed, range(self.count), torch.device("cpu")).labels
        return np.full(self.count, -1) if labels is None else labels.numpy()

    def batch(self, start: int, stop: int) -> Tensor:
        """uint8 [stop - start, C, H, W] on the CPU."""
        blocks = []
        for first in range(start // BLOCK * BLOCK, stop, BLOCK):
            made = to_uint8(self.generator.images(self.seed, range(first, first + BLOCK)))
            blocks.append(made[max(start - first, 0) : stop - first].cpu())
        return torch.cat(blocks)

    def shown(self, numbers: Sequence[int]) -> Tensor:
        """The images of these numbers and no others, uint8 [N, C, H, W] on the CPU, to be looked at.

        `batch` makes whole blocks, so that features are the same however they are asked for. By its rounding an image
        here may differ from that one in a level of a pixel.
        """
        return to_uint8(self.generator.images(self.seed, numbers)).cpu()


def _digest(module: nn.Module, source: Source, conditions: Conditions) -> str:
    told = {f"condition/{name}": tensor for name, tensor in conditions.tensors().items()}
    named = "".join(named_weights({"": module}).values())
    digest = hashlib.sha256(f"{source.identity}{conditions.identity}{named}".encode())
    for name, tensor in sorted({**saved_tensors(module), **told}.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
