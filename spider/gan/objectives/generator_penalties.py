"""Penalties on the generator: what they are given, and what they may remember."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from spider.draws import Address
from spider.gan.loss import Spread
from spider.gan.method import Kept, Method
from spider.gan.outputs import GOut


@dataclass(frozen=True)
class Made:
    """What the generator made of a micro-batch, in full precision; may be differentiated twice.

    Attributes:
        source: what it was fed, [n, *source.shape]. Gradients with respect to it exist.
        out: images, and latents where the network tells them.
    """

    source: Tensor
    out: GOut


class GeneratorPenalty(Method):
    """A penalty on the generator, in a step of its own. What moves, such as a mean path length, moves in `stepped`."""

    def __call__(self, made: Made, draws: Address) -> tuple[Tensor | Spread, Kept]:
        """Values [n] before any weight, and values of each image that `stepped` gets of the step's images.

        With several micro-batches one that gives a `Spread` is called twice on each, the first time without gradients
        being on. What `made` holds has a graph then as well.
        """
        raise NotImplementedError
