"""What a choice adds to a player's loss, and its reduction over the global batch: sum(w v) / sum(w), or a spread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
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
class Spread:
    """Values whose spread counts: mean(v^2) - less * mean(v)^2, means over the global batch, on any number of ranks.

    With less = 1 it is their variance. With several micro-batches mean(v) must be known before the first backward: the
    pass that gives such values is then run once more, without gradients.

    Attributes:
        values: [n] or [n, P].
        less: how much of the squared mean is taken off.
    """

    values: Tensor
    less: float


@dataclass(frozen=True)
class Loss:
    """What an objective pays, or an auxiliary adds.

    Attributes:
        terms: values to minimise, [n] or [n, P], by name. Their means (or spreads) over the global batch are added.
        keep: values of each image, [n, ...], by name: what `Method.stepped` gets of the global batch.
        reports: values of any shape, by name, whose means stand beside those of the terms in metrics.jsonl.
    """

    terms: Mapping[str, Tensor | Weighed | Spread] = field(default_factory=dict)
    keep: Mapping[str, Tensor] = field(default_factory=dict)
    reports: Mapping[str, Tensor] = field(default_factory=dict)

    def weighed(self, weights: Tensor | None) -> Loss:
        """Of an objective: the same, where judgements weigh as `DOut.weights` says."""
        if weights is None:
            return self
        terms: dict[str, Tensor | Weighed | Spread] = {}
        for name, term in self.terms.items():
            if isinstance(term, Weighed):
                own = _rows(term.weights).expand_as(_rows(term.values))
                terms[name] = Weighed(term.values, by_judgement(own, weights))
            else:
                terms[name] = by_judgement(term, weights) if isinstance(term, Tensor) else term
        return replace(self, terms=terms)


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
    less: float | None = None  # of a Spread

    @property
    def waits(self) -> bool:
        """Whether `total` of the global batch must be known before the first backward."""
        return self.weights is not None or self.less is not None

    def weighed(self, selected: Tensor | None = None) -> Tensor:
        """w v, [n, P]."""
        values = _rows(self.values)
        for weights in (self.weights, selected):
            values = values if weights is None else values * _rows(weights).to(values.dtype)
        return values

    def total(self, selected: Tensor | None = None) -> Tensor:
        """sum(w) of this micro-batch in images: of P weights the mean counts; of a Spread sum(v). Scalar.

        Called without gradients.
        """
        if self.less is not None:
            return self.weighed(selected).mean(1).sum()
        ones = Term(self.name, self.values.new_ones(self.values.shape), weights=self.weights)
        return ones.weighed(selected).mean(1).sum()

    def share(self, total: float | Tensor, selected: Tensor | None = None) -> Tensor:
        """This micro-batch's share of coefficient * sum(w v) / sum(w) over the global batch. Scalar.

        Args:
            total: sum(w) over the global batch, in images.
        """
        weighed = self.weighed(selected)  # [n, P]
        return weighed.sum() * (self.coefficient / (total * weighed.shape[1]))

    def divisor(self, whole: Tensor, norm: float | Tensor = 1.0) -> Tensor:
        """What a term that waits for it is divided by, or is about.

        Args:
            whole: `total`, of the global batch.
            norm: by how much more a selection divides than by the number of images that it chose.
        """
        if self.less is not None:
            return whole
        return (whole * norm).masked_fill(whole == 0, torch.inf)  # where nothing weighs, all shares are 0

    def about(self, totals: Mapping[str, Tensor], count: float | Tensor) -> Term:
        """Of a Spread: plain values, whose mean over the global batch is the spread, with its gradient.

        Args:
            totals: sum(v) over the global batch, by the name of the term.
            count: of how many images.
        """
        if self.less is None:
            return self
        mean = (totals[self.name] / count).to(self.values.dtype)
        linear = 2 * self.values - self.values.detach()  # mean * its mean is the squared mean, with that one's gradient
        return replace(self, values=self.values.square() - self.less * mean * linear, less=None)


def as_term(name: str, given: Tensor | Weighed | Spread, coefficient: float = 1.0, selectable: bool = False) -> Term:
    """What a loss gives under a name, as a term. Other arguments as of Term."""
    if isinstance(given, Spread):
        return Term(name, given.values, coefficient, None, selectable, given.less)
    if isinstance(given, Weighed):
        return Term(name, given.values, coefficient, given.weights.detach(), selectable)
    return Term(name, given, coefficient, None, selectable)


def by_judgement(values: Tensor, weights: Tensor | None) -> Tensor:
    """Values of judgements [n, P] times `DOut.weights`, of which the mean is the weighted one; others as is."""
    if weights is None or values.shape[1:] != weights.shape:
        return values
    return values * weights.to(values.dtype)


def _rows(values: Tensor) -> Tensor:
    """[n] or [n, ...] -> [n, P]."""
    return values.flatten(1) if values.dim() > 1 else values.unsqueeze(1)
