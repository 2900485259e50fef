"""One quantity in a loss, and the one reduction there is."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Term:
    """A quantity with one value (or P) per image of this rank's micro-batch."""

    name: str
    values: Tensor  # [n] or [n, P]
    coefficient: float = 1.0
    scores: Tensor | None = None  # [n]: the selection may weigh this term's images by them; None: it may not

    def share(self, total: float, weights: Tensor | None = None) -> Tensor:
        """This micro-batch's share of coefficient * sum(w v) / sum(w) over the global batch. Scalar.

        Args:
            total: sum(w) over the global batch, in images.
            weights: w, [n]; None = 1.
        """
        values = self.values.flatten(1) if self.values.dim() > 1 else self.values.unsqueeze(1)  # [n, P]
        if weights is not None:
            values = values * weights.to(values.dtype).unsqueeze(1)
        return values.sum() * (self.coefficient / (total * values.shape[1]))
