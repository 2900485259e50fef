"""What generators and discriminators return. Fields are added as networks need them; the trainer reads only these."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """What travels with every batch of images. None: the network is not told."""

    labels: Tensor | None = None  # int64 [N]


@dataclass(frozen=True)
class GOut:
    """A generator's output."""

    images: Tensor  # [N, C, H, W], -1 to 1


@dataclass(frozen=True)
class DOut:
    """A discriminator's output. High is real."""

    logits: Tensor  # [N, P]: P judgements of every image
