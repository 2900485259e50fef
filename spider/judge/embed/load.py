"""An embedding by name."""

from __future__ import annotations

from pathlib import Path

import torch

from spider.errors import SpiderUsageError
from spider.judge.embed.efficientnet import EfficientNetEmbedding
from spider.judge.embed.embedding import Embedding
from spider.judge.embed.offline import OfflineEmbedding
from spider.measures import EMBEDDINGS, RESIZE_RULES
from untrusted.words import not_known


def load_embedding(
    name: str = "inception",
    *,
    protocol: str | None = None,
    weights: Path | None = None,
    device: torch.device | str = "cpu",
) -> Embedding:
    """The embedding of that name; never another one in its place.

    Args:
        name: `inception`; `efficientnet`, whose weights are installed with the package; or `offline`, which has none.
        protocol: the resize rule of `inception`: `tf` (default), `pytorch_fid` or `clean`.
        weights: a file for `inception` or `efficientnet`; the published one by default.
        device: where it runs.

    Raises:
        SpiderUsageError: no such embedding or protocol, or weights for one that has none.
        SpiderError: the weights are not there, damaged or not this network's.
    """
    if name == "inception":
        # Here, because its network brings torchvision, which takes as long to import as torch itself.
        from spider.judge.embed.inception import InceptionEmbedding

        return InceptionEmbedding(protocol or "tf", weights, device)
    if name not in EMBEDDINGS:
        raise SpiderUsageError(f"embedding {not_known(name, EMBEDDINGS)}")
    if protocol not in (None, name):
        others = ", ".join(RESIZE_RULES)
        raise SpiderUsageError(f"protocol {protocol!r} is not {name}'s; {others} are inception's")
    if name == "efficientnet":
        return EfficientNetEmbedding(weights, device)
    if weights is not None:
        raise SpiderUsageError(f"embedding offline has no weights to read from {weights}")
    return OfflineEmbedding(device)
