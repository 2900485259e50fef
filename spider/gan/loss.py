"""What a choice adds to a player's loss, and the one reduction there is: sum(w v) / sum(w) over the global batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Weighed:
    """Values that do not weigh alike. Their mean is sum(w v) / sum(w) over the global batch, on any number of ranks.

    Where all weights of the global batch are 0, the term is 0: the step is taken by the others.

    With several micro-batches sum(w) must be known before the first backward: the pass that gives such values is then
    run once more, without gradients.

    Attributes:
        values: [n] or [n, P].
        weights: w, not negative: of the shape of the values, or [n]. No gradient flows through them.
    """

    values: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Loss:
    """What an objective pays, or an auxiliary adds.

    Attributes:
        terms: values to minimise, [n] or [n, P], by name. Their means over the global batch are added.
        keep: values of each image, [n, ...], by name: what `Method.stepped` gets of the global batch.
    """

    terms: Mapping[str, Tensor | Weighed] = field(default_factory=dict)
    keep: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Term:
    """A quantity with one value (or P) per image of this rank's micro-batch.

    In what follows `selected` is what the selection sets, [n], and None stands for 1.
    """

    name: str
    values: Tensor  # [n] or [n, P]
    coefficient: float = 1.0
    weights: Tensor | None = None  # of its own, like the values or [n], without a graph
    selectable: bool = False  # whether the selection may leave out images

    def weighed(self, selected: Tensor | None = None) -> Tensor:
        """w v, [n, P]."""
        values = _rows(self.values)
        for weights in (self.weights, selected):
            values = values if weights is None else values * _rows(weights).to(values.dtype)
        return values

    def total(self, selected: Tensor | None = None) -> Tensor:
        """sum(w) of this micro-batch in images: of P weights the mean counts. Scalar, without a graph."""
        ones = Term(self.name, self.values.new_ones(self.values.shape), weights=self.weights)
        return ones.weighed(selected).mean(1).sum()

    def share(self, total: float | Tensor, selected: Tensor | None = None) -> Tensor:
        """This micro-batch's share of coefficient * sum(w v) / sum(w) over the global batch. Scalar.

        Args:
            total: sum(w) over the global batch, in images.
        """
        weighed = self.weighed(selected)  # [n, P]
        return weighed.sum() * (self.coefficient / (total * weighed.shape[1]))


def _rows(values: Tensor) -> Tensor:
    """[n] or [n, ...] -> [n, P]."""
    return values.flatten(1) if values.dim() > 1 else values.unsqueeze(1)
