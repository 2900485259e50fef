"""What a training draws of a source: an input for each image, and those that networks ask for besides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from shards.order import Slots
from spider import draws
from spider.gan.outputs import names_of_inputs
from spider.gan.sources.source import Source


def inputs(
    source: Source, networks: Sequence[nn.Module], seed: int, slots: Slots, position: int
) -> dict[str, Iterator[Tensor]]:
    """Endless batches by name: "source", the inputs of the images, and `Draw`s of the networks whose law is "source".

    Those are inputs of the same source under other seeds, so that an image is made of its own draws, on any number of
    ranks and in any micro-batches.
    """
    names = {name for network in networks for name in names_of_inputs(network)}
    others = {name: draws.torch_seed(seed, f"train.{name}") for name in sorted(names)}
    return {name: source.feed(each, slots, position) for name, each in {"source": seed, **others}.items()}
