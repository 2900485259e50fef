"""An embedding by name."""

from __future__ import annotations

from pathlib import Path

import torch

from spider.errors import SpiderUsageError
from spider.judge.embed.embedding import Embedding
from spider.judge.embed.offline import OfflineEmbedding
from spider.judge.embed.resize import INCEPTION_PROTOCOLS


def load_embedding(
    name: str = "inception",
    *,
    protocol: str | None = None,
    weights: Path | None = None,
    device: torch.device | str = "cpu",
) -> Embedding:
    """The embedding of that name; never another one in its place.

    Args:
        name: `inception`, or `offline`, which needs no weights.
        protocol: the resize rule of `inception`: `tf` (default), `pytorch_fid` or `clean`.
        weights: a file for `inception`; the published one from the cache by default.
        device: where it runs.

    Raises:
        SpiderUsageError: no such embedding or protocol, or weights for one that has none.
        SpiderError: the weights are not there, damaged or not this network's.
    """
    if name == "inception":
        # Here, because its network brings torchvision, which takes as long to import as torch itself.
        from spider.judge.embed.inception import InceptionEmbedding

        return InceptionEmbedding(protocol or "tf", weights, device)
    if name != "offline":
        raise SpiderUsageError(f"no embedding named {name!r}; there are: inception, offline")
    if protocol not in (None, "offline"):
        others = ", ".join(INCEPTION_PROTOCOLS)
        raise SpiderUsageError(f"protocol {protocol!r} is not offline's; {others} are inception's")
    if weights is not None:
        raise SpiderUsageError(f"embedding offline has no weights to read from {weights}")
    return OfflineEmbedding(device)
